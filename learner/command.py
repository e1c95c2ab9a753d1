"""What the commands of `edgewise` do when it is about weights; `toolkit.cli` resolves these names."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from learner.config import WeightsConfig
from learner.forecast import forecast
from learner.job import Job
from learner.report import result_lines
from toolkit import directory
from toolkit.client import check
from toolkit.config import parse_settings, resolve
from toolkit.errors import ConfigError
from toolkit.forecast import check_limits
from toolkit.models import fetch
from toolkit.progress import announce, watcher
from toolkit.run import carry_out
from toolkit.shown import Finished, Shown, given_price
from toolkit.task import Task, describe


class Weights:
    """One task and its settings, ready for `plan` and `improve`."""

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self.task = Task.read(task)
        options = {key: value for key, value in options.items() if value is not None}
        foreign = sorted(set(options) & {"distiller", "proposer", "placebo", "gate"})
        if foreign:
            raise ConfigError(f"--{foreign[0]} is about lessons or graphs; --by weights has no {foreign[0]}.")
        known = WeightsConfig.known(self.task.settings)
        given = (known, self.task.weights, _settings(settings), options, given_price(price))
        self.job = Job(self.task, resolve(WeightsConfig, *given))

    def plan(self, lib: str | None = None) -> Shown:
        """The task and what a run would take; loads no model."""
        _no_library(lib)
        for model in filter(None, self.job.config.models):
            check(model)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        return Shown([describe(self.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None, lib: str | None = None) -> Finished:
        """Train and measure; the result has `improved` beside its lines and data."""
        from learner.loop import learn

        _no_library(lib)
        if replay:
            raise ConfigError(
                "--replay answers from a journal; weights are trained, not asked: leave it out."
            )
        path = run or directory.fresh(self.task.name)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        announce(found.lines())
        fetch(self.job.config.model, *self.job.config.models)
        training = carry_out(
            self.task, self.job.config, lambda *_: learn(self.job, path), path, watch=watcher()
        )
        result = asyncio.run(training)
        return Finished(result_lines(result), result.to_json(), result.improved)


def _settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Settings of the run; those with a dot are parameters of the method."""
    pairs = list(pairs)
    parts = tuple(pair for pair in pairs if "." in pair.partition("=")[0])
    found = parse_settings(pair for pair in pairs if pair not in parts)
    return found | ({"overrides": parts} if parts else {})


def _no_library(lib: str | None) -> None:
    if lib:
        raise ConfigError("--library is about lessons; it goes with --by experience.")
