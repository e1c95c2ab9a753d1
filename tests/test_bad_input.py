"""
Whatever is wrong: one sentence that says what to do, the right exit code, nothing lost, no secret told.

A case prepares a folder and says which options the command gets; the table says how it must end.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgewise.toolkit.budget.journal import Journal
from tests.support import toy
from tests.support.command import run_command, write_task
from tests.support.server import Fault, Server

KEY = "sk-fake-0123456789abcdefTHISISSECRET"


@dataclass
class Place:
    """What a case works with: its folder, a server that plays the toy model, and whoever cleans up."""

    folder: Path
    patch: pytest.MonkeyPatch
    stack: ExitStack
    server: Server
    run: Path = field(init=False)

    def __post_init__(self) -> None:
        self.run = self.folder / "run"

    @property
    def model(self) -> tuple[str, str]:
        """The options for the model behind the server, which wants a key."""
        self.patch.setenv("OPENAI_BASE_URL", self.server.url)
        return ("--model", "openai/toy")


Case = Callable[[Place], list[Any]]


def improving(**task: Any) -> Case:
    """A task file with these keys (`content`: its rows), on the server's model."""
    return lambda place: ["improve", write_task(place.folder / "task", **task), *place.model]


def options(*more: Any, **task: Any) -> Case:
    """A good task with these options, which come last and win."""
    return lambda place: [*improving(**task)(place), *more]


def faulty(fault: Fault) -> Case:
    """A good task on a server that answers every call with this error."""

    def prepare(place: Place) -> list[Any]:
        place.server.faults = lambda body: fault
        return improving()(place)

    return prepare


def graded_by(body: str) -> Case:
    """A reward in a file beside the task: right for a while, then this."""

    def prepare(place: Place) -> list[Any]:
        arguments = improving(reward="mine:grade")(place)
        source = f"seen = []\ndef grade(prediction, target):\n    seen.append(1)\n    if len(seen) > 40: {body}\n"
        (place.folder / "task/mine.py").write_text(source + "    return float(prediction == target)\n")
        return arguments

    return prepare


def corrupt_journal(place: Place) -> list[Any]:
    place.run.mkdir()
    (place.run / "journal.sqlite").write_bytes(b"somebody's only copy" * 300)
    return improving()(place)


def corrupt_model(place: Place) -> list[Any]:
    from edgewise.toolkit.model.embedded.catalogue import MODELS

    place.patch.setenv("EDGEWISE_CACHE", str(place.folder / "cache"))
    (place.folder / "cache").mkdir()
    (place.folder / "cache" / MODELS["smollm2-135m"].file).write_bytes(b"GGUF" * 1000)
    return options("--model", "local/smollm2-135m")(place)


def full_disk(place: Place) -> list[Any]:
    place.run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place.run)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    place.stack.callback(subprocess.run, ["umount", "-l", str(place.run)], check=True)
    return improving()(place)


def a_row_without(name: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != name or row["n"] != 7} for row in toy.rows()]


FREE, PAID = False, True
"""Whether calls were made by the time it ended."""

TABLE: list[tuple[str, Case, int, str, bool]] = [
    # what is wrong, how, exit code, sentence, whether something was paid for
    ("no task", lambda place: ["improve", place.folder / "no.toml"], 2, "no.toml is missing", FREE),
    ("no rows", improving(rows="tickets.jsonl"), 2, "tickets.jsonl", FREE),
    ("a row without the field", improving(content=a_row_without("thing")), 2, "row|line.*thing", FREE),
    ("a template with an unknown field", improving(prompt="What is {thign}?"), 2, "thign.*thing", FREE),
    ("a reward that is not there", improving(reward="exakt"), 2, "exakt.*exact", FREE),
    ("a reward that raises", graded_by("raise KeyError('colour')"), 2, "KeyError.*colour.*resume", PAID),
    ("a reward that gives NaN", graded_by("return float('nan')"), 2, "grade gave nan.*resume", PAID),
    ("a model that does not exist", faulty(Fault(404, "no model toy")), 2, "Check the model's name", FREE),
    ("a model without a provider", options("--model", "gpt-4o"), 2, "openai/gpt-4o", FREE),
    ("a model that is switched off", options("--model", "mistral/x"), 2, "EDGEWISE_OFFLINE", FREE),
    ("an embedded model that does not exist", options("--model", "local/x"), 2, "there are qwen", FREE),
    ("a function that does not exist", options("--model", "scripted/a:b"), 2, "MODULE:FUNCTION", FREE),
    ("a wrong key", faulty(Fault(401, f"Incorrect API key: {KEY}")), 2, "Check the API key", FREE),
    ("an account without money", faulty(Fault(429, "no", code="insufficient_quota")), 3, "Top up", FREE),
    ("a server that is away", options("--model", "http://127.0.0.1:9/v1#x"), 3, "can't be reached", FREE),
    ("a full disk", full_disk, 3, "[Nn]o room|full", FREE),
    ("a corrupt journal", corrupt_journal, 2, "can't be read as a journal.*move it away", FREE),
    ("a corrupt model file", corrupt_model, 2, "checksum|sha256|damaged|differ", FREE),
    ("a limit on calls too small", options("--calls", 9), 2, "--calls 9 is too small.*Raise it", FREE),
    ("a limit on tokens too small", options("--tokens", 99), 2, "--tokens 99 is too small", FREE),
    ("a limit in dollars too small", options("--usd", 1e-6, "--price", "1,2"), 2, "--usd .* too small", FREE),
    ("a limit of nothing", options("--calls", 0), 2, "calls=0 must be a number above zero", FREE),
    ("a limit on the way", options("--calls", 100), 3, r"calls \(100\).*higher limit.*resume", PAID),
    ("no time left on the way", options("--minutes", "0.002"), 3, "minutes", PAID),
    ("a dollar limit without a price", options("--usd", 1), 2, "--price INPUT,OUTPUT", FREE),
    ("a price that is none", options("--price", "cheap"), 2, "INPUT,OUTPUT", FREE),
    ("an unknown setting", options("--set", "epoch=2"), 2, "did you mean 'epochs'", FREE),
    ("a setting of a wrong kind", options("--set", "epochs=many"), 2, "'epochs'.*integer", FREE),
    ("nothing to learn from", improving(splits={"test": 1.0}), 2, "no training rows", FREE),
    ("rows too few to show anything", improving(content=toy.rows(12)), 2, "can't show any.*--force", FREE),
    ("an anchor that is no such row", options("--set", "anchors=['x']"), 2, "validation row.*'x'", FREE),
    ("no journal to replay", options("--replay", "nowhere.sqlite"), 2, "no journal at nowhere.sqlite", FREE),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack, Server(toy.serve) as server:
        yield Place(tmp_path, monkeypatch, stack, server)


@pytest.mark.parametrize(
    ("case", "code", "sentence", "paid"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_bad_input(
    case: Case, code: int, sentence: str, paid: bool, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*case(place), "--run", place.run]
    before = files(place.folder)
    done = run_command(capsys, *arguments)
    assert (done.code, done.out) == (code, "")
    assert len(done.error_lines) == 1, done.err
    assert "Traceback" not in done.err
    assert re.search(sentence, done.error_lines[0])
    assert KEY not in done.err
    assert not leaks(place.folder)
    assert before.items() <= files(place.folder).items()
    answered = len(place.server.bodies) if place.server.faults({}) is None else 0
    assert bool(answered) == paid
    assert recorded(place.run) == answered


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leaks(folder: Path) -> list[Path]:
    return [path for path, content in files(folder).items() if KEY.encode() in content]


def recorded(run: Path) -> int:
    """Answers in the journal of a run; 0 where it has none."""
    path = run / "journal.sqlite"
    if not path.exists() or not path.read_bytes().startswith(b"SQLite"):
        return 0
    with Journal(path, readonly=True) as journal:
        return len(journal)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("I would rather not use JSON.", "no operations after 3 tries"),
        ('{"operations": [{"action": "modify", "id": "G77", "kind": "content", "text": "x"}]}', "G77"),
        ('{"operations": [{"action": "delete", "id": "nothing", "kind": "form", "text": ""}]}', "nothing"),
    ],
    ids=["a reply that is not JSON", "a change of an unknown id", "a deletion of an unknown id"],
)
def test_unreadable_distiller_reply_costs_only_its_lesson(said, why, place, capsys):
    place.server.answer = lambda body: said if "response_format" in body else toy.serve(body)
    done = run_command(capsys, *options("--set", "pool=false", "--run", place.run)(place))
    assert (done.code, done.error_lines) == (1, [])
    assert "0 lessons" in done.out
    steps = [json.loads(path.read_text()) for path in sorted(place.run.glob("steps/*/step.json"))]
    assert len(steps) == 2
    assert all(why in json.dumps(step) for step in steps)
    assert recorded(place.run) == len(place.server.bodies)
    assert not leaks(place.folder)


def test_server_without_json_ends_the_run_and_saves_rollouts(place, capsys):
    place.server.answer = lambda body: b"<html>Bad gateway</html>"
    done = run_command(capsys, *options("--run", place.run)(place))
    assert (done.code, done.out, len(done.error_lines)) == (2, "", 1)
    assert "Every one of 60 rollouts failed, the first one so: " in done.error_lines[0]
    lines = [json.loads(line) for line in (place.run / "rollouts.jsonl").read_text().splitlines()]
    assert {line["stop"] for line in lines} == {"failed"}
    assert not any(line["score"]["valid"] for line in lines)


def test_a_good_run_tells_no_key_to_any_file(place, capsys):
    done = run_command(capsys, *options("--run", place.run)(place))
    assert done.code == 0
    assert place.server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert not leaks(place.folder)
