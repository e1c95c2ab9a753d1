"""
`edgewise graph`: show, diff and roles.

A GRAPH is a graph.json, an artefact (a directory or .edge), or a finished run. If a design gives each query a graph of
its own, `GRAPH@VERSION` picks one by the first digits of its version.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from edgewise.mas.deploy.reference import StoredDesign, read_reference
from edgewise.mas.graph import drawing
from edgewise.mas.graph.diff import diff
from edgewise.mas.graph.roles import Role, catalogue
from edgewise.toolkit.cli.output import Output
from edgewise.toolkit.errors import ConfigError


def show(source: str, form: str) -> Output:
    """Return a graph as text, Mermaid, SVG or JSON; as text, all graphs of a design."""
    if form not in FORMS:
        raise ConfigError(f"--as takes {', '.join(FORMS)}, not {form!r}.")
    design = read_reference(source)
    graphs = [
        {"version": use.graph.version, "queries": use.queries, "graph": use.graph.to_json()} for use in design.uses
    ]
    return Output(FORMS[form](design), {"kind": design.kind, "graphs": graphs})


def render_design(design: StoredDesign) -> list[str]:
    """Return the graph as lines; for several graphs first a table with the number of queries of each."""
    texts = [drawing.render_text(use.graph, design.roles) for use in design.uses]
    if len(texts) == 1:
        return [f"graph {design.uses[0].graph.version}", texts[0]]
    total = sum(use.queries for use in design.uses)
    lines = [f"{len(texts)} different graphs for {total} queries"]
    for use in design.uses:
        size = f"{len(use.graph)} agent{'' if len(use.graph) == 1 else 's'}: {', '.join(use.graph.order)}"
        lines.append(f"{use.graph.version}  {use.queries:>{len(str(total))}} of {total} queries  {size}")
    for use, text in zip(design.uses, texts, strict=True):
        lines += ["", f"graph {use.graph.version}", text]
    return lines


FORMS: Mapping[str, Callable[[StoredDesign], list[str]]] = {
    "text": render_design,
    # These forms take one graph: a design with several needs GRAPH@VERSION.
    "mermaid": lambda design: [drawing.render_mermaid(design.single_graph, design.roles)],
    "svg": lambda design: [drawing.render_svg_file(design.single_graph, design.roles)],
    "json": lambda design: [json.dumps(design.single_graph.to_json(), indent=1)],
}


def compare(before: str, after: str) -> Output:
    """Return the differences of two graphs."""
    # Roles are not compared: a graph names them, and their texts belong to the catalogue.
    changes = diff(read_reference(before).single_graph, read_reference(after).single_graph)
    lines = [change.line() for change in changes] or ["no change"]
    return Output(lines, [change.to_json() for change in changes])


def roles(files: Sequence[str]) -> Output:
    """Return the catalogue of roles, with those of the user's files."""
    known = catalogue(*files)
    width = max(map(len, known))
    lines = [f"{name:<{width}}  {role.does} ({describe_role(role)})" for name, role in known.items()]
    return Output(lines, [role.model_dump(mode="json") for role in known.values()])


def describe_role(role: Role) -> str:
    """Return what a role gives and needs, and the most it may cost."""
    article = {"answer": "an ", "plan": "a ", "verdict": "a "}.get(role.gives, "")
    turns = role.turns if role.tools or role.act == "program" else 1
    calls = f"{turns} call{'' if turns == 1 else 's'}"
    tokens = f" of {role.max_tokens} tokens" if role.max_tokens else ""
    parts = [
        f"gives {article}{role.gives}",
        f"hears {role.hears} or more" if role.hears else "",
        # "*" stands for all tools of the task.
        f"tools: {', '.join(role.tools)}" if role.tools and role.tools != ("*",) else "",
        "no model" if role.votes else f"{calls}{tokens} at most",
    ]
    return "; ".join(filter(None, parts))
