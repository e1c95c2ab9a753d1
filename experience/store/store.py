"""
A library's history in a database: SQLite for one person or machine, PostgreSQL for a team.

History is append-only: a commit is one row, written by one INSERT and never changed; triggers refuse the rest. The
head is whatever has the highest number. A commit's number is its parent's plus one and numbers are unique within
a name, so that INSERT is a compare-and-swap: of two writers on one head one gets the number, the other is told that
its head is stale. No lock is held while a caller thinks, and a killed writer leaves a whole row or none.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Row, Select, select
from sqlalchemy.exc import IntegrityError
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from edgewise.experience.library.library import Library
from edgewise.experience.store.database import Database, commits
from edgewise.toolkit.errors import ArtifactError, LibraryError

SHORTEST = 4
"""Digits of an id that name a commit: fewer are a number, or a slip of the fingers."""
LONGEST = 100
"""Characters of a name or a key: written as ASCII, the two must fit into one entry of PostgreSQL's index."""
LONGEST_WAIT = 2.0
"""Seconds between two tries of an update, at the most."""

Change = Callable[[Library], Library]
Merge = Callable[[Library, Library, Library], Library]


class Stale(LibraryError):
    """Somebody else committed first: the head is no longer the given parent."""


@dataclass(frozen=True, slots=True)
class Commit:
    """
    One version of a library.

    `id` is 12 hex digits of a hash of name, parent, content, message, author and key; `number` counts 1, 2, 3, ...
    within `name`. `parent` is the id of the commit before it, `merged` the id of what was merged in, or words for it.
    """

    id: str
    name: str
    number: int
    parent: str | None
    merged: str | None
    at: datetime
    author: str
    message: str
    library: Library


class Store:
    """
    The libraries of one database; its tables are made with the first commit, and reading makes nothing.

    `url` is a path that ends in .sqlite or .db, "sqlite:///path", or "postgresql://user@host/database"; `wait` is
    how many seconds to wait for somebody else's lock. Every method raises StoreDown where trying again later helps
    (server down, locked, disk full) and LibraryError where it does not (no database, damaged, of a newer format,
    refused); in both cases what is stored is as it was, or has the whole commit. A password is never shown.
    """

    def __init__(self, url: str, *, wait: float = 30):
        self._database = Database(url, wait)
        self.place = self._database.place
        """The database as it may be printed."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections. Closing twice does no harm."""
        self._database.close()

    def names(self) -> list[str]:
        """The names of all libraries here."""
        return sorted(row.name for row in self._database.rows(select(commits.c.name).distinct()))

    def head(self, name: str = "main") -> Commit | None:
        """The newest version; None where there is none yet."""
        return self._one(_of(name).order_by(commits.c.number.desc()).limit(1))

    def log(self, name: str = "main") -> list[Commit]:
        """All versions, the newest first."""
        return self._found(_of(name).order_by(commits.c.number.desc()))

    def find(self, version: str, name: str = "main") -> Commit:
        """
        The version meant by a number ("3"), an id or a unique beginning of one, "head" or "head~2".

        A beginning has 4 digits or more. Raises LibraryError with what there is where it means none or several.
        """
        of_name = select(commits.c.number, commits.c.id).where(commits.c.name == name)
        ids = {row.number: row.id for row in self._database.rows(of_name.order_by(commits.c.number))}
        if not ids:
            raise LibraryError(f"There is no library {name!r} in {self.place}: {self._what_there_is()}.")
        meant = _meant(version.strip().lower(), ids)
        if len(meant) > 1:
            several = ", ".join(f"{ids[number]} ({number})" for number in meant)
            raise LibraryError(f"Version {version!r} could be {several}: give more of it.")
        if not meant:
            raise LibraryError(
                f"There is no version {version!r} of {name!r}: it has 1 to {len(ids)}, the head is {ids[len(ids)]}."
            )
        return self._found(_of(name).where(commits.c.number == meant[0]))[0]

    def ancestor(self, one: str, other: str) -> Commit | None:
        """
        The nearest common ancestor of two commits, given by their ids, through parents and merged ids.

        A commit is an ancestor of itself. Where several are equally near, the newest. None where there is none.
        """
        rows = self._database.rows(select(commits.c.id, commits.c.parent, commits.c.merged, commits.c.at))
        dates = {row.id: row.at for row in rows}
        above = {row.id: [x for x in (row.parent, row.merged) if x in dates] for row in rows}
        for unknown in {one, other} - dates.keys():
            raise LibraryError(f"There is no commit {unknown!r} in {self.place}.")
        common = _lineage(above, one) & _lineage(above, other)
        # What is above a common ancestor is common too: the nearest are those that no other one leads up to.
        nearest = common - {parent for x in common for parent in above[x]}
        best = max(nearest, key=lambda x: (dates[x], x), default=None)
        return self._one(select(commits).where(commits.c.id == best)) if best else None

    def commit(
        self,
        library: Library,
        message: str,
        *,
        parent: str | None,
        name: str = "main",
        author: str = "",
        key: str = "",
        merged: str | None = None,
    ) -> Commit:
        """
        Append a version whose parent is the id of the head that it was made from (None: it is the first).

        Raises Stale where the head is another by now. `key` is a token of the caller's: a second commit with it
        adds nothing and returns the first one, so who was killed before hearing of a commit may just try again.
        """
        if not name.strip() or max(len(name), len(key)) > LONGEST:
            raise LibraryError(f"A library's name has 1 to {LONGEST} characters, a key at most {LONGEST}.")
        content = _written(library)
        number = self._number(parent, name) + 1 if parent else 1
        id, at = _hash(name, parent, content, message, author, key), datetime.now(UTC)
        row = {"id": id, "name": name, "number": number, "parent": parent, "merged": merged}
        row |= {"at": at.isoformat(), "author": author, "message": message, "key": key or None}
        try:
            self._database.insert({**row, "content": content})
        except IntegrityError as refused:
            return self._done_before(name, number, key, refused)
        return Commit(id, name, number, parent, merged, at, author, message, library)

    def update(
        self,
        change: Change,
        message: str,
        *,
        name: str = "main",
        author: str = "",
        key: str = "",
        merge: Merge | None = None,
    ) -> Commit:
        """
        Change the newest version, whoever else writes at the same time: on Stale it is done again on the new head.

        Without `merge` that calls `change` again; with it (base, ours, theirs → library) `change` is called once and
        its result merged. A key that was committed before changes nothing. An error of `change` or `merge` ends it.
        """
        base = ours = None

        def once() -> Commit:
            nonlocal base, ours
            head = self.head(name)
            # After the head was read: then a head that holds this key's change can't be changed by it again.
            if first := self._with_key(name, key):
                return first
            theirs = head.library if head else Library()
            if merge is None or base is None or ours is None:
                base, ours = theirs, change(theirs)
                new = ours
            else:
                new = merge(base, ours, theirs)
            parent = head.id if head else None
            return self.commit(new, message, parent=parent, name=name, author=author, key=key)

        # Without an end: a head grows stale only because somebody else's commit was accepted.
        return Retrying(retry=retry_if_exception_type(Stale), wait=_back_off)(once)

    def _done_before(self, name: str, number: int, key: str, refused: IntegrityError) -> Commit:
        """The commit that an INSERT was refused for, where it has the same key. Raises Stale where it has not."""
        if first := self._with_key(name, key):
            return first
        if self._one(_of(name).where(commits.c.number == number)):
            raise Stale(
                f"{name!r} has a version {number} already: read its head again and repeat the change on that."
            ) from None
        raise LibraryError(f"{self.place} refused the commit ({refused.orig}).") from None

    def _with_key(self, name: str, key: str) -> Commit | None:
        return self._one(_of(name).where(commits.c.key == key)) if key else None

    def _number(self, parent: str, name: str) -> int:
        numbers = select(commits.c.number).where(commits.c.name == name, commits.c.id == parent)
        for row in self._database.rows(numbers):
            return row.number
        raise LibraryError(f"There is no commit {parent!r} of {name!r} in {self.place} to build on.")

    def _what_there_is(self) -> str:
        names = self.names()
        return f"it has {', '.join(map(repr, names))}" if names else "nothing has been committed yet"

    def _one(self, query: Select) -> Commit | None:
        return next(iter(self._found(query)), None)

    def _found(self, query: Select) -> list[Commit]:
        rows = self._database.rows(query)
        with self._database.explained():
            return [_read(row) for row in rows]


def _back_off(state: RetryCallState) -> float:
    """Seconds to wait: by chance, up to what has been spent so far, so that it grows and fits any machine."""
    return random.uniform(0, min(state.seconds_since_start or 0, LONGEST_WAIT))


def _of(name: str) -> Select:
    return select(commits).where(commits.c.name == name)


def _written(library: Library) -> str:
    """A library as text that can be read back: a head that can't be read could never be replaced."""
    content = json.dumps(library.to_json())
    try:
        Library.from_json(json.loads(content))
    except ArtifactError as error:
        raise LibraryError(f"{str(error).rstrip('.')}: it was not committed.") from error
    return content


def _hash(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _read(row: Row) -> Commit:
    """A row as a commit. Raises ValueError or ArtifactError where it isn't what was written."""
    if row.id != _hash(row.name, row.parent, row.content, row.message, row.author, row.key or ""):
        raise ValueError(f"version {row.number} of {row.name!r} is not what its id {row.id} says")
    at, library = datetime.fromisoformat(row.at), Library.from_json(json.loads(row.content))
    return Commit(row.id, row.name, row.number, row.parent, row.merged, at, row.author, row.message, library)


def _meant(version: str, ids: dict[int, str]) -> list[int]:
    """The numbers of all commits that `version` could mean; `ids` are all there are, by their numbers."""
    if back := re.fullmatch(r"head(?:~([0-9]{1,9}))?", version):
        numbers = [len(ids) - int(back[1] or 0)]
    elif re.fullmatch(r"[0-9]{1,9}", version) and int(version) in ids:
        numbers = [int(version)]
    else:
        long_enough = len(version) >= SHORTEST
        numbers = [number for number, id in ids.items() if long_enough and id.startswith(version)]
    return [number for number in numbers if number in ids]


def _lineage(above: dict[str, list[str]], start: str) -> set[str]:
    """A commit and all of its ancestors."""
    seen, waiting = {start}, [start]
    while waiting:
        new = set(above[waiting.pop()]) - seen
        seen |= new
        waiting += new
    return seen
