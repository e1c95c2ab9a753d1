"""
Pictures of a graph: Mermaid text, lines for a terminal, and a drawing as SVG.

The drawing has a row for each level. An edge that skips levels gets a place of its own in each row between, so
that it runs past the boxes; the places of a row are put where their neighbours are (the barycentre method of
Sugiyama et al., 1981). Loops are dashed and run up the right side.
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
"""By node, what was measured of it, by name: {"critic": {"credit": 0.12, "tokens": 310}}."""


# ---- text ------------------------------------------------------------------------------------------


def render_text(graph: Graph, roles: Roles = CATALOGUE) -> str:
    """A line for each node, level by level, with what it is and whom it hears; then the loops."""
    cells = []
    for depth, level in enumerate(graph.levels, 1):
        for place, name in enumerate(level):
            heard = f"hears {', '.join(graph.predecessors[name])}" if graph.predecessors[name] else ""
            last = "answers" if name == graph.exit else ""
            facts = " ".join(_facts(graph[name], roles))
            cells.append(
                [str(depth) if place == 0 else "", name, facts, "; ".join(filter(None, [heard, last]))]
            )
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True) if width).rstrip()
        for row in cells
    ]
    return "\n".join([*lines, *map(_told, graph.loops)])


def render_mermaid(graph: Graph, roles: Roles = CATALOGUE) -> str:
    """The graph as a Mermaid flowchart; the exit has a thick border, loops are dotted."""
    ids = {node.name: f"n{place}" for place, node in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for node in graph.nodes:
        label = "<br/>".join(map(_entities, [node.name, *_facts(node, roles)]))
        lines.append(f'    {ids[node.name]}["{label}"]')
    lines += [f"    {ids[a]} --> {ids[b]}" for a, b in graph.edges]
    lines += [f'    {ids[x.source]} -. "at most {format_rounds(x.rounds)}" .-> {ids[x.target]}' for x in graph.loops]
    lines.append(f"    style {ids[graph.exit]} stroke-width:3px")
    return "\n".join(lines)


def _entities(label: str) -> str:
    """A text inside a quoted label: what is no plain letter, digit or mark becomes a numbered entity."""
    return "".join(char if char.isalnum() or char in " _-.,:/+()" else f"#{ord(char)};" for char in label)


def _facts(node: Node, roles: Roles) -> list[str]:
    """What a label says below the name: the role where it is another word, the model, the tools."""
    role = roles.get(node.role)
    tools = (role.tools if role else ()) if node.tools is None else node.tools
    facts = [f"({node.role})" if node.role != node.name else "", node.model]
    facts += [f"tools: {', '.join(tools)}" if tools and tools != ("*",) else ""]
    facts += [f"weight {format_number(node.weight)}" if node.weight != 1 else ""]
    return [" ".join(fact.split()) for fact in facts if fact]


def _told(loop: Loop) -> str:
    return f"{loop.source} goes back to {loop.target}, at most {format_rounds(loop.rounds)}"


# ---- a drawing -------------------------------------------------------------------------------------

GAP, ROW_GAP, MARGIN, LINE = 22.0, 46.0, 12.0, 16.0
LETTER, LONGEST = 7.2, 26
THIN = 10.0
"""Width of the place of an edge that runs past a row."""
LANE = 128.0
"""Width of a lane at the right side, with the words of its loop."""
CURVE = 10.0
TITLE = 600


@dataclass(slots=True)
class _Place:
    """A place in a row: a box with its lines of text, or a spot that an edge passes (no lines)."""

    key: str
    lines: tuple[str, ...]
    width: float
    x: float = 0.0
    y: float = 0.0
    height: float = 0.0


def render_svg_file(graph: Graph, roles: Roles = CATALOGUE, numbers: NodeNumbers | None = None) -> str:
    """The drawing as a file of its own."""
    root = render_svg(graph, roles, numbers)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("font-family", "system-ui, sans-serif")
    root.set("font-size", "12")
    return tostring(root, "unicode")


def render_svg(graph: Graph, roles: Roles = CATALOGUE, numbers: NodeNumbers | None = None) -> Element:
    """
    The drawing as an <svg> for an HTML page; lines have the colour of the text around it.

    Each node has a tooltip with its prompt; `numbers` are written into its box.
    """
    rows, paths = _layout(graph, roles, numbers or {})
    places = {place.key: place for row in rows for place in row}
    right = max(place.x + place.width / 2 for place in places.values())
    lanes = [right + MARGIN + LANE * lane for lane in range(len(graph.loops))]
    width = (lanes[-1] + LANE if lanes else right) + MARGIN
    height = rows[-1][0].y + rows[-1][0].height + (ROW_GAP / 2 if lanes else 0.0) + MARGIN
    parts = [part for path in paths for part in _edge([places[key] for key in path])]
    for loop, lane in zip(graph.loops, lanes, strict=True):
        parts += _loop(loop, places, lane)
    parts += [_box(graph, node, places[node.name], roles, numbers or {}) for node in graph.nodes]
    box = f"0 0 {width:g} {height:g}"
    title = element("title", f"Agent graph of {len(graph)} agents; {graph.exit} answers")
    return element("svg", title, *parts, viewBox=box, role="img", width=f"{width:g}", height=f"{height:g}")


def _layout(graph: Graph, roles: Roles, numbers: NodeNumbers) -> tuple[list[list[_Place]], list[list[str]]]:
    """Rows of places with their positions, and for each edge the keys of the places that it passes."""
    level = {name: depth for depth, names in enumerate(graph.levels) for name in names}
    rows = [[_boxed(graph[name], roles, numbers) for name in names] for names in graph.levels]
    paths = []
    for a, b in graph.edges:
        spots = [(depth, f"{a} {b} {depth}") for depth in range(level[a] + 1, level[b])]
        for depth, key in spots:
            rows[depth].append(_Place(key, (), THIN))
        paths.append([a, *(key for _, key in spots), b])
    links = [pair for path in paths for pair in pairwise(path)]
    _arrange(rows, links)
    y = MARGIN + (ROW_GAP / 2 if graph.loops else 0.0)
    for row in rows:
        lines = max(len(place.lines) for place in row)
        for place in row:
            place.y, place.height = y, lines * LINE + 12
        y += lines * LINE + 12 + ROW_GAP
    return rows, paths


def _boxed(node: Node, roles: Roles, numbers: NodeNumbers) -> _Place:
    facts = [node.name, *_facts(node, roles)]
    measured = [f"{name} {format_number(value)}" for name, value in numbers.get(node.name, {}).items()]
    lines = (*map(_short, facts), *([" · ".join(measured)] if measured else []))
    return _Place(node.name, lines, max(len(line) for line in lines) * LETTER + 24)


def _short(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _arrange(rows: list[list[_Place]], links: Sequence[tuple[str, str]], sweeps: int = 4) -> None:
    """Order each row by where its neighbours are, down and up again, and centre the rows on one another."""
    for row in rows:
        _spread(row, 0.0)
    above, below = _neighbours(links, 1), _neighbours(links, 0)
    for sweep in range(sweeps):
        down = sweep % 2 == 0
        near, order = (above, rows[1:]) if down else (below, rows[-2::-1])
        for row in order:
            _follow(row, near, {place.key: place.x for each in rows for place in each})
    left = min(place.x - place.width / 2 for row in rows for place in row)
    for row in rows:
        for place in row:
            place.x += MARGIN - left


def _neighbours(links: Sequence[tuple[str, str]], end: int) -> dict[str, list[str]]:
    """By the key at one end of the links, the keys at the other."""
    found: dict[str, list[str]] = {}
    for link in links:
        found.setdefault(link[end], []).append(link[1 - end])
    return found


def _follow(row: list[_Place], near: Mapping[str, list[str]], at: Mapping[str, float]) -> None:
    wanted = {}
    for place in row:
        others = [at[key] for key in near.get(place.key, ())] or [place.x]
        wanted[place.key] = sum(others) / len(others)
    row.sort(key=lambda place: wanted[place.key])
    _spread(row, sum(wanted.values()) / len(wanted))


def _spread(row: list[_Place], centre: float) -> None:
    """Put the places of a row side by side around `centre`."""
    x = centre - (sum(place.width for place in row) + GAP * (len(row) - 1)) / 2
    for place in row:
        place.x = x + place.width / 2
        x += place.width + GAP


def _edge(path: Sequence[_Place]) -> Iterator[Element]:
    """A curve from the bottom of the first place through the others to the top of the last, and its tip."""
    d = f"M{path[0].x:.1f} {path[0].y + path[0].height:.1f}"
    for a, b in pairwise(path):
        start, end = a.y + a.height, b.y
        middle = (start + end) / 2
        d += f" C{a.x:.1f} {middle:.1f} {b.x:.1f} {middle:.1f} {b.x:.1f} {end:.1f}"
        d += f" V{b.y + b.height:.1f}" if not b.lines else ""
    yield _stroke(d)
    yield _tip(path[-1].x, path[-1].y)


def _loop(loop: Loop, places: Mapping[str, _Place], lane: float) -> Iterator[Element]:
    """From below the source to its lane, up, and from above down into the target, round at the corners."""
    source, target = places[loop.source], places[loop.target]
    start, end = source.x + source.width / 4, target.x + target.width / 4
    bottom, c = source.y + source.height, CURVE
    low, high = bottom + ROW_GAP / 3, target.y - ROW_GAP / 3
    d = f"M{start:.1f} {bottom:.1f} V{low - c:.1f} Q{start:.1f} {low:.1f} {start + c:.1f} {low:.1f} H{lane - c:.1f} "
    d += f"Q{lane:.1f} {low:.1f} {lane:.1f} {low - c:.1f} V{high + c:.1f} Q{lane:.1f} {high:.1f} {lane - c:.1f} "
    d += f"{high:.1f} H{end + c:.1f} Q{end:.1f} {high:.1f} {end:.1f} {high + c:.1f} V{target.y:.1f}"
    yield _stroke(d, "5 4", element("title", _told(loop)))
    yield _tip(end, target.y)
    yield _words(f"at most {format_rounds(loop.rounds)}", lane + 8, (low + high) / 2 + 4, "start")


def _box(graph: Graph, node: Node, place: _Place, roles: Roles, numbers: NodeNumbers) -> Element:
    last = node.name == graph.exit
    left, middle = place.x - place.width / 2, place.height / 2
    top = place.y + middle - len(place.lines) * LINE / 2 + LINE - 4
    words = [
        _words(line, place.x, top + LINE * row, weight="600" if row == 0 else "400")
        for row, line in enumerate(place.lines)
    ]
    # The fill hides lines behind the box; where a viewer does not know these colours there is none.
    frame = element(
        "rect",
        x=f"{left:.1f}",
        y=f"{place.y:.1f}",
        width=f"{place.width:.1f}",
        height=f"{place.height:.1f}",
        rx=8,
        fill="none",
        stroke="currentColor",
        stroke_width=2.5 if last else 1,
        style="fill: var(--back, Canvas)",
    )
    return element("g", element("title", _tooltip(node, roles, numbers.get(node.name, {}))), frame, *words)


def _tooltip(node: Node, roles: Roles, measured: Mapping[str, float]) -> str:
    role = roles.get(node.role)
    prompt = node.prompt if node.prompt is not None else role.prompt if role else ""
    lines = [node.name, f"{node.role}: {role.does}" if role else node.role]
    lines += [f"model: {node.model}" if node.model else ""]
    lines += [f"{name}: {format_number(value)}" for name, value in measured.items()]
    lines += [f"lessons: {len(node.lessons)}" if node.lessons else ""]
    lines += [f"prompt: {prompt if len(prompt) <= TITLE else prompt[:TITLE] + '…'}" if prompt else ""]
    return "\n".join(filter(None, lines))


def _stroke(d: str, dashes: str = "none", *children: Element) -> Element:
    look = {"fill": "none", "stroke": "currentColor", "stroke_width": 1.4, "stroke_opacity": 0.65}
    return element("path", *children, d=d, stroke_dasharray=dashes, **look)


def _tip(x: float, y: float) -> Element:
    return element(
        "path", d=f"M{x - 4:.1f} {y - 8:.1f} L{x:.1f} {y:.1f} L{x + 4:.1f} {y - 8:.1f} z", fill="currentColor"
    )


def _words(words: str, x: float, y: float, anchor: str = "middle", weight: str = "400") -> Element:
    look = {"text_anchor": anchor, "font_weight": weight, "fill": "currentColor"}
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", **look)
