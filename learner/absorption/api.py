"""
`absorb` and its async twin `aabsorb`: distil a library of lessons into weights, from Python.

The model answers training rows with the lessons in its prompt, and its weights learn the answers with a good reward
without them (context distillation, arXiv 2209.15189). The steps are in `learner.absorption.loop`.
"""

from pathlib import Path
from typing import Any

from edgewise.learner.absorption.loop import distil
from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run.launch import PreparedRun, merge_keywords
from edgewise.toolkit.run.runner import Result, make_blocking
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


def prepare(spec: AbsorbSpec) -> PreparedRun:
    """Prepare a distillation run."""
    return PreparedRun(spec.task, spec.config, spec.forecast, lambda path: distil(spec, path), "absorb")


async def aabsorb(
    task: Task,
    library: str | Path,
    *,
    model: str | None = None,
    limits: Limits | None = None,
    run: str | Path | None = None,
    on_event: OnEvent = ignore_event,
    **settings: Any,
) -> Result:
    """
    Distil a library into a model's weights, and evaluate them beside the library on held-out rows.

    `library` is an artefact, a run, a store or a file, as on the command line. `settings` are fields of `AbsorbConfig`.
    `run` is a directory; an existing run is resumed. The artefact is like that of `train`; the key "kept" of its
    weights.json is the share of the library's gain that the weights retain. Raises the errors of `toolkit.errors`.
    """
    # The library is read now: a run holds its lessons by version, whatever becomes of the file.
    spec = AbsorbSpec.from_library(task, str(library), merge_keywords(model, limits, settings))
    return await prepare(spec).execute(run, on_event=on_event)


absorb = make_blocking(aabsorb)
