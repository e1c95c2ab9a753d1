"""Load a design from the content of graph.json."""

from typing import Any

from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Design
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import ConfigError, GraphError


def read_design(data: Any) -> Design:
    """
    The design in plain data, which may be a graph alone; nothing is executed.

    Raises GraphError for data that is none, and ConfigError for a policy where there is no torch.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind is None and isinstance(data, dict) and "nodes" in data:
        return FixedDesign(Graph.from_json(data))
    if kind == "fixed":
        return FixedDesign(Graph.from_json(data.get("graph")))
    if kind == "policy":
        try:
            from edgewise.mas.search.policy.network import NetworkPolicy
        except ModuleNotFoundError as error:
            raise ConfigError(
                "These graphs are chosen by a policy, which needs torch: pip install 'edgewise[learner]'."
            ) from error
        return NetworkPolicy.from_json(data)
    if kind == "tabular":
        from edgewise.mas.search.policy.tabular import TabularPolicy

        return TabularPolicy.from_json(data)
    if kind == "table":
        from edgewise.mas.designs.clustered import ClusteredDesign

        return ClusteredDesign.from_json(data)
    raise GraphError(f"This is no design of agent graphs: its kind is {kind!r}.")
