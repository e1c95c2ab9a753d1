"""
Stores for threads, which are runs that wait or that a crash broke off: LangGraph's checkpointers, by name.

    memory               this process; lost at its end
    sqlite:PATH          a file, for one process (package langgraph-checkpoint-sqlite)
    postgresql://...     a database, for many processes (package langgraph-checkpoint-postgres)
"""

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgewise.toolkit.errors import ConfigError, StoreDown

MAX_CONNECTIONS = 10
"""Most connections of one process to PostgreSQL."""
CONNECT_SECONDS = 10
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Retention:
    """Threads to keep: the newest `threads`, and those changed in the last `days`; None for all."""

    threads: int | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "days"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"Keeping {name}={value} must be more than zero; leave it out to keep all.")

    def select_expired(self, changed: dict[str, float], now: float) -> list[str]:
        """Return the threads to delete, given when each was changed last, in seconds since 1970."""
        newest = sorted(changed, key=lambda thread: changed[thread], reverse=True)
        spare = newest[self.threads :] if self.threads else []
        old = [thread for thread in newest if self.days and changed[thread] < now - self.days * DAY]
        return list(dict.fromkeys([*spare, *old]))


@contextlib.asynccontextmanager
async def open_checkpointer(place: str) -> AsyncIterator[Any]:
    """
    Open a checkpointer by its name, and create its tables.

    Raises ConfigError for an unknown name or a missing package, StoreDown if the database can't be reached.
    """
    if place == "memory":
        from langgraph.checkpoint.memory import InMemorySaver

        yield InMemorySaver()
    elif place.startswith("sqlite:"):
        async with open_sqlite(place.removeprefix("sqlite:")) as saver:
            yield saver
    elif place.startswith(("postgresql://", "postgres://")):
        async with open_postgres(place) as saver:
            yield saver
    else:
        raise ConfigError(f"There is no checkpointer {place!r}: write memory, sqlite:PATH or postgresql://...")


@contextlib.asynccontextmanager
async def open_sqlite(path: str) -> AsyncIterator[Any]:
    """Open a file as a checkpointer."""
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError:
        raise missing_package("langgraph-checkpoint-sqlite") from None

    async with contextlib.AsyncExitStack() as stack:
        try:
            # If it fails to open a file, aiosqlite leaves a thread behind that nobody waits for: try without it first.
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA schema_version")
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
            await saver.setup()
        except (OSError, sqlite3.Error) as error:
            raise StoreDown(f"{path} can't be opened ({error}).") from error
        yield saver


@contextlib.asynccontextmanager
async def open_postgres(url: str) -> AsyncIterator[Any]:
    """Open a PostgreSQL database as a checkpointer."""
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg import OperationalError
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool, PoolTimeout
    except ImportError:
        raise missing_package("langgraph-checkpoint-postgres") from None
    # What AsyncPostgresSaver requires of its connections. Poolers such as PgBouncer know no prepared statements.
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool = AsyncConnectionPool(
        url, kwargs=options, open=False, timeout=CONNECT_SECONDS, min_size=1, max_size=MAX_CONNECTIONS
    )
    try:
        try:
            await pool.open(wait=True, timeout=CONNECT_SECONDS)
            saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
            await saver.setup()
        except (OperationalError, PoolTimeout) as error:
            # Only the type: the text may quote the address, which may hold a password.
            raise StoreDown(f"The database of the checkpointer can't be reached ({type(error).__name__}).") from error
        yield saver
    finally:
        await pool.close()


def missing_package(name: str) -> ConfigError:
    """Return the error for a checkpointer whose package is not installed."""
    return ConfigError(f"This checkpointer needs a package: pip install {name}.")


async def prune(saver: Any, retention: Retention) -> list[str]:
    """Delete all threads that are not kept, also those that wait; return their names."""
    # A thread has a checkpoint for each step; the newest one says when it changed.
    changed: dict[str, float] = {}
    async for checkpoint in saver.alist(None):
        thread = checkpoint.config["configurable"]["thread_id"]
        when = datetime.fromisoformat(checkpoint.checkpoint["ts"]).timestamp()
        changed[thread] = max(changed.get(thread, when), when)
    expired = retention.select_expired(changed, time.time())
    for thread in expired:
        await saver.adelete_thread(thread)
    return expired
