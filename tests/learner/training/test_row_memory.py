"""Columns that are made of rollouts, and what a step leaves to later ones."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from edgewise.learner.config import WeightsConfig
from edgewise.learner.methods.method import Method, override
from edgewise.learner.methods.published import METHODS, find_method
from edgewise.learner.spec import WeightsSpec
from edgewise.learner.training.row_memory import RECENT_GROUPS, update_memory
from edgewise.learner.update import collate
from edgewise.toolkit.errors import ConfigError, RewardError
from edgewise.toolkit.groups import reward_shaping
from edgewise.toolkit.groups.sampling.replay import REPLAY_ROLE
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, get_mark, set_marks
from edgewise.toolkit.groups.sampling.row_history import Memory, Record, SolvedExample
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.types import (
    RESERVED_PREFIX,
    Example,
    Group,
    Message,
    Rollout,
    Score,
    Step,
    TokenizedTurn,
    ToolCall,
)
from tests.support.learner import shares
from tests.support.plans import play


def step(observation: str, reply: str, *calls: tuple[str, str]) -> Step:
    tool_calls = tuple(ToolCall(str(n), *call) for n, call in enumerate(calls))
    encoded = TokenizedTurn((1, 2), (3, 4), (-0.5, -1.5))
    return Step((Message("user", observation),), Message("assistant", reply, tool_calls), tokens=encoded)


def run(reward: float, *steps: Step, **parts: float) -> Rollout:
    return Rollout("a", "solver", 0, steps or (step("q", "an answer"),), "stop", Score(reward, parts))


def group(*runs: Rollout, name: str = "a", role: str = "solver") -> Group:
    return Group(Example(name, (Message("user", f"what is {name}?"),), target=object()), role, runs)


def table(method: str, *runs: Rollout, setting: str = ""):
    chosen = override(find_method(method), *([setting] if setting else []))
    return collate.build_table(collate.collect_scored([group(*runs)]), chosen)


def judged(method: str, *groups: Group) -> collate.CreditedBatch:
    return collate.assign_credit(collate.collect_scored(groups), find_method(method))


def remember(method: Method, memory: Memory, groups: list[Group], later: Sequence[Group] = ()) -> Memory:
    return update_memory(method, memory, groups, collate.assign_credit(collate.collect_scored(groups), method), later)


def test_step_columns_are_state_action_and_observation() -> None:
    walk = run(1.0, step("a  room", "go north"), step("a hall", "stay"))
    result = table("salt", walk, run(0.0))
    assert result.column("state").tolist() == ["a room", "a hall", "q"]
    assert result.column("action").tolist() == ["go north", "stay", "an answer"]
    assert result.column("observation").tolist() == ["a hall", None, None]


def test_calls_with_the_same_arguments_are_the_same_action() -> None:
    one = step("q", "I look.", ("look", '{"at": 1, "by": 2}'))
    other = step("q", "Let me see.", ("look", '{"by":2,"at":1}'))
    broken = step("q", "", ("look", "{at  1"))
    assert collate.render_action(one.completion) == collate.render_action(other.completion) == 'look {"at": 1, "by": 2}'
    assert collate.render_action(broken.completion) == "look {at 1"


def test_last_step_has_the_reward_without_step_rewards() -> None:
    steps = step("q", "x"), step("r", "y")
    assert table("gigpo", run(0.7, *steps)).column("step_reward").tolist() == [0, 0.7]
    detailed = run(0.7, *steps, **{"step_reward 0": 0.5, "step_reward 1": 0.2, "partner_reward 1": 3.0})
    result = table("advantage_alignment", detailed)
    assert result.column("step_reward").tolist() == [0.5, 0.2]
    assert result.column("partner_reward").tolist() == [0, 3]
    assert table("hrpo", detailed).column("action_reward").tolist() == [0.5, 0.2]


def test_without_step_rewards_action_rewards_are_zero() -> None:
    """Rollouts of one to three steps that are all right: nothing is pushed, and a step is not paid twice."""
    steps = step("q", "x"), step("r", "y"), step("s", "z")
    runs = [run(1.0, *steps[:count]) for count in (1, 2, 3, 2)]
    for rewards in ([1.0] * 4, [1.0, 0.0, 0.0, 1.0]):
        group_of = group(*(replace(rollout, score=Score(r)) for rollout, r in zip(runs, rewards, strict=True)))
        ends = [{f"step_reward {len(rollout.steps) - 1}": r} for rollout, r in zip(runs, rewards, strict=True)]
        detailed = [replace(rollout, score=Score(r, end)) for rollout, r, end in zip(runs, rewards, ends, strict=True)]
        assert (
            not collate.build_table(collate.collect_scored([group(*detailed)]), find_method("hrpo"))
            .column("action_reward")
            .any()
        )
        hrpo, plain = (
            collate.assign_credit(collate.collect_scored([group_of]), find_method(name)) for name in ("hrpo", "grpo")
        )
        assert hrpo.credit.tolist() == plain.credit.tolist()
        assert hrpo.credit.any() == (len(set(rewards)) > 1)


def test_missing_partner_reward_is_one_sentence() -> None:
    with pytest.raises(RewardError, match=r"reads the part 'partner_reward' .* row 'a' has none.*docs/weights.md"):
        table("advantage_alignment", run(1.0, **{"step_reward 0": 1.0}))


def test_length_counts_all_replies_and_longest_one() -> None:
    """Three replies of 2 of 3 tokens are not too long, whatever they are together."""
    result = table("dapo", run(1.0, *[step("q", "x")] * 3), run(0.0))
    assert result.column("longest").tolist() == [2, 2]
    assert collate.collect_scored([group(run(1.0, *[step("q", "x")] * 3))])[0].length == 6
    assert reward_shaping.overlong(result, limit=3, buffer=1 / 3).tolist() == [1, 0]


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
    offline = Rollout("a", "solver", 0, (step("q", "x"),), "stop", Score(1.0), version=OFFLINE_VERSION)
    runs = set_marks(offline, share=0.25), set_marks(run(0.0), stored=-0.5)
    assert table(method, *runs).column(column).tolist() == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(("method", "part"), [("skywork_r1v2", "stored"), ("m_grpo", "share")])
def test_parts_of_a_users_score_are_no_marks(method, part) -> None:
    plain, named = (
        collate.assign_credit(
            collate.collect_scored([group(run(1.0, **parts), run(0.0, **parts))]), find_method(method)
        ).credit
        for parts in ({}, {part: 0.0})
    )
    assert plain.any() and (plain == named).all()


def test_reward_that_names_a_mark_is_refused() -> None:
    def cunning(completion: str, target: str) -> Score:
        return Score(1.0, {f"{RESERVED_PREFIX}stored": 0.0})

    graded = resolve_reward(cunning).grade(Example("a", (Message("user", "q"),)), run(0.0), "")
    with pytest.raises(RewardError, match=r"'edgewise:stored'.*reserved, choose another"):
        play(graded, lambda request: pytest.fail("no model is asked here"))


def test_trait_is_a_score_part_or_the_mean_log_prob() -> None:
    assert table("dagrpo", run(0.0, trait=0.3), run(1.0)).column("trait").tolist() == [0.3, -1.0]


def test_equal_answers_have_equal_numbers() -> None:
    runs = [run(0.0, step("q", text)) for text in ("A", " A ", "B")]
    one, other, third = table("pc_grpo", *runs).column("choice").tolist()
    assert one == other != third


def test_text_columns_stay_out_of_the_batch() -> None:
    runs = run(1.0), run(0.0)
    batch = collate.build_batch(judged("gigpo", group(*runs)))
    assert batch is not None and "state" not in batch.columns
    assert batch.column("rollout").tolist() == [0, 1]


def test_replayed_rollout_has_its_stored_advantage() -> None:
    live = group(run(1.0), run(0.0))
    old = group(set_marks(run(1.0), stored=2.5), role=REPLAY_ROLE)
    dead = group(run(0.0), run(0.0), name="b")
    batch = collate.build_batch(judged("skywork_r1v2", live, dead, old))
    assert batch is not None
    assert batch.advantage.flatten().tolist() == pytest.approx([0.70710578, -0.70710578, 2.5], abs=1e-6)
    assert batch.column("sampler_logp").tolist() == [[-0.5, -1.5]] * 3


# ---- what is left to later steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_only_recalled_collections_are_filled(name) -> None:
    method = METHODS[name]
    named = {"partner_reward 0": 1.0}
    groups = [group(run(1.0, **named), run(0.0, **named))]
    result = remember(method, Memory({"a": Record(visits=1)}), groups, later=groups)
    filled = {key for key in ("recent", "rescued", "worked", "leftover", "buffer") if getattr(result, key)}
    assert filled == method.recalls
    assert result.record_of("a").visits == 2


def test_samples_without_an_advantage_are_refused() -> None:
    groups = [group(run(1.0), run(0.0), run(0.5)), group(run(0.0), run(0.0), name="b")]
    result = remember(find_method("skywork_r1v2"), Memory(), groups).buffer
    assert [round(get_mark(rollout, "stored") or 0.0, 4) for rollout in result] == [1, -1]


def test_buffer_drops_the_oldest_rollouts() -> None:
    method = override(find_method("skywork_r1v2"), "plan.capacity=3")
    memory = Memory()
    for reward in (0.25, 0.5):
        memory = remember(method, memory, [group(run(1.0), run(reward))])
    assert [rollout.score.value for rollout in memory.buffer if rollout.score] == [0.25, 1.0, 0.5]


def test_fading_of_counts_is_a_setting_of_vade() -> None:
    method = override(find_method("vade"), "select.lam1=0.5", "select.lam2=0.1")
    memory = Memory({"a": Record(4.0, 0.0), "b": Record(10.0, 0.0)})
    result = remember(method, memory, [group(run(1.0), run(0.0))])
    assert (result.record_of("a").alpha, result.record_of("a").beta, result.record_of("b").alpha) == (3.0, 1.0, 1.0)


@pytest.mark.parametrize("capacity", ["0", "-1", "100000000", "1.5"])
def test_a_buffer_has_a_size_that_a_checkpoint_can_hold(capacity) -> None:
    with pytest.raises(ConfigError, match="does not fit buffered, where it is 1024: input should be"):
        override(find_method("skywork_r1v2"), f"plan.capacity={capacity}")


def test_buffer_larger_than_memory_is_refused() -> None:
    def spec(capacity: int, tokens: int) -> WeightsSpec:
        settings = {"method": "skywork_r1v2", "overrides": (f"plan.capacity={capacity}",), "max_tokens": tokens}
        return WeightsSpec(shares.task(), WeightsConfig(**settings))

    detailed = r"A buffer of 100000 rollouts of up to 100000000 tokens takes about \d+\.\d GiB, and this machine has"
    with pytest.raises(ConfigError, match=detailed) as caught:
        spec(100_000, 100_000_000)
    assert "set plan.capacity to " in str(caught.value)
    assert spec(100, 64).method


def test_replayed_and_offline_rollouts_are_no_visits() -> None:
    offline = Rollout("a", "solver", 0, (step("q", "x"),), "stop", Score(1.0), version=OFFLINE_VERSION)
    old = group(set_marks(run(1.0), stored=2.5), name="old", role=REPLAY_ROLE)
    result = remember(find_method("skywork_r1v2"), Memory(), [group(run(0.0), offline), old])
    assert (result.record_of("a").alpha, result.record_of("a").beta, result.record_of("old").visits) == (0, 1, 0)
    assert not any(rollout.version == OFFLINE_VERSION for rollout in result.buffer)


def test_rescued_rows_failed_at_their_latest_visit() -> None:
    method, memory = find_method("scaf_grpo"), Memory()
    tried = ["a", "b", "c"], ["a", "b", "c"], ["a", "c"], ["b"]
    for names, solved in zip(tried, ("c", "bc", "a", ""), strict=True):
        groups = [group(run(0.0), run(float(name in solved)), name=name) for name in names]
        memory = remember(method, memory, groups)
    assert memory.rescued == (0.5, 1.0), "of a and b then b, of a then a; c was never lost, b was not then"


def test_recent_has_the_means_of_a_hundred_groups() -> None:
    groups = [group(run(n / 200), name=str(n)) for n in range(150)]
    result = remember(find_method("deepvideo_r1"), Memory(), groups)
    assert result.recent == tuple(n / 200 for n in range(50, 150)) and len(result.recent) == RECENT_GROUPS
    assert result.record_of("3").mean == 3 / 200


def test_worked_has_the_latest_solution_of_an_example() -> None:
    groups = [group(run(0.0), run(1.0, step("q", "old")), run(1.0, step("q", "new")))]
    assert remember(find_method("xrpo"), Memory(), groups).worked == {"a": SolvedExample("what is a?", "new")}


def test_memory_survives_a_checkpoint() -> None:
    """Rows may hold anything; what is graded needs no answer any more."""
    groups = [group(run(1.0, step("q", "x", ("f", "{}"))), run(0.0))]
    for name in ("skywork_r1v2", "confucius3_math", "xrpo", "deepvideo_r1"):
        memory = remember(find_method(name), Memory(), groups, later=groups)
        assert Memory.from_json(json.loads(json.dumps(memory.to_json()))) == memory
