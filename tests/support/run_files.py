"""Files of a finished run, as dicts to write, and a reader of the report that is made of them."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from edgewise.toolkit.report import run_report

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The text and tags of a page; fails where tags are not balanced."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def write_run(
    folder: Path, result: Any, steps: Sequence[Any] = (), rollouts: Sequence[Any] = (), config: str = ""
) -> Path:
    """Write a run directory and return it."""
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.toml").write_text(config)
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rollouts))
    for step in steps:
        home = folder / "steps" / f"{step['step']:03d}"
        home.mkdir(parents=True)
        (home / "step.json").write_text(json.dumps(step))
    return folder


def write_page(path: Path) -> Page:
    """Write the report of a run and read it."""
    file = run_report.write_report(path)
    assert file == path / "report.html"
    return Page(file.read_text(encoding="utf-8"))


def make_totals(usd: float | None) -> dict[str, Any]:
    return {"calls": 4, "input": 4000, "cached": 10, "output": 20, "usd": usd, "estimated": 0}


def make_arm(name: str, version: str, mean: float, against: Any = None) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "mean": {"estimate": mean, "low": mean - 0.1, "high": mean + 0.1, "p": None},
        "passes": {"1": mean},
        "rollouts": 2,
        "failed": 0,
        "usage": {"input": 2000, "cached": 0, "output": 10},
        "unreported": 0,
        "tool_calls": 0.0,
        "against": against,
    }


def make_difference(gain, low, high, better=("r0",), worse=(), p=0.01, baseline="before") -> dict[str, Any]:
    mean = {"estimate": gain, "low": low, "high": high, "p": p}
    return {"baseline": baseline, "mean": mean, "better": list(better), "worse": list(worse)}


def make_result(
    difference: Any,
    improved: bool = True,
    lessons: Sequence[str] = ("Be brief",),
    usd: float | None = 0.5,
    artifact: Any = None,
    names: tuple[str, str] = ("before", "after"),
) -> dict[str, Any]:
    """Make result.json of two arms; the artefact is a library with these lessons unless another one is given."""
    arms = [make_arm(names[0], "old", 0.2), make_arm(names[1], "new", 0.5, difference)]
    changed = [*difference["better"], *difference["worse"]]
    stored = [
        {"id": f"ab{n}", "text": text, "kind": "form", "born": 1, "sources": ["t1", "t2"]}
        for n, text in enumerate(lessons)
    ]
    return {
        "task": "triage",
        "improved": improved,
        "evidence": {
            "examples": 40,
            "samples": 1,
            "threshold": 1.0,
            "results": arms,
            "rows": [
                {"example": id, "arm": name, "rewards": [float(i)], "failed": 0}
                for id in changed
                for i, name in enumerate(names)
            ],
        },
        "costs": {
            "total": make_totals(usd),
            "measuring": make_totals(usd),
            "learning": make_totals(usd),
            "role": {"rollout": make_totals(usd)},
            "step": {"0": make_totals(usd), "1": make_totals(usd)},
        },
        "artifact": {"library.json": {"place": "before", "lessons": stored}} if artifact is None else artifact,
        "run": "runs/x",
        "seconds": 61.0,
    }


def make_rollout(example: str, library: str, answer: str, prompt: str = "Which team?") -> dict[str, Any]:
    return {
        "example": example,
        "library": library,
        "sample": 0,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        "error": "",
        "score": {"value": 1.0, "parts": {}, "valid": True, "feedback": "expected birch"},
    }


STEP: dict[str, Any] = {
    "step": 1,
    "epoch": 1,
    "incomplete": "",
    "statistics": {"runs": 10, "failed": 0, "mean_reward": 0.3, "mixed": 0.5, "pass": 0.6, "tool_calls": 0.0},
    "groups": [{"example": "t1", "rewards": [0.0, 1.0], "proposals": [], "skipped": "all rewards are equal"}],
    "operations": [
        {"action": "add", "id": None, "text": "Be brief", "applied": True, "reason": ""},
        {"action": "add", "id": None, "text": "Be short", "applied": False, "reason": "joined with ab, same"},
        {"action": "delete", "id": "G9", "text": None, "applied": False, "reason": "there is no lesson 'G9'"},
    ],
    "gate": {
        "winner": "updated",
        "accepted": True,
        "difference": 0.1,
        "rows": 8,
        "p": 0.004,
        "level": 0.01,
        "worse": [],
        "means": {"current": 0.2},
    },
    "dropped": [],
}
"""A step.json of a run on lessons."""
