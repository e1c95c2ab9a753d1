"""
The database of a store: its URL, its tables, its transactions, and its failures as sentences.

Every public method runs in a transaction of its own, as short as one statement. Isolation of READ COMMITTED is enough
in PostgreSQL: rows are only ever inserted, and the unique indexes, which all writers share, decide between two of
them. SQLite has one writer at a time and needs no level.

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
_CREATE_LOCK = 0x45444C42  # key of the advisory lock under which PostgreSQL's tables are created


class _AsciiJson(sa.TypeDecorator[str]):
    """Any text as a JSON string: NUL and lone surrogates are escaped, since databases refuse them."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.loads(value)


# ---- tables ------------------------------------------------------------------------------------------------

_tables = sa.MetaData()
_format = sa.Table("edgewise_format", _tables, sa.Column("format", sa.Integer, nullable=False))
commits = sa.Table(
    "edgewise_commits",
    _tables,
    # The primary key (name, number) is what makes an INSERT a compare-and-swap; see `store`.
    sa.Column("name", _AsciiJson, primary_key=True),
    sa.Column("number", sa.Integer, sa.CheckConstraint("number > 0"), primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column("parent", sa.String(12)),
    sa.Column("merged", _AsciiJson),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("author", _AsciiJson, nullable=False),
    sa.Column("message", _AsciiJson, nullable=False),
    sa.Column("key", _AsciiJson),
    sa.Column("content", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "key"),
)
_APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER edgewise_no_{action} BEFORE {action} ON edgewise_commits"
        " BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
        for action in ("update", "delete")
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


# ---- access ------------------------------------------------------------------------------------------------


class Database:
    """
    One database, whose tables are created with the first row; reading creates nothing.

    `location` is its URL as it may be printed. Errors are raised as `Store` says.
    """

    def __init__(self, url: str, wait: float):
        address = _parse_url(url)
        self._secret = str(address.password or "")
        self._wait = wait
        self._file = Path(address.database or "") if address.drivername == "sqlite" else None
        # Options are not printed: they may hold a password too.
        parts = address.username, None, address.host, address.port, address.database
        self.location = str(address.database) if self._file else sa.URL.create("postgresql", *parts).render_as_string()
        self._is_ready = False
        self._engine = _create_engine(address, wait)
        try:
            self.has_tables()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def fetch_rows(self, query: sa.Select) -> Sequence[sa.Row]:
        """Return the rows of a query; none where there are no tables yet."""
        if not self.has_tables():
            return []
        with self._transaction() as connection:
            return connection.execute(query).all()

    def insert(self, row: dict[str, Any]) -> None:
        """Append a row to `commits`. Raises SQLAlchemy's IntegrityError where a constraint refuses it."""
        if not self.has_tables():
            self._create_tables()
        with self._transaction() as connection:
            connection.execute(commits.insert().values(row))

    def has_tables(self) -> bool:
        """Return whether the tables are there and of our format; the database is asked until they are."""
        with self.translate_errors():
            # Opening a missing file would create an empty one.
            if not self._is_ready and (self._file is None or self._file.exists()):
                with self._transaction() as connection:
                    self._is_ready = self._inspect(connection)
        return self._is_ready

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise failures of the database, or of decoding its rows, as one sentence without the password."""
        try:
            yield
        except IntegrityError:  # part of the contract of `insert`
            raise
        except SQLAlchemyError as error:
            is_temporary, reason = _explain(error)
            if self._secret:
                reason = reason.replace(self._secret, "***")
            if is_temporary:
                raise StoreDown(
                    f"{self.location} can't be used now: {reason}. Nothing is lost: try again later."
                ) from None
            raise LibraryError(f"{self.location} can't be used: {reason}.") from None
        except OSError as error:
            raise LibraryError(f"{self.location} can't be opened: {error.strerror}.") from None
        except (ValueError, ArtifactError) as error:
            raise LibraryError(f"{self.location} is damaged ({error}): restore it from a copy.") from None

    def _inspect(self, connection: sa.Connection) -> bool:
        """Return whether the tables are there. Raises LibraryError for another format or somebody else's file."""
        tables = sa.inspect(connection).get_table_names()
        if _format.name not in tables:
            # A PostgreSQL database may hold other tables beside ours; a file is ours alone.
            if tables and self._file:
                raise LibraryError(f"{self.location} is a database of something else: give another file.")
            return False

        formats = connection.execute(sa.select(_format.c.format)).scalars().all()
        if formats != [FORMAT]:
            names = ", ".join(map(str, formats)) or "no"
            raise LibraryError(
                f"{self.location} has format {names}, this version reads {FORMAT}: use the version that wrote it."
            )
        return True

    def _create_tables(self) -> None:
        """Create the tables; of several processes at once, one creates them and the others wait."""
        with self.translate_errors():
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._transaction() as connection:
                # Both locks last until the end of the transaction. SQLite's plain BEGIN would lock at the first
                # write only, and PostgreSQL has no lock on tables that don't exist yet.
                lock = "BEGIN IMMEDIATE" if self._file else f"SELECT pg_advisory_xact_lock({_CREATE_LOCK})"
                connection.exec_driver_sql(lock)
                # Look again, now that nobody else can create them.
                if not self._inspect(connection):
                    _tables.create_all(connection)
                    connection.execute(_format.insert().values(format=FORMAT))
        self._is_ready = True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self.translate_errors(), self._engine.begin() as connection:
            # PostgreSQL waits for locks without end by default; SQLite has its timeout from `_create_engine`.
            if self._file is None:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(1000 * self._wait))}")
            yield connection


def _parse_url(url: str) -> sa.URL:
    """Return the database named by a path or URL. Raises LibraryError without the URL, which may hold a password."""
    if "://" not in url and Path(url).suffix in (".sqlite", ".db"):
        return sa.URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        address = sa.make_url(url)
    except (ArgumentError, ValueError):
        address = sa.URL.create("unknown")

    backend = address.get_backend_name()
    if backend == "sqlite" and address.database not in (None, "", ":memory:"):
        return address.set(drivername="sqlite")
    # An "@" in the host is the rest of a password in which it was not escaped.
    if backend in ("postgresql", "postgres") and "@" not in (address.host or ""):
        query = {"connect_timeout": "10", **address.query}
        return address.set(drivername="postgresql+psycopg", query=query)
    raise LibraryError(
        "A library is stored in a file that ends in .sqlite or .db, or in postgresql://user@host/database (in a"
        " password @ : / are written %40 %3A %2F; the variable PGPASSWORD keeps it out of the URL)."
    )


def _create_engine(address: sa.URL, wait: float) -> sa.Engine:
    if address.drivername == "sqlite":
        # A connection for each transaction costs little and leaves no handle on the file in between.
        return sa.create_engine(address, poolclass=sa.NullPool, connect_args={"timeout": wait})
    try:
        return sa.create_engine(
            address,
            pool_pre_ping=True,
            # Also against a stricter default of the server: under SERIALIZABLE a lost race may be reported as
            # a serialisation failure, not as the unique violation that `Store.commit` reads.
            isolation_level="READ COMMITTED",
            # Poolers that share connections between clients know nothing of prepared statements.
            connect_args={"prepare_threshold": None, "application_name": "edgewise"},
        )
    except ModuleNotFoundError:
        raise LibraryError("PostgreSQL needs one more package: pip install 'edgewise[team]'.") from None


# ---- failures ----------------------------------------------------------------------------------------------

_SQLITE_TEMPORARY = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk can't be read or written, or is full",
}
_SQLITE_PERMANENT = {
    sqlite3.SQLITE_READONLY: "it can be read only",
    sqlite3.SQLITE_CANTOPEN: "the file can't be opened (is its folder there, and yours to write in?)",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged, restore it from a copy",
}
# Classes of SQLSTATE: connection, conflict, resources, operator intervention; then one for a lock not granted.
_POSTGRES_TEMPORARY = ("08", "40", "53", "57", "55P03")
# A server that refuses a login gives no SQLSTATE, only words.
_LOGIN_REFUSED = re.compile(r"authentication|does not exist|pg_hba\.conf|permi|no password|does not support")


def _explain(error: SQLAlchemyError) -> tuple[bool, str]:
    """Return whether trying again later helps, and the reason in a few words."""
    cause = getattr(error, "orig", None) or error
    message = str(cause).strip().partition("\n")[0].rstrip(".")
    if isinstance(cause, sqlite3.Error):
        # The low byte is the primary code; extended codes add details above it.
        code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
        return code in _SQLITE_TEMPORARY, (_SQLITE_TEMPORARY | _SQLITE_PERMANENT).get(code, message)
    if state := getattr(cause, "sqlstate", None):
        return state.startswith(_POSTGRES_TEMPORARY), message
    # Without a SQLSTATE the server was not reached, or it refused the login.
    return isinstance(error, OperationalError) and not _LOGIN_REFUSED.search(message), message
