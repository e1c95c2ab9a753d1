"""HTML and SVG as trees: text is escaped on output, and every tag is closed."""

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --line: #d9dee4; --back: #fff;
  --panel: #f5f7f9; --a: #1f6feb; --b: #b35900; --c: #2a7f46; --d: #8a3ffc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ec; --soft: #9aa5b1; --line: #363d46;
  --back: #14171b; --panel: #1d2227; --a: #6cb0ff; --b: #f0a050; --c: #66cc8a; --d: #c6a1ff; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 960px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.finding { font-size: 1.15rem; margin: .3rem 0; } .note { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; margin-bottom: 1rem; } .side { display: flex; flex-wrap: wrap; gap: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } tr.total td { font-weight: 600; }
th.n, td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
details { margin: .4rem 0; padding: .35rem .7rem; background: var(--panel); border-radius: 6px; }
details .note { margin: .4rem 0 0; } summary { cursor: pointer; }
pre { white-space: pre-wrap; font: .85rem/1.45 ui-monospace, monospace; margin: .2rem 0 .6rem;
  padding: .4rem .6rem; border-left: 3px solid var(--line); }
th:first-child { min-width: 5rem; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--soft); }
.side svg { flex: 1 1 380px; min-width: 0; }
.grid { stroke: var(--line); } .zero { stroke: var(--ink); }
.a { fill: var(--a); stroke: var(--a); } .b { fill: var(--b); stroke: var(--b); }
.c { fill: var(--c); stroke: var(--c); } .d { fill: var(--d); stroke: var(--d); }
.hollow { fill: var(--back); } .path { fill: none; stroke-width: 2; } .band { fill-opacity: .15; stroke: none; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --back: #fff;
  --panel: #fff; --a: #0b4fb3; --b: #8a4500; --c: #1d6335; --d: #5b21b6; }
  body { margin: 0; max-width: none; font-size: 11pt; } tr, svg { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .wide { overflow: visible; } }
"""


def node(name: str, /, *children: Child, **attributes: object) -> Element:
    """
    Make an element; None among the children is left out.

    In names of attributes "_" stands for "-", and one at the end is dropped (`class_`).
    """
    element = Element(name, {key.rstrip("_").replace("_", "-"): str(x) for key, x in attributes.items()})
    last: Element | None = None
    for child in children:
        # ElementTree keeps text after a child in the tail of that child.
        if isinstance(child, str) and last is not None:
            last.tail = (last.tail or "") + child
        elif isinstance(child, str):
            element.text = (element.text or "") + child
        elif child is not None:
            element.append(child)
            last = child
    return element


def note(text: str) -> Element:
    """Make a paragraph in small print."""
    return node("p", text, class_="note")


def table(head: Sequence[str], rows: Iterable[Sequence[Child]], words: int = 1, total: bool = False) -> Element:
    """Make a table whose first `words` columns are text and the others numbers; `total` marks the last row."""

    def make_row(kind: str, cells: Sequence[Child]) -> Element:
        return node("tr", *(node(kind, cell, class_="w" if i < words else "n") for i, cell in enumerate(cells)))

    body = [make_row("td", cells) for cells in rows]
    if total:
        body[-1].set("class", "total")
    whole = node("table", node("thead", make_row("th", head)), node("tbody", *body))
    return node("div", whole, class_="wide")


def format_signed(value: float) -> str:
    """Return a difference with three decimals, its sign, and a typographic minus."""
    return f"{value:+.3f}".replace("-", "−")


def page(title: str, body: Iterable[Element]) -> bytes:
    """Return a whole HTML document in UTF-8 with its style sheet; lone surrogates become "?"."""
    # No script, no link, no font: the page opens anywhere, and nothing in a run can load anything.
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("title", title),
        node("style", STYLE),
    )
    root = node("html", head, node("body", *body), lang="en")
    return b"<!doctype html>\n" + tostring(root, "unicode", "html").encode("utf-8", "replace") + b"\n"
