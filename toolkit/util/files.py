"""Writing files so that a reader never meets half of one."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """
    A path beside `path` to write to, which then takes its place.

    A kill, a full disk or any other error leaves the old file whole.
    """
    growing = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield growing
        growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` as `replacing` does."""
    with replace_atomically(path) as growing:
        growing.write_text(text, "utf-8")


def dump_json(data: Any) -> str:
    """JSON for people and checksums: equal data gives equal text."""
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def hash_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
