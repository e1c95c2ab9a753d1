from dataclasses import replace

import numpy as np
import pytest

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups.sampling import hints as plan_hints
from edgewise.toolkit.groups.sampling import rollout_plan
from edgewise.toolkit.groups.sampling.hints import HEAD, lacking, with_solved
from edgewise.toolkit.groups.sampling.rollout_plan import GIVEN, SamplingRequest, mark
from edgewise.toolkit.groups.sampling.row_history import Memory, Record, Worked
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step
from tests.support.plans import play

LADDER = [f"{tier}{level}" for tier in "KPS" for level in range(1, 5)]
TIERS = {"knowledge": "K", "planning": "P", "solution": "S"}


def row(name, **metadata):
    return Example(
        name, (Message("system", "Be brief."), Message("user", f"what is {name}?")), "42", metadata
    )


def hinted(name):
    hints = {tier: [f"{letter}{n}" for n in range(1, 5)] for tier, letter in TIERS.items()}
    return row(name, hints=hints)


class Player:
    """Draws rollouts whose reward a rule says, by row, sample and the last hint."""

    def __init__(self, rule):
        self.rule, self.calls = rule, []

    def run(self, example, sample):
        text = example.messages[-1].content
        level = text.rpartition("- ")[2] if HEAD in text else ""
        self.calls.append((example.id, sample, level))
        reward = self.rule(example.id, sample, level)
        seen = Step(example.messages, Message("assistant", level or "plain"))
        return Rollout(example.id, "solver", sample, (seen,), "stop", Score(reward))

    def draw(self, example, start, count):
        return tuple(self.run(example, start + i) for i in range(count))
        yield

    def give(self, example, answer):
        seen = Step(example.messages, Message("assistant", answer))
        return Rollout(example.id, "solver", 0, (seen,), "stop", Score(float(answer == example.target)))
        yield

    def asked(self, *rows, size=8, **more):
        return SamplingRequest(rows, len(rows), size, self.draw, self.give, **more)

    @property
    def levels(self):
        return [level for _, _, level in self.calls if level]


def nobody(request):
    raise AssertionError("no model is asked here")


def made(which, asked, **how):
    return play(which(asked, **how), nobody)


def solved_by(*levels):
    return Player(lambda name, sample, level: float(level in levels))


# ---- Scaf-GRPO ---------------------------------------------------------------------------------------------


def test_the_search_goes_up_the_tiers_and_stops_at_the_first_success():
    player = solved_by("P3", "S1", "S2")
    (group,) = made(plan_hints.scaffolded, player.asked(hinted("a")))
    assert player.levels == LADDER[:7]
    assert sorted(group.rewards) == [0.0] * 7 + [1.0]
    best = next(run for run in group.members if run.score.value)
    assert best.answer == "P3" and best.sample == 8 + 6
    assert best.steps[0].seen[-1].content == "what is a?\n\nHints:\n- P1\n- P2\n- P3"


def test_the_search_of_the_code_draws_eight_levels_at_once():
    player = solved_by("P3", "S1", "S2")
    how = {"at_once": True, "planning": False, "first": True}
    (group,) = made(plan_hints.scaffolded, player.asked(hinted("a")), **how)
    assert player.levels == [*LADDER[:4], *LADDER[8:]]
    assert group.members[0].answer == "S1" and group.rewards == (1.0, *[0.0] * 7)


@pytest.mark.parametrize(
    ("rule", "done"),
    [
        (lambda name, sample, level: float(sample == 3), 1.0),  # one succeeds by itself
        (lambda name, sample, level: 0.5, 1.0),  # nobody failed
        (lambda name, sample, level: 0.0, 0.149),  # too early
    ],
)
def test_only_what_failed_altogether_is_searched_and_not_at_first(rule, done):
    player = Player(rule)
    made(plan_hints.scaffolded, player.asked(hinted("a"), done=done))
    assert not player.levels and len(player.calls) == 8


@pytest.mark.parametrize(
    ("rescued", "hints"),
    [
        ((), 0),
        ((0.0, 0.2, 0.3), 0),
        ((0.0, 0.2, 0.3, 0.5), 0),  # still more and more
        ((0.2, 0.4, 0.3, 0.3), 12),
        ((0.0, 0.0, 0.0, 0.0), 12),
        ((0.2, 0.4, 0.3, 0.3, 0.9, 1.0), 12),  # what hints solve afterwards does not take them away
    ],
)
def test_with_a_window_hints_wait_until_hard_rows_are_solved_no_more_often(rescued, hints):
    player = solved_by()
    made(plan_hints.scaffolded, player.asked(hinted("a"), memory=Memory(rescued=rescued)), window=2)
    assert len(player.levels) == hints


def test_a_row_that_no_hint_helps_stays_as_it_is():
    player = solved_by()
    (group,) = made(plan_hints.scaffolded, player.asked(hinted("a"), done=0.15))
    assert player.levels == LADDER and group.rewards == (0.0,) * 8


def test_rows_without_hints_or_with_few_make_no_level_up():
    few = row("a", hints={"knowledge": ["K1"]})
    player = solved_by()
    made(plan_hints.scaffolded, player.asked(few, row("b")))
    assert player.levels == ["K1"]
    with pytest.raises(TaskError, match="Row 'c': hints for this method are a mapping"):
        made(plan_hints.scaffolded, player.asked(row("c", hints=["K1"])))


def test_the_failure_that_is_replaced_is_random_and_the_same_for_a_seed():
    def places(seed):
        asked = solved_by("K1").asked(*map(hinted, "abcdef"), rng=np.random.default_rng(seed))
        return [group.rewards.index(1.0) for group in made(plan_hints.scaffolded, asked)]

    assert places(1) == places(1) != places(2)
    assert len(set(places(1))) > 1


# ---- DeepVideo-R1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "count"), [(0.5, 1), (0.1, 1), (0.6, 0), (0.9, 0), (-1.0, 3)])
def test_rows_that_are_harder_than_recent_ones_get_hints(mean, count):
    """round(difference) + 1 of them."""
    memory = Memory({"a": Record(visits=1, mean=mean)}, recent=(1.0, 0.4, 0.4))
    player = Player(lambda name, sample, level: 0.0)
    (group,) = made(plan_hints.hinted, player.asked(row("a", hints=["1", "2", "3", "4"]), memory=memory))
    assert {level for _, _, level in player.calls} == {str(count) if count else ""}
    assert group.example == row("a", hints=["1", "2", "3", "4"]), "the row is what it was"


def test_rows_that_were_never_seen_get_none():
    assert lacking(Memory(recent=(1.0,)), "a") == lacking(Memory({"a": Record(visits=1)}), "a") == 0


# ---- XRPO --------------------------------------------------------------------------------------------------


def test_all_rollouts_are_dealt_out_and_uncertain_rows_get_more():
    player = Player(lambda name, sample, level: float(name == "b" and sample % 2))
    groups = made(plan_hints.explored, player.asked(row("a"), row("b"), row("c"), size=8))
    counts = [len(group.members) for group in groups]
    assert sum(counts) == 24 and counts[1] == max(counts) and min(counts) >= 4
    assert [run.sample for run in groups[1].members] == list(range(counts[1]))


def test_rows_that_only_failed_are_asked_behind_solved_ones():
    memory = Memory(
        worked={"x": Worked("what is x?", "7"), "b": Worked("what is b?", "8"), "y": Worked("unlike", "9")}
    )
    player = Player(lambda name, sample, level: float(name == "b"))
    groups = made(plan_hints.explored, player.asked(row("a"), row("b"), memory=memory, size=4), shots=2)
    first, last = groups[0].members[0], groups[0].members[-1]
    assert first.steps[0].seen[-1].content == "what is a?"
    assert last.steps[0].seen[-1].content == (
        "Question: what is b?\nAnswer: 8\n\nQuestion: what is x?\nAnswer: 7\n\nwhat is a?"
    )
    assert all(run.steps[0].seen[-1].content == "what is b?" for run in groups[1].members)


def test_without_solved_rows_that_are_like_it_a_row_is_asked_as_it_is():
    memory = Memory(worked={"a": Worked("what is a?", "1"), "y": Worked("unlike", "9")})
    assert with_solved(row("a"), memory, 2) == row("a")


def test_solved_rows_are_found_by_vectors_where_there_are_any():
    """By words "what is x?" is nearest to "what is a?"; by these vectors the one without a word in common is."""

    def embed(texts):
        return np.stack([np.eye(2)[int(text in ("what is a?", "unlike"))] for text in texts])
        yield

    memory = Memory(worked={"x": Worked("what is x?", "7"), "y": Worked("unlike", "9")})
    player = Player(lambda name, sample, level: 0.0)
    (group,) = made(plan_hints.explored, player.asked(row("a"), memory=memory, size=4, embed=embed), shots=1)
    assert group.members[-1].steps[0].seen[-1].content == "Question: unlike\nAnswer: 9\n\nwhat is a?"


@pytest.mark.parametrize("size", [1, 2])
def test_small_groups_are_dealt_too(size):
    player = Player(lambda name, sample, level: 0.0)
    groups = made(plan_hints.explored, player.asked(row("a"), row("b"), size=size))
    assert sum(len(group.members) for group in groups) == 2 * size


# ---- answers that are given, delegated runs ----------------------------------------------------------------


def test_a_reference_is_one_more_member_of_its_group():
    player = Player(lambda name, sample, level: 0.0)
    target, told = made(rollout_plan.anchored, player.asked(row("a"), row("b", reference="43"), size=2))
    assert [run.version for run in target.members] == ["", "", GIVEN]
    assert (target.members[-1].answer, target.rewards) == ("42", (0, 0, 1))
    assert (told.members[-1].answer, told.rewards) == ("43", (0, 0, 0))


def test_only_groups_with_few_right_answers_get_one():
    player = Player(lambda name, sample, level: float(name == "b" and sample == 0))
    hard, easy = made(rollout_plan.anchored, player.asked(row("a"), row("b"), size=2), below=1)
    assert (len(hard.members), len(easy.members)) == (3, 2)


def test_listed_answers_are_a_group():
    player = Player(lambda name, sample, level: 0.0)
    (group,) = made(rollout_plan.listed, player.asked(row("a", candidates=["41", "42", "x"])))
    assert group.rewards == (0, 1, 0) and not player.calls
    with pytest.raises(TaskError, match="'b' lists no candidates"):
        made(rollout_plan.listed, player.asked(row("b")))


def test_answers_cannot_be_given_everywhere():
    asked = SamplingRequest((row("a"),), 1, 2, Player(lambda *_: 0.0).draw)
    with pytest.raises(TaskError, match="Row 'a': answers that are given"):
        made(rollout_plan.anchored, asked)


def calling(*counts):
    """Rollouts of a row that delegate so many runs each, to a searcher and always one to a clerk."""

    def sub(role, n):
        return Rollout("a", role, n, (), "stop", Score(float(n)))

    def draw(example, start, count):
        return tuple(
            Rollout("a", "main", i, (Step((), Message("assistant", ""), calls=calls),), "stop", Score(1.0))
            for i, n in enumerate(counts)
            for calls in [(*(sub("searcher", k) for k in range(n)), sub("clerk", i))]
        )
        yield

    return SamplingRequest((row("a"),), 1, len(counts), draw)


def test_delegated_runs_are_groups_by_role_and_share_their_parents_mass():
    main, searchers, clerks = made(rollout_plan.delegated, calling(2, 0, 3))
    assert [group.role for group in (main, searchers, clerks)] == ["main", "searcher", "clerk"]
    assert [mark(run, "share") for run in searchers.members] == [1 / 2] * 2 + [1 / 3] * 3
    assert [mark(run, "share") for run in clerks.members] == [1] * 3
    assert [mark(run, "share") for run in main.members] == [None] * 3


def test_copies_and_drops_make_as_many_of_each_parent():
    _, searchers, _ = made(rollout_plan.delegated, calling(2, 0, 7), depth=4)
    assert [mark(run, "share") for run in searchers.members] == [1 / 4] * 8
    assert {run.sample for run in searchers.members[:4]} == {0, 1}
    assert len({run.sample for run in searchers.members[4:]}) == 4


def test_copies_and_drops_weigh_on_average_as_shares_do():
    rng = np.random.default_rng(0)
    few = np.mean([np.bincount(rollout_plan.aligned(3, 8, rng), minlength=3) for _ in range(4000)], axis=0)
    many = np.mean([np.bincount(rollout_plan.aligned(5, 2, rng), minlength=5) for _ in range(4000)], axis=0)
    assert np.allclose(few, 8 / 3, atol=0.1) and np.allclose(many, 2 / 5, atol=0.05)


def test_groups_that_are_all_right_are_sampled_anew_and_all_wrong_ones_count():
    rewards = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    player = Player(lambda name, sample, level: rewards[name])
    asked = replace(player.asked(*map(row, "abcd"), size=2), wanted=2)
    groups: list[Group] = made(rollout_plan.refill_imperfect, asked)
    assert [group.example.id for group in groups] == ["a", "b", "c", "d"]
