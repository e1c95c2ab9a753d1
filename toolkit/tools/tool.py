"""
Tools: functions that a model may call.

`make_tool` makes one of a typed Python function, `load_tools` of the names in a task file. Running Python
that a model wrote is in `toolkit.tools.python_tool`, search in the user's own texts in `toolkit.tools.search_tool`.
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
    A tool and what runs it: `run(**arguments)` returns the text for the model, or an awaitable of it.

    `ends` says that it always does so after a while; any other may hang, and gets a thread that nobody waits for.
    """

    tool: Tool
    run: Callable[..., Any]
    is_bounded: bool = False


def make_tool(function: Callable[..., Any]) -> FunctionTool:
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
    return FunctionTool(tool, _awaited(checked) if inspect.iscoroutinefunction(function) else _called(checked))


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
