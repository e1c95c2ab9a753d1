"""A PostgreSQL server for tests and benches, from Debian's package, on loopback and with data of its own."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "geheim-4711"
NEEDED = bool(os.environ.get("CI") or os.environ.get("EDGEWISE_NEED_POSTGRES"))
"""Whether a machine without PostgreSQL fails the tests or skips them; read before tests clean the environment."""
MISSING = "There is no PostgreSQL in /usr/lib/postgresql/*/bin: apt-get install postgresql."


def binaries() -> Path | None:
    """Return the folder of the newest installed PostgreSQL."""
    programs = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((x.parent for x in programs), key=lambda x: float(x.parent.name), default=None)


class Postgres:
    """
    A server that can be stopped and started again; `durable` makes it wait for the disk as in real use.

    PostgreSQL refuses to run as root: root lends it the user that Debian's package made.
    """

    def __init__(self, programs: Path, folder: Path, *, durable: bool = False):
        self.programs, self.data, self.durable = programs, folder / "data", durable
        self.port = _free_port()
        self._process: subprocess.Popen[Any] | None = None
        self._names = itertools.count()
        self._log = folder / "log"
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(folder, "postgres", "postgres")
        _initialise(programs, self.data, self._as)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if self.durable else "off",
        }
        options = itertools.chain.from_iterable(("-c", f"{key}={value}") for key, value in settings.items())
        command = [str(self.programs / "postgres"), "-D", str(self.data), *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as)
        end = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server at once, even with open connections."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://edgewise:{password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"test_{next(self._names)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def run(self, statement: str, database: str = "postgres") -> None:
        """Run one statement as the owner."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self.run("SELECT 1")
            return True
        return False


@contextlib.contextmanager
def running(*, durable: bool = False) -> Iterator[Postgres]:
    """Run a server during the block. Raises FileNotFoundError where none is installed."""
    programs = binaries()
    if programs is None:
        raise FileNotFoundError(MISSING)
    with tempfile.TemporaryDirectory(prefix="edgewise-postgres-") as folder:
        server = Postgres(programs, Path(folder), durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a session."""
    if binaries() is None and not NEEDED:
        pytest.skip(MISSING)
    with running() as server:
        yield server


def _initialise(programs: Path, data: Path, as_user: dict[str, Any]) -> None:
    secret = data.with_name("password")
    secret.write_text(PASSWORD)
    command = [str(programs / "initdb"), "-D", str(data), "-U", "edgewise", "--no-sync", "--no-instructions"]
    choices = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
    process = subprocess.run([*command, *choices], capture_output=True, text=True, cwd="/", **as_user)
    if process.returncode:
        raise RuntimeError(f"initdb failed:\n{process.stderr}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]
