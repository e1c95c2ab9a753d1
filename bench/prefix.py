"""
How much of a step's prompts is one common prefix that a provider can cache, against the authors' order.

Prompts of all training rows of examples/support_triage under a library like one that a run ends with; tokens are those
of the small embedded model. The prefix is common to all rows, not only to the runs of one group.
"""

import json
import sys
import urllib.request
from contextlib import closing
from itertools import takewhile

from common import ROOT, quick, report

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library, Place, make_lesson
from edgewise.toolkit.model.embedded.server import serve_model
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.task.task import Task

LESSONS = (
    "If a message is about a refund, a charge or an invoice, answer birch.",
    "If a message is about signing in, a password or a profile, answer amber.",
    "If a message says that a lamp, pump or sensor does not work, answer cobalt.",
    "If a message asks where a parcel is, or it came late or damaged, answer heron.",
    "If a message wants to cancel, pause or change a plan, answer maple.",
    "If a message threatens with a lawyer or a court, answer quartz, whatever it is about.",
)


def tokens(url: str, text: str) -> list[int]:
    """Token ids of a text, by the server's tokenizer."""
    body = json.dumps({"content": text}).encode()
    request = urllib.request.Request(f"{url.removesuffix('/v1')}/tokenize", body)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["tokens"]


def share(url: str, task: Task, place: Place, rows: int) -> float:
    """The part of all prompt tokens that lies in the prefix common to all rows."""
    library = Library(tuple(map(make_lesson, LESSONS)), place)
    dressed = [library.insert_lessons(row.messages) for row in task.train[:rows]]
    prompts = ["\n".join(m.content for m in messages) for messages in dressed]
    encoded = [tokens(url, prompt) for prompt in prompts]
    common = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*encoded, strict=False))))
    return common * len(encoded) / sum(map(len, encoded))


def main() -> int:
    rows = 10 if quick() else 1000
    task = Task.read(ROOT / "examples" / "support_triage")
    used = resolve_config(ExperienceConfig, task.settings).place
    with closing(serve_model("smollm2-135m")) as server:
        ours, authors = (share(server.url, task, place, rows) for place in (used, "after"))
    figures = {"place": used, "ours": round(ours, 3), "authors_order": round(authors, 3)}
    return report("prefix", figures, "ours >= 0.7", ours >= 0.7)


if __name__ == "__main__":
    sys.exit(main())
