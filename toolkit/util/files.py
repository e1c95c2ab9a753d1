"""Write files so that a reader never meets half of one."""

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
    Yield a temporary path to write to; afterwards the file moves to `path`.

    A kill, a full disk or any other error leaves the old file whole.
    """
    # In the same folder, since a rename is atomic only within a file system; the process id keeps writers apart.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, "utf-8")


def dump_json(data: Any) -> str:
    """Return JSON for people and checksums: equal data gives equal text."""
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
