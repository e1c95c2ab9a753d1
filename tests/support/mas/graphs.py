"""Random graphs for laws that hold for all of them."""

from hypothesis import settings
from hypothesis import strategies as st

from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.toolkit.errors import GraphError

ROLES = ("solver", "drafter", "planner", "critic", "reviser", "majority", "judge")
law = settings(max_examples=60, deadline=None)
"""How often a law is tried; a busy machine is no failure."""
PLAIN = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@st.composite
def nodes(draw, name: str) -> Node:
    """A node that may differ from its role in every way."""
    return Node(
        name=name,
        role=draw(st.sampled_from(ROLES)),
        model=draw(st.sampled_from(["", "openai/gpt-4o-mini"])),
        prompt=draw(st.none() | PLAIN),
        tools=draw(st.none() | st.lists(st.sampled_from(["python", "search"]), unique=True).map(tuple)),
        lessons=tuple(draw(st.lists(PLAIN, max_size=2))),
        weight=draw(st.sampled_from([1.0, 0.0, 2.5])),
    )


@st.composite
def graphs(draw, most: int = 8, plain: bool = False) -> Graph:
    """A valid graph: any edges from earlier to later nodes, all of which lead to the last; some loops."""
    names = [f"n{i}" for i in range(draw(st.integers(1, most)))]
    pairs = [(a, b) for i, b in enumerate(names) for a in names[:i]]
    edges = set(draw(st.lists(st.sampled_from(pairs), unique=True))) if pairs else set()
    edges |= {(a, names[-1]) for a in names[:-1] if not any(source == a for source, _ in edges)}
    made = [Node(name=n, role=draw(st.sampled_from(ROLES))) if plain else draw(nodes(n)) for n in names]
    shuffled = draw(st.permutations(made))
    graph = Graph(tuple(shuffled), tuple(draw(st.permutations(sorted(edges)))), names[-1])
    for _ in range(draw(st.integers(0, 2))):
        if possible := _loops(graph):
            loop = draw(st.sampled_from(possible)).model_copy(update={"rounds": draw(st.integers(1, 3))})
            graph = Graph(graph.nodes, graph.edges, graph.exit, (*graph.loops, loop))
    return graph


def _loops(graph: Graph) -> list[Loop]:
    """The loops that a graph could have besides its own, only those over several nodes where there are such."""
    possible = []
    for place, target in enumerate(graph.order):
        for source in graph.order[place:]:
            loop = Loop(source=source, target=target, rounds=1)
            try:
                Graph(graph.nodes, graph.edges, graph.exit, (*graph.loops, loop))
            except GraphError:
                continue
            possible.append(loop)
    long = [loop for loop in possible if loop.source != loop.target]
    return long or possible
