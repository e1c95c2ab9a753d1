"""One run of the toy task in a process of its own, so that it can be killed: URL RUN CONCURRENCY POOL."""

import sys

from experience import improve
from tests import toy

if __name__ == "__main__":
    url, run, concurrency, pool = sys.argv[1:]
    improve(
        toy.task(),
        model=f"{url}#toy",
        run=run,
        epochs=2,
        batch_size=12,
        concurrency=int(concurrency),
        pool=pool == "True",
    )
