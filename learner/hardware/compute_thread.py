"""
The one thread of a process in which models compute.

OpenMP keeps a team of threads for every thread that starts products. If all teams together have more threads than there
are processors, they no longer spin between two products (see `learner`), but sleep. In the threads of asyncio, any of
which may get the next call, drawing replies took 1.4 s; in one thread it takes 0.74 s (2 cores, SmolLM2-135M).
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

from edgewise.learner.hardware.memory import uses_main_heap

P = ParamSpec("P")
T = TypeVar("T")
NAME = "edgewise-torch"
MAX_THREADS = 64
"""Threads to start until one gets the main heap: glibc has at most eight heaps for each core."""
_lock = threading.Lock()
"""Held while a call is submitted, so that the first callers together make one executor."""


def run_in_compute_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that any thread may call it and waits while the compute thread runs it."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        # A call from the compute thread itself would wait for ever behind its caller.
        if threading.current_thread().name.startswith(NAME):
            return function(*args, **kwargs)
        return submit_to_compute_thread(function, *args, **kwargs).result()

    return run


def submit_to_compute_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Run a function in the compute thread, after those submitted before, and return its future; from any thread."""
    threads, context = torch.get_num_threads(), copy_context()

    def run() -> T:
        if torch.get_num_threads() != threads:  # a setting of each thread: the caller's counts
            torch.set_num_threads(threads)
        return context.run(function, *args, **kwargs)

    with _lock:
        # By process, because a forked one has none of its parent's threads.
        return _get_executor(os.getpid()).submit(run)


@cache
def _get_executor(process: int) -> ThreadPoolExecutor:
    """Return an executor of one thread that allocates from the main heap, whose memory glibc can keep."""
    executors: list[ThreadPoolExecutor] = []
    while len(executors) < MAX_THREADS:
        executors.append(ThreadPoolExecutor(1, NAME))
        if executors[-1].submit(uses_main_heap).result():
            break
    # Ended only now: a thread that ends gives its heap to the next one.
    for executor in executors[:-1]:
        executor.shutdown()
    return executors[-1]
