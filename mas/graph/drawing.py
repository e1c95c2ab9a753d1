"""
Pictures of a graph: lines for a terminal, Mermaid text, and a drawing as SVG.

The drawing has a row of boxes for each level of the graph (layered drawing, Sugiyama et al. 1981):

    row 0          [planner]              an edge that skips rows passes each of them in a slot of its own (*),
                    │      │              so it never crosses a box
    row 1       [solver]   *    ◄┄┄┄┐
                    │      │        ┊     loops are dashed and run up in lanes at the right
    row 2          [writer] ┄┄┄┄┄┄┄┄┘

1. Slots: a box for each node, and a thin slot for each row that an edge skips.
2. Order in a row: each slot goes where its neighbours in the next row are on average (barycentres), sweeping down and
   up. That removes most crossings, and needs no search.
3. Positions: the slots of a row stand side by side, centred on the mean of their barycentres.
4. Curves: an edge leaves a box at its bottom and enters the next at its top, by a cubic Bezier between two rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element, tostring

from edgewise.mas.graph.diff import format_rounds
from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.graph.roles import CATALOGUE, Roles
from edgewise.toolkit.report.charts import format_number
from edgewise.toolkit.report.html import node as element

NodeNumbers = Mapping[str, Mapping[str, float]]
"""By node, its measurements by name: {"critic": {"credit": 0.12, "tokens": 310}}."""


# ---- text ------------------------------------------------------------------------------------------


def render_text(graph: Graph, roles: Roles = CATALOGUE) -> str:
    """Return a line for each node, level by level, with its role and its inputs; then the loops."""
    # This text is also part of prompts for models that design graphs.
    rows = []
    for depth, level in enumerate(graph.levels, 1):
        for place, name in enumerate(level):
            inputs = f"hears {', '.join(graph.predecessors[name])}" if graph.predecessors[name] else ""
            last = "answers" if name == graph.exit else ""
            facts = " ".join(describe_node(graph[name], roles))
            number = str(depth) if place == 0 else ""
            rows.append([number, name, facts, "; ".join(filter(None, [inputs, last]))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *map(describe_loop, graph.loops)])


def render_mermaid(graph: Graph, roles: Roles = CATALOGUE) -> str:
    """Return the graph as a Mermaid flowchart; the exit has a thick border, loops are dotted."""
    ids = {node.name: f"n{place}" for place, node in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for node in graph.nodes:
        # Inside a quoted label all but plain characters become numbered entities, or a prompt could end the label.
        facts = (
            "".join(char if char.isalnum() or char in " _-.,:/+()" else f"#{ord(char)};" for char in fact)
            for fact in [node.name, *describe_node(node, roles)]
        )
        lines.append(f'    {ids[node.name]}["{"<br/>".join(facts)}"]')
    lines += [f"    {ids[a]} --> {ids[b]}" for a, b in graph.edges]
    for loop in graph.loops:
        label = f"at most {format_rounds(loop.rounds)}"
        lines.append(f'    {ids[loop.source]} -. "{label}" .-> {ids[loop.target]}')
    lines.append(f"    style {ids[graph.exit]} stroke-width:3px")
    return "\n".join(lines)


def describe_node(node: Node, roles: Roles) -> list[str]:
    """Return what a label says below the name: the role where it is another word, the model, the tools, the weight."""
    role = roles.get(node.role)
    tools = (role.tools if role else ()) if node.tools is None else node.tools
    facts = [
        f"({node.role})" if node.role != node.name else "",
        node.model,
        f"tools: {', '.join(tools)}" if tools and tools != ("*",) else "",
        f"weight {format_number(node.weight)}" if node.weight != 1 else "",
    ]
    return [" ".join(fact.split()) for fact in facts if fact]


def describe_loop(loop: Loop) -> str:
    """Return a loop as a sentence."""
    return f"{loop.source} goes back to {loop.target}, at most {format_rounds(loop.rounds)}"


# ---- SVG -------------------------------------------------------------------------------------------

# Lengths in pixels.
GAP, ROW_GAP, MARGIN, LINE = 22.0, 46.0, 12.0, 16.0
PADDING = 12.0
LETTER = 7.2
"""Mean width of a character."""
THIN = 10.0
"""Width of the slot of an edge that passes a row."""
LANE = 128.0
"""Width of a lane at the right, with the words of its loop."""
CURVE = 10.0
MAX_LABEL, MAX_PROMPT = 26, 600
"""Most characters of a line in a box, and of a prompt in a tooltip."""
SWEEPS = 4


@dataclass(slots=True)
class Slot:
    """A slot in a row: a box with its lines of text, or a spot that an edge passes (no lines). `x` is its middle."""

    key: str
    lines: tuple[str, ...]
    width: float
    x: float = 0.0
    y: float = 0.0
    height: float = 0.0
    bottom: float = 0.0


def render_svg_file(graph: Graph, roles: Roles = CATALOGUE, numbers: NodeNumbers | None = None) -> str:
    """Return the drawing as the text of an SVG file."""
    root = render_svg(graph, roles, numbers)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("font-family", "system-ui, sans-serif")
    root.set("font-size", "12")
    return tostring(root, "unicode")


def render_svg(graph: Graph, roles: Roles = CATALOGUE, numbers: NodeNumbers | None = None) -> Element:
    """
    Return the drawing as an <svg> for an HTML page; lines have the colour of the text around it.

    Each node has a tooltip with its prompt; `numbers` are written into its box.
    """
    rows, paths = make_slots(graph, roles, numbers or {})
    place_slots(rows, paths, has_loops=bool(graph.loops))
    slots = {slot.key: slot for row in rows for slot in row}
    right = max(slot.x + slot.width / 2 for slot in slots.values())
    lanes = [right + MARGIN + LANE * lane for lane in range(len(graph.loops))]
    width = (lanes[-1] + LANE if lanes else right) + MARGIN
    height = rows[-1][0].bottom + (ROW_GAP / 2 if lanes else 0.0) + MARGIN

    # Boxes come last, so that they hide the ends of lines.
    parts = [part for path in paths for part in draw_edge([slots[key] for key in path])]
    for loop, lane in zip(graph.loops, lanes, strict=True):
        parts += draw_loop(loop, slots, lane)
    for node in graph.nodes:
        tooltip = write_tooltip(node, roles, (numbers or {}).get(node.name, {}))
        parts.append(draw_box(slots[node.name], tooltip, is_exit=node.name == graph.exit))
    # Screen readers read the title; a viewer shows it as a tooltip.
    title = element("title", f"Agent graph of {len(graph)} agents; {graph.exit} answers")
    size = {"width": f"{width:g}", "height": f"{height:g}"}
    return element("svg", title, *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", **size)


# ---- layout ----------------------------------------------------------------------------------------


def make_slots(graph: Graph, roles: Roles, numbers: NodeNumbers) -> tuple[list[list[Slot]], list[list[str]]]:
    """Return rows of slots without positions, and for each edge the keys of the slots that it connects."""
    rows: list[list[Slot]] = []
    for names in graph.levels:
        row = []
        for name in names:
            labels = [name, *describe_node(graph[name], roles)]
            lines = [x if len(x) <= MAX_LABEL else f"{x[: MAX_LABEL - 1]}…" for x in labels]
            if values := numbers.get(name):
                lines.append(" · ".join(f"{key} {format_number(value)}" for key, value in values.items()))
            row.append(Slot(name, tuple(lines), max(map(len, lines)) * LETTER + 2 * PADDING))
        rows.append(row)

    level = {name: depth for depth, names in enumerate(graph.levels) for name in names}
    paths = []
    for a, b in graph.edges:
        keys = []
        for depth in range(level[a] + 1, level[b]):
            keys.append(f"{a} {b} {depth}")  # no name has a blank, so it is the key of no box
            rows[depth].append(Slot(keys[-1], (), THIN))
        paths.append([a, *keys, b])
    return rows, paths


def place_slots(rows: list[list[Slot]], paths: Sequence[Sequence[str]], *, has_loops: bool) -> None:
    """Set the positions of all slots: x by barycentres, y by rows."""
    above, below = dict[str, list[str]](), dict[str, list[str]]()
    for path in paths:
        for upper, lower in pairwise(path):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)

    for row in rows:
        spread_row(row, 0.0)
    for sweep in range(SWEEPS):
        # Down by the neighbours above, then up by the neighbours below; the first and the last row stay.
        neighbours, order = (above, rows[1:]) if sweep % 2 == 0 else (below, rows[-2::-1])
        for row in order:
            x = {slot.key: slot.x for other in rows for slot in other}
            barycentres = {}
            for slot in row:
                near = [x[key] for key in neighbours.get(slot.key, ())] or [slot.x]
                barycentres[slot.key] = sum(near) / len(near)
            row.sort(key=lambda slot: barycentres[slot.key])
            spread_row(row, sum(barycentres.values()) / len(barycentres))

    shift = MARGIN - min(slot.x - slot.width / 2 for row in rows for slot in row)
    y = MARGIN + (ROW_GAP / 2 if has_loops else 0.0)
    for row in rows:
        height = max(len(slot.lines) for slot in row) * LINE + PADDING
        for slot in row:
            slot.x, slot.y, slot.height, slot.bottom = slot.x + shift, y, height, y + height
        y += height + ROW_GAP


def spread_row(row: list[Slot], centre: float) -> None:
    """Put the slots of a row side by side around `centre`."""
    x = centre - (sum(slot.width for slot in row) + GAP * (len(row) - 1)) / 2
    for slot in row:
        slot.x = x + slot.width / 2
        x += slot.width + GAP


# ---- shapes ----------------------------------------------------------------------------------------


def draw_edge(path: Sequence[Slot]) -> Iterator[Element]:
    """Draw a curve from the bottom of the first slot through the others to the top of the last, and its tip."""
    d = f"M{path[0].x:.1f} {path[0].bottom:.1f}"
    for a, b in pairwise(path):
        # Both control points lie half way between the rows, so the curve leaves and arrives upright.
        middle = (a.bottom + b.y) / 2
        d += f" C{a.x:.1f} {middle:.1f} {b.x:.1f} {middle:.1f} {b.x:.1f} {b.y:.1f}"
        d += f" V{b.bottom:.1f}" if not b.lines else ""
    yield from draw_arrow(d, path[-1].x, path[-1].y)


def draw_loop(loop: Loop, slots: Mapping[str, Slot], lane: float) -> Iterator[Element]:
    """
    Draw a dashed line from below the source up its lane and from above into the target, round at the corners.

                    ┌───────────╮   high
                    ▼           │
                [target]        │
                [source]        │   lane
                    │           │
                    └───────────╯   low
    """
    # A quarter of the box to the right, as the middle belongs to edges.
    source, target = slots[loop.source], slots[loop.target]
    start, end = source.x + source.width / 4, target.x + target.width / 4
    bottom, c = source.bottom, CURVE
    low, high = bottom + ROW_GAP / 3, target.y - ROW_GAP / 3
    d = f"M{start:.1f} {bottom:.1f} V{low - c:.1f} Q{start:.1f} {low:.1f} {start + c:.1f} {low:.1f} H{lane - c:.1f} "
    d += f"Q{lane:.1f} {low:.1f} {lane:.1f} {low - c:.1f} V{high + c:.1f} Q{lane:.1f} {high:.1f} {lane - c:.1f} "
    d += f"{high:.1f} H{end + c:.1f} Q{end:.1f} {high:.1f} {end:.1f} {high + c:.1f} V{target.y:.1f}"
    yield from draw_arrow(d, end, target.y, "5 4", element("title", describe_loop(loop)))
    label = f"at most {format_rounds(loop.rounds)}"
    yield draw_words(label, lane + 8, (low + high) / 2 + 4, anchor="start")


def draw_box(slot: Slot, tooltip: str, *, is_exit: bool) -> Element:
    """Draw a box with its lines of text, the first one bold; the exit has a thick border."""
    top = slot.y + (slot.height - len(slot.lines) * LINE) / 2 + LINE - 4
    words = [
        draw_words(line, slot.x, top + LINE * number, weight="600" if number == 0 else "400")
        for number, line in enumerate(slot.lines)
    ]
    # The fill hides lines behind the box; where a viewer does not know these colours there is none.
    frame = element(
        "rect",
        x=f"{slot.x - slot.width / 2:.1f}",
        y=f"{slot.y:.1f}",
        width=f"{slot.width:.1f}",
        height=f"{slot.height:.1f}",
        rx=8,
        fill="none",
        stroke="currentColor",
        stroke_width=2.5 if is_exit else 1,
        style="fill: var(--back, Canvas)",
    )
    return element("g", element("title", tooltip), frame, *words)


def write_tooltip(node: Node, roles: Roles, numbers: Mapping[str, float]) -> str:
    """Return all that a box has no room for, a fact per line."""
    role = roles.get(node.role)
    prompt = node.prompt if node.prompt is not None else role.prompt if role else ""
    prompt = prompt if len(prompt) <= MAX_PROMPT else f"{prompt[:MAX_PROMPT]}…"
    # Everything in full but the prompt, which may be pages long.
    lines = [
        node.name,
        f"{node.role}: {role.does}" if role else node.role,
        f"model: {node.model}" if node.model else "",
        *(f"{name}: {format_number(value)}" for name, value in numbers.items()),
        f"lessons: {len(node.lessons)}" if node.lessons else "",
        f"prompt: {prompt}" if prompt else "",
    ]
    return "\n".join(filter(None, lines))


def draw_arrow(d: str, x: float, y: float, dashes: str = "none", *children: Element) -> Iterator[Element]:
    """Draw a line along an SVG path, and a tip that points down at its end (x, y)."""
    look = {"fill": "none", "stroke": "currentColor", "stroke_width": 1.4, "stroke_opacity": 0.65}
    yield element("path", *children, d=d, stroke_dasharray=dashes, **look)
    tip = f"M{x - 4:.1f} {y - 8:.1f} L{x:.1f} {y:.1f} L{x + 4:.1f} {y - 8:.1f} z"
    yield element("path", d=tip, fill="currentColor")


def draw_words(words: str, x: float, y: float, anchor: str = "middle", weight: str = "400") -> Element:
    """Draw a line of text; `anchor` is the part of it that lies at x."""
    look = {"text_anchor": anchor, "font_weight": weight, "fill": "currentColor"}
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", **look)
