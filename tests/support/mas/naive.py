"""Random graphs, a scripted model for them, a clock that jumps, and a naive interpreter to compare the runner with."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.graph.roles import Role
from edgewise.mas.runtime.node import NodeOutput, Team, run_node
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import Example, Message, Reply, Request, Sampling, Tool, ToolCall
from tests.support.plans import play

T = TypeVar("T")

ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role(name="solver", does="solves"),
        Role(name="critic", does="judges", prompt="End with VERDICT: ACCEPT or VERDICT: REVISE.", gives="verdict"),
        Role(name="vote", does="counts", act="majority"),
    )
}
BEHAVIOURS = {"quick": 50, "slow": 20, "refuses": 5, "hangs": 5, "empty": 5, "breaks": 5, "lists": 5}
NODE_SECONDS = 60.0
EXAMPLE = Example("q", (Message("user", "What is it?"),))


class Jumping(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when there is nothing to do: hours take no time."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers = [x._when for x in self._scheduled if not x._cancelled]  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self.now = max(self.now, min(timers))
        super()._run_once()  # type: ignore[misc]


def jump(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Run on a jumping clock; what came of it, and the seconds that it would have taken. No task may be left."""

    async def watched() -> tuple[T, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        value = await work
        seconds = loop.time() - start
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
        return value, seconds

    with asyncio.Runner(loop_factory=Jumping) as runner:
        return runner.run(watched())


async def _breaks() -> str:
    raise RuntimeError("the tool broke")


def team(**different: Any) -> Team:
    """A team whose models are named by how they behave."""
    tool = FunctionTool(Tool("breaks", "a tool that raises", {"type": "object", "properties": {}}), _breaks)
    settings: dict[str, Any] = {"sampling": Sampling(max_tokens=20), "tools": {"breaks": tool}} | different
    return Team(ROLES, "quick", **settings)


def fraction(*parts: object) -> float:
    """A number from 0 to 1 that depends on nothing but its parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") / 2**32


def scripted_reply(request: Request) -> str | Message | Reply:
    """What the model says: it depends on what it is asked, and not on when."""
    match request.model:
        case "refuses":
            return Reply(Message("assistant", ""), "refused", error="no")
        case "empty":
            return ""
        case "breaks":
            return Message("assistant", "", (ToolCall("1", "breaks", "{}"),))
    share = fraction([message.content for message in request.messages])
    verdict = "VERDICT: ACCEPT" if share < 0.4 else "VERDICT: REVISE"
    return f"answer {int(share * 1e6)} {verdict}"


def client(takes: Callable[[Request], float] | None = None) -> ScriptedClient:
    """The model with its delays."""

    async def answer(request: Request) -> str | Message | Reply:
        await asyncio.sleep((takes or seconds)(request))
        return scripted_reply(request)

    return ScriptedClient(answer)


def seconds(request: Request) -> float:
    """How long the model takes."""
    if request.model == "hangs":
        return 1e9
    share = fraction("time", [message.content for message in request.messages])
    return 20 * share if request.model == "slow" else share


def random_graph(rng: random.Random, most: int = 9) -> Graph:
    """A graph of 1 to `most` places, of which some are loops of one to four nodes; joins are at unequal depths."""
    places = rng.randint(1, most)
    inner = [(a, b) for b in range(places) for a in range(b) if rng.random() < 2 / places]
    ends = {a for a, _ in inner}
    inner += [(a, rng.randint(a + 1, places - 1)) for a in range(places - 1) if a not in ends]
    blocks = [_block(f"n{place}", rng) for place in range(places)]
    edges = [(blocks[a][2][-1].name, blocks[b][2][0].name) for a, b in inner]
    nodes = [node for _, _, block in blocks for node in block]
    rng.shuffle(nodes)
    return Graph(
        tuple(nodes),
        tuple(dict.fromkeys(edges + [edge for inside, _, _ in blocks for edge in inside])),
        blocks[-1][2][-1].name,
        tuple(loop for _, loops, _ in blocks for loop in loops),
    )


Block = tuple[list[tuple[str, str]], list[Loop], list[Node]]


def _block(name: str, rng: random.Random) -> Block:
    """Edges, loops and nodes of one place: a node alone, or the body of a loop."""
    if rng.random() < 0.75:
        return [], [], [_node(name, rng)]
    size = rng.randint(1, 4)
    names = [f"{name}-{place}" for place in range(size)]
    first, *middle, last = names if size > 1 else names * 2
    edges = [(first, each) for each in middle] + [(each, last) for each in middle]
    if size == 2:
        edges = [(first, last)]
    nodes = [_node(each, rng) for each in names[:-1]] + [Node(name=last, role="critic")]
    return edges, [Loop(source=last, target=first, rounds=rng.randint(1, 3))], nodes


def _node(name: str, rng: random.Random) -> Node:
    (model,) = rng.choices(list(BEHAVIOURS), BEHAVIOURS.values())
    role = rng.choices(["solver", "critic", "vote"], [6, 2, 2])[0]
    return Node(name=name, role=role, model=model, tools=("breaks",) if model == "breaks" and role != "vote" else None)


def interpret_graph(
    graph: Graph, team: Team, takes: Callable[[Request], float] | None = None
) -> tuple[dict[str, list[NodeOutput]], float]:
    """What comes of member node in member round, one after the other, and how long the critical path takes."""
    outcomes: dict[str, list[NodeOutput]] = {}
    end: dict[str, float] = {}

    def run(name: str, also: list[str]) -> None:
        others = [*graph.predecessors[name], *also]
        outcome, took = play_node(
            team, graph[name], [latest_output(outcomes[other]) for other in others], takes or seconds
        )
        outcomes.setdefault(name, []).append(outcome)
        end[name] = took + max((end[other] for other in others), default=0.0)

    for name in graph.order:
        loop = next((x for x in graph.loops if x.target == name), None)
        if loop is None and name not in outcomes:
            run(name, [])
        for number in range(loop.rounds + 1 if loop else 0):
            for member in graph.loop_body(loop):
                run(member, [loop.source] if number and member == loop.target else [])
            if outcomes[loop.source][-1].accepts:
                break
    return outcomes, end[graph.exit]


def latest_output(outcomes: list[NodeOutput]) -> NodeOutput:
    return ([x for x in outcomes if x.text] or outcomes)[-1]


def play_node(
    team: Team, node: Node, inputs: list[NodeOutput], takes: Callable[[Request], float]
) -> tuple[NodeOutput, float]:
    took: list[float] = []

    def answer(request: Request) -> str | Reply:
        took.append(takes(request))
        reply = scripted_reply(request)
        if isinstance(reply, Message):
            raise RuntimeError(reply)
        return reply

    try:
        outcome = play(run_node(team, node, EXAMPLE, inputs, sample=0, seed=0), answer)
    except RuntimeError:
        outcome = NodeOutput(node.name, "failed")
    if sum(took) > NODE_SECONDS:
        return NodeOutput(node.name, "timeout"), NODE_SECONDS
    return outcome, sum(took)


def plain(outcomes: Mapping[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Outcomes without their rollouts and the words of errors, to be compared."""
    return {name: [(x.node, x.status, x.text, x.accepts) for x in rounds] for name, rounds in sorted(outcomes.items())}
