"""What one node does: what it is asked, how its reply is held to its contract, programs, and votes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.mas.graph.graph import Node, single
from edgewise.mas.graph.roles import CATALOGUE, Role, catalogue
from edgewise.mas.runtime.node import NodeOutput, Team, run_node
from edgewise.mas.runtime.node_text import MAX_SHOWN, normalize_answer
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.rollout.agent import Agent, run_rollout
from edgewise.toolkit.tools.tool import make_tool
from edgewise.toolkit.types import Example, Message, Reply, Request, Sampling, ToolCall
from tests.support.mas.graphs import law
from tests.support.plans import play

ROW = Example("r", (Message("system", "Be kind."), Message("user", "What is 6 x 7?")), "42")
SAMPLING = Sampling(temperature=0.3, max_tokens=500)


def look(key: str) -> str:
    """Look something up."""
    return f"{key} is 42"


LOOK = make_tool(look)
TEAM = Team(CATALOGUE, "m", SAMPLING, {"look": LOOK})


def run_role(role: str, says, inputs=(), team=TEAM, **different) -> NodeOutput:
    """The outcome of a node whose model says `says`: a text, texts one after the other, or a function."""
    replies = iter([says] if isinstance(says, str) else says if isinstance(says, list) else ())
    node = Node(name="me", role=role, **different)
    plan = run_node(team, node, ROW, list(inputs), sample=1, seed=5)
    return play(plan, says if callable(says) else lambda _: next(replies))


def first_request(role: str, inputs=(), team=TEAM, **different) -> Request:
    """The first request of a node."""
    seen: list[Request] = []

    def answer(request: Request) -> str:
        seen.append(request)
        return "x"

    run_role(role, answer, inputs, team, **different)
    return seen[0]


def output(node: str, text: str, weight: float = 1.0, result: str = "") -> NodeOutput:
    return NodeOutput(node, "ok", text, weight=weight, result=result)


# ---- what a node is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [(), ("look",)])
def test_a_solver_asks_exactly_what_a_plain_agent_asks(own):
    plain: list[Request] = []
    agent = Agent("m", SAMPLING, (LOOK,) if own else ())
    play(run_rollout(agent, ROW, ROW.messages, sample=1, seed=5), lambda request: plain.append(request) or "x")
    assert [first_request("solver", team=replace(TEAM, task_tools=own))] == plain


def test_a_prompt_follows_the_task_and_the_inputs():
    request = first_request(
        "critic", [output("solver", "41"), NodeOutput("other", "failed", error="down")], lessons=("Count.",)
    )
    system, question = request.messages
    assert system == ROW.messages[0]
    order = ["What is 6 x 7?", "# What others found", "## solver\n41", "- Count.", CATALOGUE["critic"].prompt]
    places = [question.content.index(part) for part in order]
    assert places == sorted(places)
    assert "other" not in question.content.partition("# Your part")[0].partition("## solver")[2]
    assert question.content.endswith(CATALOGUE["critic"].prompt)


def test_a_node_may_override_prompt_model_and_tools():
    request = first_request("critic", prompt="Only nod.", model="other", tools=("look",))
    assert request.messages[-1].content.endswith("Only nod.")
    assert (request.model, [tool.name for tool in request.tools]) == ("other", ["look"])
    assert first_request("planner", prompt="").messages == ROW.messages


def test_a_solver_with_inputs_is_told_to_answer():
    content = first_request("solver", [output("planner", "1. Multiply.")]).messages[-1].content
    assert "1. Multiply." in content
    assert content.endswith("Now answer the task above, in the form that it asks for.")


def test_a_role_lowers_limits_and_never_raises_them():
    assert first_request("formatter").sampling == replace(SAMPLING, temperature=0, max_tokens=256, seed=5)
    assert first_request("reasoner").sampling == replace(SAMPLING, seed=5)
    assert first_request("reasoner", team=replace(TEAM, sampling=Sampling())).sampling.max_tokens == 1024


def test_a_long_input_is_shortened_to_its_two_ends():
    content = first_request("critic", [output("programmer", "a" + "b" * 100_000 + "c")]).messages[-1].content
    assert "## programmer\nab" in content and "bc\n" in content
    assert len(content) < MAX_SHOWN + 2000


def test_an_unknown_role_or_tool_is_refused():
    with pytest.raises(GraphError, match="no role 'solvr'; did you mean 'solver'"):
        TEAM.check(single("solvr"))
    with pytest.raises(GraphError, match="'tool-user' wants a tool 'python', and the task has look"):
        TEAM.check(single("tool-user"))
    with pytest.raises(GraphError, match="wants a tool 'python', and the task has none"):
        replace(TEAM, tools=None).check(single("solver", tools=("python",)))
    TEAM.check(single("critic", tools=("look",)))


# ---- contracts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "reply", "error"),
    [
        ("solver", " \n", "the reply is empty"),
        ("planner", "", "the reply is empty"),
        ("decomposer", "First multiply.", "there is no list"),
        ("critic", "It is wrong.", "there is no line VERDICT"),
        ("critic", "VERDICT: MAYBE", "there is no line VERDICT"),
        ("reasoner", "It is 42.", "there is no line RESULT"),
        ("reasoner", "RESULT:", "there is no line RESULT"),
    ],
)
def test_a_broken_contract_is_reported_and_passed_on(role, reply, error):
    outcome = run_role(role, reply)
    assert outcome.status == "contract"
    assert error in outcome.error
    assert outcome.text == reply.strip()
    assert outcome.has_text == bool(reply.strip())
    assert outcome.rollout and len(outcome.rollout.steps) == 1


@pytest.mark.parametrize(
    ("role", "reply", "accepts", "answer"),
    [
        ("solver", " 42 ", None, "42"),
        ("solver", "VERDICT: ACCEPT\nRESULT: 1", None, "VERDICT: ACCEPT\nRESULT: 1"),
        ("decomposer", "1. What is 6?\n2. What is 7?", None, "1. What is 6?\n2. What is 7?"),
        ("critic", "Fine.\n**VERDICT: accept**", True, "Fine.\n**VERDICT: accept**"),
        ("verifier", "CHECK: 41.\nVERDICT: REVISE", False, "CHECK: 41.\nVERDICT: REVISE"),
        ("critic", "VERDICT: ACCEPT or VERDICT: REVISE?\nVERDICT: REVISE", False, None),
        ("reasoner", "6 x 7\nRESULT: 41\nno:\n**Result:** 42", None, "42"),
        ("reasoner", 'RESULT:\n{"a": 1,\n"b": 2}', None, '{"a": 1,\n"b": 2}'),
    ],
)
def test_a_valid_reply_is_parsed(role, reply, accepts, answer):
    outcome = run_role(role, reply)
    assert (outcome.status, outcome.accepts, outcome.text) == ("ok", accepts, reply.strip())
    assert outcome.answer == (reply.strip() if answer is None else answer)


def test_a_failing_model_is_an_output():
    outcome = run_role("reasoner", lambda _: Reply(Message("assistant", ""), "timeout", error="too slow"))
    assert (outcome.status, outcome.error, outcome.has_text) == ("failed", "too slow", False)


def test_a_last_turn_with_a_tool_call_is_no_answer():
    call = Message("assistant", "wait", (ToolCall("1", "look", '{"key": "it"}'),))
    team = replace(TEAM, roles=catalogue(Role(name="looker", does="looks", tools=("look",), turns=3)))
    outcome = run_role("looker", lambda _: Reply(call), team=team)
    assert (outcome.status, outcome.has_text) == ("contract", False)
    assert "turns" in outcome.error
    assert outcome.rollout and len(outcome.rollout.steps) == 3
    assert run_role("looker", [Reply(call), "It is 42."], team=team).answer == "It is 42."


# ---- programs ------------------------------------------------------------------------------------------------


def program(code: str) -> str:
    return f"Here:\n```python\n{code}\n```"


def test_the_output_is_what_a_program_prints():
    outcome = run_role("programmer", program("print(6 * 7)"))
    assert (outcome.status, outcome.text, outcome.answer) == ("ok", "42", "42")
    assert outcome.rollout and outcome.rollout.answer == program("print(6 * 7)")


@pytest.mark.parametrize(
    ("bad", "ended", "error"),
    [
        (program("print(6 *"), "failed", "SyntaxError"),
        (program("raise ValueError('no')"), "failed", "ValueError: no"),
        (program("import sys; sys.exit(3)"), "failed", "exit code 3"),
        (program("x = 42"), "failed", "it printed nothing"),
        (program("while True: pass"), "failed", "stopped after 1 seconds"),
        ("The answer is 42.", "contract", "no program"),
    ],
)
def test_a_failing_program_goes_back_with_its_error(bad, ended, error, monkeypatch):
    monkeypatch.setattr("edgewise.mas.runtime.node.PROGRAM_SECONDS", 1.0)
    seen: list[Request] = []

    def mends(request: Request) -> str:
        seen.append(request)
        return bad if len(seen) == 1 else program("print(42)")

    outcome = run_role("programmer", mends)
    assert (outcome.status, outcome.text) == ("ok", "42")
    assert seen[1].messages[-2].content == bad
    assert error in seen[1].messages[-1].content
    assert outcome.rollout and len(outcome.rollout.steps) == 2
    hopeless = run_role("programmer", [bad, "I give up."])
    assert (hopeless.status, hopeless.has_text) == ("contract", False)
    team = replace(TEAM, turns=1)
    once = run_role("programmer", bad, team=team)
    assert (once.status, once.has_text) == (ended, False)
    assert error in once.error


def test_a_model_that_fails_in_repair_keeps_its_calls():
    broken = Reply(Message("assistant", ""), "failed", error="down")
    outcome = run_role("programmer", [program("x"), broken])
    assert (outcome.status, outcome.error) == ("failed", "down")
    assert outcome.rollout and len(outcome.rollout.steps) == 1 and outcome.rollout.failed


# ---- votes ---------------------------------------------------------------------------------------------------


def never(request: Request) -> str:
    raise AssertionError("a vote asks no model")


def test_a_majority_ignores_the_form_of_answers():
    inputs = [
        output("a", "41"),
        output("b", "I think:\n**42**."),
        output("c", "so\nRESULT: 42", result="42"),
        NodeOutput("d", "failed", error="down"),
    ]
    outcome = run_role("majority", never, inputs)
    assert (outcome.status, outcome.text, outcome.rollout) == ("ok", "I think:\n**42**.", None)
    assert run_role("majority", never, inputs[::-1]).text == "42"


def code(text: str, language: str = "python") -> str:
    return f"So:\n```{language}\n{text}\n```\n"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (code("print(1)\nprint(2)"), code("print(1)\nprint(3)"), False),
        (code("print(1)\nprint(2)"), "Thus: " + code("print(1)  \nprint(2)\n", "py"), True),
        (code("if a:\n    b()\nc()"), code("if a:\n    b()\n    c()"), False),
        (code("Print = 1\nx"), code("print = 1\nx"), False),
        (code("42", ""), "It is\n**42**.", True),
        (code('{"a": 1}', "json"), code('{"a": 2}', "json"), False),
        (code("x = 1") + "It prints 41.", code("x = 1") + "It prints 42.", False),
        ("It is 41.\n```", "It is 42.\n```", False),
        ("41\n**", "42\n**", False),
    ],
)
def test_answers_in_code_are_compared_by_their_code(one, other, alike):
    assert (normalize_answer(one) == normalize_answer(other)) is alike
    wins = run_role("majority", never, [output("a", one), output("b", other), output("c", other)]).text
    assert wins == (one if alike else other)


def test_among_equals_the_first_input_wins():
    assert run_role("majority", never, [output("a", "1"), output("b", "2")]).text == "1"


def test_weights_count_only_in_a_weighted_vote():
    inputs = [output("a", "1", 5.0), output("b", "2"), output("c", "2")]
    assert run_role("weighted", never, inputs).text == "1"
    assert run_role("majority", never, inputs).text == "2"


def test_a_vote_without_inputs_is_silent():
    outcome = run_role("majority", never, [NodeOutput("a", "failed")])
    assert (outcome.status, outcome.has_text) == ("silent", False)


def test_an_output_carries_the_weight_of_its_node():
    assert run_role("solver", "x", weight=3.0).weight == 3.0


@law
@given(st.lists(st.sampled_from(["1", "2", " 2. ", "x\n1"]), min_size=1, max_size=7))
def test_no_answer_has_more_votes_than_the_winner(texts):
    winner = run_role("majority", never, [output(f"n{i}", text) for i, text in enumerate(texts)]).text
    votes = [normalize_answer(text) for text in texts]
    assert votes.count(normalize_answer(winner)) == max(map(votes.count, votes))
