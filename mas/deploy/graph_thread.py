"""One run of a graph in use, as LangGraph and its checkpointer see it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from langgraph.types import Command
from pydantic import TypeAdapter

from edgewise.mas.graph.graph import Graph
from edgewise.mas.runtime.context import RunContext
from edgewise.mas.runtime.langgraph_compiler import outcome_to_data, read_outcomes
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.types import Message, Sampling


@dataclass(frozen=True, slots=True)
class GraphThread:
    """A prepared run: the compiled graph, its context, and the thread that a checkpointer stores it under."""

    graph: Graph
    app: Any
    context: RunContext
    messages: tuple[Message, ...]
    thread: str
    sampling: Sampling | None

    @property
    def start(self) -> dict[str, Any]:
        """The state that a new run starts with."""
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        return {"query": self.messages[-1].content, "messages": messages}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration for LangGraph; its metadata are stored with each checkpoint."""
        # Stored with the thread, so that another process resumes it with the same graph and the same sampling.
        sampling = json.dumps(asdict(self.sampling)) if self.sampling else ""
        metadata = {"graph": self.graph.version, "sampling": sampling}
        return {**thread_config(self.thread), "metadata": metadata}


def thread_config(thread: str) -> dict[str, Any]:
    """Return LangGraph's configuration that names a thread."""
    return {"configurable": {"thread_id": thread}}


def read_sampling(metadata: Mapping[str, Any]) -> Sampling | None:
    """Return the sampling in the metadata of a checkpoint, None for the graph's own."""
    data = metadata.get("sampling")
    return TypeAdapter(Sampling).validate_json(data) if data else None


def find_nodes(graph: Graph, names: Sequence[str]) -> list[str]:
    """Return the nodes of a graph that have one of these names or roles."""
    return [node.name for node in graph.nodes if {node.name, node.role} & set(names)]


def edit_outcomes(state: Any, edit: Mapping[str, str]) -> Any:
    """Return the command that resumes a run with other texts of nodes. Raises GraphError for a node without output."""
    outcomes = read_outcomes(state)
    # A text for a node that has not run would be overwritten when it runs.
    for name in edit:
        if name not in outcomes:
            raise GraphError(f"Node {name!r} has said nothing yet that could be edited.")
    edits = {}
    for name, text in edit.items():
        # The last round, as this is the one that other nodes receive.
        last, number = outcomes[name][-1], len(outcomes[name]) - 1
        edited = replace(last, text=text, result="", status="ok", error="")
        edits[name] = [outcome_to_data(edited, number)]
    return Command(update={"outcomes": edits})
