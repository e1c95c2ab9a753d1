"""What is compared: methods with their changes, seeds, and one run for each pair, all checked before any begins."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgewise.learner.config import WeightsConfig, split_overrides
from edgewise.learner.forecast import forecast
from edgewise.learner.methods.method import AXES, COUNT_AXES
from edgewise.learner.methods.published import METHODS, find_method
from edgewise.learner.spec import WeightsSpec, merge_layers
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError, EdgewiseError, LimitTooSmall
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.artifact import MANIFEST
from edgewise.toolkit.run.config import parse_settings, resolve_config
from edgewise.toolkit.run.forecast import Forecast, check_limits
from edgewise.toolkit.task.task import Task

OWN = (*AXES, *COUNT_AXES, "lr")
"""What may be another for each method; of what has dots, the part before the first one."""
FAILURE_FILE = "failed.json"
"""The file of a run that found out that there is nothing to learn: it is not tried again."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A method and what is changed of it; `name` says both, such as "dapo(loss.high=0.3)"."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name as that of a directory."""
        return re.sub(r"[^\w.=+-]+", "-", self.name).strip("-")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run: a method with a seed, in its directory."""

    contender: Contender
    spec: WeightsSpec
    path: Path

    @property
    def name(self) -> str:
        """Method and seed, for people."""
        return f"{self.contender.name}, seed {self.spec.config.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether it was carried out to its measurement."""
        return (self.path / "artifact" / MANIFEST).exists()

    @property
    def is_pending(self) -> bool:
        """Whether there is anything to do for it."""
        return not self.is_finished and not (self.path / FAILURE_FILE).exists()


@dataclass(frozen=True, slots=True)
class Lineup:
    """All that is compared: the runs in their order, seed by seed, so that what is there is balanced at any time."""

    task: Task
    path: Path
    contenders: tuple[Contender, ...]
    runs: tuple[PlannedRun, ...]
    limits: Limits

    @property
    def pending_runs(self) -> list[PlannedRun]:
        """The runs that are still to be carried out."""
        return [run for run in self.runs if run.is_pending]


def parse_contenders(methods: str | Sequence[str]) -> tuple[Contender, ...]:
    """
    Methods as people write them: "grpo, dapo(loss.high=0.3, lr=1e-6)".

    Raises ConfigError for a method that there is not, for what is no setting of a method, and for one named twice.
    """
    texts = [methods] if isinstance(methods, str) else methods
    words = [word.strip() for text in texts for word in re.split(r",(?![^(]*\))", text)]
    found = tuple(_contender(word) for word in words if word)
    if not found:
        raise ConfigError("There is nothing to compare: name methods, such as grpo,dr_grpo.")
    folders = [each.folder for each in found]
    if twice := next((each.name for each in found if folders.count(each.folder) > 1), ""):
        raise ConfigError(f"{twice} is named twice.")
    return found


def _contender(word: str) -> Contender:
    shape = re.fullmatch(r"([^()]+)(?:\((.*)\))?", word)
    if shape is None:
        raise ConfigError(
            f"{word!r} is no method: write grpo, or dapo(loss.high=0.3) for one that is changed."
        )
    method = find_method(shape[1])
    key = next(key for key, each in METHODS.items() if each is method)
    pairs = split_overrides(shape[2] or "")
    settings = parse_settings(pairs)
    for name in settings:
        if name.partition(".")[0] not in OWN:
            raise ConfigError(
                f"{word}: {name} must be the same for all methods, as --set {name}=... makes it; in brackets stands "
                "what is of one method, such as loss.high=0.3, epochs=2 or lr=1e-6."
            )
    return Contender(f"{key}({', '.join(pairs)})" if pairs else key, key, settings)


def build_lineup(
    task: Task,
    methods: str | Sequence[str],
    seeds: int,
    given: Mapping[str, Any],
    path: str | Path | None = None,
) -> Lineup:
    """
    The runs of a comparison, all checked; `given` are settings for all of them, beside those of the task file.

    Limits are for all runs together, and each may use the same share. Seeds count up from `seed`. Raises ConfigError,
    Hopeless, LimitTooSmall and UnknownPrice where a run would, before any has begun.
    """
    if seeds < 1:
        raise ConfigError(f"seeds={seeds} must be at least 1.")
    if given.get("method"):
        raise ConfigError("method=... is for one run: --methods says which are compared.")
    found = parse_contenders(methods)
    place = Path(path) if path else directory.new_run_path(f"{task.name}-compare")
    if (place / directory.JOURNAL).exists():
        raise ConfigError(f"{place} holds a run and not a comparison; give another --run.")
    layers = (WeightsConfig.select_known(task.settings), task.weights, given)
    whole = resolve_config(WeightsConfig, merge_layers(*layers))
    share = _share(whole.limits, len(found) * seeds)
    runs = []
    for number in range(whole.seed, whole.seed + seeds):
        for each in found:
            more = {**each.settings, "method": each.method, "seed": number}
            runs.append(_planned(task, each, [*layers, more, share], place / each.folder / f"seed-{number}"))
    return Lineup(task, place, found, tuple(runs), whole.limits)


def _planned(task: Task, contender: Contender, layers: Sequence[Mapping[str, Any]], path: Path) -> PlannedRun:
    try:
        job = WeightsSpec(task, resolve_config(WeightsConfig, merge_layers(*layers)))
        check_limits(job.config, forecast(job))
        directory.check_same_run(path, job.config, task.fingerprint, "improve")
    except EdgewiseError as error:
        raise type(error)(f"{contender.name}: {error}") from error
    return PlannedRun(contender, job, path)


def _share(limits: Limits, runs: int) -> dict[str, Any]:
    """The limits of each run. Raises LimitTooSmall where a share is nothing."""
    share: dict[str, Any] = {}
    for name, most in asdict(limits).items():
        if most is not None:
            share[name] = most // runs if isinstance(most, int) else most / runs
            if not share[name]:
                raise LimitTooSmall(
                    f"--{name} {most} is for all {runs} runs together and leaves each nothing: raise it."
                )
    return share


def forecast_lineup(plan: Lineup) -> Forecast:
    """What the runs that are left will take together; `gain` is of a method against another, with all its seeds."""
    each = [forecast(run.spec) for run in plan.pending_runs]
    rows, samples = len(plan.task.test), plan.runs[0].spec.config.samples
    seeds = len(plan.runs) // len(plan.contenders)
    dollars = [one.dollars for one in each]
    return Forecast(
        forecast(plan.runs[0].spec).rows,
        {role: sum(one.calls[role] for one in each) for role in (each[0].calls if each else ())},
        sum(one.tokens for one in each),
        None if None in dollars else sum(filter(None, dollars)),
        sum(one.minutes for one in each),
        forecast(plan.runs[0].spec).pace,
        minimum_detectable_gain(rows, samples * seeds),
        None,
        sum(one.least for one in each),
    )
