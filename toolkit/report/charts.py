"""Small charts as inline SVG, drawn with plain functions; colours come from the page's style sheet."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgewise.toolkit.report.html import Child, node

Scale = Callable[[float], float]
MANY = 40
"""Points of a series, beyond which their dots are small: they would hide the line."""


@dataclass(frozen=True, slots=True)
class Bar:
    """An estimate and its interval; an end that is None is infinite."""

    label: str
    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a series; one that is `hollow` is drawn as an outline, and lines pass it by."""

    x: float
    y: float
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """
    Points in order of x; `style` is a CSS class that says the colour, `joined` draws a line.

    `band` is drawn behind them: (x, low, high) in order of x.
    """

    name: str
    style: str
    points: Sequence[Point]
    joined: bool = True
    band: Sequence[tuple[float, float, float]] = ()


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) that span `low` to `high`."""
    # Less than labels can tell apart, such as the dust of floats, counts as one point.
    span = high - low if high - low > 1e-6 else 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if power * m * (most - 1) >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def intervals(bars: Sequence[Bar], title: str) -> Element:
    """Estimates with their intervals on one axis that shows 0, a line each."""
    width, left, right, height = 560, 130, 20, 34
    bottom = height * len(bars) + 6
    known = [x for bar in bars for x in (bar.low, bar.estimate, bar.high) if x is not None]
    # Room for the arrow of an end that is infinite.
    room = max(map(abs, known)) * 0.3 if any(None in (bar.low, bar.high) for bar in bars) else 0.0
    marks = ticks(min(0.0, *known) - room, max(0.0, *known) + room)
    x = _scale(marks[0], marks[-1], left, width - right)
    grid = [
        node("line", x1=x(m), x2=x(m), y1=4, y2=bottom, class_="zero" if m == 0 else "grid") for m in marks
    ]
    labels = [_text(number(mark), x(mark), bottom + 16) for mark in marks]
    drawn = [
        part
        for i, bar in enumerate(bars)
        for part in _interval(bar, x, (x(marks[0]), x(marks[-1])), 4 + height * (i + 0.5))
    ]
    return _picture(title, width, bottom + 24, *grid, *labels, *drawn)


def _interval(bar: Bar, x: Scale, ends: tuple[float, float], y: float) -> Iterable[Element]:
    low = ends[0] if bar.low is None else x(bar.low)
    high = ends[1] if bar.high is None else x(bar.high)
    yield _text(_short(bar.label, 18), 120, y + 4, "end")
    yield node("line", x1=low, x2=high, y1=y, y2=y, class_="a path")
    for value, at, outwards in ((bar.low, low, -1), (bar.high, high, 1)):
        tip = f"M{at - 6 * outwards:.1f} {y - 5:.1f} L{at:.1f} {y:.1f} L{at - 6 * outwards:.1f} {y + 5:.1f}"
        cap = f"M{at:.1f} {y - 5:.1f} V{y + 5:.1f}"
        yield node("path", d=tip if value is None else cap, class_="a path")
    yield node("circle", cx=x(bar.estimate), cy=y, r=5, class_="a")
    yield _text(number(bar.estimate), x(bar.estimate), y - 9)


def curves(
    series: Sequence[Series], title: str, names: tuple[str, str], percent: bool = False, most: float = 1.0
) -> Element:
    """Series over whole-numbered x. `names` are those of the axes; the y axis shows 0 to `most` at least."""
    width, left, right, top = 460, 46, 14, 72
    bottom, height = top + 190, top + 232
    points = [point for one in series for point in one.points]
    heights = [p.y for p in points] + [end for one in series for _, *ends in one.band for end in ends]
    marks = ticks(min(0.0, *heights), max(most, *heights))
    y = _scale(marks[0], marks[-1], bottom, top)
    first, last = min(p.x for p in points), max(p.x for p in points)
    x = _scale(first, last, left + 14, width - right - 14)
    every = max(1, math.ceil((last - first + 1) / 12))
    grid = [node("line", x1=left, x2=width - right, y1=y(m), y2=y(m), class_="grid") for m in marks]
    values = [_text(f"{m:.0%}" if percent else number(m), left - 6, y(m) + 4, "end") for m in marks]
    steps = [_text(str(i), x(i), bottom + 16) for i in range(int(first), int(last) + 1, every)]
    axes = [_text(names[0], (left + width - right) / 2, bottom + 34), _text(names[1], 4, top - 14, "start")]
    legend = [part for i, one in enumerate(series) for part in _legend(one, width - right, 12 + 18 * i)]
    bands = [_band(one, x, y) for one in series if one.band]
    drawn = [part for one in series for part in _series(one, x, y)]
    return _picture(title, width, height, *bands, *grid, *values, *steps, *axes, *legend, *drawn)


def _legend(series: Series, right: float, y: float) -> Iterable[Element]:
    yield _text(series.name, right - 30, y + 4, "end")
    if series.joined:
        yield node("line", x1=right - 24, x2=right, y1=y, y2=y, class_=f"{series.style} path")
    yield _mark(series, Point(0, 0), right - 12, y)


def _series(series: Series, x: Scale, y: Scale) -> Iterable[Element]:
    if series.joined:
        line = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in series.points if not p.hollow)
        yield node("polyline", points=line, class_=f"{series.style} path")
    size = 4 if len(series.points) <= MANY else 2
    for point in series.points:
        yield _mark(series, point, x(point.x), y(point.y), size)


def _band(series: Series, x: Scale, y: Scale) -> Element:
    there = [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in series.band]
    back = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in reversed(series.band)]
    return node("polygon", points=" ".join([*there, *back]), class_=f"{series.style} band")


def _mark(series: Series, point: Point, x: float, y: float, size: float = 4) -> Element:
    """A dot where points are joined, a diamond where they stand alone."""
    style = f"{series.style} hollow" if point.hollow else series.style
    hint = node("title", f"{point.x:g}: {point.y:.3f}") if point.x else None
    if series.joined:
        return node("circle", hint, cx=f"{x:.1f}", cy=f"{y:.1f}", r=size, class_=style)
    shape = f"M{x:.1f} {y - 6:.1f} l6 6 l-6 6 l-6 -6 z"
    return node("path", hint, d=shape, class_=style)


def number(value: float) -> str:
    """A number as a label: at most three decimals, a real minus sign."""
    text = f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1e4 else f"{value:.3g}"
    return ("0" if text in ("", "-0") else text).replace("-", "−")


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """A linear map of [low, high] to [start, end]; the middle where the range is a single value."""
    span = high - low
    return lambda value: round(start + (end - start) * ((value - low) / span if span else 0.5), 1)


def _text(text: str, x: float, y: float, anchor: str = "middle") -> Element:
    return node("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _picture(title: str, width: float, height: float, *children: Child) -> Element:
    box = f"0 0 {width:g} {height:g}"
    return node("svg", node("title", title), *children, viewBox=box, role="img", width=width, height=height)
