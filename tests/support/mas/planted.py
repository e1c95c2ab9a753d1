"""
Queries of three kinds, each of which wants another role at the exit, and a model that designs, edits and distils.

The model knows nothing by itself: its designs and edits follow its seed until a lesson, or the changes that were
tried, tell it more. As distiller it reads which team won.
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from edgewise.mas.designs.interface import Query, Searcher, Trial, TrialGroup
from edgewise.mas.graph.construction import Space
from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.toolkit.types import Request
from edgewise.toolkit.util.seeds import derive_seed
from tests.support.plans import play

ROLES = {name: CATALOGUE[name] for name in ("solver", "programmer", "reasoner", "planner", "reviser", "majority")}
SPACE = Space.from_roles(ROLES, agents=4)
WANTED = {"count": "programmer", "prove": "reasoner", "greet": "solver"}
KINDS = tuple(WANTED)
CALLED = {"count": "count letters in", "prove": "prove by steps", "greet": "greet politely"}


def query(number: int, spread: float = 0.3) -> Query:
    """A query whose features lie near an axis of their own for each kind."""
    rng = np.random.default_rng(number)
    features = np.eye(8)[number % 3] + spread * rng.normal(size=8) / np.sqrt(8)
    features /= np.linalg.norm(features)
    text = f"{CALLED[KINDS[number % 3]]} item {number}"
    return Query(f"q{number}", text, features.astype(np.float32))


def reward(graph: Graph, query: Query, noise: float = 0.0) -> float:
    """1 for the wanted role at the exit, less what agents cost and how hard the query is."""
    wanted = WANTED[KINDS[int(query.id[1:]) % 3]]
    right = 0.6 * (graph[graph.exit].role == wanted)
    draw = np.random.default_rng(derive_seed(query.id, graph.version)).normal()
    return right - 0.05 * len(graph) - 0.02 * (int(query.id[1:]) % 5) + noise * float(draw)


def chain(*roles: str, loops: tuple[Loop, ...] = ()) -> Graph:
    """Agents n0, n1, ... that each hear the one before."""
    names = [f"n{i}" for i in range(len(roles))]
    nodes = tuple(Node(name=name, role=role) for name, role in zip(names, roles, strict=True))
    return Graph(nodes, tuple(pairwise(names)), names[-1], loops)


def alike(graph: Graph, query: Query, noise: float = 0.0) -> float:
    """For all kinds: 0.3 for a programmer, as much for a reviser that hears it, less what agents cost."""
    roles = {node.name: node.role for node in graph.nodes}
    after = any(roles[a] == "programmer" and roles[b] == "reviser" for a, b in graph.edges)
    draw = np.random.default_rng(derive_seed(query.id, graph.version)).normal()
    hard = 0.02 * (int(query.id[1:]) % 5)
    return 0.3 * ("programmer" in roles.values()) + 0.3 * after - 0.05 * len(graph) - hard + noise * float(draw)


def tried(queries: Sequence[Query], drafts, noise: float = 0.0, reward=reward) -> list[TrialGroup]:
    """The drafts with their rewards."""
    return [
        TrialGroup(q, tuple(Trial(d, reward(d.graph, q, noise), {"size": len(d.graph)}) for d in each))
        for q, each in zip(queries, drafts, strict=True)
    ]


def searched(
    searcher: Searcher, steps: int, *, model=None, first=0, size=6, rows=6, noise=0.1, reward=reward, run=None
):
    """The searcher after steps on queries that are new in each; `run` drives a plan."""
    drive = run or (lambda plan: play(plan, model or answer))
    for step in range(first, first + steps):
        queries = [query(step * rows + n) for n in range(rows)]
        drafts = drive(searcher.propose(queries, size, step))
        assert [len(each) for each in drafts] == [size] * rows
        drive(searcher.learn(tried(queries, drafts, noise, reward), step))
    return searcher


def worth(searcher: Searcher, reward=reward) -> float:
    """The mean reward of its design on queries that it never saw."""
    queries = [query(1000 + n) for n in range(30)]
    graphs = searcher.design().graphs(queries)
    return float(np.mean([reward(g, q) for g, q in zip(graphs, queries, strict=True)]))


def written(*roles: str, why: str = "so") -> str:
    """A reply with a chain of roles."""
    nodes = [{"name": f"{role}-{i}", "role": role, "prompt": None} for i, role in enumerate(roles)]
    names = [node["name"] for node in nodes]
    edges = [list(pair) for pair in pairwise(names)]
    return json.dumps({"why": why, "graph": {"nodes": nodes, "edges": edges, "loops": [], "exit": names[-1]}})


def answer(request: Request) -> str:
    """The model."""
    system, text = request.messages[0].content, request.messages[1].content
    if system.startswith("You compare"):
        return _lesson(text)
    if system.startswith("You keep"):
        return _operations(re.findall(r"^\d+\. add \(content\): (.+)$", text, re.MULTILINE))
    seed = request.sampling.seed or 0
    guess = ("solver", "programmer", "reasoner")[seed % 3]
    if system.startswith("You improve"):
        return written(*(["programmer"] * (seed // 3 % 2)), *(["reviser"] * (seed % 2)), guess)
    called = next(name for name in CALLED.values() if name in text.split("# Task")[-1])
    told = re.search(rf"asks to {called}, let one (\w+) answer", text)
    return written(told[1]) if told else written("planner", guess)


def _lesson(text: str) -> str:
    called = next(name for name in CALLED.values() if name in text.split("# Task")[1])
    attempts = re.findall(r"\(reward (-?[\d.]+);.*?\)\n\d+ agents; (\S+) answers\n(.*?)(?=\n\n|$)", text, re.DOTALL)
    _, exit_, nodes = max(attempts, key=lambda found: float(found[0]))
    role = re.search(rf"^- {exit_} \((\w+)\)", nodes, re.MULTILINE)
    assert role
    return _operations([f"Where the task asks to {called}, let one {role[1]} answer without others."])


def _operations(lessons: list[str]) -> str:
    found = [{"action": "add", "id": None, "kind": "content", "text": x} for x in dict.fromkeys(lessons)]
    return json.dumps({"operations": found})
