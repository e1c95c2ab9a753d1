"""
Version history of a library in a database: SQLite for one person or machine, PostgreSQL for a team.

History is append-only: a commit is one row, written by one INSERT and never changed; triggers refuse the rest. The
head is the row with the highest number. A commit's number is its parent's plus one, and numbers are unique within
a name, so that INSERT is a compare-and-swap: of two writers on one head one gets the number, the other gets
`StaleHead`. No lock is held while a caller thinks, and a killed writer leaves a whole row or none.
"""

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Row, Select, select
from sqlalchemy.exc import IntegrityError

from edgewise.experience.library.library import Library
from edgewise.experience.store.database import Database, commits
from edgewise.toolkit.errors import ArtifactError, LibraryError
from edgewise.toolkit.util.hashing import hash_json

MIN_PREFIX = 4
"""Digits of an id that name a commit: fewer are a number, or a slip of the fingers."""
MAX_NAME = 100
"""Characters of a name or a key: written as ASCII, the two must fit into one entry of PostgreSQL's index."""
MAX_BACKOFF = 2.0
"""Seconds between two tries of an update, at the most."""

Change = Callable[[Library], Library]
Merge = Callable[[Library, Library, Library], Library]


class StaleHead(LibraryError):
    """Somebody else committed first: the head is another commit than the given parent."""


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
    The libraries of one database; its tables are created with the first commit, and reading creates nothing.

    `url` is a path that ends in .sqlite or .db, "sqlite:///path", or "postgresql://user@host/database"; `wait` is
    how many seconds to wait for somebody else's lock. Every method raises StoreDown where trying again later helps
    (server down, locked, disk full) and LibraryError where it does not (no database, damaged, of a newer format,
    refused); in both cases what is stored is as it was, or has the whole commit. A password is never shown.
    """

    def __init__(self, url: str, *, wait: float = 30):
        self._database = Database(url, wait)
        self.location = self._database.location
        """The database as it may be printed."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Closing twice does no harm."""
        self._database.close()

    # ---- reading ----

    def list_names(self) -> list[str]:
        """Return the names of all libraries in the database."""
        return sorted(row.name for row in self._database.fetch_rows(select(commits.c.name).distinct()))

    def head(self, name: str = "main") -> Commit | None:
        """Return the newest version; None where there is none yet."""
        return next(iter(self._select(_of(name).order_by(commits.c.number.desc()).limit(1))), None)

    def list_commits(self, name: str = "main") -> list[Commit]:
        """Return all versions, the newest first."""
        return self._select(_of(name).order_by(commits.c.number.desc()))

    def find_commit(self, version: str, name: str = "main") -> Commit:
        """
        Return the version named by a number ("3"), an id or a unique prefix of one, "head" or "head~2".

        A prefix has 4 digits or more. Raises LibraryError with what there is where it matches none or several.
        """
        query = select(commits.c.number, commits.c.id).where(commits.c.name == name)
        ids = {row.number: row.id for row in self._database.fetch_rows(query.order_by(commits.c.number))}
        if not ids:
            names = ", ".join(map(repr, self.list_names()))
            content = f"it has {names}" if names else "nothing has been committed yet"
            raise LibraryError(f"There is no library {name!r} in {self.location}: {content}.")

        numbers = _match_version(version.strip().lower(), ids)
        if len(numbers) > 1:
            matches = ", ".join(f"{ids[number]} ({number})" for number in numbers)
            raise LibraryError(f"Version {version!r} could be {matches}: give more of it.")
        if not numbers:
            content = f"it has 1 to {len(ids)}, the head is {ids[len(ids)]}"
            raise LibraryError(f"There is no version {version!r} of {name!r}: {content}.")
        return self._select(_of(name).where(commits.c.number == numbers[0]))[0]

    def common_ancestor(self, one: str, other: str) -> Commit | None:
        """
        Return the nearest common ancestor of two commits, given by their ids, through parents and merged ids.

        A commit is an ancestor of itself. Where several are equally near, the newest. None where there is none.
        """
        query = select(commits.c.id, commits.c.parent, commits.c.merged, commits.c.at)
        rows = self._database.fetch_rows(query)
        dates = {row.id: row.at for row in rows}
        # `merged` may also be words, such as the name of a file; only ids are ancestors.
        parents = {row.id: [x for x in (row.parent, row.merged) if x in dates] for row in rows}
        for unknown in {one, other} - dates.keys():
            raise LibraryError(f"There is no commit {unknown!r} in {self.location}.")

        common = _collect_ancestors(parents, one) & _collect_ancestors(parents, other)
        # Ancestors of a common ancestor are common too: the nearest are those that are no parent of another.
        nearest = common - {parent for id in common for parent in parents[id]}
        best = max(nearest, key=lambda id: (dates[id], id), default=None)
        return self._select(select(commits).where(commits.c.id == best))[0] if best else None

    # ---- writing ----

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

        Raises StaleHead where the head is another by now. `key` is the caller's idempotency token: a second commit
        with it adds nothing and returns the first one, so a caller that was killed before the reply may try again.
        """
        if not name.strip() or max(len(name), len(key)) > MAX_NAME:
            raise LibraryError(f"A library's name has 1 to {MAX_NAME} characters, a key at most {MAX_NAME}.")

        # Read it back before it is written: a head that can't be read could never be replaced.
        content = json.dumps(library.to_json())
        try:
            Library.from_json(json.loads(content))
        except ArtifactError as error:
            raise LibraryError(f"{str(error).rstrip('.')}: it was not committed.") from error

        number = 1
        if parent:
            query = select(commits.c.number).where(commits.c.name == name, commits.c.id == parent)
            rows = self._database.fetch_rows(query)
            if not rows:
                raise LibraryError(f"There is no commit {parent!r} of {name!r} in {self.location} to build on.")
            number += rows[0].number

        # The compare-and-swap. A unique index refuses the row where its number or its key is taken.
        id, at = hash_json([name, parent, content, message, author, key]), datetime.now(UTC)
        row = {"id": id, "name": name, "number": number, "parent": parent, "merged": merged}
        row |= {"at": at.isoformat(), "author": author, "message": message, "key": key or None}
        try:
            self._database.insert({**row, "content": content})
        except IntegrityError as refusal:
            # The key first: a repeated commit finds its own number taken, by itself.
            if first := self._find_key(name, key):
                return first
            if self._select(_of(name).where(commits.c.number == number)):
                advice = "read its head again and repeat the change on that"
                raise StaleHead(f"{name!r} has a version {number} already: {advice}.") from None
            raise LibraryError(f"{self.location} refused the commit ({refusal.orig}).") from None
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
        Change the newest version, whoever else writes at the same time: on StaleHead, try again on the new head.

        Without `merge` a retry calls `change` again; with it (base, ours, theirs → library) `change` is called once
        and its result merged. A key that was committed before changes nothing. An error of `change` or `merge` ends it.
        """
        start = time.monotonic()
        base = ours = None
        # Unbounded, yet it ends: a head grows stale only because somebody else's commit was accepted.
        while True:
            head = self.head(name)
            # Look for the key after the head is read: a head that holds this key's change is never changed twice.
            if first := self._find_key(name, key):
                return first

            theirs = head.library if head else Library()
            if merge is None or base is None or ours is None:
                base, ours = theirs, change(theirs)
                library = ours
            else:
                library = merge(base, ours, theirs)

            parent = head.id if head else None
            try:
                return self.commit(library, message, parent=parent, name=name, author=author, key=key)
            except StaleHead:
                # A random wait up to the time spent so far: it grows with contention and fits the machine's speed.
                time.sleep(random.uniform(0, min(time.monotonic() - start, MAX_BACKOFF)))

    def _find_key(self, name: str, key: str) -> Commit | None:
        return next(iter(self._select(_of(name).where(commits.c.key == key))), None) if key else None

    def _select(self, query: Select) -> list[Commit]:
        rows = self._database.fetch_rows(query)
        with self._database.translate_errors():
            return [_decode_commit(row) for row in rows]


def _of(name: str) -> Select:
    return select(commits).where(commits.c.name == name)


def _decode_commit(row: Row) -> Commit:
    """Return a row as a commit. Raises ValueError or ArtifactError where its content does not match its id."""
    if row.id != hash_json([row.name, row.parent, row.content, row.message, row.author, row.key or ""]):
        raise ValueError(f"version {row.number} of {row.name!r} is not what its id {row.id} says")
    at, library = datetime.fromisoformat(row.at), Library.from_json(json.loads(row.content))
    return Commit(row.id, row.name, row.number, row.parent, row.merged, at, row.author, row.message, library)


def _match_version(version: str, ids: Mapping[int, str]) -> list[int]:
    """Return the numbers of all commits that `version` could name; `ids` are all ids by number, 1, 2, 3, ..."""
    if back := re.fullmatch(r"head(?:~([0-9]{1,9}))?", version):
        numbers = [len(ids) - int(back[1] or 0)]
    elif re.fullmatch(r"[0-9]{1,9}", version) and int(version) in ids:
        # A number wins over a prefix of digits alone, such as "1234".
        numbers = [int(version)]
    else:
        is_prefix = len(version) >= MIN_PREFIX
        numbers = [number for number, id in ids.items() if is_prefix and id.startswith(version)]
    return [number for number in numbers if number in ids]


def _collect_ancestors(parents: Mapping[str, Sequence[str]], start: str) -> set[str]:
    """Return a commit and all of its ancestors."""
    ancestors, queue = {start}, [start]
    while queue:
        new = set(parents[queue.pop()]) - ancestors
        ancestors |= new
        queue += new
    return ancestors
