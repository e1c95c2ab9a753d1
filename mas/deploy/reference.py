"""
Read the graphs that a command-line argument names.

    GRAPH            a graph.json, an artefact (a directory or .edge) or a finished run
    GRAPH@VERSION    one of its graphs, by the first characters of its version
"""

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.mas.designs.fixed import parse_tools
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import CATALOGUE, Role, Roles
from edgewise.toolkit.errors import ArtifactError, ConfigError, GraphError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.util.import_by_name import did_you_mean

FILE = "graph.json"
ROLES_FILE = "roles.json"


@dataclass(frozen=True, slots=True)
class GraphUse:
    """A graph of a design, and the number of the design's stored queries that get it."""

    graph: Graph
    queries: int


@dataclass(frozen=True, slots=True)
class StoredDesign:
    """
    A design in a file: its distinct graphs, the most used first, and the roles that they were made of.

    `source` is the user's name for it; `kind` is the design's, "graph" for a plain graph. `tools` are those of its
    task.
    """

    source: str
    kind: str
    uses: tuple[GraphUse, ...]
    roles: Roles
    tools: tuple[str, ...] = ()

    @property
    def single_graph(self) -> Graph:
        """Its graph. Raises ConfigError if there are several."""
        first, *others = self.uses
        if others:
            versions = ", ".join(use.graph.version for use in self.uses[:8])
            raise ConfigError(
                f"{self.source} holds {len(self.uses)} graphs: choose one as {self.source}@VERSION, of {versions}."
            )
        return first.graph


def read_reference(source: str, roles: Roles = CATALOGUE) -> StoredDesign:
    """
    Return the design that a reference names; `roles` are those known beside the ones stored with it.

    Raises ArtifactError if there is none, GraphError for one that can't be read.
    """
    path, version = split_reference(source)
    # The graph.json of a run or an artefact is read with its artefact; any other .json is a graph by itself.
    file = path / FILE if path.is_dir() and not (path / "artifact").is_dir() else path
    if file.suffix == ".json" and file.is_file() and not file.with_name("manifest.json").is_file():
        try:
            data = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise GraphError(f"{file} is no JSON: {error}.") from error
    else:
        artifact = Artifact.load(path.parent if path.name == FILE else path)
        if FILE not in artifact.files:
            raise ArtifactError(f"{path} holds no agent graph: it was not made by --by graph.")
        data = artifact.files[FILE]
        # Roles serve as labels here: one of another version that can't be read is left out.
        stored = artifact.files.get(ROLES_FILE)
        for name, role in stored.items() if isinstance(stored, dict) else ():
            with contextlib.suppress(ValueError):
                roles = {**roles, name: Role.model_validate(role)}

    # A version may be shortened, and may then name several graphs.
    kind, all_uses = count_uses(path, data)
    uses = tuple(use for use in all_uses if use.graph.version.startswith(version))
    if not uses:
        # The nearest version is named, as versions are copied by hand.
        near = did_you_mean(version, [use.graph.version for use in all_uses])
        raise GraphError(f"{path} holds no graph {version!r}{near}")
    return StoredDesign(source, kind, uses, roles, parse_tools(data))


def split_reference(source: str) -> tuple[Path, str]:
    """Return the path, and the version behind its last "@" unless a file has that in its name."""
    path, at, version = source.rpartition("@")
    if not at or not path or Path(source).exists():
        return Path(source), ""
    return Path(path), version


def count_uses(path: Path, data: Any) -> tuple[str, tuple[GraphUse, ...]]:
    """Return the kind of a design and its distinct graphs, the most used first."""
    if not isinstance(data, dict):
        raise GraphError(f"{path} holds no agent graph: it must be a JSON object.")
    kind, examples = str(data.get("kind", "graph")), data.get("examples", [])
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise GraphError(f"{path} is damaged: its examples are no list of queries with their graphs.")
    # One graph for all queries: it is stored once, beside the examples.
    if kind in ("graph", "fixed"):
        graph = Graph.from_json(data if kind == "graph" else data.get("graph"))
        return kind, (GraphUse(graph, len(examples)),)
    if not examples:
        raise GraphError(f"{path} is a design of kind {kind!r} without examples: there is no graph to show.")

    # By version, as the graphs of two examples may list the same edges in another order.
    graphs = [Graph.from_json(example.get("graph")) for example in examples]
    counts = Counter(graph.version for graph in graphs)
    by_version = {graph.version: graph for graph in graphs}
    return kind, tuple(GraphUse(by_version[version], times) for version, times in counts.most_common())
