"""Tools by name: the built-in ones, and functions of users."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.tool import FunctionTool, make_tool
from edgewise.toolkit.util.import_by_name import load_object


def load_tools(
    specs: Sequence[str | Callable[..., Any] | FunctionTool], base: Path | None = None
) -> tuple[FunctionTool, ...]:
    """
    The tools named by `specs`: "python", "search:PATH", "module:function" (see `toolkit.util.import_by_name`), or functions.

    `base` is a folder, or a file in it, that paths and modules are looked up from.
    """
    tools = tuple(_tool(spec, base) for spec in specs)
    names = [function.tool.name for function in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TaskError(f"two tools have the name {twice[0]!r}; give each a name of its own")
    return tools


def _tool(spec: str | Callable[..., Any] | FunctionTool, base: Path | None) -> FunctionTool:
    if isinstance(spec, FunctionTool):
        return spec
    if spec == "python":
        from edgewise.toolkit.tools.python_tool import python_tool

        return python_tool()
    if isinstance(spec, str) and spec.startswith("search:"):
        from edgewise.toolkit.tools.search_tool import search_tool

        folder = base.parent if base and base.is_file() else base or Path()
        return search_tool(folder / spec.removeprefix("search:"))
    if isinstance(spec, str) and ":" not in spec:
        raise TaskError(
            f"there is no tool {spec!r}; there is 'python', 'search:FOLDER', and your own as module:function"
        )
    found = load_object(spec, base) if isinstance(spec, str) else spec
    if not callable(found):
        raise TaskError(f"{spec!r} is no function")
    return found if isinstance(found, FunctionTool) else make_tool(found)
