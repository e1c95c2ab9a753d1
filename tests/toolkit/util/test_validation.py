"""Pydantic's errors as one sentence."""

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from edgewise.toolkit.util.validation import describe_error, first_error


class Inner(BaseModel):
    size: int = 1

    @field_validator("size")
    @classmethod
    def check_size(cls, value: int) -> int:
        if value < 1:
            raise ValueError("too small")
        return value


class Outer(BaseModel):
    parts: list[Inner]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"parts": [{}, {"size": 0}]}, "parts.1.size: too small"),
        ({}, "parts: Field required"),
        (3, "file: Input should be a valid dictionary or instance of Outer"),
    ],
)
def test_the_first_error_names_its_field(data: object, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    assert describe_error(caught.value, root="file") == sentence


def test_the_parts_of_an_error() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"size": "many"})
    assert first_error(caught.value)[0] == "size"
    assert first_error(caught.value)[2:] == ("int_parsing", "many")
