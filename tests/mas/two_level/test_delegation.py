"""A planner and its sub-agents: what each is shown, what comes back, and what happens when a call is no good."""

import asyncio
import json

import pytest

from edgewise.experience.library.library import Library, make_lesson
from edgewise.mas.two_level.delegation import (
    DelegateAgent,
    DelegationSpec,
    Subtask,
    read_subtasks,
    run_planner,
    sub_rollouts,
)
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.tools.tool import make_tool
from edgewise.toolkit.types import Example, Message, Reply, ToolCall, Usage
from tests.support.plans import play

EXAMPLE = Example("r1", (Message("system", "Be brief."), Message("user", "Add 2+3 and 4+5.")), target="14")
PLANNER, SUB = "You lead.", "You work."


def member(role: str, prompt: str, calling="native", library=None, **changes) -> DelegateAgent:
    agent = Agent("scripted/x", role=role, calling=calling, **changes)
    return DelegateAgent(agent, prompt, library or Library())


def calls(*tasks, calling="native"):
    """The planner's turn that hands over these tasks; a task may be a dict of arguments."""
    arguments = [task if isinstance(task, dict) else {"task": task} for task in tasks]
    if calling == "native":
        made = tuple(ToolCall(f"c{n}", "delegate", json.dumps(a)) for n, a in enumerate(arguments))
        return Reply(Message("assistant", "", made), "tools", Usage(5, 0, 2))
    blocks = [f"<tool>{json.dumps({'name': 'delegate', 'arguments': a})}</tool>" for a in arguments]
    return Reply(Message("assistant", "\n".join(blocks)), "stop", Usage(5, 0, 2))


class Pair:
    """Plays both: the planner says its turns in order, a sub-agent what `does` makes of its task."""

    def __init__(self, *turns, does=lambda task: str(sum(map(int, task.split("+"))))):
        self.turns, self.does = iter(turns), does
        self.planner, self.subs = [], []

    def __call__(self, request):
        if PLANNER in request.messages[0].content:
            self.planner.append(request)
            return next(self.turns)
        self.subs.append(request)
        return self.does(request.messages[-1].content)

    @property
    def told(self) -> list[str]:
        """What the planner was told last, call by call."""
        said = self.planner[-1].messages
        last = max(i for i, message in enumerate(said) if message.role == "assistant")
        return [message.content for message in said[last + 1 :]]


def run(model, terms=None, calling="native", sub=None, **planner):
    sub = sub or member("sub", SUB, calling)
    plan = run_planner(member("main", PLANNER, calling, **planner), sub, EXAMPLE, terms, sample=3, seed=11)
    return play(plan, model)


@pytest.mark.parametrize("calling", ["native", "text"])
def test_calls_of_several_turns_come_back_in_order(calling):
    model = Pair(calls("2+3", "4+5", calling=calling), calls("5+9", calling=calling), "14")
    done = run(model, calling=calling)
    assert (done.answer, done.stop, done.role, done.sample) == ("14", "stop", "main", 3)
    assert [[call.answer for call in step.subrollouts] for step in done.steps] == [["5", "9"], ["14"], []]
    assert read_subtasks(done, DelegationSpec()) == (Subtask("2+3"), Subtask("4+5"), Subtask("5+9"))
    assert [each.role for each in sub_rollouts(done)] == ["sub"] * 3
    assert len({each.id for each in sub_rollouts(done)}) == 3
    assert {each.sample for each in sub_rollouts(done)} == {3}
    texts = [message.content for message in model.planner[1].messages[-2:]]
    assert ["5" in texts[0], "9" in texts[1]] == [True, True]


def test_sub_agent_receives_only_its_task_and_own_prompt():
    def square(x: int) -> int:
        """The square."""
        return x * x

    sub = member("sub", SUB, library=Library((make_lesson("Check the sum."),)), tools=(make_tool(square),))
    model = Pair(calls("2+3"), "5", does=lambda task: "5")
    done = run(model, sub=sub, library=Library((make_lesson("Split it."),)))
    asked, below = model.planner[0], model.subs[0]
    assert [tool.name for tool in asked.tools] == ["delegate"]
    assert [tool.name for tool in below.tools] == ["square"]
    assert [message.role for message in below.messages] == ["system", "user"]
    assert below.messages[0].content == SUB
    assert "Check the sum." in below.messages[1].content
    assert "Split it." not in str(below.messages)
    assert "Add 2+3" not in str(below.messages)
    assert asked.messages[0].content == "Be brief.\n\nYou lead."
    assert "Split it." in asked.messages[1].content
    assert done.version == Library((make_lesson("Split it."),)).version
    assert sub_rollouts(done)[0].version == sub.library.version


def test_named_roles_have_their_instruction_and_must_be_named():
    terms = DelegationSpec({"adder": "You add.", "checker": "You check."})
    by_name = {"task": "2+3", "role": "checker"}
    model = Pair(calls(by_name, "4+5", {"task": "1+1", "role": "cook"}), "14")
    done = run(model, terms)
    assert [each.role for each in sub_rollouts(done)] == ["checker"]
    assert read_subtasks(done, terms) == (Subtask("2+3", "checker"),)
    assert model.subs[0].messages[0].content == "You work.\n\nYou check."
    assert model.told[0] == "5"
    assert "no role None; there is adder, checker" in model.told[1]
    assert "no role 'cook'" in model.told[2]
    assert terms.tool.parameters["required"] == ["task", "role"]


def test_calls_are_limited_within_and_over_turns():
    model = Pair(calls("1+1", "2+2"), calls("3+3", "4+4"), "done")
    done = run(model, DelegationSpec(max_calls=3))
    assert [order.task for order in read_subtasks(done, DelegationSpec(max_calls=3))] == ["1+1", "2+2", "3+3"]
    assert [each.answer for each in sub_rollouts(done)] == ["2", "4", "6"]
    assert model.told == ["6", "error: no more than 3 calls; answer with what you have"]


@pytest.mark.parametrize("arguments", [{}, {"task": ""}, {"task": 7}, {"to do": "2+3"}])
def test_a_call_that_breaks_the_terms_is_told_and_is_no_run(arguments):
    model = Pair(calls(arguments), calls("2+3"), "5")
    done = run(model)
    assert [each.answer for each in sub_rollouts(done)] == ["5"]
    assert read_subtasks(done, DelegationSpec()) == (Subtask("2+3"),)
    assert "wrong arguments" in model.planner[1].messages[-1].content


@pytest.mark.parametrize("written", ["[1]", "{", '"2+3"'])
def test_arguments_that_are_no_object_are_told(written):
    broken = Reply(Message("assistant", "", (ToolCall("c0", "delegate", written),)), "tools")
    model = Pair(broken, "5")
    done = run(model)
    assert sub_rollouts(done) == read_subtasks(done, DelegationSpec()) == ()
    assert model.told[0].startswith("error: the arguments")


def test_failed_sub_agent_is_recorded_and_reported():
    failing = Reply(Message("assistant", ""), "timeout", error="too slow")
    model = Pair(calls("2+3", "4+5"), "9", does=lambda task: failing if task == "2+3" else "9")
    done = run(model)
    assert [each.stop for each in sub_rollouts(done)] == ["timeout", "stop"]
    assert [order.task for order in read_subtasks(done, DelegationSpec())] == ["2+3", "4+5"]
    assert model.told == ["error: the agent failed (timeout): too slow", "9"]
    assert not done.failed


def test_a_sub_agent_without_an_answer_gives_none():
    def square(x: int) -> int:
        """The square."""
        return x * x

    again = Reply(Message("assistant", "Let me see", (ToolCall("s", "square", '{"x": 2}'),)), "tools")
    sub = member("sub", SUB, tools=(make_tool(square),), turns=2)
    model = Pair(calls("2+3"), "?", does=lambda task: again)
    assert sub_rollouts(run(model, sub=sub))[0].stop == "turns"
    assert model.told == ["error: the agent gave no answer (turns)"]
    silent = Pair(calls("2+3"), "?", does=lambda task: " ")
    run(silent)
    assert silent.told == ["error: the agent gave no answer (stop)"]


def test_without_sub_agents_it_is_one_agent():
    model = Pair("14")
    done = play(run_planner(member("main", PLANNER), None, EXAMPLE, sample=0, seed=1), model)
    assert (done.answer, model.planner[0].tools) == ("14", ())


def test_equal_subtasks_are_sampled_apart_by_seed():
    def asked():
        model = Pair(calls("2+3", "2+3"), "5")
        run(model)
        return model.subs

    first, second = asked()
    assert first.sampling.seed != second.sampling.seed
    assert asked() == [first, second]


def test_a_server_that_refuses_tools_is_told_in_words():
    refusal = Reply(Message("assistant", ""), "refused", error="tools are not supported")
    model = Pair(refusal, calls("2+3", calling="text"), "5")
    done = run(model, calling="auto")
    assert [each.answer for each in sub_rollouts(done)] == ["5"]
    assert "delegate" in model.planner[1].messages[0].content


def test_calls_of_one_turn_run_together_and_stay_in_order():
    under_way, most = 0, 0

    async def answer(request):
        nonlocal under_way, most
        if PLANNER in request.messages[0].content:
            return model(request)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02 if request.messages[-1].content == "1+1" else 0.0)
        under_way -= 1
        return model(request)

    model = Pair(calls("1+1", "2+2", "3+3"), "done")
    plan = run_planner(member("main", PLANNER), member("sub", SUB), EXAMPLE, sample=0, seed=1)
    done = asyncio.run(drive(plan, ScriptedClient(answer)))
    assert most == 3
    assert [each.answer for each in sub_rollouts(done)] == ["2", "4", "6"]
    assert model.told == ["2", "4", "6"]


@pytest.mark.parametrize("wrong", [{"roles": {}}, {"max_calls": 0}])
def test_terms_that_allow_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        DelegationSpec(**wrong)
