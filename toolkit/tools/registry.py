"""Tools by name: the built-in ones, and functions of users."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.tool import FunctionTool, make_tool
from edgewise.toolkit.util.import_by_name import load_object

ToolSpec = str | Callable[..., Any] | FunctionTool


def load_tools(specs: Sequence[ToolSpec], base: Path | None = None) -> tuple[FunctionTool, ...]:
    """
    Return the tools of a task: "python", "search:PATH", "module:function", or functions.

    `base` is a folder, or a file in it, from which paths and modules are looked up (see
    `toolkit.util.import_by_name`). Raises TaskError.
    """
    tools = tuple(_load_tool(spec, base) for spec in specs)
    names = [function.tool.name for function in tools]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TaskError(f"two tools have the name {repeated[0]!r}; give each a name of its own")
    return tools


def _load_tool(spec: ToolSpec, base: Path | None) -> FunctionTool:
    # The built-in tools are imported on use: most tasks have none.
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
    function = load_object(spec, base) if isinstance(spec, str) else spec
    if isinstance(function, FunctionTool):
        return function
    if not callable(function):
        raise TaskError(f"{spec!r} is no function")
    return make_tool(function)
