"""Small charts as inline SVG; colours come from the page's style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgewise.toolkit.report.html import Child, node

Scale = Callable[[float], float]
MANY_POINTS = 40
"""A longer series has small dots, so that they don't hide the line."""
LABEL_LETTERS = 18
"""The most letters of a label beside a bar."""


@dataclass(frozen=True, slots=True)
class Bar:
    """An estimate and its interval; an end that is None is infinite."""

    label: str
    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a series; a `hollow` one is an outline that the line passes by."""

    x: float
    y: float
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """
    Points in order of x; `style` is a CSS class with the colour, `joined` draws a line.

    `band` lies behind them: (x, low, high) in order of x.
    """

    name: str
    style: str
    points: Sequence[Point]
    joined: bool = True
    band: Sequence[tuple[float, float, float]] = ()


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) that span `low` to `high`."""
    # A span that labels can't resolve, such as rounding errors, counts as one point.
    span = high - low if high - low > 1e-6 else 1.0
    # The step is the smallest of 1, 2, 5, 10, 20 times a power of ten with which `most` ticks span the range.
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if power * m * (most - 1) >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def draw_intervals(bars: Sequence[Bar], title: str) -> Element:
    """Draw estimates with their intervals on one axis that includes 0, a line each."""
    width, left, right, height = 560, 130, 20, 34
    bottom = height * len(bars) + 6
    finite = [x for bar in bars for x in (bar.low, bar.estimate, bar.high) if x is not None]
    # Room for the arrow of an end that is infinite.
    room = max(map(abs, finite)) * 0.3 if any(None in (bar.low, bar.high) for bar in bars) else 0.0
    marks = ticks(min(0.0, *finite) - room, max(0.0, *finite) + room)
    x = _make_scale(marks[0], marks[-1], left, width - right)

    parts = [node("line", x1=x(m), x2=x(m), y1=4, y2=bottom, class_="zero" if m == 0 else "grid") for m in marks]
    parts += [_draw_text(format_number(mark), x(mark), bottom + 16) for mark in marks]
    for i, bar in enumerate(bars):
        y = 4 + height * (i + 0.5)
        low = x(marks[0] if bar.low is None else bar.low)
        high = x(marks[-1] if bar.high is None else bar.high)
        label = bar.label if len(bar.label) <= LABEL_LETTERS else bar.label[: LABEL_LETTERS - 1] + "…"
        parts.append(_draw_text(label, 120, y + 4, "end"))
        parts.append(node("line", x1=low, x2=high, y1=y, y2=y, class_="a path"))
        # A finite end has a cap, an infinite one an arrow.
        for end, at, outwards in ((bar.low, low, -1), (bar.high, high, 1)):
            back = at - 6 * outwards
            arrow = f"M{back:.1f} {y - 5:.1f} L{at:.1f} {y:.1f} L{back:.1f} {y + 5:.1f}"
            cap = f"M{at:.1f} {y - 5:.1f} V{y + 5:.1f}"
            parts.append(node("path", d=arrow if end is None else cap, class_="a path"))
        parts.append(node("circle", cx=x(bar.estimate), cy=y, r=5, class_="a"))
        parts.append(_draw_text(format_number(bar.estimate), x(bar.estimate), y - 9))
    return _make_svg(title, width, bottom + 24, *parts)


def draw_curves(
    series: Sequence[Series], title: str, names: tuple[str, str], percent: bool = False, most: float = 1.0
) -> Element:
    """Draw series over whole-numbered x. `names` are those of the axes; the y axis spans 0 to `most` at least."""
    width, left, right, top = 460, 46, 14, 72
    bottom, height = top + 190, top + 232
    # Scales: y spans all points and bands, x the steps.
    points = [point for line in series for point in line.points]
    heights = [p.y for p in points] + [end for line in series for _, *ends in line.band for end in ends]
    marks = ticks(min(0.0, *heights), max(most, *heights))
    y = _make_scale(marks[0], marks[-1], bottom, top)
    first, last = min(p.x for p in points), max(p.x for p in points)
    x = _make_scale(first, last, left + 14, width - right - 14)

    # Bands lie behind the grid, points in front of it.
    parts = []
    for line in series:
        if line.band:
            there = [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in line.band]
            back = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in reversed(line.band)]
            parts.append(node("polygon", points=" ".join([*there, *back]), class_=f"{line.style} band"))

    # The grid and its labels: at most twelve numbers on the x axis.
    every = max(1, math.ceil((last - first + 1) / 12))
    parts += [node("line", x1=left, x2=width - right, y1=y(m), y2=y(m), class_="grid") for m in marks]
    labels = [(f"{m:.0%}" if percent else format_number(m), y(m) + 4) for m in marks]
    parts += [_draw_text(label, left - 6, at, "end") for label, at in labels]
    parts += [_draw_text(str(i), x(i), bottom + 16) for i in range(int(first), int(last) + 1, every)]
    parts.append(_draw_text(names[0], (left + width - right) / 2, bottom + 34))
    parts.append(_draw_text(names[1], 4, top - 14, "start"))

    # The legend, in the upper right corner.
    end = width - right
    for i, line in enumerate(series):
        at = 12 + 18 * i
        parts.append(_draw_text(line.name, end - 30, at + 4, "end"))
        if line.joined:
            parts.append(node("line", x1=end - 24, x2=end, y1=at, y2=at, class_=f"{line.style} path"))
        parts.append(_draw_point(line, Point(0, 0), end - 12, at))

    # Lines pass hollow points by, as these are of few rollouts.
    for line in series:
        if line.joined:
            path = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in line.points if not p.hollow)
            parts.append(node("polyline", points=path, class_=f"{line.style} path"))
        size = 4 if len(line.points) <= MANY_POINTS else 2
        parts += [_draw_point(line, point, x(point.x), y(point.y), size) for point in line.points]
    return _make_svg(title, width, height, *parts)


def format_number(value: float) -> str:
    """Return a number as a label: at most three decimals, a typographic minus."""
    text = f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1e4 else f"{value:.3g}"
    return ("0" if text in ("", "-0") else text).replace("-", "−")


def _draw_point(series: Series, point: Point, x: float, y: float, size: float = 4) -> Element:
    """Draw a dot where points are joined, a diamond where they stand alone."""
    style = f"{series.style} hollow" if point.hollow else series.style
    hint = node("title", f"{point.x:g}: {point.y:.3f}") if point.x else None
    if series.joined:
        return node("circle", hint, cx=f"{x:.1f}", cy=f"{y:.1f}", r=size, class_=style)
    return node("path", hint, d=f"M{x:.1f} {y - 6:.1f} l6 6 l-6 6 l-6 -6 z", class_=style)


def _make_scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return a linear map of [low, high] to [start, end]; the middle where the range is a single value."""
    span = high - low
    return lambda value: round(start + (end - start) * ((value - low) / span if span else 0.5), 1)


def _draw_text(text: str, x: float, y: float, anchor: str = "middle") -> Element:
    return node("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _make_svg(title: str, width: float, height: float, *children: Child) -> Element:
    box = f"0 0 {width:g} {height:g}"
    return node("svg", node("title", title), *children, viewBox=box, role="img", width=width, height=height)
