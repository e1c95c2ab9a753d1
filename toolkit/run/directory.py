"""
The directory of a run, and what is written into it while the run goes on.

    RUN/config.toml        the resolved settings
    RUN/journal.sqlite     every model call, durable before its reply is used
    RUN/rollouts.jsonl     one line per rollout
    RUN/sampled.json       what a model in this process answered, in all
    RUN/steps/NNN/         what each step saw and produced
    RUN/effects.json       which lessons were measured one by one at the end, and which went
    RUN/wiring.json        the graphs that were found, where graphs were searched for
    RUN/weights.json       what was trained and how, where weights were
    RUN/result.json        the result as one object
    RUN/report.html        the same for people
    RUN/artifact/          the improvement; its manifest is written last

Everything but the journal is written anew when a run is taken up again, from the journal's replies. Weights go on from
a checkpoint: what they wrote stays.
"""

import contextlib
import errno
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
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
    StepSummary,
    WeightsTrained,
)
from edgewise.toolkit.types import Group, Rollout
from edgewise.toolkit.util.files import dump_json, replace_text

JOURNAL = "journal.sqlite"
SAMPLED = "sampled.json"
"""What models in this process answered, which no journal has, and the wall time: for limits that span restarts."""


@dataclass(slots=True)
class RunDirectory:
    """A run directory that is open for writing; use `opened`."""

    path: Path
    model: str
    price: Price | None
    rollouts: TextIO
    seen: set[tuple[str, int, int, str]] = field(default_factory=set)

    def on_event(self, note: Event) -> None:
        """Write what a note is about: finished groups and steps."""
        match note:
            case GroupsFinished(groups):
                self._write_groups(groups)
            case StepFinished(record):
                self._write_step(record)
            case EffectsMeasured(record):
                write_json(self.path / "effects.json", record.to_json())
            case GraphsMeasured(record):
                write_json(self.path / "wiring.json", record.to_json())
            case WeightsTrained(content):
                write_json(self.path / "weights.json", content)

    def _write_groups(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for run in group.rollouts:
                key = (run.example, run.sample, run.seed, run.version)
                if key not in self.seen:
                    self.seen.add(key)
                    line = rollout_json(group, run, self.model, self.price)
                    print(json.dumps(line), file=self.rollouts)
        self.rollouts.flush()

    def _write_step(self, record: StepSummary) -> None:
        folder = self.path / "steps" / f"{record.number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        content = record.to_json()
        write_json(folder / "step.json", content)
        if "library" in content:
            write_json(folder / "library.json", content["library"])


def new_run_path(name: str) -> Path:
    """A run directory that does not exist yet: runs/NAME-DATE-TIME, with a number where there is one."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    first = Path("runs") / f"{plain}-{datetime.now():%Y%m%d-%H%M%S}"
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not path.exists())


def ensure_directory(path: Path) -> Path:
    """The directory, made if there is none. Raises ConfigError where that can't be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path} can't be a run directory ({error.strerror}); give another --run."
        ) from error
    return path


@contextlib.contextmanager
def open_run(path: Path, config: Config, fingerprint: str, job: str) -> Iterator[RunDirectory]:
    """
    Take up the run in a directory, or start one there; `job` says what it does ("improve", "evaluate").

    To be called by who holds the journal, for a run has one writer. Raises ConfigError where the directory
    belongs to another job or task, or to settings on which its replies depend.
    """
    check_same_run(path, config, fingerprint, job)
    configs.save_config(config, path / "config.toml")
    write_json(path / "task.json", {"fingerprint": fingerprint, "job": job})
    kept = _lines(path / "rollouts.jsonl") if config.resumes_from_checkpoint else []
    price = find_price(config.model, config.price_list)
    with (path / "rollouts.jsonl").open("w", encoding="utf-8") as rollouts:
        rollouts.writelines(kept)
        yield RunDirectory(path, config.model, price, rollouts, {_key(json.loads(line)) for line in kept})


def _lines(path: Path) -> list[str]:
    """The whole lines of a file of rollouts; a kill may have broken the last one."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("}\n")]


def _key(line: Mapping[str, Any]) -> tuple[str, int, int, str]:
    return (line["example"], line["sample"], line["seed"], line["library"])


def check_same_run(path: Path, config: Config, fingerprint: str, job: str) -> None:
    """Raise ConfigError where a directory belongs to another job or task, or to settings on which replies depend."""
    if (path / "task.json").exists():
        before = read_json(path / "task.json")
        if before.get("job", job) != job:
            raise ConfigError(f"{path} holds a run of edgewise {before['job']}; give another --run.")
        if before.get("fingerprint") != fingerprint:
            raise ConfigError(
                f"{path} holds a run of another task (its rows, prompt or reward differ); give another --run."
            )
    if (path / "config.toml").exists():
        wrong = configs.list_changes(configs.load_config(type(config), path / "config.toml"), config)
        if wrong:
            raise ConfigError(
                f"{path} was started with another {', '.join(wrong)}; give the same, or another --run."
            )


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises ConfigError where it is something else."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); give another --run.") from error


@contextlib.contextmanager
def raise_disk_full() -> Iterator[None]:
    """Turn the system's "no space left" into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull("The disk is full; every reply so far is in the journal. Make room.") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the same data always gives the same bytes."""
    replace_text(path, dump_json(data))


def rollout_json(group: Group, run: Rollout, model: str, price: Price | None) -> dict[str, Any]:
    """One line of rollouts.jsonl; `usd` is None where the price is unknown. `calls` are the runs that it delegated."""
    usage = run.usage
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
