"""One run of the toy task in a process of its own, so that it can be killed: SETTINGS as JSON, see `start_run`."""

import json
import sys
from pathlib import Path

from edgewise import improve
from edgewise.experience.library.library import Library
from edgewise.toolkit.run.runner import Result
from tests.support import toy


def start_run(url: str, run: Path | str, *, embeds: bool = False, library=None, **settings) -> Result:
    """The run on a server; `library` as plain data, `embeds` with the server's own embedding model."""
    embedder = {"embedder": f"{url}#vectors"} if embeds else {}
    start = Library.from_json(library) if library else None
    return improve(toy.task(), model=f"{url}#toy", run=run, library=start, **embedder, **settings)


if __name__ == "__main__":
    start_run(**json.loads(sys.argv[1]))
