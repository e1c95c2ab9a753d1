"""
Writes the Python of an exported module: which fixed parts a graph needs, its nodes as a table, its edges as lines.

What the module does is what `mas.runtime.node` and `mas.runtime.schedule` do; the tests run both against each other.
"""

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import getsource
from itertools import count
from typing import Any

from edgewise.mas.deploy import export_templates
from edgewise.mas.graph.graph import Graph, Node
from edgewise.mas.graph.roles import Role, find
from edgewise.mas.runtime import node as act
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.schedule import flow, most_runs
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.model.names import server_of, wire_name
from edgewise.toolkit.tools.python_tool import python_tool
from edgewise.toolkit.util.extract import BLOCK, code_in

WIDTH = 100
ANYTHING = {"type": "object", "properties": {}}


def shape(graph: Graph) -> list[str]:
    """The edges and loops, a line each; the node's name for a graph of one."""
    joins = [f"{', '.join(heard)} -> {name}" for name, heard in graph.before.items() if heard]
    loops = [f"{x.source} -> {x.target} up to {x.rounds} times, until it accepts" for x in graph.loops]
    return [*joins, *loops] or [graph.exit]


class Writer:
    """Puts one module together; `stubs` are the tools whose code it lacks."""

    def __init__(self, graph: Graph, team: Team, seconds: float):
        self.graph, self.team, self.seconds = graph, team, seconds
        self.roles, self.model, self.sampling = team.roles, team.model, team.sampling
        self.kinds = {self._kind(node) for node in graph.nodes}
        self.used = tuple(dict.fromkeys(name for node in graph.nodes for name in self._tools(node)))
        self.stubs = [name for name in self.used if name != "python"]
        self.functions = {"python": "python", **_identifiers(self.stubs)}

    def module(self) -> str:
        """The whole text of graph.py."""
        parts = [
            self._head(),
            self._constants(),
            self._fixed(),
            self._table(),
            self._wiring(),
            export_templates.MAIN,
        ]
        return "".join(parts).rstrip("\n") + "\n"

    # ---- the fixed parts that this graph needs ---------------------------------------------------

    def _kind(self, node: Node) -> str:
        role = find(self.roles, node.role)
        if role.act == "ask":
            return "with_tools" if self._tools(node) else "asked"
        return "programmed" if role.act == "program" else "voted"

    def _tools(self, node: Node) -> tuple[str, ...]:
        return self.team.tool_names(node) if find(self.roles, node.role).act == "ask" else ()

    def _head(self) -> str:
        picture = "\n".join(f"    {line}" for line in shape(self.graph))
        runs = bool({"programmed"} & self.kinds or "python" in self.used)
        words = {
            "import asyncio": True,
            "import contextlib": runs,
            "import json": bool(self.used),
            "import os": True,
            "import re": bool({"asked", "with_tools", "programmed", "voted"} & self.kinds),
            "import signal": runs,
            "import sys": runs,
            "import tempfile": runs,
            "from collections.abc import Awaitable, Callable, Sequence": True,
            "from pathlib import Path": runs,
            "from typing import Annotated, Any, NotRequired, TypedDict": True,
            "from weakref import WeakKeyDictionary": True,
        }
        imports = "\n".join(line for line, needed in words.items() if needed)
        return (
            f'"""\nAn agent graph on LangGraph, exported from Edgewise, which it does not need.\n\n{picture}\n\n'
            'Ask it with `python graph.py "your question"`, or `await ask(...)`; `graph` is an ordinary compiled graph.'
            f'\n"""\n\n{imports}\n\nfrom langgraph.graph import END, START, StateGraph\n'
            "from langgraph.types import Overwrite\nfrom openai import AsyncOpenAI\n"
        )

    def _constants(self) -> str:
        sampling = {key: getattr(self.sampling, key) for key in ("temperature", "top_p", "max_tokens")}
        sampling["stop"] = list(self.sampling.stop) or None
        known = ", ".join(f'"{key}": {value!r}' for key, value in sampling.items() if value is not None)
        url = self._server()
        fallback = f" or {quoted(url)}" if url else ""
        comment = "" if url else "  # None: api.openai.com"
        return (
            f'\nMODEL = os.environ.get("MODEL", {quoted(wire_name(self.model) if self.model else "gpt-4o-mini")})\n'
            f'BASE_URL = os.environ.get("OPENAI_BASE_URL"){fallback or " or None"}{comment}\n'
            'API_KEY = os.environ.get("OPENAI_API_KEY", "none")\n'
            f"SAMPLING: dict[str, Any] = {{{known}}}\n"
            f"NODE_SECONDS = {self.seconds!r}\n"
            f"EXIT = {quoted(self.graph.exit)}\n"
            f"HEARD, LESSONS, PART = {quoted(act.HEARD)}, {quoted(act.LESSONS)}, {quoted(act.PART)}\n"
            f"FORM = {quoted(act.FORM)}\n"
        )

    def _server(self) -> str:
        """The server that the models name, if they name one. Raises GraphError for several."""
        names = dict.fromkeys(filter(None, (self.model, *(node.model for node in self.graph.nodes))))
        urls = sorted({server_of(name) for name in names if name.startswith(("http://", "https://"))})
        others = [name for name in names if not name.startswith(("http://", "https://"))]
        if len(urls) > 1 or (urls and others):
            raise GraphError(
                "An exported module asks one server, and the nodes' models are on several: put one gateway before them."
            )
        return urls[0] if urls else ""

    def _fixed(self) -> str:
        text = export_templates
        program = text.PYTHON.replace("SECONDS_OF_A_PROGRAM", repr(act.PROGRAM_SECONDS))
        program = program.replace("CPU_SECONDS", str(math.ceil(act.PROGRAM_SECONDS)))
        state = text.STATE.replace("SHOWN_SIGNS", str(act.SHOWN))
        checked = text.CHECKED
        for name in ("VERDICT", "RESULT", "LISTED"):
            checked = checked.replace(f"{name}_PATTERN", _pattern(getattr(act, name)))
        blocks = text.BLOCKS.replace("BLOCK_PATTERN", _pattern(BLOCK))
        blocks = blocks.replace("SOURCE_OF_CODE_IN", getsource(code_in))
        programmed = text.PROGRAM.replace("PROBLEM_TEXT", quoted(act.PROBLEM))
        programmed = programmed.replace("NO_PROGRAM_TEXT", quoted(act.NO_PROGRAM))
        runs = "programmed" in self.kinds or "python" in self.used
        chosen = (
            (state, True),
            (checked, bool({"asked", "with_tools"} & self.kinds)),
            (text.ASKED, "asked" in self.kinds),
            (text.ASKED_WITH_TOOLS, "with_tools" in self.kinds),
            (program, runs),
            (text.PYTHON_TOOL, "python" in self.used),
            (blocks, bool({"programmed", "voted"} & self.kinds)),
            (programmed, "programmed" in self.kinds),
            (text.VOTED.replace("SOURCE_OF_SAME", getsource(act.same)), "voted" in self.kinds),
            (text.LOOPS, bool(self.graph.loops)),
            (text.ENDS, True),
        )
        return "".join(part for part, needed in chosen if needed) + "".join(map(self._stub, self.stubs))

    def _stub(self, name: str) -> str:
        """What stands for a tool of the user's."""
        sentence = quoted(f"the tool {name} is not connected")
        return export_templates.STUB.format(function=self.functions[name], sentence=sentence)

    # ---- nodes and edges ---------------------------------------------------------------------------

    def _table(self) -> str:
        rows = "".join(f"    {quoted(node.name)}: {self._call(node)},\n" for node in self.graph.nodes)
        table = f"# ---- the graph {'-' * 84}\n\n"
        return f"\n\n{table}{self._described()}NODES = {{\n{rows}}}\n"

    def _described(self) -> str:
        if not self.used:
            return ""
        rows = []
        for name in self.used:
            known = (self.team.tools or {}).get(name) or (python_tool() if name == "python" else None)
            schema = {
                "name": name,
                "description": known.tool.description if known else name,
                "parameters": known.tool.parameters if known else ANYTHING,
            }
            data = textwrap.indent(_python(schema), "        ").lstrip()
            rows.append(f"    {quoted(name)}: (\n        {data},\n        {self.functions[name]},\n    ),\n")
        return f"TOOLS: dict[str, tuple[dict[str, Any], Callable[..., Awaitable[str]]]] = {{\n{''.join(rows)}}}\n"

    def _call(self, node: Node) -> str:
        """The expression that makes a node."""
        role, kind = find(self.roles, node.role), self._kind(node)
        given: dict[str, str] = {"hears": _names(self.graph.before[node.name])}
        if loop := flow(self.graph).by_target.get(node.name):
            given["back"] = quoted(loop.source)
        if kind == "voted":
            if role.act == "weighted":
                heard = flow(self.graph).hears(node.name, 1)
                given["weights"] = _python({name: self.graph[name].weight for name in heard})
        else:
            given |= self._asking(node, role, kind)
        arguments = "".join(f"\n        {key}={value}," for key, value in given.items())
        return f"{kind}(\n        {quoted(node.name)},{arguments}\n    )"

    def _asking(self, node: Node, role: Role, kind: str) -> dict[str, str]:
        given: dict[str, str] = {}
        told = role.prompt if node.prompt is None else node.prompt
        if told:
            given["told"] = _wrapped(told)
        if node.lessons:
            given["lessons"] = textwrap.indent(_python(node.lessons), "        ").lstrip()
        if kind == "with_tools":
            given["tools"] = _names(self._tools(node))
        if kind in ("with_tools", "programmed"):
            given["turns"] = repr(min(self.team.turns, role.turns))
        if kind != "programmed" and (role.marked or not role.answers):
            given["gives"] = quoted("result" if role.marked else role.gives)
        if node.model and node.model != self.model:
            given["model"] = quoted(wire_name(node.model))
        if role.temperature is not None:
            given["temperature"] = repr(role.temperature)
        if role.max_tokens is not None:
            given["max_tokens"] = repr(min(filter(None, (role.max_tokens, self.sampling.max_tokens))))
        return given

    def _wiring(self) -> str:
        lines = [
            "builder = StateGraph(State)",
            'builder.add_node("graph.begin", begin)',
            'builder.add_node("graph.answer", answer)',
            "for name, node in NODES.items():\n    builder.add_node(name, node)",
            *(f"builder.add_node({quoted(f'{loop.source}.done')}, done)" for loop in self.graph.loops),
            'builder.add_edge(START, "graph.begin")',
            *self._edges(),
            'builder.add_edge("graph.answer", END)',
        ]
        return (
            "\n"
            + "\n".join(lines)
            + f"\n\ngraph = builder.compile().with_config(recursion_limit={self._steps()})\n"
        )

    def _edges(self) -> Iterator[str]:
        """Edges from a loop's source start where it is done; a node with several waits for all of them."""
        ends = {loop.source: f"{loop.source}.done" for loop in self.graph.loops}
        for name, before in self.graph.before.items():
            starts = [ends.get(one, one) for one in before] or ["graph.begin"]
            start = quoted(starts[0]) if len(starts) == 1 else _names(starts)
            yield f"builder.add_edge({start}, {quoted(name)})"
        for loop in self.graph.loops:
            ways = {True: loop.target, False: ends[loop.source]}
            text = ", ".join(f"{key}: {quoted(value)}" for key, value in ways.items())
            decide = f"again({quoted(loop.source)}, rounds={loop.rounds})"
            yield f"builder.add_conditional_edges({quoted(loop.source)}, {decide}, {{{text}}})"
        last = ends.get(self.graph.exit, self.graph.exit)
        yield f'builder.add_edge({quoted(last)}, "graph.answer")'

    def _steps(self) -> int:
        """The most steps that the graph can take."""
        return most_runs(self.graph) + len(self.graph.loops) + 5


def _pattern(pattern: re.Pattern[str]) -> str:
    """A pattern and its flags, as arguments of re.compile."""
    named = [f"re.{flag.name}" for flag in (re.IGNORECASE, re.DOTALL, re.MULTILINE) if pattern.flags & flag]
    return ", ".join([f'r"{pattern.pattern}"', " | ".join(named)])


def quoted(text: str) -> str:
    """A Python literal."""
    return repr(text) if '"' in text and "'" not in text else json.dumps(text, ensure_ascii=False)


def _names(names: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, names))}]"


def _python(value: Any) -> str:
    """Plain data as a Python literal in the style of the module, over several lines where it is long."""
    if isinstance(value, Mapping):
        items = [f"{quoted(str(key))}: {_python(each)}" for key, each in value.items()]
        return _joined("{", items, "}")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _joined("[", [_python(each) for each in value], "]")
    return _wrapped(value, "") if isinstance(value, str) else repr(value)


def _joined(start: str, items: Sequence[str], end: str) -> str:
    line = f"{start}{', '.join(items)}{end}"
    if len(line) <= WIDTH and "\n" not in line:
        return line
    inside = textwrap.indent("".join(f"{item},\n" for item in items), "    ")
    return f"{start}\n{inside}{end}"


def _wrapped(text: str, indent: str = "        ") -> str:
    """A text as a literal, over several lines where it is long."""
    if len(text) <= WIDTH - 20 and "\n" not in text.strip():
        return quoted(text)
    pieces = [piece for line in text.splitlines(keepends=True) for piece in _pieces(line)]
    lines = "".join(f"\n{indent}    {quoted(piece)}" for piece in pieces)
    return f"({lines}\n{indent})"


def _pieces(line: str) -> list[str]:
    """A line cut behind blanks; the pieces together are the line."""
    pieces, rest = [], line
    while len(rest) > WIDTH - 20 and (cut := rest.rfind(" ", 1, WIDTH - 20)) > 0:
        pieces.append(rest[: cut + 1])
        rest = rest[cut + 1 :]
    return [*pieces, rest]


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """A function's name for each tool, all different."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"^(?=\d)", "_", re.sub(r"[^0-9A-Za-z_]", "_", name)) + "_tool"
        taken = set(found.values())
        found[name] = next(each for each in _numbered(plain) if each not in taken)
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))
