"""Several processes that train together, started as a launcher starts them, but faster: from one that has torch."""

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["edgewise.learner.api", "accelerate", "transformers.models.llama.modeling_llama", "edgewise.toolkit.cli.app"]
)
SECONDS = 120.0


def start_processes(work: Callable[..., Any], *args: Any, folder: Path, size: int = 2) -> list[BaseProcess]:
    """Processes that call `work`, each in its own directory `folder`/RANK, with what it prints in `folder`/RANK.txt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        (folder / str(rank)).mkdir(parents=True, exist_ok=True)
        processes.append(_SERVER.Process(target=_run_in_process, args=(rank, size, port, folder, work, args)))
        processes[-1].start()
    return processes


def wait_for_all(processes: Sequence[BaseProcess], seconds: float = SECONDS) -> list[int | None]:
    """Their exit codes once all have ended; None for those that had to be killed after `seconds`."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def _run_in_process(
    rank: int, size: int, port: int, folder: Path, work: Callable[..., Any], args: Sequence[Any]
) -> None:
    import torch

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    os.chdir(folder / str(rank))
    with open(folder / f"{rank}.txt", "w", buffering=1) as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            work(*args)
