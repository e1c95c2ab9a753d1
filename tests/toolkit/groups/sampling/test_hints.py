from dataclasses import replace

import numpy as np
import pytest

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups.sampling import hints, rollout_plan
from edgewise.toolkit.groups.sampling.hints import HINTS_HEADER, add_solved_examples, reward_gap
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, SamplingRequest, get_mark
from edgewise.toolkit.groups.sampling.row_history import Memory, Record, SolvedExample
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step
from tests.support.plans import play

LEVELS = [f"{tier}{level}" for tier in "KPS" for level in range(1, 5)]
TIERS = {"knowledge": "K", "planning": "P", "solution": "S"}


def row(name, **metadata):
    return Example(name, (Message("system", "Be brief."), Message("user", f"what is {name}?")), "42", metadata)


def with_tiers(name):
    tiers = {tier: [f"{letter}{n}" for n in range(1, 5)] for tier, letter in TIERS.items()}
    return row(name, hints=tiers)


class Player:
    """Samples rollouts whose reward a rule gives, by row, sample index and the last hint."""

    def __init__(self, rule):
        self.rule, self.calls = rule, []

    def run(self, example, sample):
        text = example.messages[-1].content
        level = text.rpartition("- ")[2] if HINTS_HEADER in text else ""
        self.calls.append((example.id, sample, level))
        reward = self.rule(example.id, sample, level)
        step = Step(example.messages, Message("assistant", level or "plain"))
        return Rollout(example.id, "solver", sample, (step,), "stop", Score(reward))

    def sample(self, example, start, count):
        return tuple(self.run(example, start + i) for i in range(count))
        yield

    def score_answer(self, example, answer):
        step = Step(example.messages, Message("assistant", answer))
        return Rollout(example.id, "solver", 0, (step,), "stop", Score(float(answer == example.target)))
        yield

    def request(self, *rows, size=8, **more):
        return SamplingRequest(rows, len(rows), size, self.sample, self.score_answer, **more)

    @property
    def levels(self):
        return [level for _, _, level in self.calls if level]


def refuse_request(request):
    raise AssertionError("no model is asked here")


def run_plan(plan, request, **settings):
    return play(plan(request, **settings), refuse_request)


def solved_by(*levels):
    return Player(lambda name, sample, level: float(level in levels))


# ---- Scaf-GRPO ---------------------------------------------------------------------------------------------


def test_scaffolding_climbs_tiers_until_the_first_success():
    player = solved_by("P3", "S1", "S2")
    (group,) = run_plan(hints.scaffolded, player.request(with_tiers("a")))
    assert player.levels == LEVELS[:7]
    assert sorted(group.rewards) == [0.0] * 7 + [1.0]
    best = next(run for run in group.rollouts if run.score.value)
    assert best.answer == "P3" and best.sample == 8 + 6
    assert best.steps[0].prompt[-1].content == "what is a?\n\nHints:\n- P1\n- P2\n- P3"


def test_scaffolding_at_once_samples_all_levels():
    player = solved_by("P3", "S1", "S2")
    settings = {"at_once": True, "planning": False, "first": True}
    (group,) = run_plan(hints.scaffolded, player.request(with_tiers("a")), **settings)
    assert player.levels == [*LEVELS[:4], *LEVELS[8:]]
    assert group.rollouts[0].answer == "S1" and group.rewards == (1.0, *[0.0] * 7)


@pytest.mark.parametrize(
    ("rule", "progress"),
    [
        (lambda name, sample, level: float(sample == 3), 1.0),  # one succeeds by itself
        (lambda name, sample, level: 0.5, 1.0),  # refuse_request failed
        (lambda name, sample, level: 0.0, 0.149),  # too early
    ],
)
def test_scaffolding_needs_a_failed_group_after_exemption(rule, progress):
    player = Player(rule)
    run_plan(hints.scaffolded, player.request(with_tiers("a"), progress=progress))
    assert not player.levels and len(player.calls) == 8


@pytest.mark.parametrize(
    ("rescued", "count"),
    [
        ((), 0),
        ((0.0, 0.2, 0.3), 0),
        ((0.0, 0.2, 0.3, 0.5), 0),  # still more and more
        ((0.2, 0.4, 0.3, 0.3), 12),
        ((0.0, 0.0, 0.0, 0.0), 12),
        ((0.2, 0.4, 0.3, 0.3, 0.9, 1.0), 12),  # what hints solve afterwards does not take them away
    ],
)
def test_scaffolding_with_a_window_waits_for_a_plateau(rescued, count):
    player = solved_by()
    run_plan(hints.scaffolded, player.request(with_tiers("a"), memory=Memory(rescued=rescued)), window=2)
    assert len(player.levels) == count


def test_scaffolding_without_success_keeps_the_group():
    player = solved_by()
    (group,) = run_plan(hints.scaffolded, player.request(with_tiers("a"), progress=0.15))
    assert player.levels == LEVELS and group.rewards == (0.0,) * 8


def test_scaffolding_uses_only_the_hints_of_the_row():
    few = row("a", hints={"knowledge": ["K1"]})
    player = solved_by()
    run_plan(hints.scaffolded, player.request(few, row("b")))
    assert player.levels == ["K1"]
    with pytest.raises(TaskError, match="Row 'c': hints for this method are a mapping"):
        run_plan(hints.scaffolded, player.request(row("c", hints=["K1"])))


def test_replaced_failure_is_random_and_seeded():
    def places(seed):
        request = solved_by("K1").request(*map(with_tiers, "abcdef"), rng=np.random.default_rng(seed))
        return [group.rewards.index(1.0) for group in run_plan(hints.scaffolded, request)]

    assert places(1) == places(1) != places(2)
    assert len(set(places(1))) > 1


# ---- DeepVideo-R1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "count"), [(0.5, 1), (0.1, 1), (0.6, 0), (0.9, 0), (-1.0, 3)])
def test_rows_below_the_recent_mean_get_hints(mean, count):
    """round(difference) + 1 of them."""
    memory = Memory({"a": Record(visits=1, mean=mean)}, recent=(1.0, 0.4, 0.4))
    player = Player(lambda name, sample, level: 0.0)
    (group,) = run_plan(hints.hinted, player.request(row("a", hints=["1", "2", "3", "4"]), memory=memory))
    assert {level for _, _, level in player.calls} == {str(count) if count else ""}
    assert group.example == row("a", hints=["1", "2", "3", "4"]), "the row is what it was"


def test_reward_gap_is_zero_without_a_visit():
    assert reward_gap(Memory(recent=(1.0,)), "a") == reward_gap(Memory({"a": Record(visits=1)}), "a") == 0


# ---- XRPO --------------------------------------------------------------------------------------------------


def test_explored_spends_the_budget_on_uncertain_rows():
    player = Player(lambda name, sample, level: float(name == "b" and sample % 2))
    groups = run_plan(hints.explored, player.request(row("a"), row("b"), row("c"), size=8))
    counts = [len(group.rollouts) for group in groups]
    assert sum(counts) == 24 and counts[1] == max(counts) and min(counts) >= 4
    assert [run.sample for run in groups[1].rollouts] == list(range(counts[1]))


def test_failed_rows_get_solved_rows_as_shots():
    memory = Memory(
        worked={
            "x": SolvedExample("what is x?", "7"),
            "b": SolvedExample("what is b?", "8"),
            "y": SolvedExample("unlike", "9"),
        }
    )
    player = Player(lambda name, sample, level: float(name == "b"))
    groups = run_plan(hints.explored, player.request(row("a"), row("b"), memory=memory, size=4), shots=2)
    first, last = groups[0].rollouts[0], groups[0].rollouts[-1]
    assert first.steps[0].prompt[-1].content == "what is a?"
    assert last.steps[0].prompt[-1].content == (
        "Question: what is b?\nAnswer: 8\n\nQuestion: what is x?\nAnswer: 7\n\nwhat is a?"
    )
    assert all(run.steps[0].prompt[-1].content == "what is b?" for run in groups[1].rollouts)


def test_a_row_without_similar_solved_rows_is_unchanged():
    memory = Memory(worked={"a": SolvedExample("what is a?", "1"), "y": SolvedExample("unlike", "9")})
    assert add_solved_examples(row("a"), memory, 2) == row("a")


def test_embeddings_choose_the_solved_rows():
    """By words "what is x?" is nearest to "what is a?"; by these vectors the one without a word in common is."""

    def embed(texts):
        return np.stack([np.eye(2)[int(text in ("what is a?", "unlike"))] for text in texts])
        yield

    memory = Memory(worked={"x": SolvedExample("what is x?", "7"), "y": SolvedExample("unlike", "9")})
    player = Player(lambda name, sample, level: 0.0)
    (group,) = run_plan(hints.explored, player.request(row("a"), memory=memory, size=4, embed=embed), shots=1)
    assert group.rollouts[-1].steps[0].prompt[-1].content == "Question: unlike\nAnswer: 9\n\nwhat is a?"


@pytest.mark.parametrize("size", [1, 2])
def test_explored_handles_small_groups(size):
    player = Player(lambda name, sample, level: 0.0)
    groups = run_plan(hints.explored, player.request(row("a"), row("b"), size=size))
    assert sum(len(group.rollouts) for group in groups) == 2 * size


# ---- offline answers, delegated rollouts ----------------------------------------------------------------


def test_anchored_adds_the_reference_answer():
    player = Player(lambda name, sample, level: 0.0)
    target, reference = run_plan(rollout_plan.anchored, player.request(row("a"), row("b", reference="43"), size=2))
    assert [run.version for run in target.rollouts] == ["", "", OFFLINE_VERSION]
    assert (target.rollouts[-1].answer, target.rewards) == ("42", (0, 0, 1))
    assert (reference.rollouts[-1].answer, reference.rewards) == ("43", (0, 0, 0))


def test_anchored_below_adds_it_to_hard_groups_only():
    player = Player(lambda name, sample, level: float(name == "b" and sample == 0))
    hard, easy = run_plan(rollout_plan.anchored, player.request(row("a"), row("b"), size=2), below=1)
    assert (len(hard.rollouts), len(easy.rollouts)) == (3, 2)


def test_listed_candidates_make_a_group():
    player = Player(lambda name, sample, level: 0.0)
    (group,) = run_plan(rollout_plan.listed, player.request(row("a", candidates=["41", "42", "x"])))
    assert group.rewards == (0, 1, 0) and not player.calls
    with pytest.raises(TaskError, match="'b' lists no candidates"):
        run_plan(rollout_plan.listed, player.request(row("b")))


def test_offline_answers_need_a_scorer():
    request = SamplingRequest((row("a"),), 1, 2, Player(lambda *_: 0.0).sample)
    with pytest.raises(TaskError, match="Row 'a': answers that are given"):
        run_plan(rollout_plan.anchored, request)


def delegating_request(*counts):
    """Rollouts of a row that delegate so many runs each, to a searcher and always one to a clerk."""

    def sub(role, n):
        return Rollout("a", role, n, (), "stop", Score(float(n)))

    def sample(example, start, count):
        return tuple(
            Rollout("a", "main", i, (Step((), Message("assistant", ""), subrollouts=calls),), "stop", Score(1.0))
            for i, n in enumerate(counts)
            for calls in [(*(sub("searcher", k) for k in range(n)), sub("clerk", i))]
        )
        yield

    return SamplingRequest((row("a"),), 1, len(counts), sample)


def test_delegated_rollouts_group_by_role_with_shares():
    main, searchers, clerks = run_plan(rollout_plan.delegated, delegating_request(2, 0, 3))
    assert [group.role for group in (main, searchers, clerks)] == ["main", "searcher", "clerk"]
    assert [get_mark(run, "share") for run in searchers.rollouts] == [1 / 2] * 2 + [1 / 3] * 3
    assert [get_mark(run, "share") for run in clerks.rollouts] == [1] * 3
    assert [get_mark(run, "share") for run in main.rollouts] == [None] * 3


def test_depth_makes_as_many_of_each_parent():
    _, searchers, _ = run_plan(rollout_plan.delegated, delegating_request(2, 0, 7), depth=4)
    assert [get_mark(run, "share") for run in searchers.rollouts] == [1 / 4] * 8
    assert {run.sample for run in searchers.rollouts[:4]} == {0, 1}
    assert len({run.sample for run in searchers.rollouts[4:]}) == 4


def test_align_count_is_uniform_on_average():
    rng = np.random.default_rng(0)
    few = np.mean([np.bincount(rollout_plan.align_count(3, 8, rng), minlength=3) for _ in range(4000)], axis=0)
    many = np.mean([np.bincount(rollout_plan.align_count(5, 2, rng), minlength=5) for _ in range(4000)], axis=0)
    assert np.allclose(few, 8 / 3, atol=0.1) and np.allclose(many, 2 / 5, atol=0.05)


def test_refill_imperfect_replaces_all_right_groups():
    rewards = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    player = Player(lambda name, sample, level: rewards[name])
    request = replace(player.request(*map(row, "abcd"), size=2), batch_size=2)
    groups: list[Group] = run_plan(rollout_plan.refill_imperfect, request)
    assert [group.example.id for group in groups] == ["a", "b", "c", "d"]
