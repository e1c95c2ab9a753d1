"""Preparation of runs of lessons: a training run, and an evaluation of artefacts of any kind on the same rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.forecast import forecast
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.store.reference import lacks_settings, load_library, parse_reference, shared_settings
from edgewise.experience.training import rollouts
from edgewise.experience.training.loop import MeasureArm, evaluate_arms, learn
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.launch import PreparedRun
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import ModelReleased
from edgewise.toolkit.types import Group, Plan
from edgewise.toolkit.util.files import dump_json
from edgewise.toolkit.util.hashing import hash_text

WEIGHTS_FILE = "weights.json"
"""The file of an artefact that training made, with or without an improvement."""


def prepare(
    task: Task, settings: Mapping[str, Any], library: Library | None = None, parents: tuple[str, ...] = ()
) -> PreparedRun:
    """
    Prepare to learn lessons; `settings` win over those of the task file.

    `library` is the start, an empty one by default; `parents` are the ids of the stored versions it comes from.
    """
    spec = ExperienceSpec(task, resolve_config(ExperienceConfig, task.settings, settings), library, parents)
    return PreparedRun(task, spec.config, forecast(spec), lambda _: learn(spec))


# ---- evaluation ------------------------------------------------------------------------------------


def prepare_evaluation(
    task: Task,
    sources: Sequence[str],
    settings: Mapping[str, Any],
    find_arm: Callable[[str], MeasureArm | None] = lambda source: None,
) -> PreparedRun:
    """
    Prepare to evaluate the unchanged model and each source on the test rows, with the same samples.

    A source is a LIB of `experience.store.reference`, or an artefact with trained weights; for any other kind
    `find_arm` returns how to run it. Settings that all artefacts share are the default.
    """
    artifacts = {source: Artifact.load(source) for source in sources if not lacks_settings(source)}
    trained = [artifact for artifact in artifacts.values() if WEIGHTS_FILE in artifact.files]
    bases = dict.fromkeys(artifact.model for artifact in trained)
    if len(bases) > 1 and not settings.get("model"):
        raise ConfigError(
            f"These weights were trained from different models ({', '.join(bases)}): say with --model which of "
            "them is the unchanged one."
        )
    # Weights are compared with the model they were trained from, so their settings win over the task file.
    layers = (shared_settings([*artifacts.values()]), task.settings, shared_settings(trained), settings)
    spec = ExperienceSpec(task, resolve_config(ExperienceConfig, *layers))

    # Every arm answers the same rows with the same seeds, so that differences are paired.
    arms: dict[str, Library | MeasureArm] = {"unchanged": Library()}
    sequential = []
    for source in sources:
        artifact = artifacts.get(source)
        name = name_arm(source, arms)
        if runs := find_arm(source):
            arms[name] = runs
        elif artifact and WEIGHTS_FILE in artifact.files:
            arms[name] = run_weights(artifact)
        else:
            arms[name] = load_library(parse_reference(source)).library
        # An artefact with a model of its own runs by itself: two models may not fit into memory.
        if artifact and artifact.model_in_use != artifact.model:
            sequential.append(name)

    def plan(_: Path) -> Plan[RunOutcome]:
        return RunOutcome((yield from evaluate_arms(spec, arms, sequential)), {}, {})

    return PreparedRun(task, spec.config, None, plan, "evaluate")


def run_weights(artifact: Artifact) -> MeasureArm:
    """Return how to run trained weights, with the judge of the other arms; afterwards their memory is released."""
    # The version names the arm's rollouts, so that two trained models are never taken for one.
    model = artifact.model_in_use
    version = hash_text(dump_json(dict(artifact.files)), 12)

    def run(spec: ExperienceSpec) -> Plan[list[Group]]:
        own = replace(spec, config=spec.config.model_copy(update={"model": model, "judge": spec.judge}))
        groups = yield from rollouts.measure(own, Library(), spec.task.test, version=version)
        yield ModelReleased(model)
        return groups

    return run


def name_arm(source: str, taken: Mapping[str, Any]) -> str:
    """Return a short name that is not taken; a database URL loses its part before "@", which may hold a password."""
    path = Path(parse_reference(source).location.rpartition("@")[2])
    name = path.resolve().parent.name if path.name == "artifact" else path.stem
    # Of a store or a step of a run, library and version belong to the name.
    name += "".join(re.findall(r"[#@]\w+$", source)) if lacks_settings(source) else ""
    return name if name not in taken else f"{name}-{len(taken)}"
