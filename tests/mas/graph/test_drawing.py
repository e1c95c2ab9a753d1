"""Pictures of graphs: text, Mermaid, and a drawing whose lines and boxes do not hide each other."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given

from edgewise.mas.graph.drawing import render_mermaid, render_svg, render_svg_file, render_text
from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.toolkit.report.html import page
from tests.support.mas.graphs import graphs, law

DEBATE = Graph(
    (
        Node(name="drafter", role="drafter", model="openai/gpt-4o-mini"),
        Node(name="finder", role="researcher", lessons=("Look twice.",)),
        Node(name="critic", role="critic"),
        Node(name="weighted", role="weighted", weight=2),
    ),
    (("drafter", "critic"), ("finder", "weighted"), ("critic", "weighted")),
    "weighted",
    (Loop(source="critic", target="drafter", rounds=2),),
)
NASTY = 'a"]; <b>&amp;#35;\n`x`--> {y} %% \\'


def boxes(drawing: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of the box of each node."""
    positions = {}
    for group in drawing.iter("g"):
        title, rect = group.find("title"), group.find("rect")
        assert title is not None and title.text and rect is not None
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        positions[title.text.partition("\n")[0]] = (x, y, x + w, y + h)
    return positions


def curves(drawing: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """Points along each line that is no tip of an arrow, the first and the last among them."""
    positions = []
    for path in drawing.iter("path"):
        if path.get("fill") != "none":
            continue
        at, points = (0.0, 0.0), []
        for letter, numbers in re.findall(r"([A-Z])([^A-Z]*)", path.attrib["d"]):
            n = [float(number) for number in numbers.split()]
            if letter == "V":
                n = [at[0], n[0]]
            if letter == "H":
                n = [n[0], at[1]]
            if letter == "C":
                points += [_bezier(at, n, t / 10) for t in range(1, 10)]
            at = (n[-2], n[-1])
            points.append(at)
        positions.append(points)
    return positions


def _bezier(start: tuple[float, float], n: list[float], t: float) -> tuple[float, float]:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    xs, ys = (start[0], *n[::2]), (start[1], *n[1::2])
    return sum(w * x for w, x in zip(weights, xs, strict=True)), sum(w * y for w, y in zip(weights, ys, strict=True))


def test_text_names_levels_roles_models_tools_and_inputs():
    assert render_text(DEBATE).splitlines() == [
        "1  drafter   openai/gpt-4o-mini",
        "   finder    (researcher) tools: search",
        "2  critic                                hears drafter",
        "3  weighted  weight 2                    hears finder, critic; answers",
        "critic goes back to drafter, at most 2 rounds",
    ]


def test_mermaid_has_a_node_an_edge_and_a_dotted_loop_each():
    assert render_mermaid(DEBATE).splitlines() == [
        "flowchart TD",
        '    n0["drafter<br/>openai/gpt-4o-mini"]',
        '    n1["finder<br/>(researcher)<br/>tools: search"]',
        '    n2["critic"]',
        '    n3["weighted<br/>weight 2"]',
        "    n0 --> n2",
        "    n1 --> n3",
        "    n2 --> n3",
        '    n2 -. "at most 2 rounds" .-> n0',
        "    style n3 stroke-width:3px",
    ]


def test_user_text_is_escaped_in_labels():
    graph = Graph((Node(name="a", role=NASTY, model=NASTY, prompt=NASTY),), (), "a")
    label = re.search(r'n0\["(.*)"\]\n', render_mermaid(graph))
    assert label and not re.search(r'["`<>\[\]{}]', label[1].replace("<br/>", ""))
    assert len(render_mermaid(graph).splitlines()) == 3
    assert len(render_text(graph).splitlines()) == 1
    root = ElementTree.fromstring(render_svg_file(graph))
    title = next(root.iter("{http://www.w3.org/2000/svg}g"))[0].text
    assert title and NASTY in title


def test_tooltips_hold_prompt_model_and_lessons():
    tooltips = {g[0].text.partition("\n")[0]: g[0].text for g in render_svg(DEBATE).iter("g") if g[0].text}
    assert CATALOGUE["critic"].does in tooltips["critic"]
    assert CATALOGUE["critic"].prompt in tooltips["critic"]
    assert "model: openai/gpt-4o-mini" in tooltips["drafter"]
    assert "lessons: 1" in tooltips["finder"]


def test_numbers_are_written_into_the_box_of_their_node():
    drawing = render_svg(DEBATE, numbers={"critic": {"credit": -0.1234, "tokens": 310}})
    words = {g[0].text.partition("\n")[0]: [t.text for t in g.iter("text")] for g in drawing.iter("g") if g[0].text}
    assert words["critic"] == ["critic", "credit −0.123 · tokens 310"]
    assert words["weighted"] == ["weighted", "weight 2"]


def test_a_drawing_takes_the_colours_of_its_page():
    html = page("t", [render_svg(DEBATE)]).decode()
    assert "<svg" in html and "currentColor" in html
    assert not re.search(r'(fill|stroke)="(?!none|currentColor)', html)
    dashed = [p for p in render_svg(DEBATE).iter("path") if p.get("stroke-dasharray") not in (None, "none")]
    assert len(dashed) == 1


def test_a_role_outside_the_catalogue_is_drawn():
    graph = Graph((Node(name="a", role="notary"),), (), "a")
    assert (
        "(notary)" in render_text(graph)
        and "(notary)" in render_mermaid(graph)
        and "(notary)" in render_svg_file(graph)
    )


@law
@given(graphs(12))
def test_boxes_do_not_overlap_and_lie_inside_the_picture(graph):
    drawing = render_svg(graph)
    positions = boxes(drawing)
    assert list(positions) == [node.name for node in graph.nodes]
    width, height = (float(drawing.attrib[key]) for key in ("width", "height"))
    for name, (left, top, right, bottom) in positions.items():
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        for source in graph.predecessors[name]:
            assert positions[source][3] < top
        for other, box in positions.items():
            assert other == name or right < box[0] or box[2] < left or bottom < box[1] or box[3] < top
    for points in curves(drawing):
        assert all(-1 <= x <= width + 1 and -1 <= y <= height + 1 for x, y in points)


@law
@given(graphs(12))
def test_lines_connect_their_boxes_and_cross_no_other(graph):
    drawing = render_svg(graph)
    positions, lines = boxes(drawing), curves(drawing)
    pairs = [*graph.edges, *((loop.source, loop.target) for loop in graph.loops)]
    assert len(lines) == len(pairs)
    for (source, target), points in zip(pairs, lines, strict=True):
        assert positions[source][0] <= points[0][0] <= positions[source][2]
        assert points[0][1] == pytest.approx(positions[source][3], abs=0.2)
        assert positions[target][0] <= points[-1][0] <= positions[target][2]
        assert points[-1][1] == pytest.approx(positions[target][1], abs=0.2)
        for left, top, right, bottom in positions.values():
            assert not any(left < x < right and top + 0.2 < y < bottom - 0.2 for x, y in points)


@law
@given(graphs())
def test_text_and_mermaid_name_every_edge_and_loop(graph):
    lines = render_mermaid(graph).splitlines()
    assert sum(" --> " in line for line in lines) == len(graph.edges)
    assert sum(" -. " in line for line in lines) == len(graph.loops)
    assert len(render_text(graph).splitlines()) == len(graph) + len(graph.loops)
