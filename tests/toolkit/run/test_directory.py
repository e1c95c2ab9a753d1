"""The run directory: what is written into it, and whose it is."""

import errno
import json

import pytest

from edgewise.toolkit.errors import ConfigError, DiskFull
from edgewise.toolkit.run.config import Config, load_config
from edgewise.toolkit.run.directory import ensure_directory, new_run_path, open_run, raise_disk_full, write_json
from edgewise.toolkit.tracking.events import GroupsFinished, StepFinished
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step, Usage

CONFIG = Config(model="openai/x", prices={"*": (1.0, 2.0)})
PRINT = "f" * 64


def group(samples: int = 2, version: str = "v1") -> Group:
    asked = Message("user", "What?")
    runs = tuple(
        Rollout(
            "r1",
            "solver",
            sample,
            (Step((asked,), Message("assistant", f"said {sample} größer"), Usage(1000, 0, 500), 0.5),),
            "stop",
            Score(1.0, {"form": 0.5}, feedback="good"),
            seed=sample,
            version=version,
        )
        for sample in range(samples)
    )
    return Group(Example("r1", (asked,)), "solver", runs)


def lines(path):
    return [json.loads(line) for line in (path / "rollouts.jsonl").read_text().splitlines()]


def start(path, config=CONFIG, fingerprint=PRINT, job="improve"):
    return open_run(ensure_directory(path), config, fingerprint, job)


def test_each_rollout_is_one_complete_line(tmp_path):
    with start(tmp_path) as files:
        files.on_event(GroupsFinished([group()]))
        first, second = lines(tmp_path)  # readable while the run goes on
    assert (first["sample"], second["sample"]) == (0, 1)
    assert first["messages"][-1]["content"] == "said 0 größer"
    assert first["group"] == ["r1", "solver"]
    assert (first["library"], first["model"], first["usd"]) == ("v1", "openai/x", 0.002)
    assert first["score"] == {"value": 1.0, "parts": {"form": 0.5}, "valid": True, "feedback": "good"}
    assert first["tokens"] == {"input": 1000, "cached": 0, "output": 500}


def test_shared_rollout_is_written_once(tmp_path):
    with start(tmp_path) as files:
        files.on_event(GroupsFinished([group(), group()]))
        files.on_event(GroupsFinished([group(3), group(version="v2")]))
    assert len(lines(tmp_path)) == 5


def test_rollout_without_messages_is_a_line(tmp_path):
    broken = Rollout("r1", "solver", 0, (), "refused", error="no")
    with start(tmp_path) as files:
        files.on_event(GroupsFinished([Group(Example("r1", ()), "solver", (broken,))]))
    (line,) = lines(tmp_path)
    assert (line["messages"], line["stop"], line["error"]) == ([], "refused", "no")


def test_step_writes_its_record_and_library(tmp_path):
    class Record:
        number = 7

        def to_json(self):
            return {"step": 7, "library": {"lessons": []}}

    with start(tmp_path) as files:
        files.on_event(StepFinished(Record()))
    assert json.loads((tmp_path / "steps/007/step.json").read_text())["step"] == 7
    assert json.loads((tmp_path / "steps/007/library.json").read_text()) == {"lessons": []}


def test_config_is_saved_with_resumable_changes(tmp_path):
    with start(tmp_path):
        pass
    with start(tmp_path, CONFIG.model_copy(update={"usd": 3.0, "concurrency": 1})):
        pass
    assert load_config(Config, tmp_path / "config.toml").usd == 3.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fingerprint": "0"}, "another task .*give another --run"),
        ({"job": "evaluate"}, "holds a run of edgewise improve; give another --run"),
        ({"config": Config(model="openai/y", seed=1)}, "started with another model, seed, prices|another model, seed"),
    ],
)
def test_directory_of_another_run_stays_unchanged(changes, sentence, tmp_path):
    with start(tmp_path) as files:
        files.on_event(GroupsFinished([group()]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=sentence), start(tmp_path, **changes):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["task.json", "config.toml"])
def test_damaged_run_file_is_named(name, tmp_path):
    with start(tmp_path):
        pass
    (tmp_path / name).write_bytes(b"\xff[")
    with pytest.raises(ConfigError, match=name), start(tmp_path):
        pass


def test_file_is_no_run_directory(tmp_path):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(ConfigError, match=r"can't be a run directory.*give another --run"):
        ensure_directory(tmp_path / "file")


def test_new_run_paths_are_unique_and_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [ensure_directory(new_run_path(name)) for name in ("a", "a", "a", "../../b c/d", "..", "größe")]
    assert len(set(paths)) == 6
    assert {path.resolve().parent for path in paths} == {tmp_path / "runs"}


def test_equal_data_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": [1.5, "ü"]})
    write_json(tmp_path / "b", {"a": [1.5, "ü"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_full_disk_is_distinguished_from_other_errors():
    with pytest.raises(DiskFull, match="disk is full"), raise_disk_full():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), raise_disk_full():
        raise PermissionError(errno.EACCES, "Permission denied")
