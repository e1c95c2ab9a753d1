"""`edgewise evaluate`."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.mas.evaluation import prepare_evaluation
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import Output, collect_settings, render_costs
from edgewise.toolkit.cli.progress import show_progress
from edgewise.toolkit.task.task import Task


def evaluate(
    path: Path,
    options: Mapping[str, Any],
    settings: Sequence[str],
    price: str | None,
    artifacts: Sequence[str],
    run: Path | None,
) -> Output:
    """Evaluate artefacts of any kind and the unchanged model on the test rows; return what is printed."""
    prepared = prepare_evaluation(Task.read(path), artifacts, collect_settings(options, settings, price))
    # Not the distiller: it writes no lessons here.
    judge, embedder = (getattr(prepared.config, name) for name in ("judge", "embedder"))
    pull_missing(prepared.config.model, judge, embedder)
    result = asyncio.run(prepared.execute(run, on_event=show_progress()))
    return Output([*result.evidence.lines(), *render_costs(result)], result.to_json())
