"""
Text of exported modules.

An exported module is made of real code: definitions of `mas.deploy.exported`, and the few that it shares with the
runtime. The writer starts from all statements of exported/graph.py, follows the names that they use, and copies no
more than that; constants get the values of the graph.

    graph.py  ──►  KINDS = {"vote": run_vote_node}   ──►  votes.py: run_vote_node  ──►  node_text.py: choose_by_vote
              ──►  NODES, EXIT, LOOPS (filled in)         state.py: received_replies
"""

import ast
import sys
from collections.abc import Mapping
from importlib.resources import files
from pprint import pformat
from typing import Any, NamedTuple

from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import find_role
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.schedule import build_schedule, max_node_runs
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.model.names import get_server, get_wire_name
from edgewise.toolkit.tools.python_tool import python_tool

ROOT = "edgewise.mas.deploy.exported.graph"
FUNCTIONS = {
    "model": "run_model_node",
    "tools": "run_tool_node",
    "program": "run_program_node",
    "vote": "run_vote_node",
}
"""By kind of node, its function in `mas.deploy.exported`."""
PYTHON = "python"
WIDTH = 110
HEAD = '''\
"""
An agent graph on LangGraph, exported from Edgewise, which it does not need.

{edges}

Ask it with `python graph.py "your question"`, or `await ask(...)`; `graph` is an ordinary compiled graph.
"""
'''


class Code(str):
    """An expression that is written as it stands."""


# ---- data of the graph -----------------------------------------------------------------------------


def write_module(graph: Graph, team: Team, node_seconds: float) -> str:
    """Return the text of graph.py. Raises GraphError for an unknown role and for models of several servers."""
    nodes = {node.name: describe_node(graph, team, node) for node in graph.nodes}
    tools = used_tools(graph, team)
    sampling = {key: getattr(team.sampling, key) for key in ("temperature", "top_p", "max_tokens")}
    sampling["stop"] = list(team.sampling.stop) or None
    schemas: dict[str, Any] = {}
    for name in tools:
        function = (team.tools or {}).get(name) or (python_tool() if name == PYTHON else None)
        # A tool that nobody described takes any arguments.
        schemas[name] = {"name": name, "description": name, "parameters": {"type": "object", "properties": {}}}
        if function:
            schemas[name] |= {"description": function.tool.description, "parameters": function.tool.parameters}
    kinds = dict.fromkeys(data["kind"] for data in nodes.values())
    values = {
        "DEFAULT_MODEL": get_wire_name(team.model) if team.model else "gpt-4o-mini",
        "DEFAULT_URL": find_server(graph, team),
        "SAMPLING": {key: value for key, value in sampling.items() if value is not None},
        "NODE_SECONDS": node_seconds,
        # Besides the nodes: begin, answer, the end of each loop, and a margin.
        "MAX_STEPS": max_node_runs(graph) + len(graph.loops) + 5,
        "NODES": nodes,
        "EXIT": graph.exit,
        "LOOPS": {loop.source: (loop.target, loop.rounds) for loop in graph.loops},
        "TOOL_SCHEMAS": schemas,
        "KINDS": Code(f"{{{', '.join(f'{kind!r}: {FUNCTIONS[kind]}' for kind in kinds)}}}"),
        "FUNCTIONS": Code(f"{{{PYTHON!r}: {PYTHON}}}" if PYTHON in tools else "{}"),
    }
    edges = "\n".join(f"    {line}" for line in describe_edges(graph))
    return f"{HEAD.format(edges=edges)}\n{copy_definitions(values)}"


def describe_edges(graph: Graph) -> list[str]:
    """Return the edges and loops, a line each; the node's name for a graph of one."""
    joins = [f"{', '.join(inputs)} -> {name}" for name, inputs in graph.predecessors.items() if inputs]
    loops = [f"{x.source} -> {x.target} up to {x.rounds} times, until it accepts" for x in graph.loops]
    return [*joins, *loops] or [graph.exit]


def used_tools(graph: Graph, team: Team) -> tuple[str, ...]:
    """Return the names of all tools that the nodes of a graph may call."""
    # Programs and votes call no tools, whatever their roles list.
    asking = (node for node in graph.nodes if find_role(team.roles, node.role).act == "ask")
    return tuple(dict.fromkeys(name for node in asking for name in team.tool_names(node)))


def describe_node(graph: Graph, team: Team, node: Node) -> dict[str, Any]:
    """Return a row of `NODES`: the kind, the inputs, and the options that differ from the kind's defaults."""
    role, inputs = find_role(team.roles, node.role), list(graph.predecessors[node.name])
    if role.votes:
        row: dict[str, Any] = {"kind": "vote", "inputs": inputs}
        if role.act == "weighted":
            # From round 1 on a loop's target also receives the loop's source, whose weight counts as well.
            senders = build_schedule(graph).sources(node.name, 1)
            row["weights"] = {name: graph[name].weight for name in senders}
        return row

    # A role that takes "*" is a plain model node where the task has no tools.
    tools = team.tool_names(node) if role.act == "ask" else ()
    kind = "program" if role.act == "program" else "tools" if tools else "model"
    longest = [most for most in (role.max_tokens, team.sampling.max_tokens) if most]
    row = {
        "kind": kind,
        "inputs": inputs,
        "instruction": role.prompt if node.prompt is None else node.prompt,
        "lessons": list(node.lessons),
        "tools": list(tools),
        "turns": min(team.turns, role.turns) if kind in ("tools", "program") else None,
        "gives": role.gives if kind != "program" and not role.answers else None,
        "marked": role.marked or None if kind != "program" else None,
        "model": get_wire_name(node.model) if node.model and node.model != team.model else None,
        "temperature": role.temperature,
        "max_tokens": min(longest) if role.max_tokens is not None else None,
    }
    # Without the usual values, so that a row shows what is special about a node.
    empty = (None, "", [])
    return {key: value for key, value in row.items() if key == "inputs" or value not in empty}


def find_server(graph: Graph, team: Team) -> str | None:
    """Return the server that the models name, None for OpenAI's. Raises GraphError for several."""
    names = dict.fromkeys(filter(None, (team.model, *(node.model for node in graph.nodes))))
    urls = sorted({get_server(name) for name in names if name.startswith(("http://", "https://"))})
    others = [name for name in names if not name.startswith(("http://", "https://"))]
    if len(urls) > 1 or (urls and others):
        raise GraphError(
            "An exported module asks one server, and the nodes' models are on several: put one gateway before them."
        )
    return urls[0] if urls else None


# ---- copies of definitions -------------------------------------------------------------------------


class Statement(NamedTuple):
    """A top-level statement: the name that it defines ("" for none), the names that it uses, and its text."""

    name: str
    uses: frozenset[str]
    text: str


class Source(NamedTuple):
    """A module: the first line of its docstring, its imports as (module, name in it or "") by name, and the rest."""

    title: str
    imports: dict[str, tuple[str, str]]
    statements: list[Statement]


def copy_definitions(values: Mapping[str, Any]) -> str:
    """Return all that exported/graph.py needs, imports first, with values in place of some constants."""
    sources: dict[str, Source] = {}
    load_sources(ROOT, values, sources)
    definitions = {(module, x.name): x for module, source in sources.items() for x in source.statements}

    # Follow names from the root's statements. Names of the standard library and of packages end in an import.
    todo = [(ROOT, statement) for statement in sources[ROOT].statements]
    chosen: set[tuple[str, Statement]] = set()
    imports: set[tuple[str, str]] = set()
    while todo:
        module, statement = todo.pop()
        if (module, statement) in chosen:
            continue
        chosen.add((module, statement))
        for name in statement.uses:
            origin, attribute = sources[module].imports.get(name, (module, name))
            if origin not in sources:
                imports.add((origin, attribute))
            elif (origin, name) in definitions:
                todo.append((origin, definitions[origin, name]))

    # A module comes after those that it imports, so that each definition finds what it needs while it runs.
    text = f"{write_imports(imports)}\n"
    for module, source in sources.items():
        statements = [x for x in source.statements if (module, x) in chosen]
        if statements:
            text += f"\n# ---- {source.title} {'-' * (WIDTH - 14 - len(source.title))}\n"
            text += "".join(statement.text for statement in statements) + "\n\n"
    return f"{text.rstrip()}\n"


def load_sources(module: str, values: Mapping[str, Any], sources: dict[str, Source]) -> None:
    """Read a module into `sources`, after all modules of Edgewise that it imports."""
    # Values are filled in before names are collected: a value may use fewer functions than the one in the file.
    package, _, name = module.rpartition(".")
    text = fill_in(files(package).joinpath(f"{name}.py").read_text("utf-8"), values)
    docstring, *body = ast.parse(text).body
    lines, end = text.splitlines(), docstring.end_lineno or 0
    title = ast.get_docstring(ast.parse(text)) or ""
    source = Source(title.partition("\n")[0].rstrip("."), {}, [])
    for node in body:
        # A statement's text begins where the one before it ended, so it has the comments and blank lines above it.
        text, end = "".join(f"\n{line}" for line in lines[end : node.end_lineno]), node.end_lineno or 0
        match node:
            case ast.Import(names=names):
                source.imports.update({alias.name: (alias.name, "") for alias in names})
            case ast.ImportFrom(module=str(origin), names=names):
                source.imports.update({alias.name: (origin, alias.name) for alias in names})
            case ast.Expr(value=ast.Constant()):
                # The description of a constant belongs to it.
                last = source.statements.pop()
                source.statements.append(last._replace(text=last.text + text))
            case _:
                uses = frozenset(x.id for x in ast.walk(node) if isinstance(x, ast.Name))
                source.statements.append(Statement(defined_name(node), uses, text))
    # Depth first, so `sources` is in an order in which every module comes after those that it imports.
    for origin, _ in source.imports.values():
        if origin.startswith("edgewise.") and origin not in sources:
            load_sources(origin, values, sources)
    sources[module] = source


def defined_name(node: ast.stmt) -> str:
    """Return the name that a statement defines, "" for none."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def fill_in(text: str, values: Mapping[str, Any]) -> str:
    """Replace the values of constants in the text of a module."""
    lines = text.splitlines()
    # From the last to the first, so that the lines before keep their numbers.
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and defined_name(node) in values:
            first, last = node.value.lineno - 1, (node.value.end_lineno or 0) - 1
            literal = write_literal(values[defined_name(node)])
            head, tail = lines[first][: node.value.col_offset], lines[last][node.value.end_col_offset :]
            lines[first : last + 1] = f"{head}{literal}{tail}".splitlines()
    return "\n".join(lines)


def write_literal(value: Any) -> str:
    """Return plain data as a Python literal; of a table each row begins a line."""
    if isinstance(value, Code):
        return value
    if not isinstance(value, dict) or not value:
        return pformat(value, width=WIDTH)
    rows = ""
    for key, item in value.items():
        head = f"    {key!r}: "
        # pformat breaks long texts into several literals, one below the other.
        literal = pformat(item, width=max(40, WIDTH - len(head)), sort_dicts=False)
        rows += head + literal.replace("\n", "\n" + " " * len(head)) + ",\n"
    return f"{{\n{rows}}}"


def write_imports(imports: set[tuple[str, str]]) -> str:
    """Return import statements in ruff's order: the standard library first, modules before names out of modules."""
    blocks = []
    for is_standard in (True, False):
        block = [x for x in imports if (x[0].partition(".")[0] in sys.stdlib_module_names) == is_standard]
        lines = sorted(f"import {module}" for module, name in block if not name)
        for module in sorted({module for module, name in block if name}):
            names = [name for origin, name in block if origin == module and name]
            # Constants, then classes, then functions.
            names.sort(key=lambda name: (not name.isupper(), not name[0].isupper(), name))
            lines.append(f"from {module} import {', '.join(names)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(filter(None, blocks))
