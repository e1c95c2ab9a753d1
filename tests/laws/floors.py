"""
Floors of the rooms, and what breaks them.

A room imports rooms on lower floors only, in its own package. A room below another (`groups.sampling` below `groups`)
shares its floor, and the two may import each other as files of one room do: without a circle of files.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

FLOORS: Mapping[str, Mapping[str, int]] = {
    "toolkit": {
        **dict.fromkeys(("types", "errors"), 1),
        **dict.fromkeys(("util", "tracking"), 2),
        **dict.fromkeys(("budget", "registry", "tools", "groups", "evaluation"), 3),
        **dict.fromkeys(("environments", "model", "reward", "report"), 4),
        **dict.fromkeys(("rollout", "task"), 5),
        "run": 6,
        **dict.fromkeys(("serve", ""), 7),
        "cli": 8,
    },
    "experience": {
        "guard": 1,
        "library": 2,
        **dict.fromkeys(("formats", "effects", "distil"), 3),
        **dict.fromkeys(("store", "config"), 4),
        "prompting": 5,
        "spec": 6,
        "proposers": 7,
        **dict.fromkeys(("training", "forecast"), 8),
        "launch": 9,
        **dict.fromkeys(("api", "commands", ""), 10),
    },
    "mas": {
        "graph": 1,
        **dict.fromkeys(("runtime", "designs"), 2),
        **dict.fromkeys(("credit", "config"), 3),
        "spec": 4,
        "search": 5,
        **dict.fromkeys(("training", "deploy", "two_level", "adopt"), 6),
        **dict.fromkeys(("forecast", "evaluation"), 7),
        "api": 8,
        **dict.fromkeys(("commands", ""), 9),
    },
    "learner": {
        **dict.fromkeys(("methods", "hardware", "config"), 1),
        "policy": 2,
        "attention": 3,
        **dict.fromkeys(("sampling", "update"), 4),
        "spec": 5,
        "forecast": 6,
        "monitoring": 7,
        "training": 8,
        **dict.fromkeys(("comparison", "absorption", "api"), 9),
        **dict.fromkeys(("commands", ""), 10),
    },
}
"""Floor of each room and of each file in the root; "" is the package's `__init__`."""


def imports(tree: ast.Module, *, lazy: bool = True) -> Iterator[str]:
    """Dotted names that a file imports; those inside functions too unless `lazy` is off, those for types never."""
    nodes: list[ast.AST] = list(tree.body)
    while nodes:
        node = nodes.pop()
        match node:
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                nodes += node.orelse
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{name.name}" for name in names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not lazy:
                continue
            case _:
                nodes += ast.iter_child_nodes(node)


@cache
def files() -> Mapping[str, ast.Module]:
    """Syntax tree of each module of the four packages, by dotted name without `edgewise.`."""
    trees = {}
    for package in FLOORS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            trees[name] = ast.parse(path.read_text("utf-8"))
    return trees


@cache
def edges(*, lazy: bool) -> Mapping[str, frozenset[str]]:
    """Modules that each module imports, of the four packages."""
    known = files()
    targets_of = {}
    for module, tree in known.items():
        targets = set()
        for name in imports(tree, lazy=lazy):
            parts = name.removeprefix("edgewise.").split(".")
            # The longest prefix that is a module: the rest is a name in it.
            lengths = range(len(parts), 0, -1)
            target = next((".".join(parts[:n]) for n in lengths if ".".join(parts[:n]) in known), "")
            if name.startswith("edgewise.") and target and target != module:
                targets.add(target)
        targets_of[module] = frozenset(targets)
    return targets_of


def room(module: str) -> tuple[str, str]:
    """Package and room of a module: ("toolkit", "groups") for `toolkit.groups.sampling.hints`."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def arrows_up() -> list[str]:
    """Imports of a room on the same or a higher floor of the same package."""
    up = []
    for module, targets in edges(lazy=True).items():
        package, own = room(module)
        for target in sorted(targets):
            other_package, other = room(target)
            if other_package == package and other != own:
                floors = FLOORS[package]
                if floors.get(other, 99) >= floors.get(own, 0):
                    up.append(f"{module} ({floors.get(own)}) imports {target} ({floors.get(other)})")
    return up


def circles() -> list[str]:
    """Circles of files, by imports at the top of files and inside functions."""
    graph, done, loops = edges(lazy=True), set[str](), list[str]()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            loops.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    return loops


def private_imports() -> list[str]:
    """Imports of another file's private names, and uses of them as attributes of an imported module."""
    private = []
    for module, tree in files().items():
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgewise"):
                names = [name.asname or name.name for name in node.names]
                private += [f"{module}: {name}" for name in names if name.startswith("_")]
                modules |= {name for name in names if name.islower()}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                is_private = node.attr.startswith("_") and not node.attr.startswith("__")
                private += [f"{module}: {node.value.id}.{node.attr}"] if is_private else []
    return private


def offered_names() -> dict[str, set[str]]:
    """Public names of each package and room: what its `__init__` defines or lists; "" is `import edgewise`."""
    inits = {**files(), "": ast.parse((ROOT / "edgewise" / "__init__.py").read_text("utf-8"))}
    offers: dict[str, set[str]] = {}
    for module, tree in inits.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                offers.setdefault(module, set()).update(ast.literal_eval(node.value))
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                offers.setdefault(module, set()).add(node.name)
    return offers


def shadowed_names() -> list[str]:
    """Rooms and files that have the name of something their parent offers: importing one would replace the other."""
    offers = offered_names()
    return [name for name in files() if name.rpartition(".")[2] in offers.get(name.rpartition(".")[0], ())]


def heights() -> dict[str, int]:
    """The number of floors of each package."""
    return {package: max(floors.values(), default=0) for package, floors in FLOORS.items()}
