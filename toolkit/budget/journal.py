"""
Every model call, durable before its reply is used, found again by its content.

A journal is one SQLite file. Writes are collected and committed together by one thread; `put` returns when
its entry is on disk. One process writes, any number may read. While writing, a small ballast file lies beside
it: when the disk is full it is freed, so that replies already paid for can still be saved.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgewise.toolkit.budget.journal_codec import (
    JournalEntry,
    compute_key,
    dump_reply,
    dump_request,
    load_reply,
    load_request,
)
from edgewise.toolkit.errors import DiskFull, JournalError
from edgewise.toolkit.types import BilledTo, Reply, Request

__all__ = ["FORMAT", "JournalEntry", "Journal", "compute_key"]

FORMAT = 1
_APPLICATION = 0x45444A4C  # "EDJL" in the file's header: this SQLite file is a journal and no other
_MOST_AT_ONCE = 1000
_NO_ROOM = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_FSYNC,
}
_TABLE = """
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL, role TEXT NOT NULL, step INTEGER NOT NULL, example TEXT NOT NULL,
    request TEXT NOT NULL, reply TEXT NOT NULL, elapsed REAL NOT NULL
)"""
_INSERT = """
INSERT OR IGNORE INTO calls (key, model, role, step, example, request, reply, elapsed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_SELECT = "SELECT key, model, role, step, example, request, reply, elapsed FROM calls ORDER BY number"

Row = tuple[str, str, str, int, str, str, str, float]


class Journal:
    """
    The journal at `path`, made if there is none; `readonly` opens one to read while another process writes.

    Raises `JournalError` for a file that is no journal, is damaged, or is being written by another process:
    it is left as it is. `ballast` is the size in bytes of what is kept free for a full disk.
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False, ballast: int = 4 << 20):
        self.path = Path(path)
        self.readonly = readonly
        self._lock: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._writer: _Writer | None = None
        if readonly and not self.path.is_file():
            raise JournalError(f"There is no journal at {self.path}.")
        try:
            with _explained(self.path):
                if not readonly:
                    self._lock = _only_writer(self.path)
                    _prepare(self.path)
                self._reader = _open_to_read(self.path)
                self._keys = {key for (key,) in self._read("SELECT key FROM calls")}
                ((before,),) = self._read("SELECT max(elapsed) FROM calls")
                if not readonly:
                    self._writer = _Writer(self.path, ballast)
        except BaseException:
            self.close()
            raise
        self._start = time.monotonic() - (before or 0.0)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[JournalEntry]:
        """All entries in the order they were written."""
        with _explained(self.path):
            for key, _, role, step, example, request, reply, elapsed in self._read(_SELECT):
                payer = BilledTo(role, step, example)
                yield JournalEntry(key, load_request(request, payer), load_reply(reply), elapsed)

    @property
    def elapsed(self) -> float:
        """Wall time of the run in seconds, earlier starts included up to their last recorded call."""
        return time.monotonic() - self._start

    @property
    def is_full(self) -> bool:
        """Whether the disk was found full: no new call should be paid for."""
        return self._writer is not None and self._writer.full

    def get(self, key: str) -> Reply | None:
        """The reply recorded under an address, or None."""
        if key not in self._keys:
            return None
        with _explained(self.path):
            ((reply,),) = self._read("SELECT reply FROM calls WHERE key = ?", key)
        return load_reply(reply)

    async def put(self, key: str, request: Request, reply: Reply) -> None:
        """
        Record a call; returns when it is on disk. An address already recorded keeps its first reply.

        Raises `DiskFull` when the disk is, even where the ballast made room for this entry.
        """
        if self._writer is None:
            raise JournalError(f"{self.path} is open for reading only.")
        payer, asked, said = request.payer, dump_request(request), dump_reply(reply)
        model, role, example = map(_storable, (request.model, payer.role, payer.example))
        row = (key, model, role, payer.step, example, asked, said, self.elapsed)
        done = asyncio.get_running_loop().create_future()
        self._writer.add(row, done)
        try:
            await done
        finally:
            if done.done() and not done.cancelled() and done.exception() is None:
                self._keys.add(key)

    def close(self) -> None:
        """Write what is queued and let go of the file. Closing twice does no harm."""
        # The reader first: whoever closes last folds SQLite's log into the file, and a reader can't.
        if self._reader:
            self._reader.close()
            self._reader = None
        if self._writer:
            self._writer.close()
        if self._lock:
            self._lock.close()

    def _read(self, query: str, *values: str) -> Iterator[Any]:
        if self._reader is None:
            raise JournalError(f"{self.path} is closed.")
        return self._reader.execute(query, values)


class _Writer:
    """The one thread that writes: takes what is queued, commits it as one, wakes those who wait."""

    def __init__(self, path: Path, ballast: int):
        self.full = False
        self._path = path
        self._ballast = path.with_name(path.name + ".ballast")
        _lay_ballast(self._ballast, ballast)
        self._connection = _connect(path)
        self._queue: queue.SimpleQueue[tuple[Row, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._closed = False
        self._thread.start()

    def add(self, row: Row, done: asyncio.Future[None]) -> None:
        if self._closed:
            raise JournalError(f"{self._path} is closed.")
        self._queue.put((row, done))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
            self._ballast.unlink(missing_ok=True)

    def _work(self) -> None:
        closing = False
        while not closing:
            batch = self._next()
            closing = None in batch
            calls = [item for item in batch if item]
            error = self._write([row for row, _ in calls])
            by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
            for _, done in calls:
                by_loop[done.get_loop()].append(done)
            for loop, waiting in by_loop.items():
                with contextlib.suppress(RuntimeError):  # a loop that was closed has nobody left to tell
                    loop.call_soon_threadsafe(_tell, waiting, error)
        self._connection.close()

    def _next(self) -> list[tuple[Row, asyncio.Future[None]] | None]:
        """What is queued, at least one; None marks the end."""
        batch = [self._queue.get()]
        while len(batch) < _MOST_AT_ONCE and not self._queue.empty():
            batch.append(self._queue.get())
        return batch

    def _write(self, rows: list[Row]) -> Exception | None:
        """Commit the rows; what to raise to those who wait for them."""
        try:
            _commit(self._connection, rows)
        except Exception as error:  # whatever it is: somebody waits to be told
            if getattr(error, "sqlite_errorcode", None) not in _NO_ROOM:
                return JournalError(f"{self._path} can't be written: {error}.")
            self.full = True
            return self._write_with_ballast(rows)
        return self._disk_full("The last replies are saved") if self.full else None

    def _write_with_ballast(self, rows: list[Row]) -> Exception:
        self._ballast.unlink(missing_ok=True)
        try:
            _commit(self._connection, rows)
        except sqlite3.Error:
            return self._disk_full(
                f"The last {len(rows)} replies could not be saved, everything before them is"
            )
        return self._disk_full("The last replies are saved")

    def _disk_full(self, what: str) -> DiskFull:
        return DiskFull(f"The disk of {self._path} is full. {what}; make room and run again to resume.")


def _commit(connection: sqlite3.Connection, rows: list[Row]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, rows)
        connection.execute("COMMIT")
    except Exception:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _tell(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in waiting:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _lay_ballast(path: Path, size: int) -> None:
    """Real bytes, for zeros may take no room; they are not needed after a crash, so never synced."""
    try:
        if path.exists() and path.stat().st_size == size:
            return
        path.write_bytes(os.urandom(size))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DiskFull(f"There is no room for a journal in {path.parent}: {error.strerror}.") from None


def _only_writer(path: Path) -> sqlite3.Connection:
    """A lock that SQLite takes on a file, and that the system drops however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(
        path.with_name(path.name + ".lock"), timeout=0, isolation_level=None, check_same_thread=False
    )
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise JournalError(
            f"Another run is writing {path}: wait for it to end, or give another --run."
        ) from None
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(path: Path) -> None:
    """Make the table; what is there already is checked before anything is written."""
    if path.exists() and path.stat().st_size:
        with contextlib.closing(_open_to_read(path)):
            pass
    with contextlib.closing(_connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")


def _open_to_read(path: Path) -> sqlite3.Connection:
    connection = _reading(path)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise JournalError(
                f"{path} is not a journal of Edgewise: give another --run, or move the file away."
            )
        if version != FORMAT:
            raise JournalError(
                f"{path} has format {version}, this version reads {FORMAT}: use the version that wrote it."
            )
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
    except BaseException:
        connection.close()
        raise
    return connection


def _reading(path: Path) -> sqlite3.Connection:
    """A journal in a folder that can't be written has no writer either: then its file alone is read."""
    place = path.resolve().as_uri()
    connection = sqlite3.connect(f"{place}?mode=ro", uri=True, timeout=30, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if os.access(path.parent, os.W_OK):
            raise
        connection = sqlite3.connect(f"{place}?immutable=1", uri=True, check_same_thread=False)
    return connection


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JournalError(f"{path} can't be opened: {error.strerror}.") from None
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _NO_ROOM:
            raise DiskFull(f"There is no room for a journal in {path.parent}: {error}.") from None
        raise JournalError(
            f"{path} can't be read as a journal ({error}). Nothing was changed: restore it from a copy, or"
            " move it away (or give another --run) to start afresh."
        ) from None


def _storable(text: str) -> str:
    """A name as SQLite can store it: lone surrogates are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
