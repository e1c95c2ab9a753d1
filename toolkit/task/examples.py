"""
Rows become examples: columns are renamed, the prompt is filled in, ids are assigned, gaps are reported.

A prompt is text with {column} fields. Nothing else of Python's format language is understood, so a row can't reach into
objects, and {{ and }} stand for braces.
"""

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.task.readers import Row
from edgewise.toolkit.types import Example, Message, Role, ToolCall
from edgewise.toolkit.util.hashing import hash_text
from edgewise.toolkit.util.validation import describe_error


class Layout(BaseModel, extra="forbid", frozen=True):
    """
    The meaning of each column.

    `prompt` is a template; `messages` names a column of chat messages that takes its place; `system` is fixed text, and
    stands before both. `target` is the column of right answers, "" where the reward needs none. `fields` renames
    columns: {text = "body"} makes the column `body` known as `text`. Without `id`, a row's id is a hash of it. Rows
    that are played in an `environment` may all have the same prompt, and need no target.
    """

    id: str | None = None
    prompt: str = ""
    messages: str | None = None
    system: str = ""
    target: str = "target"
    fields: dict[str, str] = {}
    environment: str | dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SourcedExample:
    """An example, the place of its row (for error messages), and a text that only identical rows share."""

    example: Example
    place: str
    content: str


def to_examples(rows: Sequence[Row], layout: Layout, source: str) -> list[SourcedExample]:
    """Make examples of `rows` in their order; `source` names the rows in errors. Raises TaskError for any gap."""
    if not rows:
        raise TaskError(f"{source} is empty: a task needs rows")
    # Rows from Python may be of any type; files have dicts only.
    for n, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            hint = "; turn a DataFrame into rows with .to_dict('records')" if isinstance(row, str) else ""
            kind = type(row).__name__
            raise TaskError(f"{source}, row {n} must be a dict with column names as keys, not {kind}{hint}")
        if odd := [name for name in row if not isinstance(name, str)]:
            raise TaskError(f"{source}, row {n} has the column name {odd[0]!r}; column names must be text")

    # Rename. A renamed column is gone under its old name, so two columns can swap names.
    columns = sorted({name for row in rows for name in row})
    for new, old in layout.fields.items():
        if old not in columns:
            raise TaskError(f"fields reads {new!r} from {old!r}, but {_list_columns(old, columns, source)}")
        if new in columns and new not in layout.fields.values():
            raise TaskError(f"fields would hide the column {new!r} of {source}; choose another name for {old!r}")
    old_names = set(layout.fields.values())
    renamed = [
        {name: value for name, value in row.items() if name not in old_names}
        | {new: row[old] for new, old in layout.fields.items() if old in row}
        for row in rows
    ]

    # All columns that the layout names must exist; whether each row has a value is checked row by row.
    required, columns = _required_columns(layout), sorted({name for row in renamed for name in row})
    for name, use in required.items():
        if name not in columns:
            hint = '; set target = "" if the reward needs no right answer' if use == "target" else ""
            raise TaskError(f"{use} uses {name!r}, but {_list_columns(name, columns, source)}{hint}")
    return [_make_example(row, layout, required, f"{source}, row {n}") for n, row in enumerate(renamed, 1)]


def canonical_json(value: Any, place: str = "the value") -> str:
    """Return JSON text that is equal for equal values on every machine. Raises TaskError for other types of values."""

    def convert(item: Any) -> Any:
        if isinstance(item, date | time):
            return item.isoformat()
        if isinstance(item, bytes):
            return hashlib.sha256(item).hexdigest()
        if isinstance(item, Decimal):
            return str(item)
        if hasattr(item, "tolist"):  # numpy scalars and arrays
            return item.tolist()
        raise TaskError(f"{place} holds a {type(item).__name__}; give text, numbers, lists or dicts")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=convert)


def parse_template(prompt: str) -> list[tuple[str, str | None]]:
    """Return the prompt in pieces: literal text, and the column that follows it (None after the last field)."""
    # The parser of str.format, but not its evaluation: no attributes, no indices, no format specs.
    try:
        pieces = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise TaskError(f"the prompt can't be read ({error}); write {{{{ and }}}} for braces") from error
    for _, name, spec, conversion in pieces:
        if name is not None and (not name or spec or conversion or set(name) & set(".[]{}")):
            raise TaskError(
                f"the prompt holds {{{name}...}}, but a field is just a column's name, as {{text}}; write "
                "{{ and }} for braces, and use fields to rename columns"
            )
    return [(literal, name) for literal, name, _, _ in pieces]


def _list_columns(name: str, columns: Sequence[str], source: str) -> str:
    near = get_close_matches(name, columns, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{source} has the columns {', '.join(columns)}{hint}"


def _required_columns(layout: Layout) -> dict[str, str]:
    """Return the columns that every row must have, and their use."""
    if bool(layout.prompt) == bool(layout.messages):
        raise TaskError("give either prompt, a text with {column} fields, or messages, a column of chat messages")
    # Column -> the word of the task file that asks for it. A later use of a column replaces an earlier one.
    required = {name: "prompt" for _, name in parse_template(layout.prompt) if name}
    if layout.messages:
        required[layout.messages] = "messages"
    elif not required and not layout.environment:
        raise TaskError("the prompt has no {column} field, so every row would ask the same")
    if layout.id:
        required[layout.id] = "id"
    if layout.target and not layout.environment:
        required[layout.target] = "target"
    return required


def _make_example(row: Row, layout: Layout, required: Mapping[str, str], place: str) -> SourcedExample:
    # The id is no part of the content, so that repeated rows are recognised under any id.
    content = canonical_json({key: value for key, value in row.items() if key != layout.id}, place)
    id = hash_text(content, 16)
    if layout.id is not None:
        if row.get(layout.id) in (None, ""):
            raise TaskError(f"{place} has no {layout.id!r}, which the task needs as id")
        id = str(row[layout.id])
    place = f"{place} (id {id})"
    for name, use in required.items():
        if row.get(name) is None or (use == "target" and row[name] == ""):
            raise TaskError(f"{place} has no {name!r}, which the task needs as {use}")

    # The prompt, or the column of chat messages; then the system text before it.
    if layout.messages:
        messages = _parse_chat(row[layout.messages], f"{place}: {layout.messages}")
    else:
        text = ""
        for literal, name in parse_template(layout.prompt):
            value = row[name] if name else ""
            is_nested = isinstance(value, list | dict)
            text += literal + (json.dumps(value, ensure_ascii=False, default=str) if is_nested else str(value))
        messages = (Message("user", text),)
    if layout.system:
        if messages[0].role == "system":
            raise TaskError(
                f"{place}: {layout.messages} begins with a system message, but the task has a system text too; keep one"
            )
        messages = (Message("system", layout.system), *messages)

    target = row.get(layout.target) if layout.target else None
    return SourcedExample(Example(id, messages, target, row), place, content)


class _ChatFunction(BaseModel):
    name: str
    arguments: str


class _ChatToolCall(BaseModel):
    id: str
    function: _ChatFunction


class _ChatMessage(BaseModel):
    """A chat message in OpenAI's format; other keys, such as `name`, are ignored."""

    role: Role
    content: str | None = None
    tool_calls: list[_ChatToolCall] | None = None
    tool_call_id: str | None = None


_CHAT = TypeAdapter(list[_ChatMessage])


def _parse_chat(value: Any, place: str) -> tuple[Message, ...]:
    """Return the chat messages of a list, or of its JSON text. Raises TaskError that names the place."""
    try:
        chat = _CHAT.validate_json(value) if isinstance(value, str) else _CHAT.validate_python(value)
    except ValidationError as error:
        raise TaskError(f"{place} is no list of chat messages: {describe_error(error)}") from error
    if not chat or chat[-1].role not in ("user", "tool"):
        raise TaskError(f"{place} must end with a message of the user (or a tool), which the model answers")

    messages = []
    for item in chat:
        calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in item.tool_calls or ())
        messages.append(Message(item.role, item.content or "", calls, item.tool_call_id))
    return tuple(messages)
