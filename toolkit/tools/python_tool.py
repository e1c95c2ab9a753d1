"""A place to run Python that a model wrote: `run_python`, and the tool that agents get, `python_tool`."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.tools.tool import FunctionTool, make_tool

CONFINE = Path(__file__).with_name("sandbox.py")
PROCESSES = 32
SHOWN = 20_000


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """
    How a program ended.

    `stdout` and `stderr` are cut in the middle after 20,000 characters; `exit_code` is 128 + N where signal N
    ended it. `layers` says what protected this run; see `run_python`.
    """

    stdout: str
    stderr: str
    exit_code: int
    timed_out: bool
    layers: tuple[str, ...] = ()


def run_python(
    code: str, *, stdin: str = "", timeout: float = 10.0, memory_mb: int = 512, files_mb: int = 16
) -> ProgramOutcome:
    """
    Run `code` as a program of its own, in a sandbox.

    It has `timeout` seconds on the clock, `memory_mb` MiB of memory for each process and `files_mb` MiB for
    each file that it writes (its output included). It runs in an empty folder that is removed afterwards,
    with an empty environment, and cannot see the modules of the project that started it (`python -I`). What
    protects the machine, by `ProgramOutcome.layers`:

    - "limits": memory, processor time, file size, no core dumps; 32 processes (where root runs the sandbox
      only together with "processes"). At the end all processes are killed, also those in the background.
    - "network" and "processes": namespaces of its own. There is no network, not even loopback, and no other
      process can be seen or signalled.
    - "network guard", where the kernel refuses namespaces: sockets fail inside the interpreter. This stops
      accidents, not an attack: `ctypes` or another program gets around it.
    - "files": Landlock. Only the Python installation and the system's programs can be read, only the
      program's own folder written, and the environment of other processes cannot be read.

    It does not protect from bugs in the kernel, from many files that fill the disk together, or from what the
    caller does with the output. Without "files" the program can read and change what the user can. Needs a
    POSIX system; all but "limits" needs Linux.
    """
    return _run(code, stdin, timeout, {"memory_mb": memory_mb, "files_mb": files_mb})


@cache
def detect_protection() -> tuple[str, ...]:
    """The layers that protect runs on this machine, found out by a run."""
    return run_python("").layers


def _run(code: str, stdin: str, timeout: float, settings: Mapping[str, Any]) -> ProgramOutcome:
    if os.name != "posix":
        raise ConfigError("running Python that a model wrote needs Linux or macOS")
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        home = Path(folder, "work")
        home.mkdir()
        (home / "main.py").write_text(code, encoding="utf-8", errors="surrogatepass")
        report = Path(folder, "layers.json")
        with (
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            source.write(stdin.encode("utf-8", "surrogatepass"))
            source.seek(0)
            command = _command(timeout, report, settings)
            keeper = subprocess.Popen(
                command,
                cwd=home,
                env=_environment(home),
                stdin=source,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            timed_out = _wait(keeper, timeout)
            layers = tuple(json.loads(report.read_text() or "[]")) if report.exists() else ()
            return ProgramOutcome(_text(out), _text(err), keeper.returncode, timed_out, layers)


def _command(timeout: float, report: Path, settings: Mapping[str, Any]) -> list[str]:
    seconds = math.ceil(timeout)
    all_settings = {
        "python": sys.executable,
        "readable": [sys.prefix, sys.base_prefix, str(Path(os.__file__).resolve().parent)],
        "report": str(report),
        "seconds": seconds,
        "processes": PROCESSES,
        "namespaces": True,
        "landlock": True,
        **settings,
    }
    return [sys.executable, "-I", "-S", "-B", str(CONFINE), json.dumps(all_settings)]


def _environment(home: Path) -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8", **threads}


def _wait(keeper: "subprocess.Popen[bytes]", timeout: float) -> bool:
    """Wait for the end, or bring it about; whether the time ran out."""
    try:
        keeper.wait(timeout)
        return False
    except subprocess.TimeoutExpired:
        keeper.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(2)
        return True
    finally:
        # The keeper has swept already, unless it was interrupted or killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()


def _text(file: IO[bytes]) -> str:
    """What was written, cut in the middle; read from both ends, so that its size does not matter."""
    size, half = file.seek(0, os.SEEK_END), SHOWN // 2
    file.seek(0)
    if size <= SHOWN:
        return _decoded(file.read())
    start = file.read(half)
    file.seek(size - half)
    end = file.read(half)
    return f"{_decoded(start)}\n[... {size - SHOWN} bytes left out ...]\n{_decoded(end)}"


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def python(code: str) -> str:
    """Run a Python program and return what it prints. Nothing is kept from one call to the next."""
    outcome = run_python(code)
    lines = [outcome.stdout, outcome.stderr]
    if outcome.timed_out:
        lines.append("error: stopped, it took longer than 10 seconds")
    elif outcome.exit_code and not outcome.stderr:
        lines.append(f"error: ended with exit code {outcome.exit_code}")
    return "\n".join(line.rstrip() for line in lines if line) or "(nothing was printed)"


def python_tool() -> FunctionTool:
    """The tool "python" that agents get: each call is a fresh program under the default limits."""
    return replace(make_tool(python), is_bounded=True)
