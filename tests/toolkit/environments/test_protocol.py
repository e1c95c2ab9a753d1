"""Environments of every form, with a scripted model; failures of an environment end its rollout alone."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise import Task
from edgewise.toolkit.environments.protocol import Turn, World, resolve_world
from edgewise.toolkit.errors import RewardError, TaskError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.rollout.agent import Agent, run_group
from edgewise.toolkit.rollout.episode import parse_action
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Example, Group, Message, Request, Rollout

ROW = Example("r", (Message("user", "Climb."),), metadata={"height": 3})


class Stairs:
    """Up to the top of `height` stairs; each stair gives a quarter, the top a whole."""

    def reset(self, row: Example) -> Turn:
        self.height, self.at = row.metadata["height"], 0
        return self._turn()

    def step(self, action: str) -> Turn:
        self.at = max(0, self.at + (1 if action == "up" else -1))
        return self._turn()

    def _turn(self) -> Turn:
        top = self.at == self.height
        reward = 1.0 if top else 0.25 if self.at else 0.0
        return Turn(f"You are on stair {self.at}.", ("up", "down"), reward, top, top)


class InTheLoop(Stairs):
    async def reset(self, row: Example) -> Turn:
        await asyncio.sleep(0)
        return super().reset(row)

    async def step(self, action: str) -> Turn:
        await asyncio.sleep(0.05)
        return super().step(action)


class OfGym(Stairs):
    def reset(self, row: Example) -> Any:
        return super().reset(row).text, {"admissible_commands": ["up", "down"]}

    def step(self, action: str) -> Any:
        turn = super().step(action)
        return turn.text, turn.reward, turn.done, False, {"legal": ["up", "down"], "won": turn.success}


def play_group(
    make: Any,
    model: Callable[[Request], Any] = lambda _: "up",
    size: int = 1,
    messages: tuple[Message, ...] = ROW.messages,
    **options: Any,
) -> Group:
    turns = options.pop("turns", 10)
    world = resolve_world({"kind": make, **options})
    agent = Agent("scripted/x", turns=turns, world=world)
    reward = Task.from_rows([{"a": i} for i in range(9)], prompt="x", environment=world).reward
    return asyncio.run(
        drive(run_group(agent, ROW, messages, reward, judge="", size=size, seed=0), ScriptedClient(model))
    )


def play_one(*args: Any, **how: Any) -> Rollout:
    return play_group(*args, **how).rollouts[0]


@pytest.mark.parametrize("kind", [Stairs, InTheLoop, OfGym])
def test_each_turn_is_a_step_and_rewards_sum_to_the_score(kind: type) -> None:
    run = play_one(kind)
    assert [step.prompt[-1].content for step in run.steps] == [
        f"You are on stair {n}.\nActions: up, down" for n in range(3)
    ]
    assert run.stop == "stop" and run.score is not None and run.score.value == 1.5
    rewards = {"step_reward 0": 0.25, "step_reward 1": 0.25, "step_reward 2": 1.0}
    assert run.score.parts == {"success": 1.0, **rewards}


def test_the_row_prompt_joins_the_system_message() -> None:
    messages = (Message("system", "Be quick."), Message("user", "Climb."))
    for step in play_one(Stairs, messages=messages).steps:
        assert step.prompt[0].role == "system" and step.prompt[0].content.startswith("Be quick.\n\nClimb.\n\n")
        assert [m.role for m in step.prompt[1::2]] == ["user"] * len(step.prompt[1::2])


@pytest.mark.parametrize(("history", "lengths"), [(None, [2, 4, 6]), (1, [2, 4, 4]), (0, [2, 2, 2])])
def test_history_limits_past_turns_in_a_prompt(history: int | None, lengths: list[int]) -> None:
    assert [len(step.prompt) for step in play_one(Stairs, history=history).steps] == lengths


def test_an_illegal_action_uses_a_turn_and_is_reported() -> None:
    run = play_one(Stairs, lambda request: "fly" if request.sampling.seed == first(request) else "up", turns=9)
    assert run.score is not None and run.score.value == 1.5
    assert [m.content.startswith("That is no action") for m in (s.prompt[-1] for s in run.steps)] == [
        False, True, False, False,
    ]  # fmt: skip
    assert "step_reward 0" not in run.score.parts


def first(request: Request) -> int | None:
    """The seed of a request in the first turn, which is seen without a reply before it."""
    return request.sampling.seed if len(request.messages) == 2 else None


def test_each_turn_has_its_own_seed() -> None:
    seeds: list[int | None] = []
    play_one(Stairs, lambda request: seeds.append(request.sampling.seed) or "up", history=0)
    assert len(set(seeds)) == 3


def test_turns_can_run_out() -> None:
    run = play_one(Stairs, lambda _: "down", turns=4)
    assert (run.stop, len(run.steps)) == ("turns", 4)
    assert run.score is not None and run.score.valid and run.score.parts == {"success": 0.0}


@pytest.mark.parametrize(
    ("completion", "action"),
    [
        ("up", "up"),
        ("I think.\n\n  Action: UP. \n", "up"),
        ("<action>down</action> or <action> up </action>\nmaybe", "up"),
        ("**up**", "up"),
        ("go up", ""),
        ("", ""),
    ],
)
def test_action_parsing(completion: str, action: str) -> None:
    assert parse_action(completion, ("up", "down")) == action


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_parsed_actions_are_legal(completion: str, legal: list[str]) -> None:
    assert parse_action(completion, legal) in ("", *legal) or not legal


class Bad(Stairs):
    """Breaks at the second stair, in the way that the row's first letter model."""

    how = ""

    def step(self, action: str) -> Any:
        if self.at == 1:
            match self.how:
                case "hangs":
                    time.sleep(1)
                case "raises":
                    raise KeyError("banister")
                case "exits":
                    raise SystemExit(3)
                case "list":
                    return Turn([1, 2])  # type: ignore[arg-type]
                case "nan":
                    return Turn("x", reward=float("nan"))
                case "number":
                    return 7
        return super().step(action)


def bad(fault: str) -> type:
    return type("Bad", (Bad,), {"how": fault})


@pytest.mark.parametrize(
    ("fault", "stop", "why"),
    [
        ("hangs", "timeout", "Bad gave no answer within 0.1 seconds (step 2, 'up')."),
        ("raises", "failed", "Bad raised KeyError: 'banister' (step 2, 'up')."),
        ("exits", "failed", "Bad raised RuntimeError: SystemExit(3) (step 2, 'up')."),
        ("list", "failed", "Bad gave a list ([1, 2]) as a state where a text was due (step 2, 'up')."),
        ("nan", "failed", "Bad gave a float (nan) as a reward where a finite number was due (step 2, 'up')."),
        ("number", "failed", "Bad gave a int (7) where a Turn, a text or a tuple as Gym's was due (step 2, 'up')."),
    ],
)  # fmt: skip
def test_an_environment_failure_keeps_finished_steps(fault: str, stop: str, why: str) -> None:
    run = play_one(bad(fault), seconds=0.1)
    assert (run.stop, len(run.steps), run.error) == (stop, 2, f"The environment {why}")
    assert run.score is not None and not run.score.valid and why in run.score.feedback


def test_other_rollouts_continue_while_one_environment_hangs() -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(bad("hangs")() if len(made) == 3 else InTheLoop())
        return made[-1]

    started = time.perf_counter()
    group = play_group(make, size=40, seconds=0.5)
    assert sorted({run.stop for run in group.rollouts}) == ["stop", "timeout"]
    assert sum(run.stop == "stop" for run in group.rollouts) == 39
    assert time.perf_counter() - started < 3  # play_one after another, they would take 6 seconds


def test_a_model_that_fails_ends_the_episode() -> None:
    from edgewise.toolkit.types import Reply

    run = play_one(Stairs, lambda _: Reply(Message("assistant", ""), "refused", error="no"))
    assert (run.stop, run.error, run.score and run.score.valid) == ("refused", "no", False)


def test_an_environment_is_closed() -> None:
    closed: list[int] = []

    class Closing(Stairs):
        def close(self) -> None:
            closed.append(1)

    assert play_one(Closing).stop == "stop" and closed == [1]


def test_different_starts_within_a_group_are_refused() -> None:
    count = iter(range(9))

    class Odd(Stairs):
        def reset(self, row: Example) -> Turn:
            super().reset(row)
            return Turn(f"start {next(count)}", ("up",))

    with pytest.raises(TaskError, match="Odd began differently in two runs of row 'r'"):
        play_group(Odd, size=2)


# ---- in a task -----------------------------------------------------------------------------------------

ROWS = [{"id": str(n), "height": n + 1} for n in range(12)]


def task(**how: Any) -> Task:
    return Task.from_rows(ROWS, id="id", **{"prompt": "Climb.", "environment": Stairs, **how})


def test_rows_of_an_environment_need_no_own_prompt_or_target() -> None:
    made = task()
    assert made.reward.name == "environment" and made.world is not None and made.world.make is Stairs
    assert made.train[0].target is None
    with pytest.raises(TaskError, match="ask the same"):
        Task.from_rows(ROWS, id="id", prompt="Climb.", target="")


def test_the_environment_is_part_of_the_fingerprint() -> None:
    kinds: list[Any] = [Stairs, "house", {"kind": "house", "rooms": 7}, {"kind": "house", "history": 1}]
    assert len({task(environment=kind).fingerprint for kind in kinds}) == 4
    assert task().fingerprint == task().fingerprint


def test_a_task_file_names_its_environment(tmp_path: Path) -> None:
    (tmp_path / "worlds.py").write_text(
        "class Door:\n    def reset(self, row): return 'A door.'\n    def step(self, a): return 'Open.', 1, True\n"
    )
    (tmp_path / "rows.csv").write_text("n\n" + "\n".join(map(str, range(9))))
    (tmp_path / "task.toml").write_text(
        '[task]\nrows = "rows.csv"\nprompt = "Open it."\nenvironment = { kind = "worlds:Door", history = 0 }\n'
    )
    made = Task.read(tmp_path)
    assert isinstance(made.world, World) and made.world.history == 0
    assert made.world.make().reset(None) == "A door." and made.reward.name == "environment"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("hause", "did you mean 'house'"),
        ({"rooms": 3}, "needs a kind"),
        ({"kind": "house", "doors": 3}, "doors"),
        ({"kind": "house", "rooms": 2}, "rooms of the world house must be a whole number from 3 to 16, not 2"),
        ({"kind": "house", "history": -1}, "history of the environment house must be 0 or more"),
        ({"kind": "house", "seconds": 0}, "seconds of the environment house must be a number above 0"),
        (7, "a class with reset and step, not 7"),
        ("nowhere:House", "module 'nowhere' is missing"),
    ],
)
def test_an_environment_that_is_wrong_is_refused_at_once(given: Any, why: str) -> None:
    with pytest.raises(TaskError, match=why):
        task(environment=given)


def test_tools_and_an_environment_do_not_go_together() -> None:
    with pytest.raises(TaskError, match="not both"):
        task(tools=("python",))


def test_the_environment_reward_needs_an_environment() -> None:
    with pytest.raises(TaskError, match="the task has none"):
        task(environment=None, prompt="{height}", target="", reward="environment")
    with pytest.raises(RewardError, match="was not played"):
        reward = Task.from_rows(ROWS, prompt="{height}", target="", reward=[{"kind": "environment"}]).reward
        asyncio.run(
            drive(run_group(Agent("x"), ROW, ROW.messages, reward, judge="", size=1, seed=0), ScriptedClient(str))
        )
