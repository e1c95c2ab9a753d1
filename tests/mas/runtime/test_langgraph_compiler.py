"""The compiled graph is an ordinary LangGraph graph that does what the graph says."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.runtime.context import GraphLimits, RunContext
from edgewise.mas.runtime.graph_run import GraphRun, run_graph
from edgewise.mas.runtime.langgraph_compiler import compile_graph, compile_plain, merge_outcomes, outcome_to_data
from edgewise.mas.runtime.node import NodeOutput
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.types import Request
from tests.support.mas.naive import EXAMPLE, NODE_SECONDS, client, interpret_graph, jump, random_graph, team
from tests.support.mas.naive import plain as compared

Model = Callable[[Request], str]
JOIN = Graph(
    tuple(Node(name=name, role="solver") for name in ("a", "b", "c", "d")),
    (("a", "b"), ("b", "c"), ("a", "d"), ("c", "d")),
    "d",
)
WRITER = Graph(
    (Node(name="writer", role="solver"), Node(name="critic", role="critic"), Node(name="last", role="solver")),
    (("writer", "critic"), ("critic", "last")),
    "last",
    (Loop(source="critic", target="writer", rounds=3),),
)


def run(graph: Graph, model: Model, **options: Any) -> GraphRun:
    driver = Driver(ScriptedClient(model))
    return asyncio.run(driver.run(run_graph(graph, team(), EXAMPLE, sample=0, seed=0, **options)))


def name_inputs(request: Request) -> str:
    """The words of a node: who it hears."""
    content = request.messages[-1].content
    return "heard " + ",".join(line[3:] for line in content.splitlines() if line.startswith("## "))


def context(graph: Graph, model: Model = name_inputs, *, eager: bool = False) -> RunContext:
    return RunContext(graph, team(), EXAMPLE, Driver(ScriptedClient(model)).run, eager=eager)


@pytest.mark.parametrize("eager", [True, False])
def test_a_join_waits_for_all_inputs_at_any_depth(eager: bool) -> None:
    result = run(JOIN, name_inputs, eager=eager)
    assert result.rollout.answer == "heard a,c"
    assert all(len(rounds) == 1 for rounds in result.outcomes.values())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([None, 1, 2, 64]))
def test_outputs_equal_those_of_a_naive_interpreter(number: int, eager: bool, at_once: int | None) -> None:
    graph, members = random_graph(random.Random(number)), team()
    limits = GraphLimits(node_seconds=NODE_SECONDS, concurrency=at_once)
    plan = run_graph(graph, members, EXAMPLE, sample=0, seed=0, limits=limits, eager=eager)
    result, seconds = jump(Driver(client()).run(plan))
    expected, critical = interpret_graph(graph, members)
    assert compared(result.outcomes) == compared(expected)
    assert not eager or at_once in (1, 2) or seconds == pytest.approx(critical)


def test_steps_are_bounded_by_the_graph() -> None:
    assert compile_plain(JOIN).config["recursion_limit"] <= 2 * len(JOIN)
    assert compile_plain(WRITER).config["recursion_limit"] <= 4 * len(WRITER)


def test_equal_graphs_are_compiled_once() -> None:
    assert compile_plain(JOIN) is compile_plain(Graph(JOIN.nodes, JOIN.edges, JOIN.exit))


# ---- loops -----------------------------------------------------------------------------------------


def criticises(request: Request) -> bool:
    return any("End with VERDICT" in message.content for message in request.messages)


def reviewing(accepts_in: int) -> Model:
    """A writer who counts his tries by whether he hears the critic, and a critic who accepts in a round."""
    tries: list[str] = []

    def model(request: Request) -> str:
        if not criticises(request):
            return f"draft heard {name_inputs(request)}"
        tries.append("")
        return "VERDICT: ACCEPT" if len(tries) > accepts_in else f"VERDICT: REVISE try {len(tries)}"

    return model


@pytest.mark.parametrize(("accepts_in", "rounds"), [(0, 1), (2, 3), (9, 4)])
@pytest.mark.parametrize("eager", [True, False])
def test_a_loop_ends_with_its_verdict_or_its_rounds(accepts_in: int, rounds: int, eager: bool) -> None:
    result = run(WRITER, reviewing(accepts_in), eager=eager)
    assert [len(result.outcomes[name]) for name in ("writer", "critic", "last")] == [rounds, rounds, 1]
    assert result.outcomes["critic"][-1].accepts == (accepts_in < 9)
    assert result.outcomes["last"][0].text == "draft heard heard critic"


def test_a_loop_target_receives_the_verdict() -> None:
    result = run(WRITER, reviewing(1))
    first, second = (x.rollout.steps[0].prompt[-1].content for x in result.outcomes["writer"] if x.rollout)
    assert "critic" not in first and "VERDICT: REVISE try 1" in second


def test_a_failed_round_does_not_withdraw_the_last_text() -> None:
    texts: list[str] = []

    def model(request: Request) -> str:
        if criticises(request):
            return "VERDICT: REVISE"
        texts.append("the first draft" if not texts else "")
        return texts[-1]

    writer, critic = WRITER.nodes[:2]
    graph = Graph((writer, critic), (("writer", "critic"),), "critic", WRITER.loops)
    result = run(graph, model)
    assert [x.status for x in result.outcomes["writer"]] == ["ok", "contract", "contract", "contract"]
    last = result.outcomes["critic"][-1].rollout
    assert last and "the first draft" in last.steps[0].prompt[-1].content


# ---- as a LangGraph graph --------------------------------------------------------------------------


def test_langgraph_streams_outcomes_as_plain_data() -> None:
    async def streamed() -> list[Any]:
        app = compile_graph(JOIN)
        return [x async for x in app.astream({"query": "q"}, context=context(JOIN), stream_mode="updates")]

    updates = asyncio.run(streamed())
    assert [list(update) for update in updates] == [["a"], ["b"], ["c"], ["d"]]
    assert updates[-1]["d"]["answer"] == "heard a,c"
    assert json.loads(json.dumps(updates)) == updates


def test_a_person_may_edit_an_output_before_a_node_runs() -> None:
    config = {"configurable": {"thread_id": "one"}}

    async def interrupted() -> tuple[Any, Any]:
        app = compile_graph(JOIN, checkpointer=InMemorySaver(), interrupt_before=["d"])
        paused = await app.ainvoke({"query": "q"}, config, context=context(JOIN))
        better = outcome_to_data(NodeOutput("c", "ok", "what a person says"), 0)
        await app.aupdate_state(config, {"outcomes": {"c": [better]}})
        # As after a restart: the context is a new one, and all that was said is in the state.
        words: Model = lambda request: request.messages[-1].content  # noqa: E731
        return paused, await app.ainvoke(None, config, context=context(JOIN, words))

    paused, result = asyncio.run(interrupted())
    assert set(paused["outcomes"]) == {"a", "b", "c"} and "answer" not in paused
    assert "what a person says" in result["answer"] and "heard b" not in result["answer"]


def test_the_reducer_keeps_all_nodes_and_rounds_in_any_order() -> None:
    def data(name: str, round_: int, text: str) -> dict[str, Any]:
        return {name: [outcome_to_data(NodeOutput(name, "ok", text), round_)]}

    merged = merge_outcomes(merge_outcomes(data("a", 1, "later"), data("b", 0, "other")), data("a", 0, "first"))
    assert [row["text"] for row in merged["a"]] == ["first", "later"] and len(merged["b"]) == 1
    assert merge_outcomes(merged, data("a", 1, "changed"))["a"][1]["text"] == "changed"
    assert merged["a"][1]["text"] == "later"
