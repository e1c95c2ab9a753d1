"""What a search is said to take is no less than what it takes, and grows with what makes it grow."""

from dataclasses import replace

import pytest

from edgewise.mas.api import design
from edgewise.mas.config import GraphConfig
from edgewise.mas.forecast import forecast
from edgewise.mas.spec import GraphSpec
from edgewise.toolkit.reward.reward import resolve_reward as reward_of
from edgewise.toolkit.run.config import resolve_config
from tests.mas.training.test_loop import SETTINGS
from tests.support.mas import sums


def planned(reward="exact", **settings):
    task = replace(sums.task(60), reward=reward_of(reward))
    given = {k: v for k, v in {**SETTINGS, **settings}.items() if k != "own_roles"}
    return forecast(GraphSpec(task, resolve_config(GraphConfig, given), sums.ROLES))


def test_forecast_bounds_a_whole_search(tmp_path):
    result = design(sums.task(60), model=sums.SCRIPTED, run=tmp_path / "run", **SETTINGS | {"steps": 2})
    said = planned(steps=2)
    assert result.costs["total"]["calls"] <= sum(said.calls.values())


def test_samples_multiply_calls_of_evaluation_and_judge():
    one, four = (planned(reward="judge", samples=n).calls for n in (1, 4))
    assert four["measuring"] == 4 * one["measuring"]
    assert four["gate"] == 4 * one["gate"]
    assert four["judge"] > 2 * one["judge"]


def test_proposed_roles_cost_designer_calls_and_gate_runs():
    without, three = planned().calls, planned(recruit=3).calls
    assert "designer" not in without and three["designer"] <= 3
    assert three["gate"] > without["gate"]


@pytest.mark.parametrize("search", ["evolution", "lessons"])
def test_forecast_counts_calls_of_the_designer(search):
    assert planned(search=search).calls["designer"] > 0
