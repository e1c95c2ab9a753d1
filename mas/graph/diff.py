"""What differs between two graphs: nodes, edges, loops and the exit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from edgewise.mas.graph.graph import Graph, Node

Subject = Literal["node", "edge", "loop", "exit", "order"]


@dataclass(frozen=True, slots=True)
class Change:
    """
    One difference: `before` and `after` are values of `field` of the thing called `name`.

    `field` "" is the thing itself: one that was added has the `before` None, one that was removed the `after` None;
    the other value is plain data. Edges and loops are called "from -> to". The "order" is that of the nodes which both
    have: it is the order in which they are heard.
    """

    subject: Subject
    name: str
    field: str = ""
    before: Any = None
    after: Any = None

    def line(self) -> str:
        """For people: "+" added, "-" removed, "~" changed."""
        if self.subject == "order":
            return "~ the order of the nodes"
        thing = f"{self.subject} {self.name}".strip()
        if self.subject == "exit" or self.field:
            what = f"{thing}: {self.field}" if self.field else thing
            return f"~ {what} {_shown(self.before)} becomes {_shown(self.after)}"
        sign, value = ("-", self.before) if self.after is None else ("+", self.after)
        return f"{sign} {thing}{_detail(self.subject, value)}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        head = {"subject": self.subject, "name": self.name, "field": self.field}
        return head | {"before": self.before, "after": self.after}


def diff(before: Graph, after: Graph) -> tuple[Change, ...]:
    """All changes from one graph to another; none exactly where their versions are equal."""
    return tuple(_changes(before, after))


def _changes(before: Graph, after: Graph) -> Iterator[Change]:
    yield from _things("node", _nodes(before), _nodes(after))
    yield from _things("edge", _edges(before), _edges(after))
    yield from _things("loop", _loops(before), _loops(after))
    if before.exit != after.exit:
        yield Change("exit", "", "", before.exit, after.exit)
    old, new = ([node.name for node in graph.nodes] for graph in (before, after))
    stayed, now = [name for name in old if name in new], [name for name in new if name in old]
    if stayed != now:
        yield Change("order", "", "", stayed, now)


def _things(
    subject: Subject, old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]
) -> Iterator[Change]:
    yield from (Change(subject, name, "", old[name], None) for name in old if name not in new)
    for name, thing in new.items():
        if name not in old:
            yield Change(subject, name, "", None, thing)
            continue
        fields = ((field, old[name][field], value) for field, value in thing.items())
        yield from (Change(subject, name, field, a, b) for field, a, b in fields if a != b)


def _nodes(graph: Graph) -> dict[str, dict[str, Any]]:
    return {node.name: node.model_dump(mode="json") for node in graph.nodes}


def _edges(graph: Graph) -> dict[str, dict[str, Any]]:
    return {f"{a} -> {b}": {"from": a, "to": b} for a, b in sorted(graph.edges)}


def _loops(graph: Graph) -> dict[str, dict[str, Any]]:
    ordered = sorted(graph.loops, key=lambda loop: (loop.source, loop.target))
    return {f"{loop.source} -> {loop.target}": loop.model_dump(mode="json") for loop in ordered}


def _detail(subject: Subject, value: dict[str, Any]) -> str:
    if subject == "loop":
        return f" (at most {format_rounds(value['rounds'])})"
    if subject != "node":
        return ""
    plain = Node(name=value["name"], role=value["role"]).model_dump(mode="json")
    different = [f"{key} {_shown(x)}" for key, x in value.items() if x != plain[key]]
    return f" ({'; '.join([value['role'], *different])})"


def format_rounds(number: int) -> str:
    """How often a loop goes back, in words."""
    return f"{number} round{'' if number == 1 else 's'}"


def _shown(value: Any) -> str:
    """A value on one line, short; what the role or the task decides is called that."""
    if value is None:
        return "the role's"
    if value == "":
        return "the task's"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"
