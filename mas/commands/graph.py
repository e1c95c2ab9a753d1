"""
What `edgewise graph` does; `toolkit.cli.app` resolves these names.

A GRAPH is a graph.json, an artefact (a directory or .edge), or a finished run. Where it gives each query a graph of
its own, `GRAPH@VERSION` is one of them, by the first signs of its version.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.mas.designs.fixed import tools_in
from edgewise.mas.graph import drawing
from edgewise.mas.graph.diff import diff
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import CATALOGUE, Role, Roles, catalogue
from edgewise.toolkit.cli.output import Shown
from edgewise.toolkit.errors import ArtifactError, ConfigError, GraphError
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.util.import_by_name import meant

FILE = "graph.json"
ROLES_FILE = "roles.json"


@dataclass(frozen=True, slots=True)
class Used:
    """A graph of a design, and how many of the design's stored queries get it."""

    graph: Graph
    queries: int


@dataclass(frozen=True, slots=True)
class Designed:
    """
    What a GRAPH holds: the different graphs, the most used first, and the roles they were made of.

    `source` is how the user called it; `kind` is the design's, "graph" for a plain graph. `tools` are those that its
    task had.
    """

    source: str
    kind: str
    used: tuple[Used, ...]
    roles: Roles
    tools: tuple[str, ...] = ()

    @property
    def only(self) -> Graph:
        """Its graph. Raises ConfigError where there are several."""
        first, *others = self.used
        if others:
            versions = ", ".join(each.graph.version for each in self.used[:8])
            raise ConfigError(
                f"{self.source} holds {len(self.used)} graphs: choose one as {self.source}@VERSION, of {versions}."
            )
        return first.graph


def read(source: str) -> Designed:
    """What a GRAPH holds. Raises ArtifactError where there is none, GraphError for one that can't be read."""
    path, version = operand(source)
    data, roles = _content(path)
    kind, found = _used(path, data)
    used = tuple(each for each in found if each.graph.version.startswith(version))
    if not used:
        near = meant(version, [each.graph.version for each in found])
        raise GraphError(f"{path} holds no graph {version!r}{near}")
    return Designed(source, kind, used, roles, tools_in(data))


def show(source: str, form: str) -> Shown:
    """A graph as text, Mermaid, SVG or JSON; as text all graphs of a design."""
    if form not in FORMS:
        raise ConfigError(f"--as takes {', '.join(FORMS)}, not {form!r}.")
    found = read(source)
    graphs = [
        {"version": each.graph.version, "queries": each.queries, "graph": each.graph.to_json()}
        for each in found.used
    ]
    return Shown(FORMS[form](found), {"kind": found.kind, "graphs": graphs})


def compare(before: str, after: str) -> Shown:
    """What differs between two graphs."""
    changes = diff(read(before).only, read(after).only)
    return Shown([change.line() for change in changes] or ["no change"], [x.to_json() for x in changes])


def roles(files: Sequence[str]) -> Shown:
    """The catalogue, with the roles of the user's files."""
    known = catalogue(*files)
    wide = max(map(len, known))
    lines = [f"{name:<{wide}}  {role.does} ({_terms(role)})" for name, role in known.items()]
    return Shown(lines, [role.model_dump(mode="json") for role in known.values()])


# ---- reading ---------------------------------------------------------------------------------------


def operand(source: str) -> tuple[Path, str]:
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


def _used(path: Path, data: Any) -> tuple[str, tuple[Used, ...]]:
    """The kind of a design and its different graphs, the most used first."""
    if not isinstance(data, dict):
        raise GraphError(f"{path} holds no agent graph: it must be a JSON object.")
    kind, examples = str(data.get("kind", "graph")), data.get("examples", [])
    if not isinstance(examples, list) or not all(isinstance(each, dict) for each in examples):
        raise GraphError(f"{path} is damaged: its examples are no list of queries with their graphs.")
    if kind in ("graph", "fixed"):
        graph = Graph.from_json(data if kind == "graph" else data.get("graph"))
        return kind, (Used(graph, len(examples)),)
    if not examples:
        raise GraphError(f"{path} is a design of kind {kind!r} without examples: there is no graph to show.")
    graphs = [Graph.from_json(each.get("graph")) for each in examples]
    counts = Counter(graph.version for graph in graphs)
    by_version = {graph.version: graph for graph in graphs}
    return kind, tuple(Used(by_version[version], times) for version, times in counts.most_common())


# ---- forms -----------------------------------------------------------------------------------------


def _text(found: Designed) -> list[str]:
    if len(found.used) == 1:
        graph = found.used[0].graph
        return [f"graph {graph.version}", drawing.text(graph, found.roles)]
    total = sum(each.queries for each in found.used)
    lines = [f"{len(found.used)} different graphs for {total} queries"]
    lines += [f"{each.graph.version}  {_share(each, total)}  {_size(each.graph)}" for each in found.used]
    for each in found.used:
        lines += ["", f"graph {each.graph.version}", drawing.text(each.graph, found.roles)]
    return lines


def _share(used: Used, total: int) -> str:
    return f"{used.queries:>{len(str(total))}} of {total} queries"


def _size(graph: Graph) -> str:
    return f"{len(graph)} agent{'' if len(graph) == 1 else 's'}: {', '.join(graph.order)}"


def _mermaid(found: Designed) -> list[str]:
    return [drawing.mermaid(found.only, found.roles)]


def _svg(found: Designed) -> list[str]:
    return [drawing.svg_file(found.only, found.roles)]


def _graph_json(found: Designed) -> list[str]:
    return [json.dumps(found.only.to_json(), indent=1)]


FORMS: Mapping[str, Callable[[Designed], list[str]]] = {
    "text": _text,
    "mermaid": _mermaid,
    "svg": _svg,
    "json": _graph_json,
}


def _terms(role: Role) -> str:
    """What a role gives, needs and may cost."""
    turns = role.turns if role.tools or role.act == "program" else 1
    calls = f"{turns} call{'' if turns == 1 else 's'}"
    cost = f"{calls} of {role.max_tokens} tokens at most" if role.max_tokens else f"{calls} at most"
    parts = [
        f"gives {'an' if role.gives == 'answer' else 'a' if role.gives in ('plan', 'verdict') else ''} {role.gives}",
        f"hears {role.hears} or more" if role.hears else "",
        f"tools: {', '.join(role.tools)}" if role.tools and role.tools != ("*",) else "",
        "no model" if role.votes else cost,
    ]
    return "; ".join(" ".join(part.split()) for part in parts if part)
