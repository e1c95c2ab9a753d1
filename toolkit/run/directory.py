"""
The directory of a run, and the files written into it while the run goes on.

    RUN/config.toml        the resolved settings
    RUN/task.json          fingerprint of the task, and the command
    RUN/journal.sqlite     every model call, durable before its reply is used
    RUN/rollouts.jsonl     one line per rollout
    RUN/sampled.json       totals of models in this process, which no journal has
    RUN/steps/NNN/         record of each step
    RUN/effects.json       lessons that were measured one by one at the end, and those that were dropped
    RUN/wiring.json        graphs that a search found
    RUN/weights.json       method and settings of a training run
    RUN/result.json        the result as one object
    RUN/report.html        the same for people
    RUN/artifact/          the improvement; its manifest is written last

A resumed run writes everything but the journal anew, from the journal's replies. A training run continues from a
checkpoint, so its earlier lines stay.
"""

import contextlib
import errno
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from edgewise.toolkit.budget.ledger import PICO, cost
from edgewise.toolkit.budget.prices import Price, find_price
from edgewise.toolkit.errors import ConfigError, DiskFull
from edgewise.toolkit.run import config as configs
from edgewise.toolkit.run.config import Config
from edgewise.toolkit.tracking.events import (
    EffectsMeasured,
    Event,
    GraphsMeasured,
    GroupsFinished,
    StepFinished,
    WeightsTrained,
)
from edgewise.toolkit.types import Group, Rollout
from edgewise.toolkit.util.files import dump_json, replace_text

JOURNAL = "journal.sqlite"
SAMPLED = "sampled.json"
"""Totals of models in this process, and the wall time: limits hold across restarts."""

RolloutKey = tuple[str, int, int, str]
"""Example, sample, seed and library of a rollout: what makes its line unique in rollouts.jsonl."""


@dataclass(slots=True)
class RunDirectory:
    """A run directory that is open for writing; see `open_run`."""

    path: Path
    model: str
    price: Price | None
    rollouts: TextIO
    keys: set[RolloutKey] = field(default_factory=set)

    def on_event(self, event: Event) -> None:
        """Write the file that an event is about."""
        match event:
            case GroupsFinished(groups):
                self._write_groups(groups)
            # `edgewise library show RUN@STEP` and `library log RUN` read these folders.
            case StepFinished(record):
                content = record.to_json()
                folder = self.path / "steps" / f"{record.number:03d}"
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "step.json", content)
                if "library" in content:
                    write_json(folder / "library.json", content["library"])
            case EffectsMeasured(record):
                write_json(self.path / "effects.json", record.to_json())
            case GraphsMeasured(record):
                write_json(self.path / "wiring.json", record.to_json())
            case WeightsTrained(content):
                write_json(self.path / "weights.json", content)

    def _write_groups(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for run in group.rollouts:
                # Two arms may share a rollout; it has one line.
                key = (run.example, run.sample, run.seed, run.version)
                if key not in self.keys:
                    self.keys.add(key)
                    print(json.dumps(rollout_json(group, run, self.model, self.price)), file=self.rollouts)
        # Flushed by group: people follow this file while the run goes on.
        self.rollouts.flush()


def new_run_path(name: str) -> Path:
    """Return a path that does not exist: runs/NAME-DATE-TIME, with a number if there is one already."""
    # A task may be called "../x": the path stays below runs/.
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    first = Path("runs") / f"{plain}-{datetime.now():%Y%m%d-%H%M%S}"
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())


def ensure_directory(path: Path) -> Path:
    """Make the directory if there is none, and return it. Raises ConfigError if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} can't be a run directory ({error.strerror}); give another --run.") from error
    return path


@contextlib.contextmanager
def open_run(path: Path, config: Config, fingerprint: str, command: str) -> Iterator[RunDirectory]:
    """
    Resume the run in a directory, or start one there; `command` says what it does ("improve", "evaluate").

    The caller holds the run's journal, whose lock admits one writer. Raises ConfigError if the directory belongs to
    another command or task, or to settings on which its replies depend.
    """
    check_same_run(path, config, fingerprint, command)
    configs.save_config(config, path / "config.toml")
    write_json(path / "task.json", {"fingerprint": fingerprint, "job": command})

    # A kill may have broken the last line.
    file = path / "rollouts.jsonl"
    earlier: list[str] = []
    if config.resumes_from_checkpoint and file.exists():
        lines = file.read_text("utf-8").splitlines(keepends=True)
        earlier = [line for line in lines if line.endswith("}\n")]
    names = ("example", "sample", "seed", "library")
    keys: set[Any] = {tuple(json.loads(line)[name] for name in names) for line in earlier}

    price = find_price(config.model, config.price_list)
    with file.open("w", encoding="utf-8") as rollouts:
        rollouts.writelines(earlier)
        yield RunDirectory(path, config.model, price, rollouts, keys)


def check_same_run(path: Path, config: Config, fingerprint: str, command: str) -> None:
    """Raise ConfigError if a directory belongs to another command or task, or to settings on which replies depend."""
    if (path / "task.json").exists():
        before = read_json(path / "task.json")
        if before.get("job", command) != command:
            raise ConfigError(f"{path} holds a run of edgewise {before['job']}; give another --run.")
        if before.get("fingerprint") != fingerprint:
            raise ConfigError(
                f"{path} holds a run of another task (its rows, prompt or reward differ); give another --run."
            )
    # Limits and concurrency may change between two attempts; see `Config.resumable`.
    if (path / "config.toml").exists():
        changes = configs.list_changes(configs.load_config(type(config), path / "config.toml"), config)
        if changes:
            raise ConfigError(f"{path} was started with another {', '.join(changes)}; give the same, or another --run.")


def read_json(path: Path) -> dict[str, Any]:
    """Read an object that `write_json` wrote. Raises ConfigError for anything else."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); give another --run.") from error


@contextlib.contextmanager
def raise_disk_full() -> Iterator[None]:
    """Raise DiskFull in place of the system's "no space left"."""
    try:
        yield
    except OSError as error:
        # A quota of the user counts as a full disk.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull("The disk is full; every reply so far is in the journal. Make room.") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON; equal data gives equal bytes."""
    replace_text(path, dump_json(data))


def rollout_json(group: Group, run: Rollout, model: str, price: Price | None) -> dict[str, Any]:
    """Return one line of rollouts.jsonl; `usd` is None if the price is unknown, `calls` are delegated rollouts."""
    usage = run.usage
    # The prompt of the last step holds the whole conversation.
    last = run.steps[-1] if run.steps else None
    calls = [rollout_json(group, call, model, price) for step in run.steps for call in step.subrollouts]
    return {
        "id": run.id,
        "example": run.example,
        "group": [group.example.id, group.role],
        "sample": run.sample,
        "seed": run.seed,
        "library": run.version,
        "model": model,
        "messages": [asdict(message) for message in (*last.prompt, last.completion)] if last else [],
        "stop": run.stop,
        "error": run.error,
        "score": asdict(run.score) if run.score else None,
        "tokens": asdict(usage),
        "usd": cost(usage, price) / PICO if price else None,
        "tool_calls": run.tool_call_count,
        "latency": sum(step.latency for step in run.steps),
        **({"calls": calls} if calls else {}),
    }
