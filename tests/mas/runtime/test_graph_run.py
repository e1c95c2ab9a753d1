"""A graph run is a rollout of rollouts; what goes wrong in a node stays there, and limits hold."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.mas.runtime import node as act
from edgewise.mas.runtime.context import GraphLimits, NodeRun, RunContext, emit_reward
from edgewise.mas.runtime.graph_run import GraphRun, extract_inner_run, run_graph
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.node_cache import NodeCache
from edgewise.mas.training.trials import count_tokens
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import ConfigError, GraphError, Interrupted, LimitReached, RewardError, UnknownPrice
from edgewise.toolkit.model.scripted import Answer, ScriptedClient
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.tools.tool import FunctionTool, make_tool
from edgewise.toolkit.tracking.events import Event, NodeFinished
from edgewise.toolkit.types import Example, Message, Plan, Reply, Request, Tool, ToolCall, Usage
from tests.support.mas.naive import EXAMPLE, jump, plain, random_graph, scripted_reply, team

Model = Callable[[Request], Answer | Awaitable[Answer]]


def solvers(count: int, end: str = "vote", **different: Any) -> Graph:
    """Some solvers whom one node hears."""
    nodes = tuple(Node(name=f"s{number}", role="solver", **different) for number in range(count))
    edges = tuple((node.name, "end") for node in nodes)
    return Graph((*nodes, Node(name="end", role=end)), edges, "end")


def chain(*names: str) -> Graph:
    """Solvers, each of whom hears the one before."""
    nodes = tuple(Node(name=name, role="solver") for name in names)
    return Graph(nodes, tuple(pairwise(names)), names[-1])


def runs(*graphs: Graph, members: Team | None = None, **options: Any) -> Plan[list[GraphRun]]:
    one = {"sample": 0, "seed": 0} | options
    return (yield [run_graph(graph, members or team(), EXAMPLE, **one) for graph in graphs])


def run(graph: Graph, model: Model, notes: list[Event] | None = None, **options: Any) -> GraphRun:
    """A run on a clock that jumps."""
    driver = Driver(ScriptedClient(model), (notes if notes is not None else []).append)
    (result,), _ = jump(driver.run(runs(graph, **options)))
    return result


def after(seconds: float, answer: Answer) -> Awaitable[Answer]:
    async def later() -> Answer:
        await asyncio.sleep(seconds)
        return answer

    return later()


def statuses(result: GraphRun) -> dict[str, str]:
    return {name: rounds[-1].status for name, rounds in result.outcomes.items()}


# ---- what comes out --------------------------------------------------------------------------------


def test_a_run_is_a_rollout_with_a_subrollout_per_node() -> None:
    def model(request: Request) -> Awaitable[Answer]:
        return after((request.sampling.seed or 0) % 97, "four")

    result = run(solvers(3), model, version="v")
    rollout = result.rollout
    assert (rollout.role, rollout.version, rollout.answer, rollout.stop) == ("graph", "v", "four", "stop")
    assert rollout.steps[0].prompt == EXAMPLE.messages
    assert [call.role for call in rollout.steps[0].subrollouts] == ["s0", "s1", "s2"]
    assert rollout.usage == Usage(), "delegated runs carry their own"
    assert all(call.usage.total for call in rollout.steps[0].subrollouts)


def test_seeds_differ_in_a_graph_and_agree_between_graphs() -> None:
    def seeds(graph: Graph, sample: int = 0) -> dict[str, int]:
        result = run(graph, lambda request: "four", sample=sample)
        return {call.role: call.seed for call in result.rollout.steps[0].subrollouts}

    two, three = seeds(solvers(2)), seeds(solvers(3, end="solver"))
    assert len(set(three.values())) == 4
    assert (two["s0"], two["s1"]) == (three["s0"], three["s1"])
    assert not set(two.values()) & set(seeds(solvers(2), sample=1).values())
    assert not set(two.values()) & set(seeds(solvers(2, lessons=("be brief",))).values())


def test_seeds_differ_between_rounds_of_a_loop() -> None:
    graph = Graph((Node(name="a", role="critic"),), (), "a", (Loop(source="a", target="a", rounds=2),))
    calls = run(graph, lambda request: "VERDICT: REVISE").rollout.steps[0].subrollouts
    assert len({call.seed for call in calls}) == 3


def test_concurrency_does_not_change_outputs() -> None:
    def model(request: Request) -> Awaitable[Answer]:
        return after((request.sampling.seed or 0) % 97, f"answer {request.sampling.seed}")

    graph = solvers(5, end="solver")
    first, second = (run(graph, model, limits=GraphLimits(concurrency=n)) for n in (1, 64))
    assert plain(first.outcomes) == plain(second.outcomes)


def test_inner_runs_equal_runs_of_the_smaller_graph() -> None:
    inner_count = cut_count = 0
    for number in range(40):
        graph = random_graph(random.Random(number), 6)
        whole = run(graph, scripted_reply)
        for name in graph.order:
            inner = extract_inner_run(whole, name, EXAMPLE)
            alone = run(graph.subgraph_to(name), scripted_reply)
            inner_count += bool(inner)
            cut_count += inner is None and alone.outcomes[name][-1].has_text
            if inner:
                assert inner.graph == alone.graph and plain(inner.outcomes) == plain(alone.outcomes)
                assert [step.completion for step in inner.rollout.steps] == [s.completion for s in alone.rollout.steps]
                assert count_tokens(inner.rollout) == count_tokens(alone.rollout)
    assert inner_count > 100 and cut_count, "loops that go beyond a node are among them"


def test_there_is_no_inner_run_behind_a_limit() -> None:
    result = run(chain("a", "b", "c"), lambda request: "four", limits=GraphLimits(calls=1))
    assert extract_inner_run(result, "a", EXAMPLE) and not extract_inner_run(result, "b", EXAMPLE)


def test_an_event_is_emitted_as_each_node_ends() -> None:
    notes: list[Event] = []
    run(chain("a", "b"), lambda request: "four", notes)
    node_runs = [note.run for note in notes if isinstance(note, NodeFinished)]
    assert all(isinstance(node_run, NodeRun) for node_run in node_runs)
    assert [(node_run.outcome.node, node_run.round, node_run.example) for node_run in node_runs] == [
        ("a", 0, "q"),
        ("b", 0, "q"),
    ]


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (Node(name="a", role="slover"), "did you mean 'solver'"),
        (Node(name="a", role="solver", tools=("pyton",)), "'pyton'"),
    ],
)
def test_unknown_roles_and_tools_raise_before_any_call(node: Node, sentence: str) -> None:
    client = ScriptedClient(lambda request: "four")
    graph = Graph((Node(name="first", role="solver"), node), (("first", "a"),), "a")
    with pytest.raises(GraphError, match=sentence):
        jump(Driver(client).run(runs(graph)))
    assert not client.requests


# ---- what goes wrong in a node ---------------------------------------------------------------------


def broken(request: Request) -> Answer | Awaitable[Answer]:
    """Models named by what is wrong with them; others hear how many spoke."""
    match request.model:
        case "refuses":
            return Reply(Message("assistant", ""), "refused", error="not that")
        case "hangs":
            return after(1e9, "never")
        case "mute":
            return ""
    return f"heard {request.messages[-1].content.count('## ')}"


@pytest.mark.parametrize(
    ("model", "how", "why"),
    [("refuses", "failed", "not that"), ("hangs", "timeout", "longer than 5 seconds"), ("mute", "contract", "empty")],
)
def test_other_nodes_go_on_if_one_fails(model: str, how: str, why: str) -> None:
    graph = solvers(3, end="solver")
    nodes = (graph.nodes[0].model_copy(update={"model": model}), *graph.nodes[1:])
    result = run(replace(graph, nodes=nodes), broken, limits=GraphLimits(node_seconds=5))
    assert statuses(result) == {"s0": how, "s1": "ok", "s2": "ok", "end": "ok"}
    assert why in result.outcomes["s0"][0].error
    assert result.rollout.answer == "heard 2" and not result.rollout.failed


@pytest.mark.parametrize(("model", "stop"), [("refuses", "failed"), ("hangs", "timeout")])
def test_a_run_fails_if_its_exit_has_no_text(model: str, stop: str) -> None:
    graph = Graph((Node(name="only", role="solver", model=model),), (), "only")
    rollout = run(graph, broken, limits=GraphLimits(node_seconds=5)).rollout
    assert rollout.stop == stop and rollout.failed and "'only'" in rollout.error


def test_a_timeout_starts_with_its_node_and_keeps_calls() -> None:
    def model(request: Request) -> Awaitable[Answer]:
        if request.messages[-1].role == "tool":
            return after(100, "late")
        return after(4, Message("assistant", "", (ToolCall("1", "look", "{}"),)))

    tool = make_tool(look)
    members = team(tools={"look": tool})
    result = run(solvers(3, tools=("look",)), model, members=members, limits=GraphLimits(node_seconds=9, concurrency=1))
    assert set(statuses(result).values()) == {"timeout", "silent"}
    rollouts = result.rollout.steps[0].subrollouts
    assert len(rollouts) == 3 and all(len(rollout.steps) == 1 and rollout.usage.total for rollout in rollouts)


def look() -> str:
    """Look."""
    return "nothing there"


def test_a_raising_tool_fails_only_its_node() -> None:
    def model(request: Request) -> Answer:
        calls = (ToolCall("1", "breaks", "{}"),) if request.tools else ()
        return Message("assistant", "" if calls else "four", calls)

    graph = solvers(2)
    nodes = (graph.nodes[0].model_copy(update={"tools": ("breaks",)}), *graph.nodes[1:])
    result = run(replace(graph, nodes=nodes), model)
    assert statuses(result) == {"s0": "failed", "s1": "ok", "end": "ok"}
    assert "the tool broke" in result.outcomes["s0"][0].error and result.rollout.answer == "four"


def test_a_hanging_tool_times_out() -> None:
    release = threading.Event()
    schema = {"type": "object", "properties": {}}
    stuck = FunctionTool(Tool("stuck", "waits", schema), lambda: str(release.wait(20)))

    def model(request: Request) -> Answer:
        return Message("assistant", "", (ToolCall("1", "stuck", "{}"),)) if request.tools else "four"

    graph = solvers(2)
    nodes = (graph.nodes[0].model_copy(update={"tools": ("stuck",)}), *graph.nodes[1:])

    async def real() -> GraphRun:
        limits = GraphLimits(node_seconds=0.2)
        plan = runs(replace(graph, nodes=nodes), members=team(tools={"stuck": stuck}), limits=limits)
        return (await Driver(ScriptedClient(model)).run(plan))[0]

    start = time.monotonic()
    try:
        result = asyncio.run(real())  # nor does the loop's end wait for it
    finally:
        release.set()
    assert statuses(result) == {"s0": "timeout", "s1": "ok", "end": "ok"} and time.monotonic() - start < 10


@pytest.mark.parametrize("program", ["while True: pass", "import os; os._exit(3)", "print(1/0)"])
def test_a_hanging_or_dying_program_fails_only_its_node(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(act, "PROGRAM_SECONDS", 0.5)

    def model(request: Request) -> Answer:
        return f"```python\n{program}\n```" if "program" in request.messages[-1].content else "four"

    nodes = tuple(Node(name=role, role=role) for role in ("programmer", "solver", "majority"))
    graph = Graph(nodes, (("programmer", "majority"), ("solver", "majority")), "majority")
    (result,) = asyncio.run(Driver(ScriptedClient(model)).run(runs(graph, members=Team(CATALOGUE, "m"))))
    assert statuses(result) == {"programmer": "failed", "solver": "ok", "majority": "ok"}
    assert result.outcomes["programmer"][0].error and result.rollout.answer == "four"


def test_a_model_without_tool_calling_calls_by_text() -> None:
    def model(request: Request) -> Answer:
        if request.tools:
            return Reply(Message("assistant", ""), "refused", error="this model does not support tools")
        prompt = request.messages[-1].content
        return "nothing there, it says" if "<result>" in prompt else '<tool>{"name": "look", "arguments": {}}</tool>'

    graph = Graph((Node(name="a", role="solver", tools=("look",)),), (), "a")
    members = team(tools={"look": make_tool(look)})
    (result,) = asyncio.run(Driver(ScriptedClient(model)).run(runs(graph, members=members)))
    assert statuses(result) == {"a": "ok"} and result.rollout.answer == "nothing there, it says"


# ---- what stops the program ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LimitReached("no more"), Interrupted("enough")])
def test_errors_of_the_driver_stop_the_run(error: Exception) -> None:
    answered: list[str] = []

    async def model(request: Request) -> Answer:
        await asyncio.sleep(10)
        if request.sampling.seed == first:
            raise error
        await asyncio.sleep(50)
        answered.append("paid")
        return "four"

    first = run(solvers(3), lambda request: "four").rollout.steps[0].subrollouts[0].seed
    with pytest.raises(type(error)) as raised:
        run(chain("a", "b"), lambda request: error)
    assert raised.value is error and not getattr(error, "__notes__", [])
    with pytest.raises(type(error)):
        run(solvers(3), model)
    assert answered == ["paid", "paid"], "what was under way is paid for, and was waited for"


def test_a_cancelled_run_leaves_no_task() -> None:
    async def cancelled() -> None:
        driver = Driver(ScriptedClient(lambda request: after(1e9, "never")))
        task = asyncio.create_task(driver.run(runs(solvers(4), cache=NodeCache())))
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    jump(cancelled())  # checks what is left


# ---- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 5, 6])
def test_a_limit_on_calls_is_reached_and_never_passed(most: int) -> None:
    client = ScriptedClient(lambda request: after(1, "four"))
    (result,), _ = jump(Driver(client).run(runs(solvers(6), limits=GraphLimits(calls=most))))
    assert len(client.requests) == most
    assert Counter(statuses(result).values())["limit"] == 6 - most
    assert result.rollout.answer == "four"


@pytest.mark.parametrize(
    "limits", [GraphLimits(tokens=190), GraphLimits(usd=190e-6, prices={"quick": Price(1.0, 1.0)})]
)
def test_tokens_and_dollars_are_reserved_before_a_call(limits: GraphLimits) -> None:
    # A call uses 5 tokens and may use 175, so the fifth might go over the limit. The vote asks nobody.
    result = run(solvers(9), lambda request: after(1, "two words"), limits=limits)
    assert Counter(statuses(result).values()) == {"ok": 5, "limit": 5}


def test_a_limit_inside_a_node_keeps_its_calls() -> None:
    def model(request: Request) -> Answer:
        return Message("assistant", "", (ToolCall("1", "look", "{}"),))

    members = team(tools={"look": make_tool(look)})
    graph = Graph((Node(name="a", role="solver", tools=("look",)),), (), "a")
    (result,) = asyncio.run(
        Driver(ScriptedClient(model)).run(runs(graph, members=members, limits=GraphLimits(calls=3)))
    )
    assert statuses(result) == {"a": "limit"} and "calls (3)" in result.outcomes["a"][0].error
    assert len(result.rollout.steps[0].subrollouts[0].steps) == 3


def test_a_dollar_limit_without_a_price_is_refused() -> None:
    with pytest.raises(UnknownPrice):
        run(solvers(2), lambda request: "four", limits=GraphLimits(usd=1.0))


@pytest.mark.parametrize("name", ["calls", "tokens", "usd", "node_seconds", "concurrency"])
def test_limits_must_be_above_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        GraphLimits(**{name: 0})


def test_concurrency_bounds_nodes_that_run_at_once() -> None:
    most = now = 0

    async def model(request: Request) -> Answer:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1
        return "four"

    run(solvers(9), model, limits=GraphLimits(concurrency=4))
    assert most == 4


def test_an_eager_branch_does_not_wait_for_a_slow_one() -> None:
    def model(request: Request) -> Awaitable[Answer]:
        return after({"slow": 10, "quick": 1}[request.model], "four")

    names = ("a", "b", "c")
    nodes = (Node(name="slow", role="solver", model="slow"), *(Node(name=n, role="solver") for n in names))
    edges = (("a", "b"), ("b", "c"), ("slow", "end"), ("c", "end"))
    graph = Graph((*nodes, Node(name="end", role="vote")), edges, "end")
    seconds = [jump(Driver(ScriptedClient(model)).run(runs(graph, eager=eager)))[1] for eager in (True, False)]
    assert seconds == [10, 12]


# ---- sharing ---------------------------------------------------------------------------------------

GROUP = (solvers(1), solvers(2), solvers(3, end="solver"), chain("s0", "x"), chain("s0", "x", "y"))
"""Nodes: 1 + 2 + 4 + 2 + 3 that ask; different ones: s0, s1, s2, end of three, x, y."""


def answer_by_seed(request: Request) -> Awaitable[Answer]:
    """An answer that shows the seed it was drawn with."""
    seed = request.sampling.seed or 0
    return after(1 + seed % 13, f"answer {seed}")


def test_equal_nodes_of_a_group_are_paid_once() -> None:
    shared, notes, client = NodeCache(), [], ScriptedClient(answer_by_seed)
    together, _ = jump(Driver(client, notes.append).run(runs(*GROUP, cache=shared)))
    alone = ScriptedClient(answer_by_seed)
    apart, _ = jump(Driver(alone).run(runs(*GROUP)))
    assert [plain(x.outcomes) for x in together] == [plain(x.outcomes) for x in apart]
    assert [x.rollout for x in together] == [
        replace(x.rollout, steps=y.rollout.steps) for x, y in zip(apart, together, strict=True)
    ]
    assert (len(alone.requests), len(client.requests)) == (12, 6)
    assert sum(len(x.reused) for x in together) == 6
    assert sum(isinstance(note, NodeFinished) and note.reused for note in notes) == 6


def test_samples_and_queries_reuse_nothing() -> None:
    shared, client = NodeCache(), ScriptedClient(answer_by_seed)
    other = Example("other", EXAMPLE.messages)

    def plans() -> Plan[Any]:
        one = {"seed": 0, "cache": shared}
        yield [
            run_graph(chain("a"), team(), example, sample=sample, **one)
            for example in (EXAMPLE, other)
            for sample in (0, 1)
        ]

    jump(Driver(client).run(plans()))
    assert len(client.requests) == 4


def test_a_timeout_is_not_cached() -> None:
    def model(request: Request) -> Awaitable[Answer]:
        return after(1e9 if len(client.requests) == 1 else 1, "four")

    client = ScriptedClient(model)
    limits = GraphLimits(node_seconds=5)
    results, _ = jump(Driver(client).run(runs(*[chain("a")] * 3, cache=NodeCache(), limits=limits)))
    assert [result.rollout.stop for result in results] == ["timeout", "stop", "stop"]
    assert [len(result.reused) for result in results] == [0, 0, 1]
    assert len(client.requests) == 2


def test_loop_bodies_are_not_cached() -> None:
    graph = Graph((Node(name="a", role="critic"),), (), "a", (Loop(source="a", target="a", rounds=1),))
    client = ScriptedClient(lambda request: after(1, "VERDICT: REVISE"))
    results, _ = jump(Driver(client).run(runs(graph, graph, cache=NodeCache())))
    assert len(client.requests) == 4 and not any(result.reused for result in results)


def test_reused_calls_count_against_each_limit() -> None:
    limits = GraphLimits(calls=2)
    apart, _ = jump(Driver(ScriptedClient(answer_by_seed)).run(runs(solvers(3), solvers(3), limits=limits)))
    together, _ = jump(
        Driver(ScriptedClient(answer_by_seed)).run(runs(solvers(3), solvers(3), limits=limits, cache=NodeCache()))
    )
    for result in (*apart, *together):
        assert Counter(statuses(result).values()) == {"ok": 3, "limit": 1}


def test_if_the_paying_run_is_cancelled_another_pays() -> None:
    shared, client = NodeCache(), ScriptedClient(lambda request: after(10, "four"))

    async def one_cancelled() -> GraphRun:
        first = asyncio.create_task(Driver(client).run(runs(chain("a"), cache=shared)))
        await asyncio.sleep(1)
        second = asyncio.create_task(Driver(client).run(runs(chain("b", "c"), cache=shared)))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return (await second)[0]

    result, _ = jump(one_cancelled())
    assert statuses(result) == {"b": "ok", "c": "ok"} and not result.reused and len(client.requests) == 3


def test_a_reused_node_keeps_its_own_name_and_weight() -> None:
    graphs = (chain("a"), Graph((Node(name="b", role="solver", weight=3),), (), "b"))
    first, second = jump(Driver(ScriptedClient(answer_by_seed)).run(runs(*graphs, cache=NodeCache())))[0]
    assert second.reused == {"b"} and second.outcomes["b"][0].weight == 3
    assert [x.rollout.steps[0].subrollouts[0].role for x in (first, second)] == ["a", "b"]
    assert first.rollout.answer == second.rollout.answer


# ---- process rewards -------------------------------------------------------------------------------


def test_tools_and_process_rewards_may_emit_rewards() -> None:
    def pay() -> str:
        """Pay."""
        emit_reward(0.5)
        return "paid"

    def process(context: RunContext, outcome: act.NodeOutput) -> None:
        context.emit_reward(outcome.node, 1.0)

    def model(request: Request) -> Answer:
        first = request.tools and request.messages[-1].role != "tool"
        return Message("assistant", "" if first else "four", (ToolCall("1", "pay", "{}"),) if first else ())

    nodes = (Node(name="a", role="solver", tools=("pay",)), Node(name="b", role="solver"))
    graph, members = Graph(nodes, (("a", "b"),), "b"), team(tools={"pay": make_tool(pay)})
    plan = runs(graph, graph, members=members, process_reward=process, cache=NodeCache())
    for result in asyncio.run(Driver(ScriptedClient(model)).run(plan)):
        assert result.rewards == {"a": 1.5, "b": 1.0}


def test_a_reward_for_an_unknown_node_raises() -> None:
    with pytest.raises(RewardError, match="node 'typo'; the graph has a"):
        run(chain("a"), lambda request: "four", process_reward=lambda context, _: context.emit_reward("typo", 1.0))


def test_a_raising_process_reward_is_named() -> None:
    def process(context: RunContext, outcome: act.NodeOutput) -> None:
        raise ValueError("no")

    with pytest.raises(RewardError, match="node 'a': ValueError: no"):
        run(chain("a"), lambda request: "four", process_reward=process)
