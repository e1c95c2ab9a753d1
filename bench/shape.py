"""
The shape of the code: sizes of rooms and files, floors, functions, comments, names.

`python bench/shape.py [ROOM ...]` counts only the rooms that are named, such as `toolkit/run mas/graph`;
`--names` lists what breaks a bar, for whoever mends it; `--tree DIR` counts another checkout.
"""

import argparse
import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT, report

PACKAGES = ("toolkit", "experience", "mas", "learner")
DIALECT = frozenset({"found", "each", "asked", "said", "kept", "told", "heard"})
"""Participles that say nothing about the thing that they name."""
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
TABLES = ("learner/methods/published.py",)
"""Tables of data, which may be longer than a file of code."""
CODE_BEFORE = 27_573
"""Lines of code of the four packages before the rooms (02a7f75), without comments, docstrings and blanks."""
HISTORY = re.compile(r"\b(used to|no longer|formerly|previously|was renamed|TODO|FIXME)\b")


class Source(NamedTuple):
    """A file of code."""

    path: Path
    name: str
    text: str
    tree: ast.Module


def read(root: Path, rooms: list[str]) -> list[Source]:
    """All files of the packages, or of some rooms."""
    folders = [root / room for room in rooms or PACKAGES]
    paths = sorted({path for folder in folders for path in (folder.rglob("*.py") if folder.is_dir() else [folder])})
    texts = [(path, path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in paths]
    return [Source(path, name, text, ast.parse(text)) for path, name, text in texts]


# ---- lines -------------------------------------------------------------------------------------------------


def docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of strings that stand by themselves: docstrings, and descriptions of constants."""
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT and not token.string.startswith("#!")]


def code_lines(source: Source) -> int:
    docs = docstring_lines(source.tree)
    lines = enumerate(source.text.splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and not line.strip().startswith("#") and n not in docs)


# ---- functions ---------------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: Source) -> Iterator[Function]:
    yield from (node for node in ast.walk(source.tree) if isinstance(node, Function))


def length(source: Source, function: Function) -> int:
    """Lines of a function, without its docstring, its comments and blank lines."""
    docs, rows = docstring_lines(source.tree), source.text.splitlines()
    span = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    return sum(1 for n in span if n not in docs and (row := rows[n - 1].strip()) and not row.startswith("#"))


def called_once(sources: list[Source]) -> list[str]:
    """Private functions and methods that their package mentions once beside their definition."""
    single = []
    for package in PACKAGES:
        own = [source for source in sources if source.name.startswith(f"{package}/")]
        for source in own:
            uses = Counter(
                node.id if isinstance(node, ast.Name) else node.attr
                for node in ast.walk(source.tree)
                if isinstance(node, ast.Name | ast.Attribute)
            )
            names = [f.name for f in functions(source) if f.name.startswith("_") and not f.name.endswith("__")]
            single += [f"{source.name}: {name}" for name in names if uses[name] <= 1]
    return single


# ---- names -------------------------------------------------------------------------------------------------


def identifiers(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name


def repeated_classes(sources: list[Source]) -> list[str]:
    """Class names that a package has twice or more."""
    repeated = []
    for package in PACKAGES:
        own = [source for source in sources if source.name.startswith(f"{package}/")]
        names = Counter(node.name for x in own for node in ast.walk(x.tree) if isinstance(node, ast.ClassDef))
        repeated += [f"{package}: {name}" for name, times in names.items() if times > 1]
    return repeated


# ---- rooms and floors --------------------------------------------------------------------------------------


def room_sizes(sources: list[Source]) -> dict[str, int]:
    """Files of each folder, `__init__` aside."""
    return Counter(
        s.path.parent.relative_to(ROOT).as_posix() if s.path.is_relative_to(ROOT) else str(s.path.parent)
        for s in sources
        if s.path.name != "__init__.py"
    )


def floor_breaks() -> tuple[list[str], list[str], dict[str, int]]:
    """Arrows up, circles, and the number of floors of each package, by the table of the law test."""
    sys.path.insert(0, str(ROOT))
    from tests.laws import floors

    return floors.arrows_up(), floors.circles(), floors.heights()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="*")
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--names", action="store_true", help="list what breaks a bar")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to count")
    given = parser.parse_args()
    sources = read(given.tree.resolve(), given.rooms)

    # Lines and functions of everything that was named.
    total = sum(len(source.text.splitlines()) for source in sources)
    remarks = [comment for source in sources for comment in comments(source.text)]
    lengths = {f"{s.name}: {f.name}": length(s, f) for s in sources for f in functions(s)}
    long_files = [s.name for s in sources if len(s.text.splitlines()) > LONGEST_FILE and s.name not in TABLES]
    single, classes = called_once(sources), repeated_classes(sources)
    dialect = Counter(name for source in sources for name in identifiers(source) if name in DIALECT)
    figures: dict[str, Any] = {
        "files": len(sources),
        "files_over_400_lines": len(long_files),
        "functions_in_100_lines": round(100 * len(lengths) / total, 2),
        "median_function": statistics.median(lengths.values()),
        "functions_over_60_lines": sum(size > LONGEST_FUNCTION for size in lengths.values()),
        "private_called_once": len(single),
        "comment_share": round(len(remarks) / total, 4),
        "comments_of_history": sum(bool(HISTORY.search(remark)) for remark in remarks),
        "class_names_twice": len(classes),
        "dialect": sum(dialect.values()),
        "code_lines": sum(map(code_lines, sources)),
    }
    holds = not long_files and figures["functions_in_100_lines"] <= 5.5 and figures["median_function"] <= 12
    holds = holds and not figures["functions_over_60_lines"] and len(single) <= 250
    holds = holds and figures["comment_share"] >= 0.04 and not figures["comments_of_history"]
    holds = holds and not classes and figures["dialect"] <= 60

    # What only the whole tree has: rooms and floors.
    if not given.rooms and given.tree == ROOT:
        figures["lines_fewer_than_before"] = CODE_BEFORE - figures["code_lines"]
        up, circles, heights = floor_breaks()
        sizes = room_sizes(sources)
        crowded = [f"{room}: {size}" for room, size in sizes.items() if size > (5 if room in PACKAGES else 9)]
        figures |= {"floors": heights, "arrows_up": len(up), "circles": len(circles), "crowded_rooms": len(crowded)}
        holds = holds and figures["lines_fewer_than_before"] >= 2000 and not (up or circles or crowded)
        holds = holds and all(heights[name] <= most for name, most in zip(PACKAGES, (8, 10, 9, 10), strict=True))
        classes += [*up, *circles, *crowded]
    if given.names:
        long = [f"{name} has {size} lines" for name, size in lengths.items() if size > LONGEST_FUNCTION]
        words = [f"{s.name}: {word}" for s in sources for word in identifiers(s) if word in DIALECT]
        print(*single, *classes, *long_files, *long, *sorted(set(words)), sep="\n", file=sys.stderr)
    bar = (
        "files <= 400 lines, rooms <= 9 files; functions <= 5.5 in 100 lines, none over 60, <= 250 private ones called "
        "once; comments >= 4 %; no class name twice, <= 60 of the dialect; no arrow up, no circle; 2,000 lines fewer"
    )
    return report("shape", figures, bar, holds)


if __name__ == "__main__":
    sys.exit(main())
