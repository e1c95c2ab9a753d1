"""Differences between two graphs: nodes, edges, loops, the exit and the order of nodes."""

from dataclasses import dataclass
from typing import Any, Literal

from edgewise.mas.graph.graph import Graph, Node

Subject = Literal["node", "edge", "loop", "exit", "order"]
MAX_VALUE = 80
"""Most characters of a value on a line."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    One difference: `before` and `after` are values of `field` of the thing called `name`.

    `field` "" is the thing itself: of one that was added `before` is None, of one that was removed `after`; the other
    value is plain data. Edges and loops are called "from -> to". The "order" is that of the nodes which both graphs
    have, as outputs are received in this order.
    """

    subject: Subject
    name: str
    field: str = ""
    before: Any = None
    after: Any = None

    def line(self) -> str:
        """Return the change for people: "+" added, "-" removed, "~" changed."""
        # These lines are also part of prompts: models that edit graphs see which changes were tried.
        if self.subject == "order":
            return "~ the order of the nodes"
        thing = f"{self.subject} {self.name}".strip()
        if self.subject == "exit" or self.field:
            field = f"{thing}: {self.field}" if self.field else thing
            return f"~ {field} {render_value(self.before)} becomes {render_value(self.after)}"

        sign, value = ("-", self.before) if self.after is None else ("+", self.after)
        detail = ""
        if self.subject == "loop":
            detail = f" (at most {format_rounds(value['rounds'])})"
        elif self.subject == "node":
            # Only fields that differ from a plain node of this role.
            plain = Node(name=value["name"], role=value["role"]).model_dump(mode="json")
            fields = [f"{key} {render_value(x)}" for key, x in value.items() if x != plain[key]]
            detail = f" ({'; '.join([value['role'], *fields])})"
        return f"{sign} {thing}{detail}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        head = {"subject": self.subject, "name": self.name, "field": self.field}
        return head | {"before": self.before, "after": self.after}


def diff(before: Graph, after: Graph) -> tuple[Change, ...]:
    """Return all changes from one graph to another; none exactly if their versions are equal."""
    changes: list[Change] = []
    old_parts, new_parts = describe_parts(before), describe_parts(after)
    for subject, old in old_parts.items():
        new = new_parts[subject]
        # Whole things first: removed ones, then those added or changed in the order of the new graph.
        changes += [Change(subject, name, "", old[name], None) for name in old if name not in new]
        for name, thing in new.items():
            if name not in old:
                changes.append(Change(subject, name, "", None, thing))
                continue
            fields = ((field, old[name][field], value) for field, value in thing.items())
            changes += [Change(subject, name, field, a, b) for field, a, b in fields if a != b]

    # The exit and the order belong to the whole graph.
    if before.exit != after.exit:
        changes.append(Change("exit", "", "", before.exit, after.exit))
    old_order = [node.name for node in before.nodes if node.name in after.nodes_by_name]
    new_order = [node.name for node in after.nodes if node.name in before.nodes_by_name]
    if old_order != new_order:
        changes.append(Change("order", "", "", old_order, new_order))
    return tuple(changes)


def describe_parts(graph: Graph) -> dict[Subject, dict[str, dict[str, Any]]]:
    """Return nodes, edges and loops by name, as plain data; edges and loops in an order of their own."""
    loops = sorted(graph.loops, key=lambda loop: (loop.source, loop.target))
    return {
        "node": {node.name: node.model_dump(mode="json") for node in graph.nodes},
        "edge": {f"{a} -> {b}": {"from": a, "to": b} for a, b in sorted(graph.edges)},
        "loop": {f"{loop.source} -> {loop.target}": loop.model_dump(mode="json") for loop in loops},
    }


def format_rounds(number: int) -> str:
    """Return a number of rounds in words."""
    return f"{number} round{'' if number == 1 else 's'}"


def render_value(value: Any) -> str:
    """Return a value on one short line; None and "" stand for what the role or the task decides."""
    if value is None:
        return "the role's"
    if value == "":
        return "the task's"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
