"""
Search in the user's own texts: `search_tool`, full-text search by BM25 in SQLite (FTS5), in memory.

Texts are cut into passages at blank lines. A query finds the passages with any of its words, the best first. Words
match by their English stem, without case and accents.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.full_text import FullTextIndex, make_encodable
from edgewise.toolkit.tools.tool import FunctionTool, make_tool

SUFFIXES = (".txt", ".md")
PASSAGE_CHARACTERS = 900
"""Most characters of a passage."""
TOKENIZER = "porter unicode61 remove_diacritics 2"
ANSWER_CHARACTERS = 4000
"""Most characters of all passages of an answer together."""
SOURCES = ("source", "title", "url", "id")
"""Columns of a .jsonl that may name the source of a text; the first one that a row has is shown."""

Passage = tuple[str, str]
"""Source and text."""


def search_tool(path: str | Path, k: int = 5) -> FunctionTool:
    """
    Return the tool "search" for agents: it answers with the `k` best passages of the texts at `path`.

    `path` is a folder of .txt and .md files (in sub-folders too), one such file, or a .jsonl whose rows have a column
    `text`. It is read now. Several threads may search at once. Raises TaskError where it is missing, has no text, or
    can't be read, and where this Python's SQLite has no FTS5.
    """
    passages = list(read_passages(Path(path)))
    if not passages:
        raise TaskError(f"There is no text to search in {path}: put .txt or .md files there, or name a .jsonl.")
    try:
        index = FullTextIndex(passages, ("source", "text"), TOKENIZER)
    except sqlite3.OperationalError as error:
        raise TaskError(f"The search tool needs an SQLite with FTS5: {error}.") from error

    # The model sees this function's name and docstring.
    def search(query: str) -> str:
        """Search the documents. Give a few important words; returns the passages that fit best, with their source."""
        words = dict.fromkeys(re.findall(r"\w+", make_encodable(query).casefold()))
        matches = index.search(words, weights=(2, 1), limit=k)  # a source counts double
        if not matches:
            return "(nothing was found; try other words)"
        best = [passages[row] for row, _ in matches]
        texts = [f"[{number}] {source[:200]}\n{text}" for number, (source, text) in enumerate(best, 1)]
        while len(texts) > 1 and len("\n\n".join(texts)) > ANSWER_CHARACTERS:
            texts.pop()
        return "\n\n".join(texts)

    return replace(make_tool(search), is_bounded=True)


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of a folder or a file, in the order of file names. Raises TaskError."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        for file in files:
            yield from _split_passages(file.relative_to(path).as_posix(), _read_text(file))
    elif not path.exists():
        raise TaskError(f"There is nothing to search at {path}: name a folder or a file that exists.")
    elif path.suffix == ".jsonl":
        for source, text in _read_rows(path):
            yield from _split_passages(source, text)
    elif path.suffix in SUFFIXES:
        yield from _split_passages(path.name, _read_text(path))
    else:
        raise TaskError(f"{path} can't be searched: name a folder of .txt and .md files, or a .jsonl.")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise TaskError(f"{path} can't be read: {error.strerror}.") from error


def _read_rows(path: Path) -> Iterator[Passage]:
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{place} is no JSON: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise TaskError(f"{place} has no text: a row to search needs a column `text`.")
        source = next((row[key] for key in SOURCES if isinstance(row.get(key), str | int)), None)
        yield (f"{path.name}:{number}" if source in (None, "") else str(source)), row["text"]


def _split_passages(source: str, text: str) -> Iterator[Passage]:
    """Yield passages of at most `PASSAGE_CHARACTERS`: whole paragraphs together where they fit."""
    # Paragraphs; one that is too long becomes pieces, cut at the last space that leaves room.
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", make_encodable(text).replace("\0", " ")):
        rest = paragraph.strip()
        while len(rest) > PASSAGE_CHARACTERS:
            cut = max(rest.rfind(" ", 1, PASSAGE_CHARACTERS), rest.rfind("\n", 1, PASSAGE_CHARACTERS))
            cut = cut if cut > 0 else PASSAGE_CHARACTERS
            pieces.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        if rest:
            pieces.append(rest)

    passage = ""
    for piece in pieces:
        if passage and len(passage) + len(piece) + 2 > PASSAGE_CHARACTERS:
            yield source, passage
            passage = ""
        passage = f"{passage}\n\n{piece}" if passage else piece
    if passage:
        yield source, passage
