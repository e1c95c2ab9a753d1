"""
What `edgewise graph` does; `toolkit.cli.app` resolves these names.

A GRAPH is a graph.json, an artefact (a directory or .edge), or a finished run. Where it gives each query a graph of
its own, `GRAPH@VERSION` is one of them, by the first signs of its version.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from edgewise.mas.deploy.reference import GraphUse, StoredDesign, read_reference
from edgewise.mas.graph import drawing
from edgewise.mas.graph.diff import diff
from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import Role, catalogue
from edgewise.toolkit.cli.output import Output
from edgewise.toolkit.errors import ConfigError


def show(source: str, form: str) -> Output:
    """A graph as text, Mermaid, SVG or JSON; as text all graphs of a design."""
    if form not in FORMS:
        raise ConfigError(f"--as takes {', '.join(FORMS)}, not {form!r}.")
    found = read_reference(source)
    graphs = [
        {"version": each.graph.version, "queries": each.queries, "graph": each.graph.to_json()}
        for each in found.uses
    ]
    return Output(FORMS[form](found), {"kind": found.kind, "graphs": graphs})


def compare(before: str, after: str) -> Output:
    """What differs between two graphs."""
    changes = diff(read_reference(before).single_graph, read_reference(after).single_graph)
    return Output([change.line() for change in changes] or ["no change"], [x.to_json() for x in changes])


def roles(files: Sequence[str]) -> Output:
    """The catalogue, with the roles of the user's files."""
    known = catalogue(*files)
    wide = max(map(len, known))
    lines = [f"{name:<{wide}}  {role.does} ({_terms(role)})" for name, role in known.items()]
    return Output(lines, [role.model_dump(mode="json") for role in known.values()])


# ---- reading ---------------------------------------------------------------------------------------


# ---- forms -----------------------------------------------------------------------------------------


def _text(found: StoredDesign) -> list[str]:
    if len(found.uses) == 1:
        graph = found.uses[0].graph
        return [f"graph {graph.version}", drawing.render_text(graph, found.roles)]
    total = sum(each.queries for each in found.uses)
    lines = [f"{len(found.uses)} different graphs for {total} queries"]
    lines += [f"{each.graph.version}  {_share(each, total)}  {_size(each.graph)}" for each in found.uses]
    for each in found.uses:
        lines += ["", f"graph {each.graph.version}", drawing.render_text(each.graph, found.roles)]
    return lines


def _share(used: GraphUse, total: int) -> str:
    return f"{used.queries:>{len(str(total))}} of {total} queries"


def _size(graph: Graph) -> str:
    return f"{len(graph)} agent{'' if len(graph) == 1 else 's'}: {', '.join(graph.order)}"


def _mermaid(found: StoredDesign) -> list[str]:
    return [drawing.render_mermaid(found.single_graph, found.roles)]


def _svg(found: StoredDesign) -> list[str]:
    return [drawing.render_svg_file(found.single_graph, found.roles)]


def _graph_json(found: StoredDesign) -> list[str]:
    return [json.dumps(found.single_graph.to_json(), indent=1)]


FORMS: Mapping[str, Callable[[StoredDesign], list[str]]] = {
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
