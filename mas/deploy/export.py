"""
An agent graph as a plain LangGraph module that runs without Edgewise.

`mas.deploy.export_writer` writes the module; its fixed parts are in `mas.deploy.export_templates`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.mas.commands.graph import operand, read
from edgewise.mas.config import WiringConfig
from edgewise.mas.deploy import export_templates
from edgewise.mas.deploy.export_writer import Writer, shape
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import Roles
from edgewise.mas.runtime.node import Team
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.model.client import wire_name
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.tools.tool import Function
from edgewise.toolkit.types import Sampling
from edgewise.toolkit.util.files import json_text, replace_text

FORMAT = {"dependencies": ["."], "graphs": {"agent": "./graph.py:graph"}, "env": ".env"}
"""langgraph.json, as the LangGraph CLI reads it."""

USUAL = WiringConfig.kept({})
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


def command(source: str, folder: Path) -> Exported:
    """
    Export a GRAPH (see `mas.commands.graph`) into `folder`, with the model and the settings it was measured with.

    Of a design that gives each query a graph of its own, the graph is exported that most of its stored queries get:
    a plain module has no policy. Raises ArtifactError or GraphError.
    """
    found = read(source)
    model, sampling, settings = _measured_with(operand(source)[0])
    used, *others = found.used
    note = ""
    if others:
        queries = used.queries + sum(other.queries for other in others)
        note = (
            f"The design has {1 + len(others)} graphs for {queries} queries; this one was used for {used.queries} of "
            "them. `edgewise serve` chooses by query."
        )
    return export(
        used.graph,
        found.roles,
        folder,
        model=model,
        sampling=sampling,
        own=found.tools,
        turns=settings.turns,
        node_seconds=settings.node_seconds,
        note=note,
    )


def _measured_with(path: Path) -> tuple[str, Sampling, WiringConfig]:
    """The model and the settings of an artefact; of a bare graph.json none."""
    try:
        artifact = Artifact.load(path.parent if path.suffix == ".json" else path)
    except ArtifactError:
        return "", PLAIN, USUAL
    return artifact.model, artifact.sampling, WiringConfig.kept(artifact.settings)


def export(
    graph: Graph,
    roles: Roles,
    folder: str | Path,
    *,
    model: str = "",
    sampling: Sampling = PLAIN,
    tools: Mapping[str, Function] | None = None,
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
        model=wire_name(model) if model else "gpt-4o-mini",
        version=graph.version,
        shape="; ".join(shape(graph)),
        notes=note and f"\n{note}\n",
    )
    files = {
        "graph.py": writer.module(),
        "langgraph.json": json_text(FORMAT),
        "requirements.txt": "langgraph>=1.2,<2\nopenai>=2,<4\n",
        "README.md": readme,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(folder / name, text)
    return Exported(folder, tuple(files), graph, tuple(writer.stubs), note)
