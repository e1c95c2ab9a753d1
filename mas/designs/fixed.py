"""Designs that need no torch: one graph for all queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import GraphError


@dataclass(frozen=True, slots=True)
class FixedDesign:
    """The same graph for every query."""

    graph: Graph

    @property
    def version(self) -> str:
        """The graph's version."""
        return self.graph.version

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """Return the graph, for each query."""
        return [self.graph for _ in queries]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kind": "fixed", "graph": self.graph.to_json()}


@dataclass(frozen=True, slots=True)
class EqualTokenBaseline(FixedDesign):
    """One agent with as many tokens as a design used: no limit on calls, tokens or dollars cuts it short."""


def parse_tools(data: Any) -> tuple[str, ...]:
    """Return the names of the task's own tools in the data of a design. Raises GraphError."""
    names = data.get("tools", []) if isinstance(data, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise GraphError("This is no design of agent graphs: its tools are no list of names.")
    return tuple(names)
