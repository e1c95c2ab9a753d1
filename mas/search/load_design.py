"""Read a design from the content of graph.json."""

from typing import Any

from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Design
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import ConfigError, GraphError


def read_design(data: Any) -> Design:
    """
    Return the design in plain data, which may be a graph alone; nothing is executed.

    Raises GraphError for data that is no design, and ConfigError for a network policy where torch is missing.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind is None and isinstance(data, dict) and "nodes" in data:
        return FixedDesign(Graph.from_json(data))
    match kind:
        case "fixed":
            return FixedDesign(Graph.from_json(data.get("graph")))
        case "policy":
            try:
                from edgewise.mas.search.policy.network import NetworkPolicy
            except ModuleNotFoundError as error:
                raise ConfigError(
                    "These graphs are chosen by a policy, which needs torch: pip install 'edgewise[learner]'."
                ) from error
            return NetworkPolicy.from_json(data)
        case "tabular":
            from edgewise.mas.search.policy.tabular import TabularPolicy

            return TabularPolicy.from_json(data)
        case "table":
            from edgewise.mas.designs.clustered import ClusteredDesign

            return ClusteredDesign.from_json(data)
    raise GraphError(f"This is no design of agent graphs: its kind is {kind!r}.")
