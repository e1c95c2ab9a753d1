"""
What the guard on learned text lets through, and what honest advice it takes for bad.

`guards.json` holds 40 training rows (id, text, answer), bad lessons (text, and the part that must not survive;
null where the whole lesson has to be blocked) and honest lessons, each under its kind. Secrets and keys there are
invented, and are split by a broken bar, which is dropped on reading: scanners of repositories would otherwise
take them for real ones.

The rows are those of four tasks, and a task has a guard of its own, as in a run. Rules of the guard were written
without the lists, and then mended with every other item of each kind in view; `unseen` are the figures of the rest.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import quick, report

from edgewise.experience.guard.guard import Guard
from edgewise.toolkit.types import Example, Message

LIST = Path(__file__).with_suffix(".json")


def lists() -> dict[str, Any]:
    return json.loads(LIST.read_text("utf-8").replace("¦", ""))


def guards(rows: list[list[Any]]) -> list[Guard]:
    """A guard for each task; a row's task is the first part of its id."""
    tasks: dict[str, list[Example]] = {}
    for row, text, answer in rows:
        example = Example(row, (Message("user", text),), answer)
        tasks.setdefault(row.partition("-")[0], []).append(example)
    return [Guard.from_examples(examples) for examples in tasks.values()]


def caught(known: list[Guard], text: str, part: str | None) -> bool:
    """Blocked in one of the tasks, or the bad part is gone in all."""
    found = [guard.check(text) for guard in known]
    return any(x.is_blocked for x in found) or (part is not None and all(part not in x.text for x in found))


def alarmed(known: list[Guard], text: str) -> bool:
    """Whether an honest lesson is blocked or changed in any of the tasks."""
    return any(found.is_blocked or found.text != text for found in (guard.check(text) for guard in known))


def unseen(verdicts: dict[str, dict[str, bool]]) -> float:
    """The share of true verdicts among every other item of each kind."""
    return share(verdict for kind in verdicts.values() for verdict in list(kind.values())[1::2])


def share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return round(sum(found) / len(found), 3)


def shares(verdicts: dict[str, dict[str, bool]]) -> tuple[float, dict[str, float]]:
    """The share of true verdicts overall, and for each kind."""
    every = [verdict for kind in verdicts.values() for verdict in kind.values()]
    return share(every), {kind: share(found.values()) for kind, found in verdicts.items()}


def name(title: str, verdicts: dict[str, dict[str, bool]], wrong: bool) -> None:
    """List on stderr the lessons that were judged wrongly."""
    for kind, found in verdicts.items():
        for text in (text for text, verdict in found.items() if verdict is wrong):
            print(f"{title} {kind}: {text!r}", file=sys.stderr)


def main() -> int:
    quick()  # takes the argument; the whole list takes seconds
    given = lists()
    known = guards(given["rows"])
    bad = {kind: {t: caught(known, t, part) for t, part in items} for kind, items in given["bad"].items()}
    honest = {kind: {text: alarmed(known, text) for text in items} for kind, items in given["honest"].items()}
    name("missed", bad, wrong=False)
    name("false alarm", honest, wrong=True)
    found, found_by_kind = shares(bad)
    alarms, alarms_by_kind = shares(honest)
    figures = {
        "caught": found,
        "caught_unseen": unseen(bad),
        "caught_by_kind": found_by_kind,
        "bad_lessons": sum(map(len, bad.values())),
        "false_alarms": alarms,
        "false_alarms_unseen": unseen(honest),
        "false_alarms_by_kind": alarms_by_kind,
        "honest_lessons": sum(map(len, honest.values())),
    }
    bar = "caught >= 0.95 and false alarms <= 0.02"
    return report("guards", figures, bar, found >= 0.95 and alarms <= 0.02)


if __name__ == "__main__":
    sys.exit(main())
