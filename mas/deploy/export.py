"""
An agent graph as a plain LangGraph module that runs without Edgewise.

`mas.deploy.export_writer` writes the module; its fixed parts are in `mas.deploy.export_templates`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.mas.config import GraphConfig
from edgewise.mas.deploy import export_templates
from edgewise.mas.deploy.export_writer import Writer, shape
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import Roles
from edgewise.mas.runtime.node import Team
from edgewise.toolkit.model.names import get_wire_name
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.types import Sampling
from edgewise.toolkit.util.files import dump_json, replace_text

FORMAT = {"dependencies": ["."], "graphs": {"agent": "./graph.py:graph"}, "env": ".env"}
"""langgraph.json, as the LangGraph CLI reads it."""

USUAL = GraphConfig.from_artifact({})
"""The settings where none are known."""

PLAIN = Sampling()


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: `unconnected` are tools that the user has to put in place, `note` says which graph it is."""

    folder: Path
    files: tuple[str, ...]
    graph: Graph
    unconnected: tuple[str, ...] = ()
    note: str = ""

    def lines(self) -> list[str]:
        """For people."""
        todo = [f"connect the tool {name!r} in graph.py: it was not exported" for name in self.unconnected]
        written = f"{self.folder}: {', '.join(self.files)}"
        return [written, *filter(None, [self.note]), *todo]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
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
    sampling: Sampling = PLAIN,
    tools: Mapping[str, FunctionTool] | None = None,
    own: Sequence[str] | None = None,
    turns: int = USUAL.turns,
    node_seconds: float = USUAL.node_seconds,
    note: str = "",
) -> Exported:
    """
    Write graph.py, langgraph.json, requirements.txt and README.md into `folder`.

    `model` is the model of nodes that name none, `tools` describes tools by name; the code of tools other than
    "python" is left for the user to connect. `own` are the tools of the task, which a role gets by "*": those of
    `tools` where nothing is said. `turns` are the most that the run allowed. Raises GraphError for a role that is not
    there, and for models of several servers.
    """
    folder = Path(folder)
    names = tuple(tools or ()) if own is None else tuple(own)
    writer = Writer(graph, Team(roles, model, sampling, tools, turns, own=names), node_seconds)
    readme = export_templates.README.format(
        model=get_wire_name(model) if model else "gpt-4o-mini",
        version=graph.version,
        shape="; ".join(shape(graph)),
        notes=note and f"\n{note}\n",
    )
    files = {
        "graph.py": writer.module(),
        "langgraph.json": dump_json(FORMAT),
        "requirements.txt": "langgraph>=1.2,<2\nopenai>=2,<4\n",
        "README.md": readme,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(folder / name, text)
    return Exported(folder, tuple(files), graph, tuple(writer.stubs), note)
