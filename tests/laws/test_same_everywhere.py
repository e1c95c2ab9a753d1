"""Concurrency, a crash or a replay change nothing: same groups, same books, same library, byte for byte."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.experience.library.library import Library, make_lesson
from edgewise.toolkit.errors import NotRecorded
from tests.support import toy
from tests.support.laws.one_run import start_run
from tests.support.server import Server, echo

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"epochs": 2, "batch_size": 12}
START = Library(
    (
        make_lesson("A brick is red"),
        make_lesson("A leaf is blue"),
        *(make_lesson(f"Whoever asks for number {n} wants a colour") for n in range(12)),
        replace(make_lesson("Answer with one word", "form"), locked=True, always=True),
    )
)
KINDS = {
    "sentences": {"pool": False},
    "pooled": {"pool": True},
    # All that looks at earlier rewards, draws at random, or asks another model.
    "adaptive": {
        "pool": False,
        "select": "vade",
        "allocate": "xrpo",
        "inclusion": 0.5,
        "alpha": 0.3,
        "leave_one_out": 3,
        "prompt_tokens": 90,
        "embeds": True,
        "library": START.to_json(),
    },
}


def books(run: Path):
    costs = json.loads((run / "result.json").read_text())["costs"]
    return {axis: costs[axis] for axis in ("total", "learning", "measuring", "role", "step", "example")}


def rollouts(run: Path):
    lines = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "latency"} for line in lines]


def library(run: Path) -> bytes:
    return (run / "artifact" / "library.json").read_bytes()


def meaning(body) -> list[float]:
    """A vector of a text: which things it is about."""
    return [float(thing in echo(body)) for thing in toy.THINGS]


def uneven(body) -> str:
    """Answers that overtake each other."""
    time.sleep(random.random() * 0.004)
    return toy.serve(body)


@pytest.fixture(scope="module", params=list(KINDS))
def reference(request, tmp_path_factory):
    """A run, one call at a time, that nothing disturbed: where it asked, its directory, calls and settings."""
    run = tmp_path_factory.mktemp("reference")
    settings = {**SETTINGS, **KINDS[request.param]}
    with Server(toy.serve, embedding=meaning) as server:
        result = start_run(server.url, run, concurrency=1, **settings)
        calls = len(server.bodies)
    assert result.improved
    return server.url, run, calls, settings


def test_concurrency_changes_nothing(reference, tmp_path):
    _, alone, calls, settings = reference
    with Server(uneven, embedding=meaning, latency=0.002) as server:
        start_run(server.url, tmp_path, concurrency=64, **settings)
        assert server.most_at_once > 8
        assert len(server.bodies) == calls
    assert library(tmp_path) == library(alone)
    assert rollouts(tmp_path) == [{**line, "model": f"{server.url}#toy"} for line in rollouts(alone)]
    assert books(tmp_path) == books(alone)


def test_finished_run_replays_without_a_model(reference, tmp_path):
    url, alone, _, settings = reference
    again = start_run(url, tmp_path, replay=alone / "journal.sqlite", **settings)
    assert again.improved
    assert library(tmp_path) == library(alone)
    assert rollouts(tmp_path) == rollouts(alone)
    assert books(tmp_path) == books(alone)


def test_replay_refuses_unrecorded_calls(reference, tmp_path):
    url, alone, _, settings = reference
    with pytest.raises(NotRecorded):
        start_run(url, tmp_path, replay=alone / "journal.sqlite", seed=1, **settings)


def test_repeating_a_finished_run_costs_nothing(reference):
    url, alone, _, settings = reference
    before = library(alone), books(alone)
    start_run(url, alone, **settings)  # the server is gone: any call would fail
    assert (library(alone), books(alone)) == before


def test_killed_run_resumes_to_the_same_result(reference, tmp_path):
    _, alone, calls, settings = reference
    with Server(toy.serve, embedding=meaning, latency=0.01) as server:
        given = {"url": server.url, "run": str(tmp_path), "concurrency": 4, **settings}
        command = [sys.executable, "-m", "tests.support.laws.one_run", json.dumps(given)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for kill_after in (20, 120, 260):
            with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
                while len(server.bodies) < kill_after and process.poll() is None:
                    time.sleep(0.002)
                process.send_signal(signal.SIGKILL)
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        repeated = len(server.bodies) - calls
    assert library(tmp_path) == library(alone)
    # Only what was on its way at a kill may be asked again: four in flight, four being written.
    assert repeated <= 3 * (4 + 4)
    assert books(tmp_path) == books(alone)


@pytest.mark.parametrize("reference", ["adaptive"], indirect=True)
def test_adaptive_run_exercises_every_feature(reference):
    """The law says nothing where nothing happened."""
    _, alone, _, _ = reference
    steps = [json.loads(path.read_text()) for path in sorted(alone.glob("steps/*/step.json"))]
    sizes = [len(group["rewards"]) for step in steps for group in step["groups"]]
    assert len(set(sizes)) > 1, "rollouts were allocated"
    assert any(len(step["groups"]) > SETTINGS["batch_size"] for step in steps), "groups were refilled"
    visits = [group["example"] for step in steps if step["epoch"] == 1 for group in step["groups"]]
    assert len(set(visits)) < len(visits), "rows with signal were visited again"
    assert len(json.loads((alone / "effects.json").read_text())["left_out"]) == 3
    assert books(alone)["role"]["retrieval"]["calls"] > 24
    assert len({line["library"] for line in rollouts(alone)}) > 20, "parts of the library were drawn"
