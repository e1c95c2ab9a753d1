"""
The database that a store's history lies in: its address, its tables, and what its failures mean.

SQLite keeps its rollback journal. WAL would let readers pass a writer, but commits are rare and short, and without
it a library at rest is one file that can be copied, sent, and kept on a network drive.
"""

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError

from edgewise.toolkit.errors import ArtifactError, LibraryError, StoreDown

FORMAT = 1
_MAKING = 0x45444C42  # the advisory lock under which PostgreSQL's tables are made


class _Ascii(sa.TypeDecorator[str]):
    """Any text as a JSON string: NUL and lone surrogates are escaped, for databases refuse them."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.loads(value)


_tables = sa.MetaData()
_format = sa.Table("edgewise_format", _tables, sa.Column("format", sa.Integer, nullable=False))
commits = sa.Table(
    "edgewise_commits",
    _tables,
    sa.Column("name", _Ascii, primary_key=True),
    sa.Column("number", sa.Integer, sa.CheckConstraint("number > 0"), primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column("parent", sa.String(12)),
    sa.Column("merged", _Ascii),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("author", _Ascii, nullable=False),
    sa.Column("message", _Ascii, nullable=False),
    sa.Column("key", _Ascii),
    sa.Column("content", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "key"),
)
_APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER edgewise_no_{what} BEFORE {what} ON edgewise_commits"
        " BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
        for what in ("update", "delete")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION edgewise_refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'history is append-only'; END $$",
        "CREATE TRIGGER edgewise_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON edgewise_commits"
        " FOR EACH STATEMENT EXECUTE FUNCTION edgewise_refuse()",
    ],
}
for _dialect, _statements in _APPEND_ONLY.items():
    for _statement in _statements:
        event.listen(commits, "after_create", sa.DDL(_statement).execute_if(dialect=_dialect))


class Database:
    """
    One database, whose tables are made with the first row; reading makes nothing.

    `place` is its address as it may be printed. Errors are raised as `Store` says.
    """

    def __init__(self, url: str, wait: float):
        address = _address(url)
        self.place = _shown(address)
        self._secret = str(address.password or "")
        self._wait = wait
        self._file = Path(address.database or "") if address.drivername == "sqlite" else None
        self._made = False
        self._engine = _engine(address, wait)
        try:
            self.is_made()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def rows(self, query: sa.Select) -> Sequence[sa.Row]:
        """What a query finds; nothing where there are no tables yet."""
        if not self.is_made():
            return []
        with self._transaction() as connection:
            return connection.execute(query).all()

    def insert(self, row: dict[str, Any]) -> None:
        """Append a row to `commits`. Raises SQLAlchemy's IntegrityError where a constraint refuses it."""
        self._make()
        with self._transaction() as connection:
            connection.execute(commits.insert().values(row))

    def is_made(self) -> bool:
        """Whether the tables are there and of our format; asked until they are."""
        with self.explained():
            # SQLite would make an empty file in order to look into it.
            if not self._made and (self._file is None or self._file.exists()):
                with self._transaction() as connection:
                    self._made = self._has_tables(connection)
        return self._made

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Failures of the database, or of reading what it holds, as one sentence without the password."""
        try:
            yield
        except IntegrityError:  # the one that `insert` names
            raise
        except SQLAlchemyError as error:
            later, reason = _reason(error)
            if self._secret:
                reason = reason.replace(self._secret, "***")
            if later:
                raise StoreDown(
                    f"{self.place} can't be used now: {reason}. Nothing is lost: try again later."
                ) from None
            raise LibraryError(f"{self.place} can't be used: {reason}.") from None
        except OSError as error:
            raise LibraryError(f"{self.place} can't be opened: {error.strerror}.") from None
        except (ValueError, ArtifactError) as error:
            raise LibraryError(f"{self.place} is damaged ({error}): restore it from a copy.") from None

    def _has_tables(self, connection: sa.Connection) -> bool:
        tables = sa.inspect(connection).get_table_names()
        if _format.name not in tables:
            if tables and self._file:
                raise LibraryError(f"{self.place} is a database of something else: give another file.")
            return False
        found = connection.execute(sa.select(_format.c.format)).scalars().all()
        if found != [FORMAT]:
            formats = ", ".join(map(str, found)) or "no"
            raise LibraryError(
                f"{self.place} has format {formats}, this version reads {FORMAT}: use the version that wrote it."
            )
        return True

    def _make(self) -> None:
        """Make the tables, unless they are there; of several at once one makes them and the others wait."""
        if self.is_made():
            return
        with self.explained():
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._transaction() as connection:
                lock = "BEGIN IMMEDIATE" if self._file else f"SELECT pg_advisory_xact_lock({_MAKING})"
                connection.exec_driver_sql(lock)
                if not self._has_tables(connection):
                    _tables.create_all(connection)
                    connection.execute(_format.insert().values(format=FORMAT))
        self._made = True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self.explained(), self._engine.begin() as connection:
            if self._file is None:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(1000 * self._wait))}")
            yield connection


def _address(url: str) -> sa.URL:
    """The database meant by a path or URL. Raises LibraryError, without repeating what may hold a password."""
    if "://" not in url and Path(url).suffix in (".sqlite", ".db"):
        return sa.URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        address = sa.make_url(url)
    except (ArgumentError, ValueError):
        address = sa.URL.create("unknown")
    backend = address.get_backend_name()
    if backend == "sqlite" and address.database not in (None, "", ":memory:"):
        return address.set(drivername="sqlite")
    if backend in ("postgresql", "postgres") and "@" not in (address.host or ""):
        query = {"connect_timeout": "10", **address.query}
        return address.set(drivername="postgresql+psycopg", query=query)
    raise LibraryError(
        "A library is stored in a file that ends in .sqlite or .db, or in postgresql://user@host/database (in a"
        " password @ : / are written %40 %3A %2F; the variable PGPASSWORD keeps it out of the URL)."
    )


def _shown(address: sa.URL) -> str:
    """The address without its password and without options, which may hold one."""
    if address.drivername == "sqlite":
        return str(address.database)
    return sa.URL.create(
        "postgresql", address.username, None, address.host, address.port, address.database
    ).render_as_string()


def _engine(address: sa.URL, wait: float) -> sa.Engine:
    if address.drivername == "sqlite":
        # A connection for each transaction costs little and leaves no handle on the file in between.
        return sa.create_engine(address, poolclass=sa.NullPool, connect_args={"timeout": wait})
    try:
        return sa.create_engine(
            address,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            # Poolers that share connections between clients know nothing of prepared statements.
            connect_args={"prepare_threshold": None, "application_name": "edgewise"},
        )
    except ModuleNotFoundError:
        raise LibraryError("PostgreSQL needs one more package: pip install 'edgewise[team]'.") from None


_SQLITE_LATER = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk can't be read or written, or is full",
}
_SQLITE_NEVER = {
    sqlite3.SQLITE_READONLY: "it can be read only",
    sqlite3.SQLITE_CANTOPEN: "the file can't be opened (is its folder there, and yours to write in?)",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged, restore it from a copy",
}
# Classes of SQLSTATE: connection, conflict, resources, operator intervention; then one for a lock not given.
_POSTGRES_LATER = ("08", "40", "53", "57", "55P03")
# A server that refuses a login gives no SQLSTATE, only words.
_REFUSED = re.compile(r"authentication|does not exist|pg_hba\.conf|permi|no password|does not support")


def _reason(error: SQLAlchemyError) -> tuple[bool, str]:
    """Whether trying again later helps, and what went wrong in a few words."""
    cause = getattr(error, "orig", None) or error
    said = str(cause).strip().partition("\n")[0].rstrip(".")
    if isinstance(cause, sqlite3.Error):
        code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
        return code in _SQLITE_LATER, (_SQLITE_LATER | _SQLITE_NEVER).get(code, said)
    if state := getattr(cause, "sqlstate", None):
        return state.startswith(_POSTGRES_LATER), said
    return isinstance(error, OperationalError) and not _REFUSED.search(said), said
