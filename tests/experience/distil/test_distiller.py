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


def make_rollout(answer: str, value: float, feedback: str = "") -> Rollout:
    step = Step(EXAMPLE.messages, Message("assistant", answer))
    return Rollout("e1", "solver", 0, (step,), "stop", Score(value, feedback=feedback))


def make_group(*runs: Rollout) -> Group:
    return Group(EXAMPLE, "solver", runs)


MIXED = make_group(make_rollout("4", 1.0), make_rollout("5", 0.0, "off by one"))


def recording_model(answers):
    """A model that says these things in turn, and what it was asked."""
    requests, remaining = [], iter(answers if isinstance(answers, list) else [])

    def answer(request):
        requests.append(request)
        return next(remaining) if isinstance(answers, list) else answers

    return answer, requests


def prompt_text(request) -> str:
    return "\n".join(message.content for message in request.messages)


def test_comparison_prompt_holds_grades_truth_and_lessons():
    model, requests = recording_model(ADD)
    (op,) = play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), model).proposals
    assert (op.action, op.text, op.sources) == ("add", "Add well", ("e1",))
    for part in ("What is 2 + 2?", "reward 1", "reward 0", "off by one", "SECRET-FOUR", "[G0]. (content) Check"):
        assert part in prompt_text(requests[0])


def test_without_truth_prompts_hold_no_answers_and_no_rewards():
    model, requests = recording_model(ADD)
    distiller = Distiller("m", truth=False, summaries="always")
    play(distil.distil_group(distiller, MIXED, Library()), model)
    assert len(requests) == 3
    for request in requests:
        assert "SECRET-FOUR" not in prompt_text(request)
        assert "reward" not in prompt_text(request).split("# Task")[1]
        assert "off by one" not in prompt_text(request)


def test_summaries_always_or_for_long_rollouts_alone():
    model, requests = recording_model(["s1", "s2", ADD])
    comparison = play(distil.distil_group(Distiller("m", summaries="always"), MIXED, LIBRARY), model)
    assert comparison.summaries == ("s1", "s2")
    assert len(requests) == 3
    assert "s1" in prompt_text(requests[2])
    model, requests = recording_model(ADD)
    play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), model)
    assert len(requests) == 1
    model, requests = recording_model(["s1", ADD])
    play(
        distil.distil_group(
            Distiller("m"), make_group(make_rollout("word " * 90, 1.0), make_rollout("5", 0.0)), LIBRARY
        ),
        model,
    )
    assert len(requests) == 2


def test_proposals_over_the_limit_are_set_apart():
    many = json.dumps([{"action": "add", "text": f"rule {n}"} for n in range(5)])
    comparison = play(distil.distil_group(Distiller("m", operations=1), MIXED, LIBRARY), lambda r: many)
    assert (len(comparison.proposals), len(comparison.over_limit)) == (1, 4)


def test_failed_rollout_is_not_compared():
    broken = Rollout("e1", "solver", 2, (), "failed", Score(0.0, valid=False), error="boom")
    model, requests = recording_model(ADD)
    play(distil.distil_group(Distiller("m"), make_group(*MIXED.rollouts, broken), LIBRARY), model)
    assert prompt_text(requests[0]).count("## Attempt") == 2


def test_unreadable_reply_is_retried_with_the_problem():
    model, requests = recording_model(["no json", '[{"action": "fly"}]', ADD])
    assert play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), model).proposals[0].text == "Add well"
    assert [request.sample for request in requests] == [0, 1, 2]
    assert "no JSON array" in prompt_text(requests[1])
    assert "action" in requests[2].messages[-1].content


def test_unreadable_reply_is_raised_after_all_tries():
    with pytest.raises(UnreadableReply, match="3 tries"):
        play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), lambda request: "nothing")


def test_refused_call_is_raised_with_its_reason():
    refused = Reply(Message("assistant", ""), "refused", error="too long for the model")
    with pytest.raises(UnreadableReply, match="too long"):
        play(distil.distil_group(Distiller("m"), MIXED, LIBRARY), lambda request: refused)


def test_update_without_proposals_makes_no_call():
    def never(request):
        raise AssertionError("a call was made")

    assert play(distil.update_library(Distiller("m"), LIBRARY, ()), never) == ()


def test_update_sees_lessons_and_proposals_and_keeps_sources():
    proposals = [
        Operation(action="modify", id="G0", text="Check it twice", sources=("e1",)),
        Operation(action="add", text="Add well", sources=("e2",)),
    ]
    final = [
        {"action": "modify", "id": "G0", "text": "Check twice"},
        {"action": "add", "text": "Add well"},
        {"action": "add", "text": "something fused"},
    ]
    model, requests = recording_model(json.dumps(final))
    changed = play(distil.update_library(Distiller("m"), LIBRARY, proposals), model)
    assert [op.sources for op in changed] == [("e1",), ("e2",), ("e1", "e2")]
    assert "modify G0" in prompt_text(requests[0])
    assert "Check the sum" in prompt_text(requests[0])


def test_trajectory_renders_turns_tool_calls_and_results():
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


def test_distil_tasks_makes_one_call_without_answers():
    model, requests = recording_model(ADD)
    play(distil.distil_tasks(Distiller("m"), [EXAMPLE, EXAMPLE], Library()), model)
    assert len(requests) == 1
    assert "SECRET-FOUR" not in prompt_text(requests[0])
