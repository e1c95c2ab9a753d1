"""Python that a model wrote, in a process of its own."""

import asyncio
import contextlib
import math
import os
import signal
import sys
import tempfile
from pathlib import Path

from edgewise.mas.runtime.node_text import PROGRAM_SECONDS

# A program runs in a process of its own, in an empty folder and an empty environment (so it sees no API key), with
# limits on memory, processor time and the size of files, and it is killed with all its children after PROGRAM_SECONDS.
# That protects from programs that hang, fork, or eat the machine. It does NOT protect from one that reads your files or
# uses the network: where you do not trust what your users ask, run this module in a container without either.
SET_LIMITS = """
import os, resource, sys
seconds = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
os.execv(sys.executable, [sys.executable, "-I", "main.py"])
"""


async def run_python(code: str) -> tuple[str, str]:
    """Return what a program printed, and what was wrong with it ("" for nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(Path(folder, "main.py").write_text, code, "utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", SET_LIMITS, str(math.ceil(PROGRAM_SECONDS))),
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "LANG": "C.UTF-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PROGRAM_SECONDS):
                out, err = await process.communicate()
        except TimeoutError:
            return "", f"it was stopped after {PROGRAM_SECONDS:g} seconds"
        finally:
            # The whole session, since a child of the program may have outlived it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    printed = out.decode("utf-8", "replace").strip()
    if process.returncode:
        problem = err.decode("utf-8", "replace").strip()[-1000:]
        return printed, problem or f"it ended with exit code {process.returncode}"
    return printed, ""
