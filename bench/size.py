"""
The size of a method: lines of its row and of the parts that only it needs, and whether the loop or the update knows it.

Lines of a row are those of its expression without paper, differs and note, which are words: one line for each axis that
is not the default, wrapped as the formatter does with 110 characters. Lines of a part are those of its function
without docstring. `loop.py` and `update.py` know a method if they name it or one of its parts, or a column that only
its parts read. What plans get of the loop (`toolkit.groups.plan.Asked`) is one interface, of no single method.
"""

import ast
import inspect
import statistics
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from typing import Any

from common import ROOT, quick, report

from learner.method import AXES, HOMES, NUMBERS, Method, columns, function
from learner.methods import METHODS

BASE = 17
"""Methods that every learner has; what follows are those of the seeds."""
WIDE = 100
CORE = ("loop.py", "update.py")
EVERYBODYS = {"ref_logp", "entropy", "sampler_logp"}
"""Columns that the core has of itself: see `learner.batch.Tokens`."""


def new_parts(name: str) -> list[Any]:
    """The parts that no method before it in the table has."""
    known: set[Any] = {function(part) for part in Method(paper="").parts()}
    for other in METHODS:
        mine = [function(part) for part in METHODS[other].parts()]
        if other == name:
            return [part for part in dict.fromkeys(mine) if part not in known]
        known |= set(mine)
    raise KeyError(name)


def row(name: str) -> int:
    """Lines of the expression, without its words."""
    usual = Method(paper="")
    words = [_written(field.name, METHODS[name]) for field in fields(Method)]
    keep = [
        text
        for field, text in zip(fields(Method), words, strict=True)
        if field.name in (*AXES, *NUMBERS) and text != _written(field.name, usual)
    ]
    return len(textwrap.wrap(f"{name} = Method({', '.join(keep)})", WIDE))


def _written(axis: str, method: Method) -> str:
    value = getattr(method, axis)
    if isinstance(value, tuple):
        return f"{axis}=({', '.join(map(_part, value))})"
    return f"{axis}={_part(value) if callable(value) else value!r}"


def _part(part: Any) -> str:
    base = function(part)
    found = f"{base.__module__.rpartition('.')[2]}.{base.__name__}"
    if not isinstance(part, partial):
        return found
    return f"p({found}, {', '.join(f'{k}={v!r}' for k, v in part.keywords.items())})"


def length(part: Any) -> int:
    """Lines of a function without decorators and docstring."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
    assert isinstance(tree, ast.FunctionDef)
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    return body[-1].end_lineno - body[0].lineno + 1 + (tree.body[0].lineno - tree.lineno)


def known_to_the_core(name: str) -> Iterator[str]:
    """What the loop or the update names of the method: itself, its new parts, columns that only these read."""
    parts = new_parts(name)
    others = [METHODS[other] for other in METHODS if other != name]
    own = frozenset().union(*map(columns, parts)) - frozenset().union(*(each.needs for each in others))
    for file in CORE:
        nodes = list(ast.walk(ast.parse((ROOT / "learner" / file).read_text("utf-8"))))
        texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
        called = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in HOMES
        }
        known = (texts & (own | {name})) | (called & {part.__name__ for part in parts})
        yield from (f"{file}: {word}" for word in sorted(known - EVERYBODYS))


def main() -> int:
    quick()
    seeds = list(METHODS)[BASE:]
    rows, longest, edited = [], 0, []
    for name in seeds:
        lines = {part.__name__: length(part) for part in new_parts(name)}
        core = list(known_to_the_core(name))
        rows.append(row(name))
        longest = max([longest, *lines.values()])
        edited += [name] * bool(core)
        shown = ", ".join(f"{part} {count}" for part, count in lines.items()) or "none"
        print(f"{name:20} row {rows[-1]}; new parts: {shown}{'; core: ' + ', '.join(core) if core else ''}")
    figures = {
        "methods": len(seeds),
        "longest_row": max(rows),
        "median_row": statistics.median(rows),
        "longest_part": longest,
        "known_to_loop_or_update": edited,
        "share_without_edit": 1 - len(edited) / len(seeds),
    }
    holds = max(rows) <= 3 and longest <= 25 and len(edited) <= len(seeds) / 10
    return report(
        "size", figures, "rows of 1-3 lines, parts <= 25 lines, no edit of loop or update for 9 of 10", holds
    )


if __name__ == "__main__":
    sys.exit(main())
