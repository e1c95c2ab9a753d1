"""The whole job with a tiny model: it learns, resumes to the same weights, goes back where learning collapses."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgewise.learner import api
from edgewise.learner.api import train
from edgewise.learner.monitoring import collapse
from edgewise.learner.policy import checkpoint
from edgewise.learner.policy.policy import Policy
from edgewise.learner.training import loop
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError, DiskFull, Hopeless, LimitReached
from edgewise.toolkit.tracking.events import Event, StepFinished
from tests.support.learner import tiny
from tests.support.learner.shares import SETTINGS, task

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "weights" / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


def step(run: Path, number: int) -> dict[str, Any]:
    return json.loads((run / "steps" / f"{number:03d}" / "step.json").read_text())


def test_training_raises_the_reward_and_writes_a_run(model: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(task(), model=model, run=run, **{**SETTINGS, "steps": 12})
    before, after = (item.mean.estimate for item in result.evidence.results)
    assert after > before + 0.15
    assert result.improved
    assert (run / "artifact" / "weights" / "model.safetensors").exists()
    assert (run / "report.html").exists() and (run / "rollouts.jsonl").exists()
    assert result.costs["learning"]["calls"] == 12 * 16
    assert result.costs["measuring"]["calls"] == 2 * 8 * 4
    first = step(run, 1)
    assert first["update"]["ratio"] < 1e-6
    assert first["update"]["mismatch"] < 1e-4
    assert step(run, 12)["statistics"]["mean_reward"] > first["statistics"]["mean_reward"]


def test_weights_follow_from_the_seed(model: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(task(test=2), model=model, run=tmp_path / name, seed=seed, **{**SETTINGS, "steps": 3})
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_killed_run_resumes_to_the_same_weights(model: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script = (
        "import sys; from edgewise.learner.api import train; from tests.support.learner.shares import SETTINGS, task\n"
        f"train(task(test=2), model={model!r}, run=sys.argv[1], **{{**SETTINGS, 'steps': 7, 'save_every': 2}})"
    )

    def start(run: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, "-c", script, str(run)], env=environment)

    assert start(whole).wait(100) == 0
    process = start(killed)
    deadline = time.monotonic() + 100
    while not (killed / "steps" / "005" / "step.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists()
    assert start(killed).wait(100) == 0
    assert same(whole, killed)
    books = [json.loads((run / "result.json").read_text())["costs"]["learning"] for run in (whole, killed)]
    # What was done again is booked again: whole steps of 16 calls.
    again = books[1]["calls"] - books[0]["calls"]
    assert again >= 0 and again % 16 == 0
    lines = [sorted((run / "rollouts.jsonl").read_text().splitlines()) for run in (whole, killed)]
    assert [without_times(line) for line in lines[0]] == [without_times(line) for line in lines[1]]


def without_times(line: str) -> dict[str, Any]:
    return {**json.loads(line), "latency": 0}


def test_a_finished_run_is_not_trained_again(model: str, tmp_path: Path) -> None:
    first = train(task(test=2), model=model, run=tmp_path / "r", **SETTINGS)
    events: list[Event] = []
    again = train(task(test=2), model=model, run=tmp_path / "r", on_event=events.append, **SETTINGS)
    assert not [event for event in events if isinstance(event, StepFinished)]
    assert again.evidence == first.evidence


def test_limit_on_calls_stops_before_the_step_beyond_it(model: str, tmp_path: Path) -> None:
    with pytest.raises(LimitReached):
        train(task(test=2), model=model, run=tmp_path / "r", limits=Limits(calls=40), **SETTINGS)
    # Two steps are done, and saved, though the next checkpoint was far.
    assert checkpoint.find_latest(tmp_path / "r" / "checkpoints") == tmp_path / "r" / "checkpoints" / "000002"
    result = train(task(test=2), model=model, run=tmp_path / "r", limits=Limits(calls=500), **SETTINGS)
    assert result.costs["learning"]["calls"] == 6 * 16


def test_limit_during_the_evaluation_saves_the_weights(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Event] = []
    monkeypatch.setattr(
        api, "learn", lambda *args: loop.learn(*args, should_stop=lambda: "enough" if len(steps) == 2 else "")
    )
    on_event = lambda event: steps.append(event) if isinstance(event, StepFinished) else None  # noqa: E731
    with pytest.raises(LimitReached):  # two steps take 32 calls, what was learnt 8 and the start 8
        train(task(test=2), model=model, run=tmp_path / "r", limits=Limits(calls=44), on_event=on_event, **SETTINGS)
    assert checkpoint.find_latest(tmp_path / "r" / "checkpoints") == tmp_path / "r" / "checkpoints" / "000002"


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_full_disk_during_a_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    import resource

    policy = Policy.from_model(tiny.model(), tiny.tokenizer(), name="tiny")
    optimizer = policy.create_optimizer(lr=1e-3)
    checkpoint.save(tmp_path, 1, policy, optimizer, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
    try:
        with pytest.raises(DiskFull, match="could not be written"):
            checkpoint.save(tmp_path, 2, policy, optimizer, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def constant(completion: str, **_: Any) -> float:
    return 0.5


def nothing(completion: str, **_: Any) -> float:
    return math.nan


def test_constant_reward_is_one_sentence(model: str, tmp_path: Path) -> None:
    with pytest.raises(Hopeless, match="no row had runs with different rewards"):
        train(task(reward=constant), model=model, run=tmp_path / "r", **{**SETTINGS, "steps": 30})


def learnt_at_once(completion: str, **_: Any) -> float:
    """Rewards that differ at first, and are all the same from the fourth step on."""
    SEEN.append(completion)
    return 1.0 if len(SEEN) > 3 * 16 else float(len(SEEN) % 2)


SEEN: list[str] = []


def test_run_without_signal_is_evaluated(model: str, tmp_path: Path) -> None:
    SEEN.clear()
    settings = {**SETTINGS, "steps": 40, "batch_size": 4, "monitor": False}
    train(task(test=2, reward=learnt_at_once), model=model, run=tmp_path / "r", **settings)
    assert len(list((tmp_path / "r" / "steps").iterdir())) == 13
    about = json.loads(max((tmp_path / "r" / "checkpoints").glob("*/state.json")).read_text())
    assert about["number"] <= 13
    assert json.loads((tmp_path / "r" / "result.json").read_text())["evidence"]


def test_limits_on_minutes_and_calls_span_restarts(model: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "steps": 6}
    with pytest.raises(LimitReached):
        train(task(test=2), model=model, run=tmp_path / "r", limits=Limits(calls=100), **settings)
    first = json.loads((tmp_path / "r" / "sampled.json").read_text())
    assert sum(item["calls"] for item in first["sampled"]) == 96
    with pytest.raises(LimitReached):  # learning is done, measuring takes 16
        train(task(test=2), model=model, run=tmp_path / "r", limits=Limits(calls=111), **settings)
    second = json.loads((tmp_path / "r" / "sampled.json").read_text())
    assert second["elapsed"] > first["elapsed"]
    with pytest.raises(LimitReached):
        least = Limits(minutes=second["elapsed"] / 60)
        train(task(test=2), model=model, run=tmp_path / "r", limits=least, **settings)


def test_resumed_run_may_change_settings_without_effect(model: str, tmp_path: Path) -> None:
    with pytest.raises(LimitReached):
        train(task(test=2), model=model, run=tmp_path / "r", limits=Limits(calls=40), **SETTINGS)
    again = {**SETTINGS, "slice_tokens": 64, "save_every": 1, "monitor": False}
    assert train(task(test=2), model=model, run=tmp_path / "r", **again).path
    with pytest.raises(ConfigError, match="another lr"):
        train(task(test=2), model=model, run=tmp_path / "r", **{**again, "lr": 0.5})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "grop"}, "did you mean 'grpo'"),
        ({"overrides": "loss.hihg=1"}, "has no parameter 'hihg'"),
        ({"model": "openai/gpt"}, "gives? weights|weights.*not at hand"),
        ({"model": "torch/nowhere"}, "no model|no directory|no such"),
        ({"device": "cuda:7"}, "no device"),
    ],
)
def test_bad_input_is_one_sentence(model: str, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        train(task(), run=tmp_path / "r", **{**SETTINGS, "model": model, **settings})
    assert getattr(caught.value, "exit_code", None) == 2


def test_a_full_disk_keeps_the_checkpoint_before(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = checkpoint.shutil.disk_usage, []

    def full(path: Any) -> Any:
        calls.append(path)
        return real(path) if len(calls) == 1 else real(path)._replace(free=10)

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", full)
    run = tmp_path / "r"
    with pytest.raises(DiskFull, match="make room"):
        train(task(test=2), model=model, run=run, **{**SETTINGS, "save_every": 2})
    assert checkpoint.find_latest(run / "checkpoints") == run / "checkpoints" / "000000"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    train(task(test=2), model=model, run=tmp_path / "w", **SETTINGS)
    train(task(test=2), model=model, run=run, **{**SETTINGS, "save_every": 2})
    assert same(run, tmp_path / "w")


def test_collapse_rolls_back_and_halves_the_learning_rate(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "detect_collapse", lambda history: "broken" if len(history) == 4 else "")
    events: list[Event] = []
    settings = {**SETTINGS, "steps": 8, "save_every": 1}
    train(task(test=2), model=model, run=tmp_path / "r", on_event=events.append, **settings)
    records = [event.record for event in events if isinstance(event, StepFinished)]
    went = {record.number: record.rollback for record in records if record.rollback}
    assert "goes back to step" in went[4] and "0.5 times" in went[4]
    assert records[4].learning_rate == pytest.approx(0.5 * records[2].learning_rate)
    names = {path.name for path in (tmp_path / "r" / "checkpoints").iterdir()}
    state = json.loads((tmp_path / "r" / "checkpoints" / max(names) / "state.json").read_text())
    assert f"{state['best']:06d}" in names


def test_collapse_in_the_first_step_rolls_back_to_the_start(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "detect_collapse", lambda history: "broken" if len(history) == 1 else "")
    events: list[Event] = []
    settings = {**SETTINGS, "steps": 2}
    train(task(test=2), model=model, run=tmp_path / "r", on_event=events.append, **settings)
    records = [event.record for event in events if isinstance(event, StepFinished)]
    assert "goes back to step 0" in records[0].rollback
    state = json.loads((tmp_path / "r" / "checkpoints" / "000002" / "state.json").read_text())
    assert state["collapses"] == 2  # both steps were the first of what was left


def test_the_third_collapse_ends_learning_and_says_so(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "detect_collapse", lambda history: "broken" if len(history) > 1 else "")
    train(task(test=2), model=model, run=tmp_path / "r", **{**SETTINGS, "steps": 20})
    steps = sorted((tmp_path / "r" / "steps").iterdir())
    assert len(steps) < 20
    last = json.loads((steps[-1] / "step.json").read_text())
    assert "and stops" in last["went"]
    state = json.loads(max((tmp_path / "r" / "checkpoints").glob("*/state.json")).read_text())
    assert state["stopped"] == "broken, 3 times"
    assert state["memory"]["records"] == {}  # that of the checkpoint: the start


def test_an_engine_follows_its_schedule(model: str, tmp_path: Path) -> None:
    from edgewise.learner.config import WeightsConfig
    from edgewise.learner.training.engine import schedule_factor

    config = WeightsConfig(model=model, steps=10, warmup=4, schedule="linear")
    rates = [schedule_factor(config, number) for number in range(1, 11)]
    assert rates[:4] == [0.2, 0.4, 0.6, 0.8]
    assert all(a > b > 0 for a, b in pairwise(rates[4:]))
    assert schedule_factor(config.model_copy(update={"schedule": "constant"}), 9) == 1.0
