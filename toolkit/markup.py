"""HTML and SVG as trees: what is put in as text comes out escaped, and every tag is closed."""

from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def node(name: str, *children: Child, **attributes: object) -> Element:
    """
    An element; None among the children is left out.

    In names of attributes "_" stands for "-", and one at the end is dropped (`class_`).
    """
    element = Element(name, {key.rstrip("_").replace("_", "-"): str(x) for key, x in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, str) and last is not None:
            last.tail = (last.tail or "") + child
        elif isinstance(child, str):
            element.text = (element.text or "") + child
        elif child is not None:
            element.append(child)
            last = child
    return element


def page(root: Element) -> bytes:
    """A whole HTML document in UTF-8; half characters (lone surrogates) become "?"."""
    return b"<!doctype html>\n" + tostring(root, "unicode", "html").encode("utf-8", "replace") + b"\n"
