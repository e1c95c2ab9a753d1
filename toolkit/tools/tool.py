"""
Tools: functions that a model may call.

`make_tool` makes one of a typed Python function, `toolkit.tools.registry.load_tools` of the names in a task file.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.types import Tool


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """
    Tool with the function behind it: `run(**arguments)` returns the text for the model, or an awaitable of it.

    `is_bounded` says that the function always returns after a limited time. Others may hang, so they run in a daemon
    thread.
    """

    tool: Tool
    run: Callable[..., Any]
    is_bounded: bool = False


def make_tool(function: Callable[..., Any]) -> FunctionTool:
    """
    Make a tool of a typed function, sync or async: its name, docstring and the JSON schema of its parameters.

    Arguments are validated and converted to the annotated types. Wrong arguments and exceptions become a text that
    begins with "error:", since the model may correct its call. Results other than text become JSON. Raises TaskError
    for a function that a schema can't describe.
    """
    # Here, since pydantic takes a tenth of a second to import and most tasks have no tools.
    from pydantic import TypeAdapter, validate_call
    from pydantic.errors import PydanticUserError

    name = getattr(function, "__name__", type(function).__name__)
    try:
        schema = TypeAdapter(cast(Any, function)).json_schema()
        validated: Callable[..., Any] = validate_call(function)
    except (PydanticUserError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise TaskError(f"{name} can't be a tool: {reason}; annotate its parameters with plain types") from error
    # Positional-only and variadic parameters give an array: a model's call has named arguments only.
    if schema.get("type") != "object":
        raise TaskError(f"{name} can't be a tool: parameters without a name; give each a name and a type")

    def run(**arguments: Any) -> str:
        try:
            return _render_result(validated(**arguments))
        except Exception as error:
            return _render_error(error)

    async def run_async(**arguments: Any) -> str:
        try:
            return _render_result(await validated(**arguments))
        except Exception as error:
            return _render_error(error)

    # The docstring is all that the model knows of the function.
    tool = Tool(name, inspect.getdoc(function) or name, schema)
    return FunctionTool(tool, run_async if inspect.iscoroutinefunction(function) else run)


def _render_result(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)


def _render_error(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        # All of them, so that the model can correct its call at once.
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'call'}: {e['msg']}" for e in error.errors())
        return f"error: wrong arguments: {problems}"
    return f"error: {type(error).__name__}: {error}"
