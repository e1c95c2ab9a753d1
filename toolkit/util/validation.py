"""Pydantic's errors as text: the first problem of a `ValidationError`, in one sentence."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # pydantic takes a tenth of a second to import, and not every command needs it
    from pydantic import ValidationError


class FieldError(NamedTuple):
    """One problem: `field` is its dotted path ("" for the whole value), `type` is pydantic's name for its kind."""

    field: str
    message: str
    type: str
    value: Any


def first_error(error: "ValidationError") -> FieldError:
    """Return the first problem of a validation."""
    details = error.errors()[0]
    # Pydantic puts "Value error, " before the text of every ValueError that a validator raises.
    message = details["msg"].removeprefix("Value error, ")
    return FieldError(".".join(map(str, details["loc"])), message, details["type"], details["input"])


def describe_error(error: "ValidationError", root: str = "") -> str:
    """Return the first problem as "field: message"; `root` names the field where the whole value is wrong."""
    first = first_error(error)
    field = first.field or root
    return f"{field}: {first.message}" if field else first.message
