"""What `edgewise compare` does; `toolkit.cli.app` resolves this name."""

import asyncio
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.learner.commands.improve import check_models, follow_leader
from edgewise.learner.comparison.lineup import Lineup, foreseen, lineup
from edgewise.learner.comparison.results import Compared
from edgewise.learner.comparison.runner import run_comparison
from edgewise.learner.hardware.process_group import RANK_VARIABLES, join_process_group, read_launcher_variable
from edgewise.learner.training.distributed_engine import leading
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import Output, given_price
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import LimitReached
from edgewise.toolkit.model.embedded.download import cache_dir
from edgewise.toolkit.run.config import parse_settings
from edgewise.toolkit.task.task import Task, describe

RUNNING, ENDED = 44, 8
"""
Bytes of a run for each parameter: while it trains (three checkpoints with both moments, the weights, the artefact), and
once it has ended (the weights, the artefact).
"""
GIB = 2**30


class CompareCommand:
    """
    A task, methods and their settings, ready for `plan` and `compare`.

    Of several processes only the first reads them and prints; the others follow it, and leave by SystemExit.
    """

    def __init__(
        self,
        task: Path,
        methods: str,
        seeds: int,
        options: Mapping[str, Any],
        settings: Sequence[str],
        price: str | None,
        run: Path | None,
    ):
        self._lineup = partial(_lineup, task, methods, seeds, options, settings, price, run)

    def plan(self) -> Output:
        """The task, the runs and what they would take; loads no model."""
        if read_launcher_variable(RANK_VARIABLES) > 0:
            raise SystemExit
        plan = self._lineup()
        data = {**asdict(foreseen(plan)), "runs": [each.name for each in plan.runs], "left": len(plan.left)}
        return Output([describe(plan.task), "", *_plan(plan)], data)

    def compare(self) -> Compared:
        """Carry out the runs that are left."""
        together = join_process_group()
        if together.rank:
            raise SystemExit(follow_leader(together))
        with leading(together) as lead:
            plan = self._lineup()
            announce(_plan(plan))
            config = plan.runs[0].job.config
            pull_missing(config.model, *config.models)
            found = asyncio.run(run_comparison(plan, lead, show_progress()))
        _remark(found)
        return found


def _lineup(
    task: Path,
    methods: str,
    seeds: int,
    options: Mapping[str, Any],
    settings: Sequence[str],
    price: str | None,
    run: Path | None,
) -> Lineup:
    options = {key: value for key, value in options.items() if value is not None}
    given = {**parse_settings(settings), **options, **given_price(price)}
    plan = lineup(Task.read(task), methods, seeds, given, run)
    check_models(plan.runs[0].job.config)
    return plan


def _plan(plan: Lineup) -> Iterator[str]:
    """What the comparison will take, for people."""
    number, methods = len(plan.runs), ", ".join(each.name for each in plan.contenders)
    seeds = number // len(plan.contenders)
    yield f"{number} runs, one after the other, in {plan.path}: {methods}; seeds of each: {seeds}"
    if len(plan.left) < number:
        yield f"{number - len(plan.left)} of them are done and stay as they are"
    found = foreseen(plan)
    yield from found.lines()
    limits = [f"{name} {most:,}" for name, most in asdict(plan.limits).items() if most is not None]
    if limits:
        yield f"limits for all runs together, each of which may use 1/{number}: {', '.join(limits)}"
    if plan.limits.minutes is not None and found.minutes > plan.limits.minutes:
        yield f"{plan.limits.minutes:,g} minutes are likely to be too few, and what is not done then is left out"
    yield from _room(plan)


def _room(plan: Lineup) -> Iterator[str]:
    """How much disk it takes, where the size of the model is known without loading it."""
    job = plan.runs[0].job
    size = 0 if job.config.lora or not plan.left else parameters(job.weights)
    if not size:
        return
    need = size * (RUNNING + ENDED * (len(plan.left) - 1))
    above = next(path for path in (plan.path, *plan.path.absolute().parents) if path.exists())
    free = shutil.disk_usage(above).free
    short = ", which is more than there is: --set lora=16 needs next to none" if need > free else ""
    yield f"disk: up to about {need / GIB:.1f} GiB of {free / GIB:.1f} that are free{short}"


def parameters(name: str) -> int:
    """How many weights the model has, by the headers of its files; 0 where they are not on this machine."""
    from safetensors import safe_open

    dequantised = () if "/" in name else (cache_dir() / "torch").glob(f"{name}-*")
    places = (Path(name).expanduser(), *dequantised)
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    total = 0
    for file in folder.glob("*.safetensors") if folder else ():
        with safe_open(file, "pt") as weights:
            total += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return total


def _remark(found: Compared) -> None:
    """Say on standard error why the exit code is not 0."""
    stopped = [run for run in found.runs if run.code == found.exit_code]
    if found.exit_code == LimitReached.exit_code:
        announce(
            [
                f"edgewise: {len(stopped)} of {len(found.runs)} runs reached their share of a limit. What they learnt "
                f"is kept: run again with higher limits and --run {found.path} to go on."
            ]
        )
    elif found.exit_code:
        announce([f"edgewise: No run ended with a measurement: {stopped[0].why}"])
