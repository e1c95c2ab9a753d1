"""
An agent graph as a plain LangGraph module that runs without Edgewise.

`mas.deploy.export_writer` writes the module, out of the code in `mas.deploy.exported`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.mas.config import GraphConfig
from edgewise.mas.deploy.export_writer import PYTHON, describe_edges, used_tools, write_module
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import Roles
from edgewise.mas.runtime.node import Team
from edgewise.toolkit.model.names import get_wire_name
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import Sampling
from edgewise.toolkit.util.files import dump_json, replace_text

LANGGRAPH_JSON = {"dependencies": ["."], "graphs": {"agent": "./graph.py:graph"}, "env": ".env"}
"""langgraph.json, as the LangGraph CLI reads it."""
README = """\
# An agent graph as a LangGraph module

`graph.py` is plain Python on LangGraph and the `openai` package; Edgewise is not needed to run it.

    pip install -r requirements.txt
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL for another server, MODEL for another model ({model})
    python graph.py "your question"

From Python: `from graph import ask, graph`. With the LangGraph CLI: put the variables above into `.env`, then
`langgraph dev` (`langgraph.json` names the graph `agent`). Graph version {version}: {edges}.
{note}"""

DEFAULT_CONFIG = GraphConfig.from_artifact({})
"""The settings where none are known."""
DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Files of an export: `unconnected` are tools that the user has to supply, `note` says which graph it is."""

    folder: Path
    files: tuple[str, ...]
    graph: Graph
    unconnected: tuple[str, ...] = ()
    note: str = ""

    def lines(self) -> list[str]:
        """Return the result for people."""
        todo = [f"connect the tool {name!r} in graph.py: it was not exported" for name in self.unconnected]
        return [f"{self.folder}: {', '.join(self.files)}", *filter(None, [self.note]), *todo]

    def to_json(self) -> dict[str, Any]:
        """Return the result for programs."""
        return {
            "folder": str(self.folder),
            "files": list(self.files),
            "graph": self.graph.version,
            "unconnected": list(self.unconnected),
            "note": self.note,
        }


def export(
    graph: Graph,
    roles: Roles,
    folder: str | Path,
    *,
    model: str = "",
    sampling: Sampling = DEFAULT_SAMPLING,
    tools: Mapping[str, FunctionTool] | None = None,
    task_tools: Sequence[str] | None = None,
    turns: int = DEFAULT_CONFIG.turns,
    node_seconds: float = DEFAULT_CONFIG.node_seconds,
    note: str = "",
) -> ExportResult:
    """
    Write graph.py, langgraph.json, requirements.txt and README.md into `folder`.

    `model` is the model of nodes that name none, `tools` describes tools by name; the code of tools other than
    "python" is left for the user to connect. `task_tools` are the tools of the task, which a role gets by "*": those
    of `tools` by default. `turns` bounds those of the roles. Raises GraphError for an unknown role, and for models of
    several servers.
    """
    # The team only answers what a node has: nothing is run here, so tools need no code.
    names = tuple(tools or ()) if task_tools is None else tuple(task_tools)
    team = Team(roles, model, sampling, tools, turns, task_tools=names)
    readme = README.format(
        model=get_wire_name(model) if model else "gpt-4o-mini",
        version=graph.version,
        edges="; ".join(describe_edges(graph)),
        note=note and f"\n{note}\n",
    )
    # Everything is made before the first file is written: a graph that can't be exported leaves no folder behind.
    files = {
        "graph.py": write_module(graph, team, node_seconds),
        "langgraph.json": dump_json(LANGGRAPH_JSON),
        "requirements.txt": "langgraph>=1.2,<2\nopenai>=2,<4\n",
        "README.md": readme,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(folder / name, text)
    # The code of other tools is the user's own, and may need more than one file.
    unconnected = tuple(name for name in used_tools(graph, team) if name != PYTHON)
    return ExportResult(folder, tuple(files), graph, unconnected, note)
