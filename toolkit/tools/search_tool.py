"""
Search in texts of the user's own: `search_tool`, full-text search by BM25 in SQLite (FTS5), in memory.

Texts are cut into passages at blank lines. A query finds the passages with any of its words, the best first; words
are matched by their English stem, without case and accents.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.tool import Function, tool_from

ENDINGS = (".txt", ".md")
PASSAGE = 900
"""Characters that a passage has at most."""
WORDS = "porter unicode61 remove_diacritics 2"
ANSWER = 4000
"""Characters that all passages of an answer have together at most."""
SOURCES = ("source", "title", "url", "id")
"""Columns of a .jsonl that may say where a text is from; the first that a row has is shown."""
Passage = tuple[str, str]
"""Where it is from, and its text."""


class Index:
    """
    Passages, searchable from several threads at once.

    Raises TaskError where this Python's SQLite has no FTS5.
    """

    def __init__(self, passages: Iterable[Passage]):
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._database.execute(
                f"CREATE VIRTUAL TABLE passages USING fts5(source, text, tokenize='{WORDS}')"
            )
        except sqlite3.OperationalError as error:
            raise TaskError(f"The search tool needs an SQLite with FTS5: {error}.") from error
        with self._database:
            self._database.executemany("INSERT INTO passages VALUES (?, ?)", passages)

    def __len__(self) -> int:
        return self._rows("SELECT count(*) FROM passages")[0][0]

    def best(self, query: str, k: int) -> list[Passage]:
        """The `k` best passages for the words of a query; none where no word is found. Names count double."""
        words = dict.fromkeys(re.findall(r"\w+", _encodable(query).casefold()))
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        found = "SELECT source, text FROM passages WHERE passages MATCH ? ORDER BY bm25(passages, 2, 1), rowid LIMIT ?"
        return self._rows(found, match, k)

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, closing(self._database.execute(statement, values)) as cursor:
            return cursor.fetchall()


def search_tool(path: str | Path, k: int = 5) -> Function:
    """
    The tool "search" that agents get: the `k` best passages of the texts at `path`, under 4,000 characters.

    `path` is a folder of .txt and .md files (in folders of its own too), one such file, or a .jsonl whose rows have
    a column `text`. It is read now. Raises TaskError where it is missing, has no text, or can't be read.
    """
    index = Index(passages(Path(path)))
    if not len(index):
        raise TaskError(
            f"There is no text to search in {path}: put .txt or .md files there, or name a .jsonl."
        )

    def search(query: str) -> str:
        """Search the documents. Give a few important words; returns the passages that fit best, with their source."""
        return _shown(index.best(query, k))

    return replace(tool_from(search), ends=True)


def passages(path: Path) -> Iterator[Passage]:
    """The passages of a folder or a file, in the order of their names. Raises TaskError."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS and file.is_file())
        for file in files:
            yield from _cut(file.relative_to(path).as_posix(), _read(file))
    elif not path.exists():
        raise TaskError(f"There is nothing to search at {path}: name a folder or a file that exists.")
    elif path.suffix == ".jsonl":
        for source, text in _rows(path):
            yield from _cut(source, text)
    elif path.suffix in ENDINGS:
        yield from _cut(path.name, _read(path))
    else:
        raise TaskError(f"{path} can't be searched: name a folder of .txt and .md files, or a .jsonl.")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise TaskError(f"{path} can't be read: {error.strerror}.") from error


def _rows(path: Path) -> Iterator[Passage]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{place} is no JSON: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise TaskError(f"{place} has no text: a row to search needs a column `text`.")
        named = next((row[key] for key in SOURCES if isinstance(row.get(key), str | int)), None)
        yield (f"{path.name}:{number}" if named in (None, "") else str(named)), row["text"]


def _cut(source: str, text: str) -> Iterator[Passage]:
    """Passages of at most PASSAGE characters: whole paragraphs together where they fit."""
    held = ""
    for piece in _pieces(_encodable(text)):
        if held and len(held) + len(piece) + 2 > PASSAGE:
            yield source, held
            held = ""
        held = f"{held}\n\n{piece}" if held else piece
    if held:
        yield source, held


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs; one that is too long in pieces, cut at the last space that leaves room."""
    for paragraph in re.split(r"\n\s*\n", text):
        rest = paragraph.strip()
        while len(rest) > PASSAGE:
            at = max(rest.rfind(" ", 1, PASSAGE), rest.rfind("\n", 1, PASSAGE))
            at = at if at > 0 else PASSAGE
            yield rest[:at].rstrip()
            rest = rest[at:].lstrip()
        if rest:
            yield rest


def _shown(found: list[Passage]) -> str:
    """Passages for a model, as many as fit."""
    if not found:
        return "(nothing was found; try other words)"
    texts = [f"[{number}] {source[:200]}\n{text}" for number, (source, text) in enumerate(found, 1)]
    while len(texts) > 1 and len("\n\n".join(texts)) > ANSWER:
        texts.pop()
    return "\n\n".join(texts)


def _encodable(text: str) -> str:
    """The text with half characters (lone surrogates) as "?", which SQLite can't hold, and without NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")
