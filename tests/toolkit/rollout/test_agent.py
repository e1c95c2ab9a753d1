"""The turn loop: native and text tool calls, errors of models, and how a rollout ends."""

import asyncio
import json

import pytest

from edgewise.toolkit.model.router import Router
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.rollout.agent import Agent, run_group, run_rollout
from edgewise.toolkit.rollout.tool_calls import Delegation, number_calls
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.tools.tool import make_tool
from edgewise.toolkit.tracking.events import RolloutFinished, StageStarted
from edgewise.toolkit.types import Example, Message, Reply, Rollout, Sampling, Step, Tool, ToolCall, Usage
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


def text_call(name: str, arguments) -> str:
    return f"Let me see.\n<tool>{json.dumps({'name': name, 'arguments': arguments})}</tool>"


class Script:
    """Model that returns these completions in turn and records its requests."""

    def __init__(self, *completions):
        self.completions, self.requests = iter(completions), []

    def __call__(self, request):
        self.requests.append(request)
        return next(self.completions)


def run(model, **changes):
    messages = EXAMPLE.messages
    return play(run_rollout(agent(**changes), EXAMPLE, messages, sample=2, seed=5), model)


def last_message(model: Script) -> str:
    """Return the last message that the model received."""
    return model.requests[-1].messages[-1].content


def test_native_tools_over_several_turns():
    model = Script(calling(call("multiply", {"a": 6, "b": 7})), calling(call("multiply", {"a": 2, "b": 21})), "42")
    rollout = run(model)
    assert (rollout.answer, rollout.stop, rollout.tool_call_count, len(rollout.steps)) == ("42", "stop", 2, 3)
    assert model.requests[1].messages[-1] == Message("tool", "42", tool_call_id="c1")
    assert [m.role for m in model.requests[2].messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert {request.sampling.seed for request in model.requests} == {5}
    assert [tool.name for tool in model.requests[0].tools] == ["multiply", "boom"]
    assert rollout.usage == Usage(20, 0, 10)
    assert rollout.steps[1] == Step(
        model.requests[1].messages, calling(call("multiply", {"a": 2, "b": 21})).message, Usage(10, 0, 5), 0.5
    )


def test_text_calls_over_several_turns():
    model = Script(text_call("multiply", {"a": 6, "b": 7}), "It is 42")
    rollout = run(model, calling="text")
    assert (rollout.answer, rollout.tool_call_count) == ("It is 42", 1)
    assert not model.requests[0].tools
    instructions = model.requests[0].messages[0]
    assert instructions.role == "system"
    assert "multiply: The product of two numbers." in instructions.content
    assert last_message(model) == "<result>\n42\n</result>"


def test_call_instructions_join_the_system_message():
    model = Script("42")
    messages = (Message("system", "Be brief."), *EXAMPLE.messages)
    play(run_rollout(agent(calling="text"), EXAMPLE, messages, sample=0, seed=0), model)
    first, *rest = model.requests[0].messages
    assert first.content.startswith("Be brief.\n\nYou can use tools.")
    assert tuple(rest) == EXAMPLE.messages


def test_text_call_arguments_may_be_a_json_string():
    model = Script(text_call("multiply", '{"a": 6, "b": 7}'), "42")
    run(model, calling="text")
    assert last_message(model) == "<result>\n42\n</result>"


@pytest.mark.parametrize(
    ("wrong", "error"),
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
def test_errors_of_a_tool_call_are_returned_to_the_model(wrong, error):
    model = Script(calling(wrong), "sorry, 42")
    assert run(model).answer == "sorry, 42"
    assert last_message(model).startswith(error)


@pytest.mark.parametrize("block", ['{"name": multiply}', '{"tool": "multiply"}', '{"name": "x", }'])
def test_an_unparsable_call_is_answered_with_the_expected_format(block):
    model = Script(f"<tool>{block}</tool>", "42")
    rollout = run(model, calling="text")
    assert rollout.answer == "42"
    assert '{"name": "NAME", "arguments": {...}}' in last_message(model)


def test_parallel_calls_are_answered_in_the_order_of_the_calls():
    async def slow(number: int) -> str:
        """Later numbers are faster."""
        await asyncio.sleep(0.03 / (1 + number))
        return str(number)

    requests = []

    class Model:
        async def ask(self, request):
            requests.append(request)
            return (
                calling(*(call("slow", {"number": n}, f"c{n}") for n in range(4)))
                if len(requests) == 1
                else Reply(Message("assistant", "done"))
            )

    plan = run_rollout(Agent("scripted/x", tools=(make_tool(slow),)), EXAMPLE, EXAMPLE.messages, sample=0, seed=0)
    assert asyncio.run(drive(plan, Model())).answer == "done"
    assert [(m.tool_call_id, m.content) for m in requests[1].messages[2:]] == [(f"c{n}", str(n)) for n in range(4)]


@pytest.mark.parametrize("how", ["native", "text"])
def test_a_model_that_never_stops_calling_runs_out_of_turns(how):
    endless = calling(call("multiply", {"a": 1, "b": 1})) if how == "native" else text_call("multiply", {})
    model = Script(*[endless] * 9)
    rollout = run(model, calling=how, turns=3)
    assert (rollout.stop, len(rollout.steps), len(model.requests)) == ("turns", 3, 3)
    assert not rollout.failed


@pytest.mark.parametrize("stop", ["failed", "refused", "timeout"])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_failed_reply_ends_the_rollout_with_an_invalid_score(stop, turn):
    broken = Reply(Message("assistant", ""), stop, error="content policy")
    completions = [calling(call("multiply", {"a": 6, "b": 7}))] * turn
    notes = []
    plan = run_group(agent(), EXAMPLE, EXAMPLE.messages, resolve_reward("exact"), judge="", size=1, seed=0)
    (rollout,) = play(plan, Script(*completions, broken), notes).rollouts
    assert (rollout.stop, rollout.error, len(rollout.steps)) == (stop, "content policy", turn)
    assert rollout.score is not None and not rollout.score.valid
    assert "content policy" in rollout.score.feedback
    assert notes == [RolloutFinished(rollout)]


def test_rollouts_of_a_group_have_distinct_reproducible_seeds():
    seeds = []

    def model(request):
        seeds.append(request.sampling.seed)
        return "42" if request.sample else "41"

    def run(seed):
        plan = run_group(
            agent(), EXAMPLE, EXAMPLE.messages, resolve_reward("exact"), judge="", size=3, seed=seed, version="v1"
        )
        return play(plan, model)

    group, again, other = run(1), run(1), run(2)
    assert group == again
    assert group.rewards == (0.0, 1.0, 1.0)
    assert [run.sample for run in group.rollouts] == [0, 1, 2]
    assert {run.version for run in group.rollouts} == {"v1"}
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
    """Calls the tool once, in the way it is offered, then answers with the result."""
    last = body["messages"][-1]["content"]
    if "<result>" in last:
        return f"It is {last.split()[1]}"
    if "tools" not in body:
        return text_call("multiply", {"a": 6, "b": 7})
    function = {"name": "multiply", "arguments": '{"a": 6, "b": 7}'}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


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
def test_auto_falls_back_to_text_if_a_server_refuses_tools(faults):
    rollout, server = ask_server(faults, "auto")
    assert (rollout.answer, rollout.stop, rollout.tool_call_count, len(rollout.steps)) == ("It is 42", "stop", 1, 2)
    assert "tools" in server.bodies[0]
    assert "tools" not in server.bodies[-1]


def test_native_calls_do_not_fall_back_to_text():
    rollout, _ = ask_server(no_tools, "native")
    assert rollout.stop == "refused"
    assert "does not support tools" in rollout.error


def test_the_python_tool_runs():
    (python,) = load_tools(["python"])
    name = python.tool.name
    (argument,) = python.tool.parameters["required"]
    model = Script(calling(call(name, {argument: "print(6 * 7)"})), "42")
    solver = Agent("scripted/x", tools=(python,))
    assert play(run_rollout(solver, EXAMPLE, EXAMPLE.messages, sample=0, seed=0), model).answer == "42"
    assert last_message(model).strip() == "42"


def ask_another(number, arguments):
    """Rollout of another agent, which fails without arguments; the third call is refused."""
    if number == 2:
        return "error: no more"
    yield StageStarted(str(number))
    step = Step((), Message("assistant", f"{number}: {arguments.get('what')}"))
    steps, stop = ((step,), "stop") if arguments else ((), "failed")
    return Rollout("r1", "other", 0, steps, stop, error="" if arguments else "down")


@pytest.mark.parametrize("call_format", ["native", "text"])
def test_a_delegation_stores_the_subrollout_in_its_step(call_format):
    other = Delegation(Tool("other", "Ask another agent.", {"type": "object"}), ask_another)
    calls = [("other", {"what": "a"}), ("multiply", {"a": 2, "b": 3}), ("other", {})]
    if call_format == "native":
        turns = [
            calling(*(call(*arguments, id=f"c{n}") for n, arguments in enumerate(calls))),
            calling(call("other", {})),
        ]
    else:
        turns = ["\n".join(text_call(*arguments) for arguments in calls), text_call("other", {})]
    model = Script(*turns, "rollout")
    plan = run_rollout(
        Agent("m", tools=(*TOOLS, other), calling=call_format), EXAMPLE, EXAMPLE.messages, sample=0, seed=1
    )
    rollout = play(plan, model)
    assert [[run.answer for run in step.subrollouts] for step in rollout.steps] == [["0: a", ""], [], []]
    assert [run.stop for run in rollout.steps[0].subrollouts] == ["stop", "failed"]
    results = [
        message.content
        for message in model.requests[-1].messages
        if message.role == "tool" or "<result>" in message.content
    ]
    expected = ["0: a", "6", "error: the agent failed (failed): down", "error: no more"]
    assert all(text in result for text, result in zip(expected, results[-4:], strict=True))
    assert [[number for _, number in calls] for calls in number_calls(rollout.steps)] == [[0, 0, 1], [2], []]
