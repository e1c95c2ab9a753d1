"""
Rows become examples: columns are renamed, the prompt is filled in, ids are given, gaps are named.

A prompt is text with {column} fields. Nothing else of Python's format language is understood, so a row can't
reach into objects, and {{ and }} stand for braces.
"""

import hashlib
import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.task.readers import Row
from edgewise.toolkit.types import Example, Message, Role, ToolCall

Ask = Callable[[Row], tuple[Message, ...]]


class Layout(BaseModel, extra="forbid", frozen=True):
    """
    Which column is what.

    `prompt` is a template; `messages` names a column of chat messages that takes its place; `system` is fixed
    text, and stands before both. `target` is the
    column of right answers, "" where the reward needs none. `fields` renames columns: {text = "body"}
    makes the column `body` known as `text`. Without `id`, a row's id is a hash of it. Rows that are played in an
    `environment` may all have the same prompt, and need no target.
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
    """An example, where its row stood (for error messages), and a text that only identical rows share."""

    example: Example
    place: str
    content: str


def to_examples(rows: Sequence[Row], layout: Layout, source: str) -> list[SourcedExample]:
    """Examples of `rows` in their order; `source` is how errors call the rows. TaskError for any gap."""
    if not rows:
        raise TaskError(f"{source} is empty: a task needs rows")
    for n, row in enumerate(rows, 1):
        _check_row(row, f"{source}, row {n}")
    columns = sorted({name for row in rows for name in row})
    _check_fields(layout.fields, columns, source)
    renamed = [_renamed(row, layout.fields, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    needed = _needed(layout)
    _check_columns(needed, {name for row in renamed for name in row}, source)
    ask = _asker(layout)
    return [_placed(row, ask, layout, needed, f"{source}, row {n}") for n, row in enumerate(renamed, 1)]


def canonical_json(value: Any, place: str = "the value") -> str:
    """JSON text that is equal for equal values on every machine. TaskError for values it can't write down."""

    def plain(item: Any) -> Any:
        if isinstance(item, date | time):
            return item.isoformat()
        if isinstance(item, bytes):
            return hashlib.sha256(item).hexdigest()
        if isinstance(item, Decimal):
            return str(item)
        if hasattr(item, "tolist"):  # numpy scalars and arrays
            return item.tolist()
        raise TaskError(f"{place} holds a {type(item).__name__}; give text, numbers, lists or dicts")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)


def _check_row(row: Any, place: str) -> None:
    if not isinstance(row, Mapping):
        hint = "; turn a DataFrame into rows with .to_dict('records')" if isinstance(row, str) else ""
        raise TaskError(f"{place} must be a dict with column names as keys, not {type(row).__name__}{hint}")
    odd = [name for name in row if not isinstance(name, str)]
    if odd:
        raise TaskError(f"{place} has the column name {odd[0]!r}; column names must be text")


def _check_fields(fields: Mapping[str, str], columns: list[str], source: str) -> None:
    for new, old in fields.items():
        if old not in columns:
            raise TaskError(f"fields reads {new!r} from {old!r}, but {_known(old, columns, source)}")
        if new in columns and new not in fields.values():
            raise TaskError(
                f"fields would hide the column {new!r} of {source}; choose another name for {old!r}"
            )


def _known(name: str, columns: Sequence[str], source: str) -> str:
    near = get_close_matches(name, columns, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{source} has the columns {', '.join(columns)}{hint}"


def _renamed(row: Row, fields: Mapping[str, str], place: str) -> Row:
    taken = set(fields.values())
    kept = {name: value for name, value in row.items() if name not in taken}
    return kept | {new: row[old] for new, old in fields.items() if old in row}


def _needed(layout: Layout) -> dict[str, str]:
    """Columns that every row must have, and what for."""
    if bool(layout.prompt) == bool(layout.messages):
        raise TaskError(
            "give either prompt, a text with {column} fields, or messages, a column of chat messages"
        )
    needed = {name: "prompt" for _, name in parse_template(layout.prompt) if name}
    if layout.messages:
        needed[layout.messages] = "messages"
    elif not needed and not layout.environment:
        raise TaskError("the prompt has no {column} field, so every row would ask the same")
    if layout.id:
        needed[layout.id] = "id"
    if layout.target and not layout.environment:
        needed[layout.target] = "target"
    return needed


def _check_columns(needed: Mapping[str, str], columns: set[str], source: str) -> None:
    for name, use in needed.items():
        if name not in columns:
            free = '; set target = "" if the reward needs no right answer' if use == "target" else ""
            raise TaskError(f"{use} uses {name!r}, but {_known(name, sorted(columns), source)}{free}")


def parse_template(prompt: str) -> list[tuple[str, str | None]]:
    """The prompt in pieces: literal text, and the column that follows it (None after the last field)."""
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


def _asker(layout: Layout) -> Ask:
    if column := layout.messages:
        return lambda row: _chat(row[column])
    pieces = parse_template(layout.prompt)

    def ask(row: Row) -> tuple[Message, ...]:
        text = "".join(literal + (_text(row[name]) if name else "") for literal, name in pieces)
        return (Message("user", text),)

    return ask


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _placed(row: Row, ask: Ask, layout: Layout, needed: Mapping[str, str], place: str) -> SourcedExample:
    content = canonical_json({k: v for k, v in row.items() if k != layout.id}, place)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    id = digest if layout.id is None else _id(row, layout.id, place)
    place = f"{place} (id {id})"
    for name, use in needed.items():
        if row.get(name) is None or (use == "target" and row[name] == ""):
            raise TaskError(f"{place} has no {name!r}, which the task needs as {use}")
    try:
        messages = _under(layout.system, ask(row))
    except ValueError as error:
        raise TaskError(f"{place}: {layout.messages} {error}") from error
    target = row.get(layout.target) if layout.target else None
    return SourcedExample(Example(id, messages, target, row), place, content)


def _under(system: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if system and messages[0].role == "system":
        raise ValueError("begins with a system message, but the task has a system text too; keep one")
    return (Message("system", system), *messages) if system else messages


def _id(row: Row, column: str, place: str) -> str:
    value = row.get(column)
    if value is None or value == "":
        raise TaskError(f"{place} has no {column!r}, which the task needs as id")
    return str(value)


class _Function(BaseModel):
    name: str
    arguments: str


class _Call(BaseModel):
    id: str
    function: _Function


class _Chat(BaseModel):
    """A chat message in the OpenAI shape; other keys, such as `name`, are ignored."""

    role: Role
    content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


_CHAT = TypeAdapter(list[_Chat])


def _chat(value: Any) -> tuple[Message, ...]:
    """Chat messages of a list, or of its JSON text. ValueError with the rest of a sentence."""
    try:
        chat = _CHAT.validate_json(value) if isinstance(value, str) else _CHAT.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"is no list of chat messages: {where} {first['msg']}".replace("  ", " ")) from error
    if not chat or chat[-1].role not in ("user", "tool"):
        raise ValueError("must end with a message of the user (or a tool), which the model answers")
    return tuple(_message(item) for item in chat)


def _message(item: _Chat) -> Message:
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in item.tool_calls or ())
    return Message(item.role, item.content or "", calls, item.tool_call_id)
