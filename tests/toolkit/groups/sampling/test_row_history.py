import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.groups.sampling.row_history import Memory, Record
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step, TokenizedTurn


def group(name, *rewards):
    """A group with these rewards; None stands for a run whose reward is not valid."""
    scores = [Score(0.0, valid=False) if reward is None else Score(reward) for reward in rewards]
    runs = tuple(Rollout(name, "solver", n, (), "stop", score) for n, score in enumerate(scores))
    return Group(Example(name, ()), "solver", runs)


@pytest.mark.parametrize(
    ("before", "successes", "after"),
    [((0.1, 8.4), 1, (1.02, 8.68)), ((2.7, 5.3), 4, (4.54, 5.06)), ((0.0, 0.0), 8, (8.0, 0.0))],
)
def test_a_visit_updates_the_counts_as_in_the_paper(before, successes, after):
    memory = Memory({"a": Record(*before)}).update([group("a", *[1.0] * successes, *[0.0] * (8 - successes))])
    assert (memory.record_of("a").alpha, memory.record_of("a").beta) == pytest.approx(after)


def test_counts_of_unvisited_examples_fade():
    memory = Memory({"b": Record(9.0, 0.2)}).update([group("a", 1, 0)])
    assert (memory.record_of("b").alpha, memory.record_of("b").beta) == pytest.approx((8.991, 0.1998))
    assert memory.record_of("b").visits == 0


def test_the_fading_weights_are_parameters():
    memory = Memory({"a": Record(1.0, 1.0), "b": Record(1.0, 1.0)}).update([group("a", 1, 0)], lam1=0.5, lam2=0)
    assert memory.records == {"a": Record(1.5, 1.5, 1, mean=0.5), "b": Record()}


def test_update_does_not_change_the_memory():
    before = Memory({"a": Record(1.0, 1.0)})
    before.update([group("a", 1, 1)])
    assert before == Memory({"a": Record(1.0, 1.0)})


def test_only_the_full_reward_is_a_success():
    assert Memory().update([group("a", 1.0, 0.999, 0.0, 1.5)]).record_of("a") == Record(2.0, 2.0, 1, mean=0.87475)


def test_invalid_rewards_are_ignored():
    assert Memory().update([group("a", 1, None), group("b", None)]) == Memory({"a": Record(1, 0, 1, True, mean=1)})
    known = Memory({"a": Record(1, 0, 1, True)})
    assert known.update([group("a", None, None)]).record_of("a") == Record(0.999, 0, 1, True), "that is no visit"


def test_groups_of_one_example_are_one_visit():
    assert Memory().update([group("a", 1, 1), group("a", 1, 0)]).record_of("a") == Record(3, 1, 1, False, mean=0.75)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=6))
def test_solved_means_every_rollout_of_every_visit(visits):
    memory = Memory()
    for rewards in visits:
        memory = memory.update([group("a", *map(float, rewards))])
    assert memory.record_of("a").solved == all(all(rewards) for rewards in visits)
    assert memory.record_of("a").visits == len(visits)


def test_age_counts_rounds_since_the_latest_visit():
    memory = Memory().next_round().update([group("a", 1)])
    ages = [memory.age("a"), memory.next_round().age("a"), memory.next_round().next_round().age("a")]
    assert ages == [0, 1, 2] and memory.age("b") is None
    assert memory.next_round().update([group("a", 0)]).age("a") == 0


NUMBERS = st.floats(0, 1e6)
RECORDS = st.builds(Record, NUMBERS, NUMBERS, st.integers(0, 99), st.booleans(), st.integers(0, 99), st.floats(-9, 9))


@given(st.builds(Memory, st.dictionaries(st.text(), RECORDS), st.integers(0, 99)))
def test_memory_survives_json(memory):
    assert Memory.from_json(json.loads(json.dumps(memory.to_json()))) == memory


def test_equal_memories_give_equal_bytes():
    one, other = group("a", 1, 0), group("b", 0, 0)
    written = [json.dumps(Memory().update(groups).to_json()) for groups in ([one, other], [other, one])]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ([], "dictionary"),
        ({"records": {}}, "round"),
        ({"round": 0, "records": {"a": {"alpha": -1}}}, "records.a.alpha"),
        ({"round": 0, "records": {"a": {"beta": float("nan")}}}, "records.a.beta"),
        ({"round": 0, "lessons": []}, "lessons|records"),
    ],
)
def test_damaged_memory_is_an_artifact_error(data, where):
    with pytest.raises(ArtifactError, match=rf"memory .*can't be read .*({where})"):
        Memory.from_json(data)


def test_stored_rollouts_have_the_keys_of_earlier_versions():
    tokens = TokenizedTurn((1, 2), (3,), (-0.5,))
    question = Message("user", "what?")
    answer = Rollout("a", "clerk", 0, (Step((question,), Message("assistant", "7")),), "stop", Score(0.5))
    step = Step((question,), Message("assistant", "42"), tokens=tokens, subrollouts=(answer,))
    run = Rollout("a", "solver", 0, (step,), "stop", Score(1.0, {"prompt": 1.0}))
    row = Example("a", (question,), metadata={"prompt": "p", "tokens": 3})
    memory = Memory(leftover=(Group(row, "solver", (run,)),), buffer=(run,))

    stored = memory.to_json()
    (member,) = stored["leftover"][0]["members"]
    assert member["steps"][0]["encoded"] == {"prompt": [1, 2], "reply": [3], "logprobs": [-0.5]}
    assert member["steps"][0]["calls"][0]["steps"][0]["said"]["content"] == "7"
    assert stored["leftover"][0]["example"]["metadata"] == {"prompt": "p", "tokens": 3}
    assert Memory.from_json(json.loads(json.dumps(stored))) == memory
