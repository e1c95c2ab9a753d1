"""The runs of a comparison: methods with their changed settings, times seeds, all checked before the first begins."""

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

METHOD_SETTINGS = (*AXES, *COUNT_AXES, "lr")
"""Settings that may differ between methods; of a name with dots, the part before the first one."""
FAILURE_FILE = "failed.json"
"""File of a run that found nothing to learn: it is not tried again."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A method and its changed settings; `name` has both, such as "dapo(loss.high=0.3)"."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its directory."""
        return re.sub(r"[^\w.=+-]+", "-", self.name).strip("-")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A method with a seed, in its directory."""

    contender: Contender
    spec: WeightsSpec
    path: Path

    @property
    def name(self) -> str:
        """Method and seed, for people."""
        return f"{self.contender.name}, seed {self.spec.config.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether it has its evaluation."""
        return (self.path / "artifact" / MANIFEST).exists()

    @property
    def is_pending(self) -> bool:
        """Whether it is still to be executed, or resumed."""
        return not self.is_finished and not (self.path / FAILURE_FILE).exists()


@dataclass(frozen=True, slots=True)
class Lineup:
    """All runs in their order, seed by seed, so that the finished ones are balanced at any time."""

    task: Task
    path: Path
    contenders: tuple[Contender, ...]
    runs: tuple[PlannedRun, ...]
    limits: Limits

    @property
    def pending_runs(self) -> list[PlannedRun]:
        """Runs that are still to be executed."""
        return [run for run in self.runs if run.is_pending]


def parse_contenders(methods: str | Sequence[str]) -> tuple[Contender, ...]:
    """
    Parse methods as people write them: "grpo, dapo(loss.high=0.3, lr=1e-6)".

    Raises ConfigError for an unknown method, a setting that is not of a method, and a method that is named twice.
    """
    texts = [methods] if isinstance(methods, str) else methods
    contenders: list[Contender] = []
    # At commas that are not inside of brackets.
    for word in (word.strip() for text in texts for word in re.split(r",(?![^(]*\))", text)):
        if not word:
            continue
        match = re.fullmatch(r"([^()]+)(?:\((.*)\))?", word)
        if match is None:
            raise ConfigError(f"{word!r} is no method: write grpo, or dapo(loss.high=0.3) for one that is changed.")
        method, overrides = find_method(match[1]), split_overrides(match[2] or "")
        settings = parse_settings(overrides)
        for name in settings:
            if name.partition(".")[0] not in METHOD_SETTINGS:
                raise ConfigError(
                    f"{word}: {name} must be the same for all methods, as --set {name}=... makes it; in brackets "
                    "stands what is of one method, such as loss.high=0.3, epochs=2 or lr=1e-6."
                )
        # An alias, such as Dr-GRPO, is stored under the method's own name, so that it finds its directory again.
        key = next(key for key, known in METHODS.items() if known is method)
        contender = Contender(f"{key}({', '.join(overrides)})" if overrides else key, key, settings)
        if contender.folder in {other.folder for other in contenders}:
            raise ConfigError(f"{contender.name} is named twice.")
        contenders.append(contender)
    if not contenders:
        raise ConfigError("There is nothing to compare: name methods, such as grpo,dr_grpo.")
    return tuple(contenders)


def build_lineup(
    task: Task, methods: str | Sequence[str], seeds: int, given: Mapping[str, Any], path: str | Path | None = None
) -> Lineup:
    """
    Build and check the runs of a comparison; `given` are settings for all of them, which win over the task file.

    Limits are for all runs together, and each may use the same share. Seeds count up from `seed`. Raises ConfigError,
    Hopeless, LimitTooSmall and UnknownPrice where a run would, before any has begun.
    """
    if seeds < 1:
        raise ConfigError(f"seeds={seeds} must be at least 1.")
    if given.get("method"):
        raise ConfigError("method=... is for one run: --methods says which are compared.")
    contenders = parse_contenders(methods)
    root = Path(path) if path else directory.new_run_path(f"{task.name}-compare")
    # A comparison has no journal of its own: its runs have.
    if (root / directory.JOURNAL).exists():
        raise ConfigError(f"{root} holds a run and not a comparison; give another --run.")
    layers = (WeightsConfig.select_known(task.settings), task.weights, given)
    shared = resolve_config(WeightsConfig, merge_layers(*layers))

    # Equal shares of the limits. A run that ends below its share leaves the rest unused, so that order plays no role.
    count, share = len(contenders) * seeds, dict[str, Any]()
    for name, limit in asdict(shared.limits).items():
        if limit is not None:
            share[name] = limit // count if isinstance(limit, int) else limit / count
            if not share[name]:
                raise LimitTooSmall(
                    f"--{name} {limit} is for all {count} runs together and leaves each nothing: raise it."
                )

    runs = []
    for seed in range(shared.seed, shared.seed + seeds):
        for contender in contenders:
            own = {**contender.settings, "method": contender.method, "seed": seed}
            run_path = root / contender.folder / f"seed-{seed}"
            try:
                spec = WeightsSpec(task, resolve_config(WeightsConfig, merge_layers(*layers, own, share)))
                check_limits(spec.config, forecast(spec))
                # Existing directories must be of the same run, so that a resumed comparison is of one kind.
                directory.check_same_run(run_path, spec.config, task.fingerprint, "improve")
            except EdgewiseError as error:
                raise type(error)(f"{contender.name}: {error}") from error
            runs.append(PlannedRun(contender, spec, run_path))
    return Lineup(task, root, contenders, tuple(runs), shared.limits)


def forecast_lineup(lineup: Lineup) -> Forecast:
    """Forecast the pending runs together; `gain` is that of one method over another, with all its seeds."""
    forecasts = [forecast(run.spec) for run in lineup.pending_runs]
    # Rows and pace are those of any run. With seeds as samples, the difference of two methods is detected sooner.
    one, samples = forecast(lineup.runs[0].spec), lineup.runs[0].spec.config.samples
    seeds = len(lineup.runs) // len(lineup.contenders)
    dollars = [item.dollars for item in forecasts]
    return Forecast(
        one.rows,
        {role: sum(item.calls[role] for item in forecasts) for role in (forecasts[0].calls if forecasts else ())},
        sum(item.tokens for item in forecasts),
        None if None in dollars else sum(filter(None, dollars)),
        sum(item.minutes for item in forecasts),
        one.pace,
        minimum_detectable_gain(len(lineup.task.test), samples * seeds),
        None,
        sum(item.least for item in forecasts),
    )
