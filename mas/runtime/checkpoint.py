"""
Where runs of a graph are kept while they wait or after a crash: LangGraph's checkpointers, by name.

    memory               this process; lost at its end
    sqlite:PATH          a file, for one process (package langgraph-checkpoint-sqlite)
    postgresql://...     a database, for many processes (package langgraph-checkpoint-postgres)
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgewise.toolkit.errors import ConfigError, StoreDown

CONNECTIONS = 10
"""The most connections to PostgreSQL of one process."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which threads are kept: the newest `threads`, and those touched in the last `days`; None for all."""

    threads: int | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "days"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"Keeping {name}={value} must be more than zero; leave it out to keep all.")

    def select_expired(self, touched: dict[str, float], now: float) -> list[str]:
        """The threads to delete, given when each was touched last, in seconds since 1970."""
        newest = sorted(touched, key=lambda thread: touched[thread], reverse=True)
        spare = newest[self.threads :] if self.threads else []
        old = [thread for thread in newest if self.days and touched[thread] < now - self.days * 86_400]
        return list(dict.fromkeys([*spare, *old]))


@contextlib.asynccontextmanager
async def open_checkpointer(place: str) -> AsyncIterator[Any]:
    """
    A checkpointer by its name, with its tables made.

    Raises ConfigError for another name or a missing package, StoreDown where the database can't be reached.
    """
    if place == "memory":
        from langgraph.checkpoint.memory import InMemorySaver

        yield InMemorySaver()
    elif place.startswith("sqlite:"):
        async with _sqlite(place.removeprefix("sqlite:")) as saver:
            yield saver
    elif place.startswith(("postgresql://", "postgres://")):
        async with _postgres(place) as saver:
            yield saver
    else:
        raise ConfigError(
            f"There is no checkpointer {place!r}: write memory, sqlite:PATH or postgresql://..."
        )


@contextlib.asynccontextmanager
async def _sqlite(path: str) -> AsyncIterator[Any]:
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError:
        raise _missing("langgraph-checkpoint-sqlite") from None
    async with contextlib.AsyncExitStack() as stack:
        try:
            # Where that fails, aiosqlite leaves a thread behind that nobody waits for: so it is tried without.
            await asyncio.to_thread(_tried, path)
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
            await saver.setup()
        except (OSError, sqlite3.Error) as error:
            raise StoreDown(f"{path} can't be opened ({error}).") from error
        yield saver


def _tried(path: str) -> None:
    """Open a file as a database. Raises sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


@contextlib.asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Any]:
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg import OperationalError
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool, PoolTimeout
    except ImportError:
        raise _missing("langgraph-checkpoint-postgres") from None
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool = AsyncConnectionPool(url, kwargs=options, min_size=1, max_size=CONNECTIONS, open=False, timeout=10)
    try:
        try:
            await pool.open(wait=True, timeout=10)
            saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
            await saver.setup()
        except (OperationalError, PoolTimeout) as error:
            raise StoreDown(
                f"The database of the checkpointer can't be reached ({type(error).__name__})."
            ) from error
        yield saver
    finally:
        await pool.close()


def _missing(package: str) -> ConfigError:
    return ConfigError(f"This checkpointer needs a package: pip install {package}.")


async def prune(saver: Any, retention: Retention) -> list[str]:
    """Delete all threads that are not to be kept, those that wait for somebody too; their names."""
    touched: dict[str, float] = {}
    async for found in saver.alist(None):
        thread = found.config["configurable"]["thread_id"]
        when = datetime.fromisoformat(found.checkpoint["ts"]).timestamp()
        touched[thread] = max(touched.get(thread, when), when)
    gone = retention.select_expired(touched, time.time())
    for thread in gone:
        await saver.adelete_thread(thread)
    return gone
