"""Graphs and planners answer once: a task that is played in an environment is refused before anything is paid."""

import pytest

from edgewise import Task
from edgewise.mas import spec
from edgewise.mas.config import GraphConfig
from edgewise.mas.two_level import system
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.run.config import resolve_config


def test_task_in_an_environment_is_refused() -> None:
    task = Task.from_rows([{"seed": n} for n in range(9)], prompt="Play.", environment="house")
    with pytest.raises(ConfigError, match="played in the environment house, and graphs answer once"):
        spec.GraphSpec(task, resolve_config(GraphConfig, {}))
    with pytest.raises(ConfigError, match="played in the environment house, and a planner answers once"):
        system.TwoLevelSpec(task, resolve_config(system.TwoLevelConfig, {}))
