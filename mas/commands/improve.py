"""What the commands of `edgewise` do when it is about wiring; `toolkit.cli.app` resolves these names."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.experience.commands.improve import Words
from edgewise.experience.spec import Job as WordsJob
from edgewise.experience.training.loop import Runs
from edgewise.mas.config import LIMITS, WiringConfig
from edgewise.mas.designs.fixed import load
from edgewise.mas.designs.query_encoder import HASHING
from edgewise.mas.forecast import forecast
from edgewise.mas.graph.roles import roles_in
from edgewise.mas.spec import Job
from edgewise.mas.training.loop import learn, prepared
from edgewise.mas.training.report import result_lines
from edgewise.mas.training.trials import measure
from edgewise.toolkit.cli.models import fetch
from edgewise.toolkit.cli.output import Finished, Shown, given_price
from edgewise.toolkit.cli.progress import announce, watcher
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.client import check
from edgewise.toolkit.run import directory
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import Config, parse_settings, resolve
from edgewise.toolkit.run.forecast import check_limits
from edgewise.toolkit.run.runner import carry_out
from edgewise.toolkit.task.task import Task, describe
from edgewise.toolkit.types import Group, Plan


class Wiring:
    """One task and its settings, ready for `plan` and `improve`."""

    def __init__(self, task: Path, options: Mapping[str, Any], settings: Sequence[str], price: str | None):
        self.task = Task.read(task)
        options = {key: value for key, value in options.items() if value is not None}
        foreign = sorted(set(options) & {"distiller", "proposer", "placebo"})
        if foreign:
            raise ConfigError(f"--{foreign[0]} is about lessons; it goes with --by experience.")
        known = WiringConfig.known(self.task.settings)
        given = (known, self.task.graph, parse_settings(settings), options, given_price(price))
        self.job = Job(self.task, resolve(WiringConfig, *given))

    def plan(self, lib: str | None = None) -> Shown:
        """The task and what a run would take; asks no model."""
        _no_library(lib)
        for model in filter(None, self.job.config.models):
            check(model)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        return Shown([describe(self.task), "", *found.lines()], asdict(found))

    def improve(self, run: Path | None, replay: Path | None, lib: str | None = None) -> Finished:
        """Search, test and measure; the result has `improved` beside its lines and data."""
        _no_library(lib)
        path = run or directory.fresh(self.task.name)
        found = forecast(self.job)
        check_limits(self.job.config, found)
        announce(found.lines())
        if not replay:
            fetch(*self.job.config.models)
        searching = carry_out(
            self.task, self.job.config, lambda *_: learn(self.job), path, watch=watcher(), replay=replay
        )
        result = asyncio.run(searching)
        return Finished(result_lines(result), result.to_json(), result.improved)


def evaluate(
    task: Path,
    options: Mapping[str, Any],
    settings: Sequence[str],
    price: str | None,
    artifacts: Sequence[str],
    run: Path | None,
) -> Shown:
    """Run the unchanged model and artefacts of any kind, lessons or graphs, on the same rows and samples."""
    graphs = {path: _runs(found) for path in artifacts if (found := _with_graphs(path))}
    return Words(task, options, settings, price).evaluate(artifacts, run, graphs)


def _with_graphs(path: str) -> Artifact | None:
    """The artefact at a path, if it holds graphs; one made of a graph.json that belongs to none."""
    file = Path(path)
    if file.suffix == ".json" and not file.with_name("manifest.json").is_file():
        data = _content(file)
        return Artifact("", "", {"graph.json": data}, {}) if data.keys() & {"nodes", "kind"} else None
    if file.name == "graph.json":
        return Artifact.load(file.parent)
    if not (file.is_dir() or file.suffix == ".edge"):
        return None
    found = Artifact.load(path)
    return found if "graph.json" in found.files else None


def _content(path: Path) -> Mapping[str, Any]:
    """What is in a file that may be of graphs; nothing where it is unreadable, which is for lessons to say."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _runs(artifact: Artifact) -> Runs:
    """How to run an artefact's graphs: within their own limits, with the settings and the judge that all arms share."""
    data = artifact.files["graph.json"]
    design, roles = load(data), roles_in(artifact.files.get("roles.json", {}))
    kept = WiringConfig.kept(artifact.settings)
    limits = {key: getattr(kept, key) for key in LIMITS}

    def runs(words: WordsJob) -> Plan[list[Group]]:
        shared = {key: getattr(words.config, key) for key in Config.model_fields}
        # Nothing is searched for here, and the usual search would want torch.
        given = {"judge": words.judge, "encoder": data.get("encoder") or HASHING, "search": "fixed"}
        own = {key: value for key, value in words.task.graph.items() if key == "roles_file"}
        config = resolve(WiringConfig, shared, limits, own, given)
        job = yield from prepared(Job(words.task, config, roles), words.task.test)
        return (yield from measure(job, design, words.task.test))

    return runs


def _no_library(lib: str | None) -> None:
    if lib:
        raise ConfigError("--library is about lessons; it goes with --by experience.")
