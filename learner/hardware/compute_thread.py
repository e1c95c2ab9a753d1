"""
The one thread of a process in which models compute.

OpenMP keeps a team of threads for every thread that asks it for products. Where all teams together are more than the
processors, their threads no longer spin between two products (see `learner`), they sleep: in the threads of asyncio,
any of which may get the next work, drawing replies took 1.4 s where one thread takes 0.74 s (2 cores, SmolLM2-135M).
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
TRIES = 64
"""Threads that are begun until one gets the right heap: there are at most eight heaps for each core."""


def run_in_compute_thread(work: Callable[P, T]) -> Callable[P, T]:
    """The same function, carried out in that thread, whoever calls it; the caller waits."""

    @wraps(work)
    def there(*args: P.args, **kwargs: P.kwargs) -> T:
        if threading.current_thread().name.startswith(NAME):
            return work(*args, **kwargs)
        return submit_to_compute_thread(work, *args, **kwargs).result()

    return there


def submit_to_compute_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """What comes of a function that is carried out in that thread, after those submitted before it."""
    threads, context = torch.get_num_threads(), copy_context()

    def there() -> T:
        if torch.get_num_threads() != threads:  # each thread has a number of its own
            torch.set_num_threads(threads)
        return context.run(work, *args, **kwargs)

    with _making:
        return _executor(os.getpid()).submit(there)


_making = threading.Lock()


@cache
def _executor(process: int) -> ThreadPoolExecutor:
    """That of a process, on the heap that is kept: what is forked has none of the threads of its parent."""
    tried: list[ThreadPoolExecutor] = []
    while len(tried) < TRIES:
        tried.append(ThreadPoolExecutor(1, NAME))
        if tried[-1].submit(uses_main_heap).result():
            break
    for other in tried[:-1]:
        other.shutdown()
    return tried[-1]
