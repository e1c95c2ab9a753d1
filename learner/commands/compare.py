"""`edgewise compare`."""

import asyncio
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewise.learner.commands.improve import follow_leader
from edgewise.learner.comparison.lineup import Lineup, build_lineup, forecast_lineup
from edgewise.learner.comparison.results import ComparisonResult
from edgewise.learner.comparison.runner import run_comparison
from edgewise.learner.comparison.tables import render_comparison
from edgewise.learner.hardware.process_group import RANK_VARIABLES, join_process_group, read_launcher_variable
from edgewise.learner.training.distributed_engine import lead
from edgewise.toolkit.cli.models import pull_missing
from edgewise.toolkit.cli.output import Output, check_models, collect_settings
from edgewise.toolkit.cli.progress import announce, show_progress
from edgewise.toolkit.errors import LimitReached
from edgewise.toolkit.model.embedded.download import cache_dir
from edgewise.toolkit.task.task import Task, describe

# Bytes of disk for each parameter. A run that trains keeps three checkpoints with weights and both moments of AdamW,
# the weights and the artefact; a finished run keeps the weights and the artefact.
TRAINING_BYTES, FINISHED_BYTES = 44, 8
GIB = 2**30


class CompareCommand:
    """
    A task, methods and settings, ready for `plan` and `compare`.

    Of several processes only the first reads the task and prints; the others follow it and leave by SystemExit.
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
        self._task_path = task
        shared = collect_settings(options, settings, price)
        self._build = lambda task: build_lineup(task, methods, seeds, shared, run)

    def plan(self) -> Output:
        """Return the task, the runs and their forecast; loads no model."""
        if read_launcher_variable(RANK_VARIABLES) > 0:
            raise SystemExit
        lineup = self.build_lineup()
        data = {
            **asdict(forecast_lineup(lineup)),
            "runs": [run.name for run in lineup.runs],
            "left": len(lineup.pending_runs),
        }
        return Output([describe(lineup.task), "", *render_plan(lineup)], data)

    def compare(self) -> tuple[Output, int]:
        """Execute the runs that are left; return the result of all, and the exit code."""
        group = join_process_group()
        if group.rank:
            raise SystemExit(follow_leader(group))
        with lead(group) as leader:
            lineup = self.build_lineup()
            announce(render_plan(lineup))
            config = lineup.runs[0].spec.config
            pull_missing(config.model, *config.models)
            result = asyncio.run(run_comparison(lineup, leader, show_progress()))
        explain_exit_code(result)
        return Output(render_comparison(result), result.to_json()), result.exit_code

    def build_lineup(self) -> Lineup:
        """Build the lineup, and check the models that all its runs share."""
        lineup = self._build(Task.read(self._task_path))
        check_models(lineup.runs[0].spec.config)
        return lineup


def render_plan(lineup: Lineup) -> Iterator[str]:
    """Return lines with the runs, their forecast, their limits and their disk space."""
    number, methods = len(lineup.runs), ", ".join(contender.name for contender in lineup.contenders)
    seeds = number // len(lineup.contenders)
    yield f"{number} runs, one after the other, in {lineup.path}: {methods}; seeds of each: {seeds}"
    if len(lineup.pending_runs) < number:
        yield f"{number - len(lineup.pending_runs)} of them are done and stay as they are"
    forecast = forecast_lineup(lineup)
    yield from forecast.lines()

    # Limits of the whole comparison.
    limits = [f"{name} {most:,}" for name, most in asdict(lineup.limits).items() if most is not None]
    if limits:
        yield f"limits for all runs together, each of which may use 1/{number}: {', '.join(limits)}"
    if lineup.limits.minutes is not None and forecast.minutes > lineup.limits.minutes:
        yield f"{lineup.limits.minutes:,g} minutes are likely to be too few, and what is not done then is left out"

    # Disk. Adapters are small. The size of a model that is not on this machine is unknown.
    spec = lineup.runs[0].spec
    parameters = 0 if spec.config.lora or not lineup.pending_runs else count_parameters(spec.weights)
    if parameters:
        need = parameters * (TRAINING_BYTES + FINISHED_BYTES * (len(lineup.pending_runs) - 1))
        existing = next(path for path in (lineup.path, *lineup.path.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        short = ", which is more than there is: --set lora=16 needs next to none" if need > free else ""
        yield f"disk: up to about {need / GIB:.1f} GiB of {free / GIB:.1f} that are free{short}"


def count_parameters(name: str) -> int:
    """Return the number of parameters of a model by the headers of its files; 0 if it is not on this machine."""
    from safetensors import safe_open

    # An embedded model is dequantized into the cache when it is first trained.
    dequantized = () if "/" in name else (cache_dir() / "torch").glob(f"{name}-*")
    folders = (Path(name).expanduser(), *dequantized)
    folder = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    total = 0
    for file in folder.glob("*.safetensors") if folder else ():
        with safe_open(file, "pt") as weights:
            total += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return total


def explain_exit_code(result: ComparisonResult) -> None:
    """Print on standard error why the exit code is not 0."""
    stopped = [run for run in result.runs if run.code == result.exit_code]
    if result.exit_code == LimitReached.exit_code:
        announce(
            [
                f"edgewise: {len(stopped)} of {len(result.runs)} runs reached their share of a limit. What they learnt "
                f"is kept: run again with higher limits and --run {result.path} to go on."
            ]
        )
    elif result.exit_code:
        announce([f"edgewise: No run ended with a measurement: {stopped[0].why}"])
