"""
Memory: what is done where it is short, and how it is kept, on huge pages, for the next forward instead of going back.

A page that is fresh is cleared by the system first, and one of 4 kB is looked up at each of its turns: on a CPU this
can take longer than computing what is written to it. Only glibc is asked to keep it; elsewhere nothing happens.
"""

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

from edgewise.toolkit.errors import OutOfMemory

T = TypeVar("T")
MEMORY_ADVICE = "use LoRA (lora=16), checkpointing=true, a shorter max_tokens or a smaller model"
"""What takes less memory."""
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Of glibc's mallopt."""
_HUGE_PAGES = 14
"""Of Linux' madvise."""
_OWN = 1 << 14
"""Bytes too many for what a thread keeps of others' heaps."""
_MAPS = Path("/proc/self/maps")
_UNKNOWN = (OSError, AttributeError, TypeError, ValueError)
"""What asking another system's C library raises."""


def share_heap() -> None:
    """Let threads that begin from now on share one heap: each would get one of its own, that gives memory back."""
    with contextlib.suppress(*_UNKNOWN):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def uses_main_heap() -> bool:
    """
    Whether this thread takes memory from the heap that can be kept, or none can.

    One that begins may still get the heap of a thread that has ended.
    """
    try:
        heaps = re.findall(r"^(\w+)-(\w+) .*\[heap\]$", _MAPS.read_text(), re.MULTILINE)
        library = _library()
        address = library.malloc(_OWN)
        library.free(ctypes.c_void_p(address))
    except _UNKNOWN:
        return True
    return any(int(a, 16) <= address < int(b, 16) for a, b in heaps)


@cache
def keep_freed_memory() -> None:
    """Let the heap keep what is freed, and ask huge pages for what it is still to grow by."""
    with contextlib.suppress(*_UNKNOWN):
        library = _library()
        # The heap grows at its end and never shrinks.
        for option, value in ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0)):
            library.mallopt(option, value)
        _on_huge_pages(library, os.sysconf("SC_PHYS_PAGES") // 2, os.sysconf("SC_PAGE_SIZE"))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    return library


def _on_huge_pages(library: ctypes.CDLL, pages: int, size: int) -> None:
    """Ask huge pages for so much of the heap that is to come: reserved, not taken."""
    start = library.malloc(ctypes.c_size_t(pages * size))
    if start:
        library.free(ctypes.c_void_p(start))
        first = ctypes.c_void_p(start // size * size + size)
        library.madvise(first, ctypes.c_size_t((pages - 2) * size), _HUGE_PAGES)


# ---- where it is short -------------------------------------------------------------------------------------


def try_in_memory(work: Callable[[], T]) -> T | None:
    """What it gives; None where memory is short. The error is let go of: its frames hold what is to be freed."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not _short(error):
            raise
        return None


@contextlib.contextmanager
def explain_out_of_memory(what: str) -> Iterator[None]:
    """Raises OutOfMemory in a sentence where memory is too short for `what`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _short(error):
            raise
        raise OutOfMemory(f"There is not enough memory for {what}: {MEMORY_ADVICE}.") from error


def _short(error: BaseException) -> bool:
    # torch's own is a RuntimeError; on a CPU there is none.
    named = type(error).__name__ == "OutOfMemoryError"
    return named or isinstance(error, MemoryError) or "allocate memory" in str(error)
