"""
The size of a method: lines of its row and of the parts that came with it, and which other files had to learn of it.

Lines of a row are those of its expression without paper, differs and note, which are words: one line for each axis that
is not the default, wrapped as the formatter does with 110 characters. Lines of a part are the code of its function.
Functions that only its parts call are printed behind them, and no bar is on these.

A file knows of a method if it says its name, or what no method before it in the table has: a part, a parameter or a
constant of one, a column that it reads, a collection of earlier steps that it recalls. The bar is the issue's, on
`training/loop` and `update/gradient_step`; `BESIDE` are the files that make columns, memory and statistics. There a
method that needs something new is a row of a table or a branch, and those that needed it are printed and counted,
without a bar. What plans get of the loop (`toolkit.groups.sampling.rollout_plan.SamplingRequest`) is one interface, of
no single method.
"""

import ast
import inspect
import statistics
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache, partial
from types import CodeType, ModuleType
from typing import Any

from common import ROOT, quick, report

from edgewise.learner.methods.method import AXES, AXIS_MODULES, COUNT_AXES, Method, function_of, parameters_of
from edgewise.learner.methods.published import METHODS

BASE = 17
"""Methods that every learner has; what follows are those of the seeds."""
WIDE = 100
CORE = ("training/loop.py", "update/gradient_step.py")
BESIDE = (
    "update/collate.py",
    "training/row_memory.py",
    "sampling/given_answers.py",
    "methods/batch_statistics.py",
    "methods/method.py",
    "spec.py",
    "training/engine.py",
)
EVERYBODYS = {"ref_logp", "entropy", "sampler_logp", "group", "rollout", "reward"}
"""Columns that the core has of itself, see `learner.methods.batch.Tokens`, and words that mean something else there."""
NAMES = list(METHODS)


def before(name: str) -> list[Method]:
    """The default, and the methods above this one in the table."""
    return [Method(paper=""), *(METHODS[each] for each in NAMES[: NAMES.index(name)])]


def new_parts(name: str) -> list[Any]:
    """The parts that no method before it has."""
    known = {function_of(part) for method in before(name) for part in method.parts()}
    mine = dict.fromkeys(function_of(part) for part in METHODS[name].parts())
    return [part for part in mine if part not in known]


def row(name: str) -> int:
    """Lines of the expression, without its words."""
    usual = Method(paper="")
    written = [(field.name, _written(field.name, METHODS[name])) for field in fields(Method)]
    keep = [text for axis, text in written if axis in (*AXES, *COUNT_AXES) and text != _written(axis, usual)]
    return len(textwrap.wrap(f"{name} = Method({', '.join(keep)})", WIDE))


def _written(axis: str, method: Method) -> str:
    value = getattr(method, axis)
    if isinstance(value, tuple):
        return f"{axis}=({', '.join(map(_part, value))})"
    return f"{axis}={_part(value) if callable(value) else value!r}"


def _part(part: Any) -> str:
    base = function_of(part)
    found = f"{base.__module__.rpartition('.')[2]}.{base.__name__}"
    if not isinstance(part, partial):
        return found
    return f"p({found}, {', '.join(f'{k}={v!r}' for k, v in part.keywords.items())})"


@cache
def length(part: Any) -> int:
    """Lines of a function without decorators, docstring, comments and blank lines."""
    source = textwrap.dedent(inspect.getsource(part))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.FunctionDef)
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    lines = source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    return len(code) + tree.body[0].lineno - tree.lineno


# ---- what a method brings with it ------------------------------------------------------------------------


def helpers(name: str) -> dict[str, int]:
    """Functions beside the parts of all methods that only its parts call, and their lines."""
    parts = {function_of(part) for method in METHODS.values() for part in method.parts()}
    others = {part for other in NAMES if other != name for part in map(function_of, METHODS[other].parts())}
    own = reached(map(function_of, METHODS[name].parts())) - reached(others) - parts
    return {each.__name__: length(each) for each in sorted(own, key=lambda each: each.__name__)}


def reached(parts: Iterable[Any]) -> set[Any]:
    """These functions, and all of the axes' files that they call, directly or by others."""
    waiting = list(parts)
    known = set(waiting)
    while waiting:
        part = waiting.pop()
        found = {each for each in called(part) if each.__module__.startswith("edgewise.toolkit.groups.")} - known
        known |= found
        waiting += found
    return known


def called(part: Any) -> Iterator[Any]:
    """Functions that a function names, in its own file or in a module that it imports."""
    words = set(names_in(part.__code__))
    home = vars(sys.modules[part.__module__])
    scopes = [home, *(vars(home[word]) for word in words if isinstance(home.get(word), ModuleType))]
    yield from (scope[word] for scope in scopes for word in words if inspect.isfunction(scope.get(word)))


def names_in(code: CodeType) -> Iterator[str]:
    """Names that a function uses, and functions inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names_in(inner)


def words(method: Method) -> set[str]:
    """What a file could say of a method: its columns, collections, and the parameters and constants of its parts."""
    parts = list(map(function_of, method.parts()))
    constants = {word for part in parts for word in names_in(part.__code__) if word.isupper()}
    told = {word for part in parts for word in parameters_of(part)}
    return {*method.required_columns, *method.recalls, *constants, *told}


def known_to(files: Iterable[str], name: str) -> Iterator[str]:
    """What files of the learner say of the method that none before it has."""
    new = {name} | words(METHODS[name]).difference(*map(words, before(name))) - EVERYBODYS
    parts = {part.__name__ for part in new_parts(name)}
    for file in files:
        nodes = list(ast.walk(ast.parse((ROOT / "learner" / file).read_text("utf-8"))))
        texts = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
        texts |= {node.id for node in nodes if isinstance(node, ast.Name) and node.id.isupper()}
        taken = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in AXIS_MODULES
        }
        yield from (f"{file}: {word}" for word in sorted((texts & new) | (taken & parts)))


def main() -> int:
    quick()
    seeds = NAMES[BASE:]
    rows, longest, edited, beside = [], 0, [], []
    for name in seeds:
        lines = {part.__name__: length(part) for part in new_parts(name)}
        core, others = list(known_to(CORE, name)), list(known_to(BESIDE, name))
        rows.append(row(name))
        longest = max([longest, *lines.values()])
        edited += [name] * bool(core)
        beside += [name] * bool(others)
        shown = ", ".join(f"{part} {count}" for part, count in lines.items()) or "none"
        helped = ", ".join(f"{part} {count}" for part, count in helpers(name).items())
        print(f"{name:20} row {rows[-1]}; new parts: {shown}" + f"; they call {helped}" * bool(helped))
        print("".join(f"{'':20} known to {each}\n" for each in (*core, *others)), end="")
    figures = {
        "methods": len(seeds),
        "longest_row": max(rows),
        "median_row": statistics.median(rows),
        "longest_part": longest,
        "known_to_loop_or_update": edited,
        "share_without_edit_of_loop_or_update": round(1 - len(edited) / len(seeds), 2),
        "known_to_other_files_of_the_learner": beside,
        "share_without_any_edit": round(1 - len({*edited, *beside}) / len(seeds), 2),
    }
    holds = max(rows) <= 3 and longest <= 25 and len(edited) <= len(seeds) / 10
    return report("size", figures, "rows of 1-3 lines, parts <= 25 lines, no edit of loop or update for 9 of 10", holds)


if __name__ == "__main__":
    sys.exit(main())
