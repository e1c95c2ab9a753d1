"""
Search in texts of the user's own: `search_tool`, full-text search by BM25 in SQLite (FTS5), in memory.

Texts are cut into passages at blank lines. A query finds the passages with any of its words, the best first; words
are matched by their English stem, without case and accents.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.full_text import FullTextIndex, make_encodable
from edgewise.toolkit.tools.tool import FunctionTool, make_tool

SUFFIXES = (".txt", ".md")
PASSAGE_CHARACTERS = 900
"""Characters that a passage has at most."""
TOKENIZER = "porter unicode61 remove_diacritics 2"
ANSWER_CHARACTERS = 4000
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
        self._passages = list(passages)
        try:
            self._index = FullTextIndex(self._passages, ("source", "text"), TOKENIZER)
        except sqlite3.OperationalError as error:
            raise TaskError(f"The search tool needs an SQLite with FTS5: {error}.") from error

    def __len__(self) -> int:
        return len(self._passages)

    def search(self, query: str, k: int) -> list[Passage]:
        """Return the `k` best passages for the words of a query; none where no word occurs. Sources count double."""
        words = dict.fromkeys(re.findall(r"\w+", make_encodable(query).casefold()))
        rows = self._index.search(words, weights=(2, 1), limit=k)
        return [self._passages[row] for row, _ in rows]


def search_tool(path: str | Path, k: int = 5) -> FunctionTool:
    """
    The tool "search" that agents get: the `k` best passages of the texts at `path`, under 4,000 characters.

    `path` is a folder of .txt and .md files (in folders of its own too), one such file, or a .jsonl whose rows have
    a column `text`. It is read now. Raises TaskError where it is missing, has no text, or can't be read.
    """
    index = Index(read_passages(Path(path)))
    if not len(index):
        raise TaskError(
            f"There is no text to search in {path}: put .txt or .md files there, or name a .jsonl."
        )

    def search(query: str) -> str:
        """Search the documents. Give a few important words; returns the passages that fit best, with their source."""
        return _shown(index.search(query, k))

    return replace(make_tool(search), is_bounded=True)


def read_passages(path: Path) -> Iterator[Passage]:
    """The passages of a folder or a file, in the order of their names. Raises TaskError."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        for file in files:
            yield from _cut(file.relative_to(path).as_posix(), _read(file))
    elif not path.exists():
        raise TaskError(f"There is nothing to search at {path}: name a folder or a file that exists.")
    elif path.suffix == ".jsonl":
        for source, text in _rows(path):
            yield from _cut(source, text)
    elif path.suffix in SUFFIXES:
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
    for piece in _pieces(make_encodable(text).replace("\0", " ")):
        if held and len(held) + len(piece) + 2 > PASSAGE_CHARACTERS:
            yield source, held
            held = ""
        held = f"{held}\n\n{piece}" if held else piece
    if held:
        yield source, held


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs; one that is too long in pieces, cut at the last space that leaves room."""
    for paragraph in re.split(r"\n\s*\n", text):
        rest = paragraph.strip()
        while len(rest) > PASSAGE_CHARACTERS:
            at = max(rest.rfind(" ", 1, PASSAGE_CHARACTERS), rest.rfind("\n", 1, PASSAGE_CHARACTERS))
            at = at if at > 0 else PASSAGE_CHARACTERS
            yield rest[:at].rstrip()
            rest = rest[at:].lstrip()
        if rest:
            yield rest


def _shown(found: list[Passage]) -> str:
    """Passages for a model, as many as fit."""
    if not found:
        return "(nothing was found; try other words)"
    texts = [f"[{number}] {source[:200]}\n{text}" for number, (source, text) in enumerate(found, 1)]
    while len(texts) > 1 and len("\n\n".join(texts)) > ANSWER_CHARACTERS:
        texts.pop()
    return "\n\n".join(texts)
