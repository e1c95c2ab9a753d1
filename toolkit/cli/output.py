"""Console output and command-line settings of the commands that run models."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from edgewise.toolkit.budget.prices import ANY, Price
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.router import check_model
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.config import Config, parse_settings
from edgewise.toolkit.run.forecast import Forecast
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import Result
from edgewise.toolkit.task.task import Task, describe

# ---- what is printed -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Output:
    """What a command prints: `text` for people, `data` for programs."""

    text: Sequence[str]
    data: Any

    def lines(self) -> Sequence[str]:
        """Return the lines for people."""
        return self.text

    def to_json(self) -> Any:
        """Return the data for programs."""
        return self.data


@dataclass(frozen=True, slots=True)
class ImproveOutput(Output):
    """What a command that learns prints, and whether it found an improvement."""

    improved: bool = False


# ---- commands that learn ---------------------------------------------------------------------------


class ImproveCommand(ABC):
    """
    `edgewise improve` by one way: a task and its settings, ready for `plan` and `improve`.

    A subclass says how its run is prepared and how its result is printed. `options` are values of the command line,
    None where not given; `price` is its --price.
    """

    foreign_options: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("library", "distiller", "proposer", "placebo"), "lessons"
    )
    """Options of `edgewise improve` that this way does not have, and what they are about."""

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self._task_path, self._options = task, options
        self.settings = collect_settings(options, settings, price)

    @cached_property
    def task(self) -> Task:
        """The task, read when it is first used: of several processes only the first reads it."""
        return Task.read(self._task_path)

    @abstractmethod
    def prepare(self) -> PreparedRun:
        """Prepare the run."""

    @abstractmethod
    def render(self, result: Result) -> ImproveOutput:
        """Return what is printed of a result."""

    def plan(self, lib: str | None = None) -> Output:
        """Return the task and the forecast of the run; calls no model."""
        self.check_options(lib)
        # A wrong model is named first: its price, which the limits need, is unknown too.
        prepared = self.prepare()
        check_models(prepared.config)
        prepared.check_limits()
        assert prepared.forecast
        return render_forecast(self.task, prepared.forecast)

    def improve(self, run: Path | None, replay: Path | None = None, lib: str | None = None) -> ImproveOutput:
        """Run, and return what is printed of the result."""
        self.check_options(lib)
        return self.render(start_run(self.prepare(), run or directory.new_run_path(self.task.name), replay))

    def check_options(self, lib: str | None, allowed: Collection[str] = ()) -> None:
        """Raise ConfigError for an option that belongs to another way, and is none of those `allowed` all the same."""
        options = {**self._options, "library": lib}
        for name, subject in self.foreign_options.items():
            if options.get(name) is not None and name not in allowed:
                raise ConfigError(f"--{name} is about {subject}, which this --by does not learn: leave it out.")


def start_run(prepared: PreparedRun, path: Path, replay: Path | None = None) -> Result:
    """Print the forecast, download missing embedded models, and execute the run with a progress display."""
    # Before the forecast is printed: a refusal is one sentence and nothing else.
    prepared.check_limits()
    if prepared.forecast:
        announce(prepared.forecast.lines())
    # A replay calls no model.
    if not replay:
        pull_missing(prepared.config.model, *prepared.config.models)
    return asyncio.run(prepared.execute(path, replay=replay, on_event=show_progress()))


def collect_settings(options: Mapping[str, Any], settings: Sequence[str], price: str | None) -> dict[str, Any]:
    """Return the settings of a command line: those of --set, then the options that are given, then --price."""
    # Options win over --set, and a price on the command line holds for all models.
    values = {name: value for name, value in options.items() if value is not None}
    if price:
        rates = Price.parse(price)
        numbers = (rates.input, rates.output, rates.cached)
        values["prices"] = {ANY: tuple(number for number in numbers if number is not None)}
    return {**parse_settings(settings), **values}


def check_models(config: Config) -> None:
    """Raise ModelError for a model of the run that can't be used, without calling one."""
    for model in filter(None, (config.model, *config.models)):
        check_model(model)


def render_forecast(task: Task, forecast: Forecast) -> Output:
    """Return what a dry run prints."""
    return Output([describe(task), "", *forecast.lines()], asdict(forecast))


def render_costs(result: Result) -> list[str]:
    """Return lines with the costs of learning and of measuring, and the wall time."""
    # A run without calls of a kind has no line for it: an evaluation learns nothing.
    lines = []
    for part in ("learning", "measuring"):
        totals = result.costs[part]
        if totals["calls"]:
            price = "price unknown" if totals["usd"] is None else f"${totals['usd']:.4f}"
            tokens = f"{totals['input']:,} tokens in ({totals['cached']:,} cached), {totals['output']:,} out"
            lines.append(f"{part}: {totals['calls']:,} calls, {tokens}, {price}")
    shared = result.costs["shared"]
    if shared["calls"]:
        tokens = shared["input"] + shared["output"]
        lines.append(f"shared by runs of a group, not paid twice: {shared['calls']:,} calls, {tokens:,} tokens")
    return [*lines, f"time: {result.seconds / 60:.1f} minutes"]
