"""A run from start to result, and every way it can end before: nothing is lost, nothing is paid twice."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from edgewise import Artifact, Limits, improve
from edgewise.toolkit.errors import ConfigError, JournalError, LimitReached, RewardError
from tests.support import toy
from tests.support.command import SETTINGS, CommandResult, start_command, wait_for_command, write_task
from tests.support.server import Server


def learn(url: str, run: Path, task=None, **settings):
    return improve(task or toy.task(), model=f"{url}#toy", run=run, **{**SETTINGS, **settings})


def library(run: Path) -> bytes:
    return (run / "artifact" / "library.json").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[int, bytes]:
    """How many calls a run takes, and the library it ends with."""
    run = tmp_path_factory.mktemp("undisturbed")
    with Server(toy.serve) as server:
        learn(server.url, run)
        return len(server.bodies), library(run)


def until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.005)


def finished_as_if_undisturbed(server: Server, run: Path, undisturbed) -> bool:
    """Resume the run; whether it asked for nothing a second time and learnt the same."""
    calls, expected = undisturbed
    learn(server.url, run)
    return len(server.bodies) == calls and library(run) == expected


def command(server: Server, run: Path, tmp_path: Path, **improve_table):
    task = write_task(tmp_path / "task", improve=improve_table)
    return start_command("improve", task, "--model", f"{server.url}#toy", "--run", run)


# ---- to the end ----------------------------------------------------------------------------------------


def test_result_has_evidence_costs_and_path(tmp_path):
    result = improve(toy.task(), model="scripted/tests.support.toy:play", run=tmp_path / "run", **SETTINGS)
    assert result.improved
    before, after = result.evidence.results
    assert after.mean.estimate > before.mean.estimate
    assert Artifact.load(tmp_path / "run").files == json.loads(json.dumps(result.artifact.files))
    assert json.loads((tmp_path / "run/result.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert (tmp_path / "run/report.html").stat().st_size
    costs = result.costs
    for what in ("calls", "input", "output"):
        assert costs["total"][what] == costs["learning"][what] + costs["measuring"][what]
        for axis in ("role", "step", "example", "model"):
            assert costs["total"][what] == sum(book[what] for book in costs[axis].values())


def test_model_that_never_learns_is_no_improvement(tmp_path):
    result = improve(
        toy.task(), model="scripted/tests.toolkit.run.test_runner:always_red", run=tmp_path / "run", **SETTINGS
    )
    assert not result.improved
    assert Artifact.load(tmp_path / "run").library["lessons"] == []


def always_red(request) -> str:
    return "red"


# ---- limits, errors --------------------------------------------------------------------------------------


def test_run_stopped_by_a_limit_resumes_with_a_higher_one(tmp_path, undisturbed):
    with Server(toy.serve) as server:
        with pytest.raises(LimitReached, match=r"calls \(100\)") as stopped:
            learn(server.url, tmp_path / "a run", limits=Limits(calls=100))
        assert len(server.bodies) == 100
        assert stopped.value.__notes__ == [f"Nothing is paid twice: resume with --run '{tmp_path}/a run'"]
        assert not (tmp_path / "a run" / "artifact").exists()
        assert finished_as_if_undisturbed(server, tmp_path / "a run", undisturbed)


def test_fixed_reward_resumes_without_paying_again(tmp_path, undisturbed):
    broken = threading.Event()

    def exact(prediction, target):
        if broken.is_set():
            raise ZeroDivisionError("mended in a minute")
        return float(prediction == target)

    def task():
        return toy.Task.from_rows(toy.rows(), prompt=toy.PROMPT, id="id", name="colours", reward=exact)

    broken.set()
    with Server(toy.serve) as server:
        with pytest.raises(RewardError, match="mended in a minute") as stopped:
            learn(server.url, tmp_path / "run", task(), concurrency=4)
        assert "resume with --run" in stopped.value.__notes__[0]
        paid = len(server.bodies)
        # Calls that still waited for a place when it broke were never made.
        assert 0 < paid < 60
        broken.clear()
        learn(server.url, tmp_path / "run", task())
        assert len(server.bodies) == undisturbed[0]


def test_run_without_calls_has_nothing_to_resume(tmp_path):
    with pytest.raises(Exception, match="has no provider") as stopped:
        improve(toy.task(), model="gpt-4o", run=tmp_path / "run", **SETTINGS)
    assert not hasattr(stopped.value, "__notes__")


@pytest.mark.parametrize(
    ("changes", "sentence"), [({"seed": 1}, "another seed"), ({"task": toy.task(30)}, "another task")]
)
def test_run_resumes_only_with_its_own_settings(tmp_path, changes, sentence):
    with Server(toy.serve) as server:
        learn(server.url, tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.json*")}
        with pytest.raises(ConfigError, match=sentence):
            learn(server.url, tmp_path, **changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json*")} == before


# ---- Ctrl-C ----------------------------------------------------------------------------------------------


def test_ctrl_c_finishes_running_calls_and_resumes(tmp_path, undisturbed):
    run = tmp_path / "run"
    with Server(toy.serve, latency=0.1) as server:
        process = command(server, run, tmp_path, concurrency=2)
        until(lambda: len(server.bodies) >= 5)
        process.send_signal(signal.SIGINT)
        asked = len(server.bodies)
        done = wait_for_command(process)
        # Dozens of calls waited for a place; at most one on its way when the signal came is made.
        assert len(server.bodies) <= asked + 2
        server.latency = 0.0
        assert finished_as_if_undisturbed(server, run, undisturbed)
    assert done.code == 130
    assert done.error_lines == [f"edgewise: Stopped. Nothing is paid twice: resume with --run {run}"]
    assert "stopping: calls under way may finish; Ctrl-C again drops them" in done.err
    assert "Traceback" not in done.err
    assert not done.out


def test_second_ctrl_c_drops_running_calls(tmp_path):
    with Server(toy.serve, latency=60.0) as server:
        process = command(server, tmp_path / "run", tmp_path, concurrency=2)
        assert process.stderr
        until(lambda: len(server.bodies) >= 2)
        process.send_signal(signal.SIGTERM)  # as good as Ctrl-C
        shown = ""
        while "stopping" not in shown:
            shown = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        done = wait_for_command(process)
        assert time.monotonic() - begun < 15
    assert (done.code, done.error_lines) == (130, ["edgewise: Stopped."])
    assert "Traceback" not in done.err


# ---- the disk and the journal ------------------------------------------------------------------------------


def test_second_process_on_a_run_is_refused(tmp_path, undisturbed):
    run = tmp_path / "run"
    with Server(toy.serve, latency=0.02) as server:
        process = command(server, run, tmp_path, concurrency=8)
        until(lambda: (run / "rollouts.jsonl").exists() and (run / "rollouts.jsonl").stat().st_size > 0)
        with pytest.raises(JournalError, match=r"Another run is writing .*give another --run"):
            learn(server.url, run)
        assert (run / "rollouts.jsonl").stat().st_size > 0
        server.latency = 0.0
        done = wait_for_command(process)
        assert (done.code, len(server.bodies)) == (0, undisturbed[0])
    assert library(run) == undisturbed[1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_full_disk_loses_nothing_and_the_run_resumes(small_disk, tmp_path, undisturbed):
    run = small_disk / "run"
    with Server(toy.serve, latency=0.02) as server:
        process = command(server, run, tmp_path, concurrency=4)
        until(lambda: len(server.bodies) >= 40)
        fill(small_disk / "filler")
        done = wait_for_command(process)
        (small_disk / "filler").unlink()
        server.latency = 0.0
        assert finished_as_if_undisturbed(server, run, undisturbed)
    assert done.code == 3
    assert "Traceback" not in done.err
    (sentence,) = done.error_lines
    assert "full" in sentence and f"resume with --run {run}" in sentence


def corrupt(path: Path) -> bytes:
    content = b"not a database, but somebody's only copy" * 100
    path.write_bytes(content)
    return content


def test_corrupt_journal_is_refused_and_unchanged(tmp_path):
    run = tmp_path / "run"
    with Server(toy.serve) as server:
        learn(server.url, run)
        asked, rollouts = len(server.bodies), (run / "rollouts.jsonl").read_bytes()
        content = corrupt(run / "journal.sqlite")
        done: CommandResult = wait_for_command(command(server, run, tmp_path))
        assert len(server.bodies) == asked
    assert done.code == 2
    assert len(done.error_lines) == 1 and "journal.sqlite can't be read as a journal" in done.error_lines[0]
    assert (run / "journal.sqlite").read_bytes() == content
    assert (run / "rollouts.jsonl").read_bytes() == rollouts
