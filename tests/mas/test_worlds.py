"""Graphs and planners answer once: a task that is played in an environment is refused before anything is paid."""

import pytest

from edgewise.toolkit import Task
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import resolve
from mas import job, pair
from mas.config import WiringConfig


def test_a_task_that_is_played_is_refused() -> None:
    task = Task.from_rows([{"seed": n} for n in range(9)], prompt="Play.", environment="house")
    with pytest.raises(ConfigError, match="played in the environment house, and graphs answer once"):
        job.Job(task, resolve(WiringConfig, {}))
    with pytest.raises(ConfigError, match="played in the environment house, and a planner answers once"):
        pair.prepared(task, resolve(pair.TwoLevelConfig, {}))
