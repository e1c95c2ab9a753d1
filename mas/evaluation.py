"""Preparation of an evaluation whose arms may be graphs too; lessons and weights are those of `experience.launch`."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.experience import launch
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.loop import MeasureArm
from edgewise.mas.config import LIMITS, GraphConfig
from edgewise.mas.designs.interface import Design
from edgewise.mas.designs.query_encoder import HASHING
from edgewise.mas.graph.roles import Roles, parse_roles
from edgewise.mas.search.load_design import read_design
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import prepare_spec
from edgewise.mas.training.trials import measure_design
from edgewise.mas.two_level.answerer import measure_artifact
from edgewise.mas.two_level.libraries import FILE
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import Config, resolve_config
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Group, Plan


def prepare_evaluation(task: Task, sources: Sequence[str], settings: Mapping[str, Any]) -> PreparedRun:
    """Prepare to evaluate sources of any kind beside the unchanged model; see `experience.launch`."""
    return launch.prepare_evaluation(task, sources, settings, find_graph_arm)


def find_graph_arm(source: str) -> MeasureArm | None:
    """Return how to run an artefact with graphs or with two libraries, or a graph.json; None for other sources."""
    path = Path(source)
    if path.is_dir() or path.suffix == ".edge":
        whole = Artifact.load(path)
        if FILE in whole.files:
            return partial(measure_artifact, whole)
    artifact = load_graphs(Path(source))
    if artifact is None:
        return None
    data = artifact.files["graph.json"]
    design, roles = read_design(data), parse_roles(artifact.files.get("roles.json", {}))
    config = GraphConfig.from_artifact(artifact.settings)
    # The graph keeps its own limits. Nothing is searched for, and the default search would import torch.
    own = {name: getattr(config, name) for name in LIMITS}
    own |= {"encoder": data.get("encoder") or HASHING, "search": "fixed"}
    return partial(run_graphs, design, roles, own)


def run_graphs(design: Design, roles: Roles, own: Mapping[str, Any], lessons: ExperienceSpec) -> Plan[list[Group]]:
    """Run a design on the test rows, with the model, the settings and the judge of the other arms."""
    # The same model, limits and judge as the other arms; only the graph's own settings differ.
    task = lessons.task
    shared = {name: getattr(lessons.config, name) for name in Config.model_fields}
    from_file = {key: value for key, value in task.graph.items() if key == "roles_file"}
    config = resolve_config(GraphConfig, shared, from_file, {**own, "judge": lessons.judge})
    spec = yield from prepare_spec(GraphSpec(task, config, roles), task.test)
    return (yield from measure_design(spec, design, task.test))


def load_graphs(path: Path) -> Artifact | None:
    """Load the artefact at a path if it has graphs; a graph.json outside an artefact becomes one without settings."""
    if path.suffix == ".json" and not path.with_name("manifest.json").is_file():
        try:
            data = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None  # it may be a file of lessons, whose reader has a better error
        has_graphs = isinstance(data, dict) and data.keys() & {"nodes", "kind"}
        return Artifact("", "", {"graph.json": data}, {}) if has_graphs else None
    if path.name == "graph.json":
        return Artifact.load(path.parent)
    if not (path.is_dir() or path.suffix == ".edge"):
        return None
    artifact = Artifact.load(path)
    return artifact if "graph.json" in artifact.files else None
