"""
Row readers: a file or a data set becomes a list of dicts, one per row, with the column names as keys.

    *.jsonl, *.ndjson       one JSON object a line; blank lines are skipped
    *.json                  a list of JSON objects
    *.csv                   a line of column names, then rows; every value is text
    *.parquet               through pyarrow
    hf://owner/name         through datasets; also hf://owner/name/config, and ?split=test (else train)

Text is UTF-8, with or without a byte order mark. All errors are a `TaskError` of one sentence.
"""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edgewise.toolkit.errors import TaskError

Row = dict[str, Any]
HUB = "hf://"


def read_rows(source: str | Path, base: str | Path = ".") -> list[Row]:
    """Read the rows of `source`: an `hf://` address, or a path relative to the folder `base`."""
    if str(source).startswith(HUB):
        rows = read_hub(str(source))
    else:
        path = Path(base, source).expanduser()
        check_file(path)
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise TaskError(f"rows can't be read from {path.name}: its name must end in {', '.join(READERS)}")
        rows = reader(path)
    if not rows:
        raise TaskError(f"{source} holds no rows")
    return rows


def check_file(path: Path) -> None:
    """Raise a TaskError unless `path` is a file; it suggests similar files of that folder."""
    if path.is_file():
        return
    if path.is_dir():
        raise TaskError(f"{path} is a folder, not a file{_suggest_files(path, path.name)}")
    if not path.parent.is_dir():
        raise TaskError(f"{path} is missing: there is no folder {path.parent}")
    raise TaskError(f"{path} is missing{_suggest_files(path.parent, path.name)}")


def _suggest_files(folder: Path, name: str) -> str:
    files = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    # Without a similar name, up to three files that hold rows.
    near = get_close_matches(name, files) or [f for f in files if Path(f).suffix in READERS][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


@contextmanager
def as_task_error(path: Path) -> Iterator[None]:
    """Raise a TaskError where `path` can't be read, or is not UTF-8 text."""
    try:
        yield
    except OSError as error:
        raise TaskError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_jsonl(path: Path) -> list[Row]:
    """Read one JSON object a line."""
    rows = []
    with as_task_error(path), path.open(encoding="utf-8-sig") as lines:
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(_require_object(json.loads(line), f"{path}, line {n}"))
            except ValueError as error:
                raise TaskError(f"{path}, line {n} is not JSON: {error}") from error
    return rows


def read_json(path: Path) -> list[Row]:
    """Read a list of JSON objects."""
    try:
        with as_task_error(path):
            value = json.loads(path.read_text(encoding="utf-8-sig") or "[]")
    except ValueError as error:
        raise TaskError(f"{path} is not JSON: {error}; one object a line needs a name in .jsonl") from error
    if not isinstance(value, list):
        raise TaskError(f"{path} must hold a list of rows, not one {type(value).__name__}")
    return [_require_object(row, f"{path}, row {n}") for n, row in enumerate(value, 1)]


def read_csv(path: Path) -> list[Row]:
    """Read a CSV file with column names in its first line; empty lines are skipped."""
    rows = []
    with as_task_error(path), path.open(encoding="utf-8-sig", newline="") as text:
        # csv.DictReader would accept lines with too few or too many values.
        lines = csv.reader(text, strict=True)
        try:
            names = next(lines, [])
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise TaskError(f"{path} has two columns of the name {twice[0]!r}; give each a name of its own")
            for values in filter(None, lines):
                if len(values) != len(names):
                    raise TaskError(
                        f"{path}, line {lines.line_num} has {len(values)} values for {len(names)} columns; "
                        "values with commas need quotes"
                    )
                rows.append(dict(zip(names, values, strict=True)))
        except csv.Error as error:
            raise TaskError(f"{path}, line {lines.line_num} is not CSV: {error}") from error
    return rows


def read_parquet(path: Path) -> list[Row]:
    """Read a Parquet file. Raises TaskError without pyarrow."""
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise TaskError(f"reading {path.name} needs pyarrow: pip install 'edgewise[data]'") from error
    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise TaskError(f"{path} is not a Parquet file that can be read: {error}") from error


def read_hub(address: str) -> list[Row]:
    """Read `hf://owner/name[/config][?split=...]`. Raises TaskError without datasets."""
    parts = urlsplit(address)
    # urlsplit takes the owner for a host, so that it is not in the path.
    path = [part for part in (parts.netloc + parts.path).split("/") if part]
    query = parse_qs(parts.query)
    if len(path) not in (2, 3) or set(query) - {"split"}:
        raise TaskError(f"{address} must read hf://owner/name, hf://owner/name/config or hf://owner/name?split=test")
    config = path[2] if len(path) == 3 else None
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise TaskError(f"reading {address} needs datasets: pip install 'edgewise[data]'") from error
    try:
        split = query.get("split", ["train"])[0]
        return [dict(row) for row in load_dataset("/".join(path[:2]), config, split=split)]
    # The hub client raises errors of a dozen libraries; whichever it is, these rows can't be loaded.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TaskError(f"{address} can't be loaded: {reason}") from error


def _require_object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise TaskError(f"{place} must be a JSON object with column names as keys, not {type(value).__name__}")
    return value


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
