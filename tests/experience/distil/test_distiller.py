import json

import pytest

from edgewise.experience.distil import distiller as distil
from edgewise.experience.distil.distiller import Distiller, UnreadableReply
from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.library.operations import Operation
from edgewise.toolkit.types import Example, Group, Message, Reply, Rollout, Score, Step, ToolCall
from tests.support.plans import play

EXAMPLE = Example("e1", (Message("user", "What is 2 + 2?"),), target="SECRET-FOUR")
ADD = json.dumps({"operations": [{"action": "add", "id": None, "kind": "content", "text": "Add well"}]})
LIBRARY = Library((make_lesson("Check the sum"),))


def run(answer: str, value: float, feedback: str = "") -> Rollout:
    step = Step(EXAMPLE.messages, Message("assistant", answer))
    return Rollout("e1", "solver", 0, (step,), "stop", Score(value, feedback=feedback))


def group(*runs: Rollout) -> Group:
    return Group(EXAMPLE, "solver", runs)


MIXED = group(run("4", 1.0), run("5", 0.0, "off by one"))


def recording(answers):
    """A model that says these things in turn, and what it was asked."""
    asked, left = [], iter(answers if isinstance(answers, list) else [])

    def answer(request):
        asked.append(request)
        return next(left) if isinstance(answers, list) else answers

    return answer, asked


def shown(request) -> str:
    return "\n".join(message.content for message in request.messages)


def test_the_comparison_sees_rewards_feedback_truth_and_the_library():
    model, asked = recording(ADD)
    (op,) = play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), model).proposals
    assert (op.action, op.text, op.sources) == ("add", "Add well", ("e1",))
    for part in (
        "What is 2 + 2?",
        "reward 1",
        "reward 0",
        "off by one",
        "SECRET-FOUR",
        "[G0]. (content) Check",
    ):
        assert part in shown(asked[0])


def test_without_truth_answers_and_rewards_are_redacted_everywhere():
    model, asked = recording(ADD)
    distiller = Distiller("m", truth=False, summaries="always")
    play(distil.distil_group(distiller, MIXED, Library()), model)
    assert len(asked) == 3
    for request in asked:
        assert "SECRET-FOUR" not in shown(request)
        assert "reward" not in shown(request).split("# Task")[1]
        assert "off by one" not in shown(request)


def test_every_run_is_summarised_when_asked_to_and_short_ones_are_not_by_default():
    model, asked = recording(["s1", "s2", ADD])
    made = play(distil.distil_group(Distiller("m", summaries="always"), MIXED, LIBRARY), model)
    assert made.summaries == ("s1", "s2")
    assert len(asked) == 3
    assert "s1" in shown(asked[2])
    model, asked = recording(ADD)
    play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), model)
    assert len(asked) == 1
    model, asked = recording(["s1", ADD])
    play(distil.distil_group(Distiller("m"), group(run("word " * 90, 1.0), run("5", 0.0)), LIBRARY), model)
    assert len(asked) == 2


def test_a_group_proposes_no_more_than_allowed():
    many = json.dumps([{"action": "add", "text": f"rule {n}"} for n in range(5)])
    made = play(distil.distil_group(Distiller("m", operations=1), MIXED, LIBRARY), lambda r: many)
    assert (len(made.proposals), len(made.over_limit)) == (1, 4)


def test_a_broken_run_is_left_out_of_the_comparison():
    broken = Rollout("e1", "solver", 2, (), "failed", Score(0.0, valid=False), error="boom")
    model, asked = recording(ADD)
    play(distil.distil_group(Distiller("m"), group(*MIXED.rollouts, broken), LIBRARY), model)
    assert shown(asked[0]).count("## Attempt") == 2


def test_an_unreadable_reply_is_answered_with_what_is_wrong_and_drawn_anew():
    model, asked = recording(["no json", '[{"action": "fly"}]', ADD])
    assert play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), model).proposals[0].text == "Add well"
    assert [request.sample for request in asked] == [0, 1, 2]
    assert "no JSON array" in shown(asked[1])
    assert "action" in asked[2].messages[-1].content


def test_after_all_tries_it_is_unreadable():
    with pytest.raises(UnreadableReply, match="3 tries"):
        play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), lambda request: "nothing")


def test_a_refused_call_says_why():
    refused = Reply(Message("assistant", ""), "refused", error="too long for the model")
    with pytest.raises(UnreadableReply, match="too long"):
        play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), lambda request: refused)


def test_no_proposals_no_call():
    def never(request):
        raise AssertionError("a call was made")

    assert play(distil.update_library(Distiller("m"), LIBRARY, ()), never) == ()


def test_the_update_sees_library_and_proposals_and_carries_sources():
    proposals = [
        Operation(action="modify", id="G0", text="Check it twice", sources=("e1",)),
        Operation(action="add", text="Add well", sources=("e2",)),
    ]
    final = [
        {"action": "modify", "id": "G0", "text": "Check twice"},
        {"action": "add", "text": "Add well"},
        {"action": "add", "text": "something fused"},
    ]
    model, asked = recording(json.dumps(final))
    changed = play(distil.update_library(Distiller("m"), LIBRARY, proposals), model)
    assert [op.sources for op in changed] == [("e1",), ("e2",), ("e1", "e2")]
    assert "modify G0" in shown(asked[0])
    assert "Check the sum" in shown(asked[0])


def test_a_trajectory_shows_turns_tool_calls_and_results():
    first = Message("assistant", "let me see", (ToolCall("c1", "python", '{"code": "2+2"}'),))
    seen = (*EXAMPLE.messages, first, Message("tool", "4", tool_call_id="c1"))
    steps = (Step(EXAMPLE.messages, first), Step(seen, Message("assistant", "It is 4")))
    text = distil.render_trajectory(Rollout("e1", "solver", 0, steps, "stop"))
    assert text.splitlines() == [
        "[assistant] let me see",
        '[tool call] python({"code": "2+2"})',
        "[tool result] 4",
        "[assistant] It is 4",
    ]


def test_direct_asks_once_for_all_rows_and_shows_no_answers():
    model, asked = recording(ADD)
    play(distil.distil_tasks(Distiller("m"), [EXAMPLE, EXAMPLE], Library()), model)
    assert len(asked) == 1
    assert "SECRET-FOUR" not in shown(asked[0])
