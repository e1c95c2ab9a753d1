"""Writing files so that a reader never meets half of one."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write UTF-8 text beside `path` and move it there: a kill or a full disk leaves the old file whole."""
    growing = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        growing.write_text(text, "utf-8")
        growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)
