"""The turn loop: tools called natively or in words, whatever a model gets wrong, and how a rollout ends."""

import asyncio
import json

import pytest

from edgewise.toolkit.model.router import Router
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.rollout.agent import Agent, run_graded_rollout, run_group, run_rollout
from edgewise.toolkit.rollout.tool_calls import Delegation, number_calls
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.tools.tool import make_tool
from edgewise.toolkit.tracking.events import RolloutFinished, StageStarted
from edgewise.toolkit.types import (
    Example,
    Message,
    Reply,
    Rollout,
    Sampling,
    Step,
    Tool,
    ToolCall,
    Usage,
)
from tests.support.plans import play
from tests.support.server import Fault, Server

EXAMPLE = Example("r1", (Message("user", "What is 6 * 7?"),), target="42")


def multiply(a: int, b: int) -> int:
    """The product of two numbers."""
    return a * b


def boom(text: str = "") -> str:
    """Always breaks."""
    raise RuntimeError("no such planet")


TOOLS = (make_tool(multiply), make_tool(boom))


def agent(**changes) -> Agent:
    return Agent("scripted/x", Sampling(0.5), TOOLS, **changes)


def call(name: str, arguments, id: str = "c1") -> ToolCall:
    return ToolCall(id, name, arguments if isinstance(arguments, str) else json.dumps(arguments))


def calling(*calls: ToolCall) -> Reply:
    return Reply(Message("assistant", "", calls), "tools", Usage(10, 0, 5), 0.5)


def in_words(name: str, arguments) -> str:
    return f"Let me see.\n<tool>{json.dumps({'name': name, 'arguments': arguments})}</tool>"


class Script:
    """A model that says these things in turn and remembers what it was asked."""

    def __init__(self, *said):
        self.said, self.asked = iter(said), []

    def __call__(self, request):
        self.asked.append(request)
        return next(self.said)


def run(model, **changes):
    messages = EXAMPLE.messages
    return play(run_rollout(agent(**changes), EXAMPLE, messages, sample=2, seed=5), model)


def heard(model: Script) -> str:
    """What the model was told last."""
    return model.asked[-1].messages[-1].content


def test_native_tools_over_several_turns():
    model = Script(
        calling(call("multiply", {"a": 6, "b": 7})), calling(call("multiply", {"a": 2, "b": 21})), "42"
    )
    done = run(model)
    assert (done.answer, done.stop, done.tool_call_count, len(done.steps)) == ("42", "stop", 2, 3)
    assert model.asked[1].messages[-1] == Message("tool", "42", tool_call_id="c1")
    assert [m.role for m in model.asked[2].messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert {request.sampling.seed for request in model.asked} == {5}
    assert [tool.name for tool in model.asked[0].tools] == ["multiply", "boom"]
    assert done.usage == Usage(20, 0, 10)
    assert done.steps[1] == Step(
        model.asked[1].messages, calling(call("multiply", {"a": 2, "b": 21})).message, Usage(10, 0, 5), 0.5
    )


def test_tools_in_words_over_several_turns():
    model = Script(in_words("multiply", {"a": 6, "b": 7}), "It is 42")
    done = run(model, calling="text")
    assert (done.answer, done.tool_call_count) == ("It is 42", 1)
    assert not model.asked[0].tools
    instructions = model.asked[0].messages[0]
    assert instructions.role == "system"
    assert "multiply: The product of two numbers." in instructions.content
    assert heard(model) == "<result>\n42\n</result>"


def test_tools_in_words_join_a_system_message_that_is_there():
    model = Script("42")
    messages = (Message("system", "Be brief."), *EXAMPLE.messages)
    play(run_rollout(agent(calling="text"), EXAMPLE, messages, sample=0, seed=0), model)
    first, *rest = model.asked[0].messages
    assert first.content.startswith("Be brief.\n\nYou can use tools.")
    assert tuple(rest) == EXAMPLE.messages


def test_arguments_in_words_may_be_text_that_holds_json():
    model = Script(in_words("multiply", '{"a": 6, "b": 7}'), "42")
    run(model, calling="text")
    assert heard(model) == "<result>\n42\n</result>"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (call("divide", {"a": 1}), r"error: there is no tool 'divide'; there is multiply, boom"),
        (call("multiply", "six times seven"), "error: the arguments are not JSON"),
        (call("multiply", "[6, 7]"), "error: the arguments must be a JSON object"),
        (call("multiply", {"a": "many", "b": 7}), "error: wrong arguments"),
        (call("multiply", {"a": 6, "c": 7}), "error: wrong arguments"),
        (call("boom", {}), "error: RuntimeError: no such planet"),
        (call("boom", ""), "error: RuntimeError: no such planet"),
    ],
)
def test_whatever_is_wrong_with_a_call_is_told_to_the_model_which_goes_on(wrong, told):
    model = Script(calling(wrong), "sorry, 42")
    assert run(model).answer == "sorry, 42"
    assert heard(model).startswith(told)


@pytest.mark.parametrize("block", ['{"name": multiply}', '{"tool": "multiply"}', '{"name": "x", }'])
def test_an_unreadable_block_is_answered_with_the_form_that_is_expected(block):
    model = Script(f"<tool>{block}</tool>", "42")
    done = run(model, calling="text")
    assert done.answer == "42"
    assert '{"name": "NAME", "arguments": {...}}' in heard(model)


def test_parallel_calls_are_answered_in_the_order_of_the_calls():
    async def slow(number: int) -> str:
        """Later numbers are faster."""
        await asyncio.sleep(0.03 / (1 + number))
        return str(number)

    asked = []

    class Model:
        async def ask(self, request):
            asked.append(request)
            return (
                calling(*(call("slow", {"number": n}, f"c{n}") for n in range(4)))
                if len(asked) == 1
                else Reply(Message("assistant", "done"))
            )

    plan = run_rollout(Agent("scripted/x", tools=(make_tool(slow),)), EXAMPLE, EXAMPLE.messages, sample=0, seed=0)
    assert asyncio.run(drive(plan, Model())).answer == "done"
    assert [(m.tool_call_id, m.content) for m in asked[1].messages[2:]] == [
        (f"c{n}", str(n)) for n in range(4)
    ]


@pytest.mark.parametrize("how", ["native", "text"])
def test_a_model_that_never_stops_calling_runs_out_of_turns(how):
    endless = calling(call("multiply", {"a": 1, "b": 1})) if how == "native" else in_words("multiply", {})
    model = Script(*[endless] * 9)
    done = run(model, calling=how, turns=3)
    assert (done.stop, len(done.steps), len(model.asked)) == ("turns", 3, 3)
    assert not done.failed


@pytest.mark.parametrize("stop", ["failed", "refused", "timeout"])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_failed_reply_ends_the_rollout_and_its_score_is_invalid(stop, turn):
    broken = Reply(Message("assistant", ""), stop, error="content policy")
    said = [calling(call("multiply", {"a": 6, "b": 7}))] * turn
    notes = []
    plan = run_graded_rollout(agent(), EXAMPLE, EXAMPLE.messages, resolve_reward("exact"), judge="", sample=0, seed=0)
    done = play(plan, Script(*said, broken), notes)
    assert (done.stop, done.error, len(done.steps)) == (stop, "content policy", turn)
    assert done.score is not None and not done.score.valid
    assert "content policy" in done.score.feedback
    assert notes == [RolloutFinished(done)]


def test_members_of_a_group_have_seeds_of_their_own_that_never_change():
    seeds = []

    def model(request):
        seeds.append(request.sampling.seed)
        return "42" if request.sample else "41"

    def members(seed):
        plan = run_group(
            agent(), EXAMPLE, EXAMPLE.messages, resolve_reward("exact"), judge="", size=3, seed=seed, version="v1"
        )
        return play(plan, model)

    found, again, other = members(1), members(1), members(2)
    assert found == again
    assert found.rewards == (0.0, 1.0, 1.0)
    assert [run.sample for run in found.rollouts] == [0, 1, 2]
    assert {run.version for run in found.rollouts} == {"v1"}
    assert len(set(seeds[:3])) == 3
    assert not set(seeds[:3]) & {run.seed for run in other.rollouts}


def no_tools(body) -> Fault | None:
    if "tools" in body:
        return Fault(400, "this model does not support tools")
    return None


def no_tool_messages(body) -> Fault | None:
    if any(message["role"] == "tool" for message in body["messages"]):
        return Fault(400, "the chat template has no role: tool")
    return None


def served(body):
    """Calls the tool once, in the way it is offered, then answers with what it was told."""
    last = body["messages"][-1]["content"]
    if "<result>" in last:
        return f"It is {last.split()[1]}"
    if "tools" not in body:
        return in_words("multiply", {"a": 6, "b": 7})
    function = {"name": "multiply", "arguments": '{"a": 6, "b": 7}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


def ask_server(faults, how):
    async def whole(url):
        router = Router()
        try:
            solver = Agent(f"{url}#toy", tools=TOOLS, calling=how)
            return await drive(run_rollout(solver, EXAMPLE, EXAMPLE.messages, sample=0, seed=0), router)
        finally:
            await router.aclose()

    with Server(served, faults=faults) as server:
        return asyncio.run(whole(server.url)), server


@pytest.mark.parametrize("faults", [no_tools, no_tool_messages])
def test_auto_falls_back_to_words_where_a_server_refuses_tools(faults):
    done, server = ask_server(faults, "auto")
    assert (done.answer, done.stop, done.tool_call_count, len(done.steps)) == ("It is 42", "stop", 1, 2)
    assert "tools" in server.bodies[0]
    assert "tools" not in server.bodies[-1]


def test_native_does_not_fall_back():
    done, _ = ask_server(no_tools, "native")
    assert done.stop == "refused"
    assert "does not support tools" in done.error


def test_the_python_tool_really_runs():
    (python,) = load_tools(["python"])
    name = python.tool.name
    (argument,) = python.tool.parameters["required"]
    model = Script(calling(call(name, {argument: "print(6 * 7)"})), "42")
    solver = Agent("scripted/x", tools=(python,))
    assert play(run_rollout(solver, EXAMPLE, EXAMPLE.messages, sample=0, seed=0), model).answer == "42"
    assert heard(model).strip() == "42"


def ask_another(number, arguments):
    """A run of another agent, which fails where it is asked for nothing; the third call is refused."""
    if number == 2:
        return "error: no more"
    yield StageStarted(str(number))
    said = Step((), Message("assistant", f"{number}: {arguments.get('what')}"))
    steps, stop = ((said,), "stop") if arguments else ((), "failed")
    return Rollout("r1", "other", 0, steps, stop, error="" if arguments else "down")


@pytest.mark.parametrize("calling_", ["native", "text"])
def test_a_delegation_is_a_run_of_another_agent_kept_in_the_step(calling_):
    other = Delegation(Tool("other", "Ask another agent.", {"type": "object"}), ask_another)
    asked = [("other", {"what": "a"}), ("multiply", {"a": 2, "b": 3}), ("other", {})]
    if calling_ == "native":
        turns = [
            calling(*(call(*each, id=f"c{n}") for n, each in enumerate(asked))),
            calling(call("other", {})),
        ]
    else:
        turns = ["\n".join(in_words(*each) for each in asked), in_words("other", {})]
    model = Script(*turns, "done")
    plan = run_rollout(
        Agent("m", tools=(*TOOLS, other), calling=calling_), EXAMPLE, EXAMPLE.messages, sample=0, seed=1
    )
    done = play(plan, model)
    assert [[run.answer for run in step.subrollouts] for step in done.steps] == [["0: a", ""], [], []]
    assert [run.stop for run in done.steps[0].subrollouts] == ["stop", "failed"]
    told = [
        message.content
        for message in model.asked[-1].messages
        if message.role == "tool" or "<result>" in message.content
    ]
    said = ["0: a", "6", "error: the agent failed (failed): down", "error: no more"]
    assert all(text in heard for text, heard in zip(said, told[-4:], strict=True))
    assert [[number for _, number in calls] for calls in number_calls(done.steps)] == [[0, 0, 1], [2], []]
