"""`design` and `evaluate` with their async twins: search for agent graphs and evaluate artefacts from Python."""

from collections.abc import Mapping, Sequence
from os import fspath
from pathlib import Path
from typing import Any

from edgewise.mas.config import GraphConfig
from edgewise.mas.evaluation import prepare_evaluation
from edgewise.mas.forecast import forecast, forecast_two_levels
from edgewise.mas.graph.roles import Roles
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import learn
from edgewise.mas.two_level import loop as learn_two_level
from edgewise.mas.two_level.config import TwoLevelConfig
from edgewise.mas.two_level.system import TwoLevelSpec
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.launch import PreparedRun, merge_keywords
from edgewise.toolkit.run.runner import Result, make_blocking
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


def prepare(task: Task, settings: Mapping[str, Any], own_roles: Roles | None = None) -> PreparedRun:
    """Prepare to search for graphs; `settings` win over the tables [graph] and [improve] of the task file."""
    # A planner with sub-agents has settings of its own: those of lessons, since it learns two libraries.
    if is_two_level(task, settings):
        known = TwoLevelConfig.select_known({**task.settings, **task.graph})
        two_level = TwoLevelSpec(task, resolve_config(TwoLevelConfig, known, settings))
        return PreparedRun(
            task, two_level.config, forecast_two_levels(two_level), lambda _: learn_two_level.learn(two_level)
        )
    # One task file serves every way: [improve] has settings of lessons too, which are left out here.
    config = resolve_config(GraphConfig, GraphConfig.select_known(task.settings), task.graph, settings)
    spec = GraphSpec(task, config, dict(own_roles or {}))
    return PreparedRun(task, config, forecast(spec), lambda _: learn(spec))


def is_two_level(task: Task, settings: Mapping[str, Any]) -> bool:
    """Return whether a planner with sub-agents learns lessons (`search=two_level`) in place of a search for graphs."""
    return {**task.settings, **task.graph, **settings}.get("search") == "two_level"


async def adesign(
    task: Task,
    *,
    model: str | None = None,
    own_roles: Roles | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    replay: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Design agent graphs for a task by reinforcement learning and evaluate them on held-out rows.

    `own_roles` are added to the catalogue's roles. `settings` are fields of `GraphConfig`; they win over the task file.
    `run` is a directory; an existing run is resumed. `replay` is a run whose journal answers every call. Raises the
    errors of `toolkit.errors`.
    """
    prepared = prepare(task, merge_keywords(model, limits, settings), own_roles)
    return await prepared.execute(run, replay=replay, on_event=on_event)


async def aevaluate(
    task: Task,
    artifacts: Sequence[str | Path],
    *,
    samples: int | None = None,
    model: str | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Evaluate artefacts of any kind and the unchanged model on the same test rows and samples.

    `artifacts` are artefacts, run directories, graph.json files or libraries, as for `edgewise evaluate --artifact`.
    `samples` are rollouts per row. The model and the settings are those that all artefacts share; `settings` are fields
    of `ExperienceConfig` and win. `result.evidence` has one arm for the unchanged model, named "unchanged", and one for
    each artefact. Raises the errors of `toolkit.errors`.
    """
    sources = [fspath(artifact) for artifact in artifacts]
    keywords = {"samples": samples, **merge_keywords(model, limits, settings)}
    return await prepare_evaluation(task, sources, keywords).execute(run, on_event=on_event)


design = make_blocking(adesign)
evaluate = make_blocking(aevaluate)
