"""
Tools: functions that a model may call.

`tool_from` makes one of a typed Python function, `load_tools` of the names in a task file. Running Python
that a model wrote is in `toolkit.tools.python_tool`, search in the user's own texts in `toolkit.tools.search_tool`.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.types import Tool
from edgewise.toolkit.util.import_by_name import load


@dataclass(frozen=True, slots=True)
class Function:
    """
    A tool and what runs it: `run(**arguments)` returns the text for the model, or an awaitable of it.

    `ends` says that it always does so after a while; any other may hang, and gets a thread that nobody waits for.
    """

    tool: Tool
    run: Callable[..., Any]
    ends: bool = False


def tool_from(function: Callable[..., Any]) -> Function:
    """
    Make a tool of a typed function, sync or async: its name, docstring and the JSON schema of its parameters.

    Arguments are checked and converted to the annotated types. Wrong arguments and exceptions become a text
    that begins with "error:", as the model may mend its call; results that are no text become JSON. Raises
    TaskError for a function that a schema cannot describe.
    """
    from pydantic import TypeAdapter, validate_call
    from pydantic.errors import PydanticUserError

    name = getattr(function, "__name__", type(function).__name__)
    try:
        schema = TypeAdapter(cast(Any, function)).json_schema()
        checked = validate_call(function)
    except (PydanticUserError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise TaskError(
            f"{name} can't be a tool: {reason}; annotate its parameters with plain types"
        ) from error
    if schema.get("type") != "object":
        raise TaskError(f"{name} can't be a tool: parameters without a name; give each a name and a type")
    tool = Tool(name, inspect.getdoc(function) or name, schema)
    return Function(tool, _awaited(checked) if inspect.iscoroutinefunction(function) else _called(checked))


def load_tools(
    specs: Sequence[str | Callable[..., Any] | Function], base: Path | None = None
) -> tuple[Function, ...]:
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


def _tool(spec: str | Callable[..., Any] | Function, base: Path | None) -> Function:
    if isinstance(spec, Function):
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
    found = load(spec, base) if isinstance(spec, str) else spec
    if not callable(found):
        raise TaskError(f"{spec!r} is no function")
    return found if isinstance(found, Function) else tool_from(found)


def _called(function: Callable[..., Any]) -> Callable[..., str]:
    def run(**arguments: Any) -> str:
        try:
            return _shown(function(**arguments))
        except Exception as error:
            return _told(error)

    return run


def _awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    async def run(**arguments: Any) -> str:
        try:
            return _shown(await function(**arguments))
        except Exception as error:
            return _told(error)

    return run


def _shown(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)


def _told(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'call'}: {e['msg']}" for e in error.errors())
        return f"error: wrong arguments: {wrong}"
    return f"error: {type(error).__name__}: {error}"
