"""
Journal of a run: every model call is on disk before its reply is used, and is found again by its content.

A journal is one SQLite file. Writes are collected and committed together by one thread; `put` returns when its entry
is on disk. One process writes, any number may read. While a run writes, a small ballast file lies next to the journal.
On a full disk it is deleted, which makes room for replies that are already paid for.
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

__all__ = ["FORMAT", "Journal", "JournalEntry", "compute_key"]

FORMAT = 1
_APPLICATION = 0x45444A4C  # "EDJL" in the file's header: this SQLite file is a journal and no other
_MAX_BATCH = 1000
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_FSYNC}
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
Write = tuple[Row, asyncio.Future[None]]


class Journal:
    """
    Journal at `path`, created if it is missing; `readonly` opens one to read while another process writes.

    Raises `JournalError` for a file that is no journal, is damaged, or is being written by another process, and
    leaves it unchanged. `ballast` is the size in bytes of the file that keeps room for a full disk.
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
            with _as_journal_error(self.path):
                if not readonly:
                    self._lock = _lock_for_writing(self.path)
                    # An existing file is checked before anything is written: it may be no journal.
                    if self.path.exists() and self.path.stat().st_size:
                        _open_reader(self.path).close()
                    with contextlib.closing(_connect(self.path)) as connection, connection:
                        connection.execute("BEGIN IMMEDIATE")
                        connection.execute(_TABLE)
                        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                        connection.execute(f"PRAGMA user_version = {FORMAT}")
                self._reader = _open_reader(self.path)
                self._keys = {key for (key,) in self._read("SELECT key FROM calls")}
                ((elapsed,),) = self._read("SELECT max(elapsed) FROM calls")
                if not readonly:
                    self._writer = _Writer(self.path, ballast)
        except BaseException:
            self.close()
            raise
        self._start = time.monotonic() - (elapsed or 0.0)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[JournalEntry]:
        """Yield all entries in the order they were written."""
        with _as_journal_error(self.path):
            for key, _, role, step, example, request, reply, elapsed in self._read(_SELECT):
                payer = BilledTo(role, step, example)
                yield JournalEntry(key, load_request(request, payer), load_reply(reply), elapsed)

    @property
    def elapsed(self) -> float:
        """Wall time of the run in seconds; earlier starts count up to their last recorded call."""
        return time.monotonic() - self._start

    @property
    def is_full(self) -> bool:
        """Whether a write met a full disk: then no new call should be paid for."""
        return self._writer is not None and self._writer.is_full

    def get(self, key: str) -> Reply | None:
        """Return the reply recorded under a key, or None."""
        if key not in self._keys:
            return None
        with _as_journal_error(self.path):
            ((reply,),) = self._read("SELECT reply FROM calls WHERE key = ?", key)
        return load_reply(reply)

    async def put(self, key: str, request: Request, reply: Reply) -> None:
        """
        Record a call; return when it is on disk. A key that is already recorded keeps its first reply.

        Raises `DiskFull` when the disk is full, even where the ballast made room for this entry.
        """
        if self._writer is None:
            raise JournalError(f"{self.path} is open for reading only.")
        payer = request.payer
        # SQLite stores valid UTF-8 only: lone surrogates in names are written out.
        model, role, example = (
            name.encode("utf-8", "backslashreplace").decode("utf-8")
            for name in (request.model, payer.role, payer.example)
        )
        row = key, model, role, payer.step, example, dump_request(request), dump_reply(reply), self.elapsed

        written = asyncio.get_running_loop().create_future()
        self._writer.add(row, written)
        try:
            await written
        finally:
            # A cancelled caller doesn't stop the writer: the entry may be on disk all the same.
            if written.done() and not written.cancelled() and written.exception() is None:
                self._keys.add(key)

    def close(self) -> None:
        """Write what is queued and close the file. Closing twice does no harm."""
        # The reader first: the connection that closes last folds SQLite's log into the file, and a reader can't.
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
    """
    Thread that writes: it takes what is queued, commits it in one transaction, and wakes the callers.

    One commit costs one fsync, so calls that finish together share it. Only this thread uses the connection.
    """

    def __init__(self, path: Path, ballast: int):
        self.is_full = False
        self._path = path
        self._ballast = path.with_name(path.name + ".ballast")
        # Random bytes, since a file system may store zeros without taking room. Never synced: after a crash the
        # ballast is of no use.
        try:
            if not self._ballast.exists() or self._ballast.stat().st_size != ballast:
                self._ballast.write_bytes(os.urandom(ballast))
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            raise DiskFull(f"There is no room for a journal in {path.parent}: {error.strerror}.") from None

        self._connection = _connect(path)
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_batches, name="journal", daemon=True)
        self._closed = False
        self._thread.start()

    def add(self, row: Row, written: asyncio.Future[None]) -> None:
        """Queue a row; `written` is resolved in its event loop once the row is on disk."""
        if self._closed:
            raise JournalError(f"{self._path} is closed.")
        self._queue.put((row, written))

    def close(self) -> None:
        """Write what is queued, then stop the thread and remove the ballast."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)  # the end of the queue
            self._thread.join()
            self._ballast.unlink(missing_ok=True)

    def _write_batches(self) -> None:
        is_closing = False
        while not is_closing:
            batch = [self._queue.get()]
            while len(batch) < _MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            is_closing = None in batch
            writes = [write for write in batch if write]
            error = self._write([row for row, _ in writes])

            # Futures belong to their event loop: each loop resolves its own, in one callback per batch.
            by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
            for _, written in writes:
                by_loop[written.get_loop()].append(written)
            for loop, futures in by_loop.items():
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(_resolve, futures, error)
        self._connection.close()

    def _write(self, rows: list[Row]) -> Exception | None:
        """Commit rows; return the error for the callers, None for success."""
        try:
            _commit(self._connection, rows)
        except Exception as error:  # any error at all, since callers wait for it
            if getattr(error, "sqlite_errorcode", None) not in _NO_ROOM:
                return JournalError(f"{self._path} can't be written: {error}.")
            self.is_full = True
            # These replies are paid for: make room for them. Callers get the error all the same, so the run stops.
            self._ballast.unlink(missing_ok=True)
            try:
                _commit(self._connection, rows)
            except sqlite3.Error:
                return self._disk_full(f"The last {len(rows)} replies could not be saved, everything before them is")
        return self._disk_full("The last replies are saved") if self.is_full else None

    def _disk_full(self, sentence: str) -> DiskFull:
        return DiskFull(f"The disk of {self._path} is full. {sentence}; make room and run again to resume.")


def _resolve(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _commit(connection: sqlite3.Connection, rows: list[Row]) -> None:
    with connection:  # commits, or rolls back
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_INSERT, rows)


# ---- opening ---------------------------------------------------------------------------------------


def _lock_for_writing(path: Path) -> sqlite3.Connection:
    """Return a lock that excludes other writers; the system drops it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own: an exclusive lock on the journal would keep readers out too.
    lock = sqlite3.connect(
        path.with_name(path.name + ".lock"), timeout=0, isolation_level=None, check_same_thread=False
    )
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise JournalError(f"Another run is writing {path}: wait for it to end, or give another --run.") from None
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")  # readers don't wait for the writer
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    return connection


def _open_reader(path: Path) -> sqlite3.Connection:
    """Return a connection to read with. Raises JournalError for other files and formats, sqlite3.Error for damage."""
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=30, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if os.access(path.parent, os.W_OK):
            raise
        # In a read-only folder SQLite can't make its log files. No writer can exist there, so the file is complete.
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, check_same_thread=False)

    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise JournalError(f"{path} is not a journal of Edgewise: give another --run, or move the file away.")
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


@contextlib.contextmanager
def _as_journal_error(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into ours."""
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
