"""Run Python that a model wrote: `run_python`, and `python_tool`, the tool that agents get."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO

from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.tools.tool import FunctionTool, make_tool

SANDBOX = Path(__file__).with_name("sandbox.py")
MAX_PROCESSES = 32
MAX_OUTPUT = 20_000
"""Most bytes of an output that are returned."""


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """
    Result of a program.

    `stdout` and `stderr` are cut in the middle after 20,000 bytes. `exit_code` is 128 + N where signal N ended the
    program. `layers` lists what protected this run; see `run_python`.
    """

    stdout: str
    stderr: str
    exit_code: int
    timed_out: bool
    layers: tuple[str, ...] = ()


def run_python(
    code: str,
    *,
    stdin: str = "",
    timeout: float = 10.0,
    memory_mb: int = 512,
    files_mb: int = 16,
    namespaces: bool = True,
    landlock: bool = True,
) -> ProgramOutcome:
    """
    Run `code` as a program of its own, in a sandbox.

    It has `timeout` seconds of wall time, `memory_mb` MiB of memory per process and `files_mb` MiB per file that it
    writes, output included. It runs in an empty folder that is removed afterwards, with an empty environment, and
    can't import the modules of the project that started it (`python -I`). `ProgramOutcome.layers` lists what protects
    the machine:

    - "limits": memory, processor time, file size, no core dumps; 32 processes (where root runs the sandbox only
      together with "processes"). At the end all processes are killed, also those in the background.
    - "network" and "processes": namespaces of its own. There is no network, not even loopback, and no other process
      can be seen or signalled. `namespaces=False` goes without.
    - "network guard", where the kernel refuses namespaces: sockets fail inside the interpreter. This stops accidents,
      not an attack: `ctypes` or another program gets around it.
    - "files": Landlock. Only the Python installation and the system's programs can be read, only the program's own
      folder written, and the environment of other processes can't be read. `landlock=False` goes without.

    It does not protect from bugs in the kernel, from many files that fill the disk together, or from what the caller
    does with the output. Without "files" the program can read and change what the user can. Needs a POSIX system; all
    but "limits" needs Linux.
    """
    if os.name != "posix":
        raise ConfigError("running Python that a model wrote needs Linux or macOS")
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        home, report = Path(folder, "work"), Path(folder, "layers.json")
        home.mkdir()
        (home / "main.py").write_text(code, encoding="utf-8", errors="surrogatepass")
        settings = {
            "python": sys.executable,
            "readable": [sys.prefix, sys.base_prefix, str(Path(os.__file__).resolve().parent)],
            "report": str(report),
            "seconds": math.ceil(timeout),
            "processes": MAX_PROCESSES,
            "memory_mb": memory_mb,
            "files_mb": files_mb,
            "namespaces": namespaces,
            "landlock": landlock,
        }
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
        # Numerical libraries start a thread per core, which would break the limit on processes.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

        # Output goes to files, not pipes: a program can't block on a full pipe or flood this process's memory.
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            source.write(stdin.encode("utf-8", "surrogatepass"))
            source.seek(0)
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(SANDBOX), json.dumps(settings)],
                cwd=home,
                env=environment | threads,
                stdin=source,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            timed_out = _wait_or_kill(keeper, timeout)
            layers = tuple(json.loads(report.read_text() or "[]")) if report.exists() else ()
            return ProgramOutcome(_read_output(out), _read_output(err), keeper.returncode, timed_out, layers)


@cache
def detect_protection() -> tuple[str, ...]:
    """Return the layers that protect programs on this machine, from an empty program."""
    return run_python("").layers


def _wait_or_kill(keeper: "subprocess.Popen[bytes]", timeout: float) -> bool:
    """Wait for the end, or end the process; return whether the time ran out."""
    try:
        keeper.wait(timeout)
        return False
    except subprocess.TimeoutExpired:
        keeper.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(2)
        return True
    finally:
        # The keeper kills its descendants itself, unless it was interrupted or killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()


def _read_output(file: IO[bytes]) -> str:
    """Return the text of an output, cut in the middle."""
    # From both ends, so that its size does not matter.
    size, half = file.seek(0, os.SEEK_END), MAX_OUTPUT // 2
    file.seek(0)
    if size <= MAX_OUTPUT:
        return file.read().decode("utf-8", "replace")
    start = file.read(half).decode("utf-8", "replace")
    file.seek(size - half)
    end = file.read(half).decode("utf-8", "replace")
    return f"{start}\n[... {size - MAX_OUTPUT} bytes left out ...]\n{end}"


# The model sees this function's name and docstring.
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
    """Return the tool "python" for agents: each call is a fresh program under the default limits."""
    return replace(make_tool(python), is_bounded=True)
