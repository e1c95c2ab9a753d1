"""
The books of 64 graph runs at once, with the client stack of a real run and a real server on loopback.

Compared, to the token, are: the ledger; what the server counted; the calls in the rollouts, each once. Per row and in
all, without and with sharing: there the 64 runs are 16 groups of four graphs that have nodes in common.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

from common import quick, report

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.mas.runtime.graph_run import GraphRun, run_graph
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.node_cache import NodeCache
from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.types import Example, Message, Plan, Rollout, Sampling
from tests.support.server import Fault, Server

ROWS, GRAPHS = 16, 4


def words(body: dict[str, Any]) -> str:
    """A reply of one to seven words."""
    return " ".join(["word"] * (1 + len(body["messages"][-1]["content"]) % 7))


def serving(answered: list[dict[str, Any]]) -> Server:
    """A server that fails every ninth call, which is asked again, and keeps those that it answered."""
    tries = count(1)

    def answer(body: dict[str, Any]) -> str:
        answered.append(body)
        return words(body)

    return Server(answer, faults=lambda body: None if next(tries) % 9 else Fault(500), latency=0.02)


def graphs() -> list[Graph]:
    """A chain, a vote, a diamond and a star: they have one, two or three solvers in common."""
    three = tuple(Node(name=f"solver-{number}", role="solver") for number in (1, 2, 3))
    reviser, vote = Node(name="reviser", role="reviser"), Node(name="vote", role="majority")
    one, two, _ = three
    names = [node.name for node in three]
    return [
        Graph((one, reviser), (("solver-1", "reviser"),), "reviser"),
        Graph((*three, vote), tuple((name, "vote") for name in names), "vote"),
        Graph((one, two, reviser), (("solver-1", "reviser"), ("solver-2", "reviser")), "reviser"),
        Graph((*three, reviser), tuple((name, "reviser") for name in names), "reviser"),
    ]


def runs(url: str, sharing: bool) -> Plan[list[GraphRun]]:
    """64 runs at once."""
    team = Team(CATALOGUE, f"{url}#m", Sampling(max_tokens=50))
    plans = []
    for row in range(ROWS):
        example = Example(f"row-{row}", (Message("user", f"what is row {'x ' * row}"),))
        shared = NodeCache() if sharing else None
        plans += [run_graph(each, team, example, sample=0, seed=0, cache=shared) for each in graphs()]
    return (yield plans)


async def driven(server: Server, sharing: bool) -> tuple[list[GraphRun], Ledger]:
    """The runs and their ledger."""
    ledger = Ledger()
    client = stack_middleware(Router(), ledger=ledger)
    try:
        return await Driver(client).run(runs(server.url, sharing)), ledger
    finally:
        await client.aclose()


def calls(found: list[GraphRun]) -> Iterator[Rollout]:
    """The rollouts of nodes that were run, each once."""
    for run in found:
        yield from (each for each in run.rollout.steps[0].subrollouts if each.role not in run.reused)


def agree(answered: list[dict[str, Any]], found: list[GraphRun], ledger: Ledger) -> tuple[int, int, int]:
    """Calls that the ledger booked, and by how much it is off from the rollouts and the server, in tokens."""
    per_row: Counter[str] = Counter()
    for rollout in calls(found):
        per_row[rollout.example] += rollout.usage.total
    booked = {str(row): book.tokens for (row,), book in ledger.tabulate("example").items()}
    off = sum(abs(booked.get(row, 0) - per_row[row]) for row in {*booked, *per_row})
    counted = sum(_counted(body) for body in answered)
    steps = sum(len(rollout.steps) for rollout in calls(found))
    off += abs(steps - ledger.total.calls) + abs(len(answered) - ledger.total.calls)
    return ledger.total.calls, off, abs(counted - ledger.total.tokens)


def _counted(body: dict[str, Any]) -> int:
    asked = sum(len(message["content"].split()) for message in body["messages"])
    return asked + len(words(body).split())


def main() -> int:
    """Run both ways, print, judge."""
    quick()
    figures: dict[str, int] = {"runs": ROWS * GRAPHS}
    for name, sharing in (("apart", False), ("sharing", True)):
        answered: list[dict[str, Any]] = []
        with serving(answered) as server:
            found, ledger = asyncio.run(driven(server, sharing))
        made, rollouts, counted = agree(answered, found, ledger)
        figures |= {f"{name}_calls": made, f"{name}_off_rollouts": rollouts, f"{name}_off_server": counted}
        figures |= {f"{name}_reused": sum(len(run.reused) for run in found)}
    saved = figures["apart_calls"] - figures["sharing_calls"]
    exact = not any(value for name, value in figures.items() if "_off_" in name)
    holds = exact and saved == figures["sharing_reused"] > 0
    return report("graph_ledger", figures, "ledger equals the sum of its calls, to the token", holds)


if __name__ == "__main__":
    sys.exit(main())
