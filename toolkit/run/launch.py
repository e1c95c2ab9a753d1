"""
The way from a caller's settings to a result, shared by the Python functions and the commands.

    keyword arguments or command line ┐
    settings in the task file         ┴─ resolve_config ── spec ── PreparedRun ── check_limits ── execute_run ── Result

Each package prepares its own runs (`experience.launch.prepare`, `mas.api.prepare`, `learner.api.prepare`): only it
knows its spec, its forecast and its plan.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.run import forecast as forecasts
from edgewise.toolkit.run.config import Config
from edgewise.toolkit.run.forecast import Forecast
from edgewise.toolkit.run.runner import Result, RunPlan, execute_run
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tracking.events import OnEvent, ignore_event


def merge_keywords(model: str | None, limits: Limits | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that keyword arguments stand for; `settings` win over `limits`."""
    # None values stay: `resolve_config` takes them as "not given".
    return {"model": model, **(asdict(limits) if limits else {}), **settings}


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """
    A run whose settings are valid, before its first call.

    `plan` takes the run directory. Without a `forecast` there are no limits to check before the start. `command` names
    what the run does, and a run directory keeps to one command.
    """

    task: Task
    config: Config
    forecast: Forecast | None
    plan: RunPlan
    command: str = "improve"

    def check_limits(self) -> None:
        """Raise UnknownPrice, Hopeless or LimitTooSmall; see `toolkit.run.forecast.check_limits`."""
        # An evaluation learns nothing, and `adopt` has no forecast of a foreign program.
        if self.forecast:
            forecasts.check_limits(self.config, self.forecast)

    async def execute(
        self, run: str | Path | None = None, *, replay: str | Path | None = None, on_event: OnEvent = ignore_event
    ) -> Result:
        """Check the limits and execute the plan in the directory `run`; see `toolkit.run.runner.execute_run`."""
        # Here and not in the command: a Python caller is refused for the same reasons.
        self.check_limits()
        return await execute_run(
            self.task,
            self.config,
            self.plan,
            Path(run) if run else None,
            command=self.command,
            on_event=on_event,
            replay=Path(replay) if replay else None,
        )
