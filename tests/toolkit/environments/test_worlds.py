"""The two worlds and their action values; games of TextWorld."""

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise import Task
from edgewise.toolkit.environments.house import House, Map, Place
from edgewise.toolkit.environments.kitchen import Bowl, Kitchen, Recipe
from edgewise.toolkit.environments.level import Level, LevelEnvironment, compute_action_values, list_states
from edgewise.toolkit.environments.protocol import Turn
from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.rollout.agent import Agent, run_group
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Example, Message, Request
from edgewise.toolkit.util.seeds import derive_seed

worlds = st.one_of(
    st.builds(House, st.integers(3, 16), st.integers(0, 6)),
    st.integers(1, 10).flatmap(lambda things: st.builds(Kitchen, st.integers(1, things), st.just(things))),
)
seeds = st.integers(0, 2**31)
ROW = Example("r", (Message("user", "Play."),), metadata={"seed": 7})


def best_actions(level: Level) -> list[str]:
    """Return the actions of optimal play."""
    values, state, done = compute_action_values(level), level.start, []
    while not level.is_won(state):
        done.append(max(level.legal_actions(state), key=lambda action: values[state, action]))
        state = level.next_state(state, done[-1])
    return done


@settings(max_examples=25, deadline=None)
@given(worlds, seeds)
def test_every_level_can_be_won_and_renders_states_uniquely(world: LevelEnvironment, seed: int) -> None:
    level = world.make_level(seed)
    states = list_states(level)
    assert len({level.render(state) for state in states}) == len(states)
    assert any(level.is_won(state) for state in states)
    for state in states:
        assert level.is_won(state) or len(set(level.legal_actions(state))) == len(level.legal_actions(state)) > 0


@settings(max_examples=25, deadline=None)
@given(worlds, seeds)
def test_the_start_value_follows_from_the_shortest_path(world: LevelEnvironment, seed: int) -> None:
    level = world.make_level(seed)
    path, values = best_actions(level), compute_action_values(level, 0.9)
    start = max(values[level.start, action] for action in level.legal_actions(level.start))
    assert start == pytest.approx(0.9 ** (len(path) - 1))


@settings(max_examples=10, deadline=None)
@given(worlds, seeds)
def test_action_values_solve_the_bellman_equation(world: LevelEnvironment, seed: int) -> None:
    level = world.make_level(seed)
    values = compute_action_values(level, 0.9, fmean)
    for (state, action), value in values.items():
        after = level.next_state(state, action)
        next_one = 0.0 if level.is_won(after) else fmean(values[after, name] for name in level.legal_actions(after))
        assert value == pytest.approx(float(level.is_won(after)) + 0.9 * next_one, abs=1e-9)


def test_values_of_a_kitchen_by_hand() -> None:
    level = Recipe(("milk", "nuts"), ("nuts",))
    values = compute_action_values(level, 0.5)
    assert values == {
        (Bowl(), "add nuts"): 0.5,
        (Bowl(), "add milk"): 0.125,
        (Bowl(1), "bake"): 1.0,
        (Bowl(1), "add milk"): 0.125,
        (Bowl(1), "empty bowl"): 0.25,
        (Bowl(0, True), "empty bowl"): 0.25,
        (Bowl(1, True), "empty bowl"): 0.25,
    }


def test_a_house_by_hand() -> None:
    level = Map({"hall": ("attic",), "attic": ("hall",)}, Place("hall"), "attic", "hall")
    assert best_actions(level) == ["go attic", "take key", "go hall", "open chest"]
    assert level.next_state(Place("hall"), "open chest") == Place("hall")
    assert level.render(Place("attic")) == "You are in the attic. A key lies here. You have no key."


@pytest.mark.parametrize("world", [House(), Kitchen()])
def test_a_level_follows_from_the_seed_of_its_row(world: LevelEnvironment) -> None:
    again = type(world)()
    assert asyncio.run(world.reset(ROW)) == asyncio.run(again.reset(ROW))
    rows = [Example("r", (), metadata={"seed": seed}) for seed in range(8)]
    others = {asyncio.run(type(world)().reset(row)) for row in rows}
    assert len(others) > 1


@pytest.mark.parametrize("name", ["house", "kitchen"])
def test_optimal_play_wins_a_world_with_full_reward(name: str) -> None:
    """Optimal play gets the whole reward, with the last step."""
    task = Task.from_rows([{"seed": n} for n in range(9)], prompt="Play.", environment=name)
    assert task.world is not None
    path = iter(best_actions(task.world.make().make_level(level_seed(task.train[0]))))
    agent = Agent("scripted/x", world=task.world)
    plan = run_group(agent, task.train[0], ROW.messages, task.reward, judge="", size=1, seed=0)
    (run,) = asyncio.run(drive(plan, ScriptedClient(lambda _: next(path)))).rollouts
    assert run.stop == "stop" and run.score is not None
    assert run.score.parts == {"success": 1.0, f"step_reward {len(run.steps) - 1}": 1.0}


def level_seed(row: Example) -> int:
    return derive_seed("level", str(row.metadata["seed"]))


# ---- TextWorld -----------------------------------------------------------------------------------------


def test_missing_textworld_is_explained() -> None:
    if find_spec("textworld"):
        pytest.skip("TextWorld is installed")
    with pytest.raises(TaskError, match=r"pip install 'edgewise\[worlds\]'"):
        Task.from_rows([{"seed": n} for n in range(9)], prompt="Play.", environment="textworld")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_game_of_textworld_is_won_by_its_own_commands(tmp_path) -> None:
    pytest.importorskip("textworld", reason="TextWorld is not installed: pip install 'edgewise[worlds]'")
    from edgewise.toolkit.environments.textworld import TextWorld

    def make() -> TextWorld:
        return TextWorld(rooms=2, objects=3, quest=2, folder=str(tmp_path))

    first, second = make(), make()
    start = first.reset(ROW)
    assert start == second.reset(ROW) and start.legal and not start.success
    commands = _walkthrough(tmp_path)
    turns = [first.step(command) for command in commands]
    assert turns[-1].done and turns[-1].success and sum(turn.reward for turn in turns) == 1
    looked = second.step("look")
    assert isinstance(looked, Turn) and looked.legal == start.legal
    first.close()
    second.close()


def _walkthrough(folder) -> list[str]:
    (file,) = folder.glob("*.json")
    return json.loads(file.read_text())["metadata"]["walkthrough"]


def test_the_example_is_a_task_in_a_house() -> None:
    task = Task.read(Path(__file__).parents[3] / "examples" / "text_world")
    assert task.world is not None and isinstance(task.world.make(), House)
    assert (len(task.train), len(task.test), task.reward.name) == (16, 12, "environment")


def test_rollouts_of_a_group_start_alike_and_differ_later() -> None:
    task = Task.from_rows([{"seed": n} for n in range(9)], prompt="Play.", environment="house")
    agent = Agent("scripted/x", turns=12, world=task.world)
    plan = run_group(agent, task.train[0], ROW.messages, task.reward, judge="", size=6, seed=0)
    runs = asyncio.run(drive(plan, ScriptedClient(act_at_random))).rollouts
    assert len({run.steps[0].prompt for run in runs}) == 1
    assert len({tuple(step.completion.content for step in run.steps) for run in runs}) > 1


def act_at_random(request: Request) -> str:
    legal = request.messages[-1].content.rpartition("Actions: ")[2].split(", ")
    return legal[(request.sampling.seed or 0) % len(legal)]
