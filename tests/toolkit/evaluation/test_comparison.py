import json
from dataclasses import replace

import pytest

from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.types import Example, Group, Message, Rollout, Score, Step, ToolCall, Usage

REPLY = Message("assistant", "yes")


def run(example: str, sample: int, value: float | None, **changes) -> Rollout:
    """A rollout of one turn; None stands for one that timed out."""
    stop = "timeout" if value is None else "stop"
    score = None if value is None else Score(value)
    steps = (Step((), REPLY, Usage(10, 4, 2)),)
    return replace(Rollout(example, "solver", sample, steps, stop, score), **changes)


def arm(name: str, rewards: dict[str, list[float | None]]) -> Arm:
    groups = [
        Group(Example(id, ()), "solver", tuple(run(id, n, value) for n, value in enumerate(values)))
        for id, values in rewards.items()
    ]
    return Arm(name, tuple(groups))


BEFORE = arm("before", {"c": [0.0, 0.0], "a": [1.0, 0.0], "b": [1.0, 1.0]})
AFTER = arm("after", {"b": [1.0, None], "c": [1.0, 1.0], "a": [0.0, 1.0]})


def test_arms_have_means_passes_and_paired_difference():
    before, after = compare([BEFORE, AFTER]).results
    assert before.mean.estimate == pytest.approx(0.5) and after.mean.estimate == pytest.approx(2 / 3)
    assert before.passes == {1: pytest.approx(0.5), 2: pytest.approx(2 / 3)}
    assert after.passes == {1: pytest.approx(2 / 3), 2: 1.0}
    assert before.against is None
    assert after.against.mean.estimate == pytest.approx(1 / 6) and after.against.baseline == "before"
    assert (after.against.better, after.against.worse) == (("c",), ("b",))


def test_failed_or_invalid_rollouts_count_as_zero():
    group = Group(
        Example("a", ()),
        "solver",
        (
            run("a", 0, 1.0),
            run("a", 1, None),
            run("a", 2, 1.0, stop="failed"),
            run("a", 3, 1.0, score=Score(1.0, valid=False)),
            run("a", 4, 1.0, score=None),
        ),
    )
    evaluation = compare([Arm("only", (group,))])
    assert evaluation.rows[0].rewards == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert (evaluation.results[0].failed, evaluation.results[0].rollouts) == (4, 5)
    assert evaluation.table()[0]["failed"] == "4/5"


def test_usage_includes_delegated_rollouts():
    call = ToolCall("1", "search", "{}")
    child = run("a", 0, 1.0, steps=(Step((), REPLY, Usage(100, 0, 50)), Step((), REPLY, None)))
    steps = (Step((), Message("assistant", "", (call, call)), Usage(10, 4, 2), subrollouts=(child,)),)
    group = Group(Example("a", ()), "solver", (run("a", 0, 1.0, steps=steps), run("a", 1, 1.0)))
    result = compare([Arm("only", (group,))]).results[0]
    assert (result.usage, result.unreported) == (Usage(120, 8, 54), 1)
    assert result.tool_calls == 1.0


def test_rows_are_sorted_whatever_the_order_of_groups():
    reversed_arm = Arm("after", AFTER.groups[::-1])
    evaluation = compare([BEFORE, AFTER])
    assert evaluation == compare([BEFORE, reversed_arm])
    assert [(row.example, row.arm) for row in evaluation.rows][:3] == [("a", "before"), ("a", "after"), ("b", "before")]


def test_ks_and_threshold_are_parameters():
    graded = arm("graded", {"a": [0.5, 0.4, 0.9]})
    assert compare([graded], ks=(2,), threshold=0.5).results[0].passes == {2: 1.0}
    with pytest.raises(ValueError, match="pass@4 needs at least 4 samples"):
        compare([graded], ks=(4,))


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ([], "at least one arm"),
        ([BEFORE, BEFORE], "a name of its own"),
        ([arm("empty", {})], "no examples"),
        ([arm("hollow", {"a": []})], "no samples for example 'a'"),
        ([Arm("twice", BEFORE.groups * 2)], "two groups for one example"),
        ([BEFORE, arm("less", {"a": [1.0, 1.0], "b": [1.0, 1.0]})], "2 and 0 samples of example 'c'"),
        ([arm("x", {"a": [1.0]}), arm("y", {"a": [1.0, 0.0]})], "1 and 2 samples of example 'a'"),
    ],
)
def test_incomparable_arms_raise(arms, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(arms)


def test_str_of_an_evaluation_is_its_table():
    evaluation = compare([BEFORE, AFTER])
    assert str(evaluation) == "\n".join(evaluation.lines())


def test_evaluation_as_json_and_as_table():
    one = compare([arm("before", {"a": [0.0]}), arm("after", {"a": [1.0]})])
    plain = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert plain["results"][1]["against"]["mean"] == {"estimate": 1.0, "low": None, "high": None, "p": 1.0}
    assert plain["results"][0]["passes"] == {"1": 0.0}
    table = compare([BEFORE, AFTER]).table()
    assert [line["arm"] for line in table] == ["before", "after"]
    assert table[0].keys() == table[1].keys() >= {"mean@2", "pass@1", "pass@2", "p"}
    assert (table[0]["difference"], table[1]["difference"]) == ("", "+0.167")


def test_lines_are_aligned_in_columns():
    lines = compare([BEFORE, arm("a longer name", {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 0.0]})]).lines()
    starts = {line.index(word) for line, word in zip(lines, ("mean@2", "0.500", "0.500"), strict=True)}
    assert len(starts) == 1
