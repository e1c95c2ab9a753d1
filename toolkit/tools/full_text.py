"""A full-text index in memory: BM25 (Robertson and Zaragoza 2009, doi 10.1561/1500000019) in SQLite's FTS5."""

import sqlite3
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any


class FullTextIndex:
    """
    An index of rows of texts, one text for each of `columns`; several threads may search it.

    `tokenizer` is FTS5's option of that name. The index keeps no texts: it returns positions of rows. Raises
    sqlite3.OperationalError where this Python's SQLite has no FTS5.
    """

    def __init__(self, rows: Iterable[Sequence[str]], columns: Sequence[str], tokenizer: str):
        # SQLite lets one thread at a time use a connection; the lock sees to that, so its own check is off.
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._database.close)
        names, places = ", ".join(columns), ", ?" * len(columns)
        self._execute(f"CREATE VIRTUAL TABLE texts USING fts5({names}, content='', tokenize='{tokenizer}')")
        insert = f"INSERT INTO texts (rowid, {names}) VALUES (?{places})"
        with self._database:  # one transaction
            self._database.executemany(insert, ((position, *row) for position, row in enumerate(rows)))

    def count_rows(self, word: str, limit: int) -> int:
        """Return how many rows have a word, counted up to `limit`."""
        query = "SELECT count(*) FROM (SELECT 1 FROM texts WHERE texts MATCH ? LIMIT ?)"
        return self._execute(query, _quote(word), limit)[0][0]

    def search(self, words: Iterable[str], weights: Sequence[float] = (), limit: int = -1) -> list[tuple[int, float]]:
        """
        Return position and BM25 of the `limit` best rows (-1: all) that have any of the words, the best first.

        `weights` are factors of the columns, 1 by default. Of equal rows the first one comes first.
        """
        score = f"bm25({', '.join(map(str, ('texts', *weights)))})"
        query = f"SELECT rowid, -{score} FROM texts WHERE texts MATCH ? ORDER BY {score}, rowid LIMIT ?"
        match = " OR ".join(map(_quote, words))
        return self._execute(query, match, limit) if match else []

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, closing(self._database.execute(statement, values)) as cursor:
            return cursor.fetchall()


def make_encodable(text: str) -> str:
    """Return the text with lone surrogates as "?", which SQLite can't hold."""
    return text.encode("utf-8", "replace").decode()


def _quote(word: str) -> str:
    """Return a word as a string of FTS5's query language, so that it is never taken for an operator."""
    return '"' + word.replace('"', '""') + '"'
