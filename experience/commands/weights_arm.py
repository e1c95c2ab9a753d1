"""Trained weights beside lessons: what `--by weights` leaves, measured as any other model is."""

import hashlib
from dataclasses import replace

from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.loop import Runs
from edgewise.experience.training.rollouts import measure
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.tracking.events import ModelReleased
from edgewise.toolkit.types import Group, Plan
from edgewise.toolkit.util.files import dump_json

FILE = "weights.json"


def holds(artifact: Artifact) -> bool:
    """Whether it was made by training, whatever came of it."""
    return FILE in artifact.files


def runs(artifact: Artifact) -> Runs:
    """How to run its model; the judge is that of the other arms. What nobody needs after it leaves the memory."""
    model = artifact.model_in_use
    version = hashlib.sha256(dump_json(dict(artifact.files)).encode()).hexdigest()[:12]

    def run(job: ExperienceSpec) -> Plan[list[Group]]:
        own = replace(job, config=job.config.model_copy(update={"model": model, "judge": job.judge}))
        groups = yield from measure(own, Library(), job.task.test, version=version)
        yield ModelReleased(model)
        return groups

    return run
