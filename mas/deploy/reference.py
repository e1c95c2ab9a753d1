"""Read the graphs that a command-line argument names."""

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
    """A graph of a design, and how many of the design's stored queries get it."""

    graph: Graph
    queries: int


@dataclass(frozen=True, slots=True)
class StoredDesign:
    """
    What a GRAPH holds: the different graphs, the most used first, and the roles they were made of.

    `source` is how the user called it; `kind` is the design's, "graph" for a plain graph. `tools` are those that its
    task had.
    """

    source: str
    kind: str
    uses: tuple[GraphUse, ...]
    roles: Roles
    tools: tuple[str, ...] = ()

    @property
    def single_graph(self) -> Graph:
        """Its graph. Raises ConfigError where there are several."""
        first, *others = self.uses
        if others:
            versions = ", ".join(each.graph.version for each in self.uses[:8])
            raise ConfigError(
                f"{self.source} holds {len(self.uses)} graphs: choose one as {self.source}@VERSION, of {versions}."
            )
        return first.graph


def read_reference(source: str) -> StoredDesign:
    """What a GRAPH holds. Raises ArtifactError where there is none, GraphError for one that can't be read."""
    path, version = split_reference(source)
    data, roles = _content(path)
    kind, found = _used(path, data)
    used = tuple(each for each in found if each.graph.version.startswith(version))
    if not used:
        near = did_you_mean(version, [each.graph.version for each in found])
        raise GraphError(f"{path} holds no graph {version!r}{near}")
    return StoredDesign(source, kind, used, roles, parse_tools(data))


def split_reference(source: str) -> tuple[Path, str]:
    """A path, and what follows its last "@" where no file has that in its name."""
    path, at, version = source.rpartition("@")
    if not at or not path or Path(source).exists():
        return Path(source), ""
    return Path(path), version


def _content(path: Path) -> tuple[Any, Roles]:
    """The plain data of a graph or a design, and the roles kept with it."""
    bare = path / FILE if path.is_dir() and not (path / "artifact").is_dir() else path
    if bare.suffix == ".json" and bare.is_file() and not bare.with_name("manifest.json").is_file():
        return _json(bare), CATALOGUE
    artifact = Artifact.load(path.parent if path.name == FILE else path)
    if FILE not in artifact.files:
        raise ArtifactError(f"{path} holds no agent graph: it was not made by --by graph.")
    return artifact.files[FILE], _kept(artifact.files.get(ROLES_FILE))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GraphError(f"{path} is no JSON: {error}.") from error


def _kept(data: Any) -> Roles:
    """The roles of an artefact, for labels; one that another version wrote and this can't read is left out."""
    known = dict(CATALOGUE)
    for name, role in data.items() if isinstance(data, dict) else ():
        try:
            known[name] = Role.model_validate(role)
        except ValueError:
            continue
    return known


def _used(path: Path, data: Any) -> tuple[str, tuple[GraphUse, ...]]:
    """The kind of a design and its different graphs, the most used first."""
    if not isinstance(data, dict):
        raise GraphError(f"{path} holds no agent graph: it must be a JSON object.")
    kind, examples = str(data.get("kind", "graph")), data.get("examples", [])
    if not isinstance(examples, list) or not all(isinstance(each, dict) for each in examples):
        raise GraphError(f"{path} is damaged: its examples are no list of queries with their graphs.")
    if kind in ("graph", "fixed"):
        graph = Graph.from_json(data if kind == "graph" else data.get("graph"))
        return kind, (GraphUse(graph, len(examples)),)
    if not examples:
        raise GraphError(f"{path} is a design of kind {kind!r} without examples: there is no graph to show.")
    graphs = [Graph.from_json(each.get("graph")) for each in examples]
    counts = Counter(graph.version for graph in graphs)
    by_version = {graph.version: graph for graph in graphs}
    return kind, tuple(GraphUse(by_version[version], times) for version, times in counts.most_common())
