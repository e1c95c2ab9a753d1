"""Columns that are made of rollouts, and what a step leaves to later ones."""

import json
import math

import pytest

from learner import gather
from learner.method import override
from learner.methods import METHODS, find
from learner.remember import WINDOW, remembered
from toolkit.errors import ConfigError
from toolkit.groups.memory import Memory, Worked
from toolkit.groups.plan import GIVEN, marked
from toolkit.groups.plan_past import REPLAYED
from toolkit.types import Encoded, Example, Group, Message, Rollout, Score, Step, ToolCall


def step(seen: str, said: str, *calls: tuple[str, str]) -> Step:
    asked = tuple(ToolCall(str(n), *call) for n, call in enumerate(calls))
    encoded = Encoded((1, 2), (3, 4), (-0.5, -1.5))
    return Step((Message("user", seen),), Message("assistant", said, asked), encoded=encoded)


def run(reward: float, *steps: Step, **parts: float) -> Rollout:
    return Rollout("a", "solver", 0, steps or (step("q", "an answer"),), "stop", Score(reward, parts))


def group(*runs: Rollout, name: str = "a", role: str = "solver") -> Group:
    return Group(Example(name, (Message("user", f"what is {name}?"),), target=object()), role, runs)


def table(method: str, *runs: Rollout, setting: str = ""):
    chosen = override(find(method), *([setting] if setting else []))
    return gather.table(gather.members([group(*runs)]), chosen)


def test_steps_have_what_was_shown_done_and_shown_then() -> None:
    walk = run(1.0, step("a  room", "go north"), step("a hall", "stay"))
    found = table("salt", walk, run(0.0))
    assert found.column("state").tolist() == ["a room", "a hall", "q"]
    assert found.column("action").tolist() == ["go north", "stay", "an answer"]
    assert found.column("observation").tolist() == ["a hall", None, None]


def test_calls_with_the_same_arguments_are_the_same_action() -> None:
    one = step("q", "I look.", ("look", '{"at": 1, "by": 2}'))
    other = step("q", "Let me see.", ("look", '{"by":2,"at":1}'))
    broken = step("q", "", ("look", "{at  1"))
    assert gather.action(one.said) == gather.action(other.said) == 'look {"at": 1, "by": 2}'
    assert gather.action(broken.said) == "look {at 1"


def test_the_last_step_has_all_of_the_reward_unless_the_score_says_more() -> None:
    steps = step("q", "x"), step("r", "y")
    assert table("gigpo", run(0.7, *steps)).column("step_reward").tolist() == [0, 0.7]
    told = run(0.7, *steps, **{"step_reward 0": 0.5, "step_reward 1": 0.2, "partner_reward 1": 3.0})
    found = table("advantage_alignment", told)
    assert found.column("step_reward").tolist() == [0.5, 0.2]
    assert found.column("partner_reward").tolist() == [0, 3]


@pytest.mark.parametrize(
    ("method", "column", "values"),
    [
        ("m_grpo", "share", [0.25, 1]),
        ("skywork_r1v2", "stored", [math.nan, -0.5]),
        ("grao", "anchor", [1, 0]),
        ("dagrpo", "trait", [math.inf, -1.0]),
    ],
)
def test_marks_of_a_rollout_are_columns(method, column, values) -> None:
    given = Rollout("a", "solver", 0, (step("q", "x"),), "stop", Score(1.0, {"share": 0.25}), version=GIVEN)
    found = table(method, given, run(0.0, stored=-0.5)).column(column).tolist()
    assert found == pytest.approx(values, nan_ok=True)


def test_a_trait_is_what_the_reward_says_or_how_likely_the_reply_was() -> None:
    assert table("dagrpo", run(0.0, trait=0.3), run(1.0)).column("trait").tolist() == [0.3, -1.0]


def test_equal_answers_have_equal_numbers() -> None:
    runs = [run(0.0, step("q", text)) for text in ("A", " A ", "B")]
    one, other, third = table("pc_grpo", *runs).column("choice").tolist()
    assert one == other != third


def test_columns_that_are_no_numbers_stay_out_of_the_batch() -> None:
    runs = run(1.0), run(0.0)
    made = gather.batch(gather.members([group(*runs)]), find("gigpo"))
    assert made is not None and "state" not in made.columns
    assert made.column("rollout").tolist() == [0, 1]


def test_a_replayed_rollout_has_the_advantage_of_then() -> None:
    live = group(run(1.0), run(0.0))
    old = group(marked(run(1.0), stored=2.5), role=REPLAYED)
    dead = group(run(0.0), run(0.0), name="b")
    made = gather.batch(gather.members([live, dead, old]), find("skywork_r1v2"))
    assert made is not None
    assert made.advantage.flatten().tolist() == pytest.approx([0.70710578, -0.70710578, 2.5], abs=1e-6)
    assert made.column("sampler_logp").tolist() == [[-0.5, -1.5]] * 3


# ---- what is left to later steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_only_what_a_method_recalls_is_kept(name) -> None:
    method = METHODS[name]
    found = remembered(method, Memory(), [group(run(1.0), run(0.0))], later=[group(run(1.0), run(0.0))])
    kept = {key for key in ("recent", "worked", "leftover", "buffer") if getattr(found, key)}
    assert kept == method.recalls
    assert found.of("a").visits == 1


def test_samples_without_an_advantage_are_refused() -> None:
    groups = [group(run(1.0), run(0.0), run(0.5)), group(run(0.0), run(0.0), name="b")]
    found = remembered(find("skywork_r1v2"), Memory(), groups).buffer
    assert [round(each.score.parts["stored"], 4) for each in found if each.score] == [1, -1]


def test_the_oldest_make_room_in_the_buffer() -> None:
    method = override(find("skywork_r1v2"), "plan.capacity=3")
    memory = Memory()
    for reward in (0.25, 0.5):
        memory = remembered(method, memory, [group(run(1.0), run(reward))])
    assert [each.score.value for each in memory.buffer if each.score] == [0.25, 1.0, 0.5]


@pytest.mark.parametrize("capacity", ["0", "-1", "100000000", "1.5"])
def test_a_buffer_has_a_size_that_a_checkpoint_can_hold(capacity) -> None:
    with pytest.raises(ConfigError, match="does not fit buffered, where it is 1024"):
        override(find("skywork_r1v2"), f"plan.capacity={capacity}")


def test_what_was_replayed_or_given_teaches_nothing_of_an_example() -> None:
    given = Rollout("a", "solver", 0, (step("q", "x"),), "stop", Score(1.0), version=GIVEN)
    old = group(marked(run(1.0), stored=2.5), name="old", role=REPLAYED)
    found = remembered(find("skywork_r1v2"), Memory(), [group(run(0.0), given), old])
    assert (found.of("a").alpha, found.of("a").beta, found.of("old").visits) == (0, 1, 0)
    assert not any(each.version == GIVEN for each in found.buffer)


def test_means_of_a_hundred_groups_are_recent() -> None:
    groups = [group(run(n / 200), name=str(n)) for n in range(150)]
    found = remembered(find("deepvideo_r1"), Memory(), groups)
    assert found.recent == tuple(n / 200 for n in range(50, 150)) and len(found.recent) == WINDOW
    assert found.of("3").mean == 3 / 200


def test_the_latest_solution_of_an_example_is_worked() -> None:
    groups = [group(run(0.0), run(1.0, step("q", "old")), run(1.0, step("q", "new")))]
    assert remembered(find("xrpo"), Memory(), groups).worked == {"a": Worked("what is a?", "new")}


def test_a_checkpoint_brings_it_all_back() -> None:
    """Rows may hold anything; what is graded needs no answer any more."""
    groups = [group(run(1.0, step("q", "x", ("f", "{}"))), run(0.0))]
    for name in ("skywork_r1v2", "confucius3_math", "xrpo", "deepvideo_r1"):
        memory = remembered(find(name), Memory(), groups, later=groups)
        assert Memory.from_json(json.loads(json.dumps(memory.to_json()))) == memory
