"""`edgewise evaluate`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.experience.commands.improve import ImproveExperience
from edgewise.experience.spec import ExperienceSpec as WordsJob
from edgewise.experience.training.loop import Runs
from edgewise.mas.config import LIMITS, GraphConfig
from edgewise.mas.designs.query_encoder import HASHING
from edgewise.mas.graph.roles import parse_roles
from edgewise.mas.search.load_design import read_design
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import prepare_spec
from edgewise.mas.training.trials import measure_design
from edgewise.toolkit.cli.output import Output
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import Config, resolve_config
from edgewise.toolkit.types import Group, Plan


def evaluate(
    task: Path,
    options: Mapping[str, Any],
    settings: Sequence[str],
    price: str | None,
    artifacts: Sequence[str],
    run: Path | None,
) -> Output:
    """Run the unchanged model and artefacts of any kind, lessons or graphs, on the same rows and samples."""
    graphs = {path: _runs(found) for path in artifacts if (found := _with_graphs(path))}
    return ImproveExperience(task, options, settings, price).evaluate(artifacts, run, graphs)


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
    design, roles = read_design(data), parse_roles(artifact.files.get("roles.json", {}))
    kept = GraphConfig.from_artifact(artifact.settings)
    limits = {key: getattr(kept, key) for key in LIMITS}

    def runs(words: WordsJob) -> Plan[list[Group]]:
        shared = {key: getattr(words.config, key) for key in Config.model_fields}
        # Nothing is searched for here, and the usual search would want torch.
        given = {"judge": words.judge, "encoder": data.get("encoder") or HASHING, "search": "fixed"}
        own = {key: value for key, value in words.task.graph.items() if key == "roles_file"}
        config = resolve_config(GraphConfig, shared, limits, own, given)
        job = yield from prepare_spec(GraphSpec(words.task, config, roles), words.task.test)
        return (yield from measure_design(job, design, words.task.test))

    return runs
