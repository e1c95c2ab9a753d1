"""
Memory of the process: freed memory is kept on huge pages for the next forward, and a lack of memory becomes a sentence.

The system clears each fresh page before its first use, and each 4 kB page needs an address look-up of its own. On a CPU
both can take longer than computing what is written there. Only glibc on Linux can be asked to keep memory; elsewhere
these functions do nothing.
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
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Options of glibc's mallopt (malloc.h)."""
_HUGE_PAGES = 14
"""MADV_HUGEPAGE of Linux' madvise."""
_ABOVE_THREAD_CACHE = 1 << 14
"""Bytes that glibc never takes from a thread's cache, which may hold memory of other heaps."""
_OTHER_SYSTEM = (OSError, AttributeError, TypeError, ValueError)
"""Errors of another system's C library."""


def share_heap() -> None:
    """Let threads that start from now on share one heap. Heaps of their own would give memory back to the system."""
    with contextlib.suppress(*_OTHER_SYSTEM):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def uses_main_heap() -> bool:
    """
    Whether the calling thread allocates from the main heap, or the system can't tell.

    After `share_heap` a new thread may still get the heap of a thread that has ended.
    """
    try:
        maps = Path("/proc/self/maps").read_text()
        library = _load_library()
        address = library.malloc(_ABOVE_THREAD_CACHE)
        library.free(ctypes.c_void_p(address))
    except _OTHER_SYSTEM:
        return True
    heaps = re.findall(r"^(\w+)-(\w+) .*\[heap\]$", maps, re.MULTILINE)
    return any(int(start, 16) <= address < int(end, 16) for start, end in heaps)


@cache
def keep_freed_memory() -> None:
    """Let the heap of the calling thread keep freed memory, and ask huge pages for its future growth."""
    with contextlib.suppress(*_OTHER_SYSTEM):
        library = _load_library()
        # The heap grows at its end and never shrinks; large blocks come from it, too, not from mmap.
        for option, value in ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0)):
            library.mallopt(option, value)

        # Half of the machine's memory: reserved by growing the heap once, not taken, since nothing is written to it.
        pages, size = os.sysconf("SC_PHYS_PAGES") // 2, os.sysconf("SC_PAGE_SIZE")
        start = library.malloc(ctypes.c_size_t(pages * size))
        if start:
            library.free(ctypes.c_void_p(start))
            first_page = ctypes.c_void_p(start // size * size + size)
            library.madvise(first_page, ctypes.c_size_t((pages - 2) * size), _HUGE_PAGES)


def _load_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p  # ctypes would cut a pointer to 32 bits
    return library


# ---- lack of memory ----------------------------------------------------------------------------------------


def try_in_memory(work: Callable[[], T]) -> T | None:
    """Return the result of `work`, or None if memory is short."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        # Not returned and not chained: the frames of its traceback hold the tensors to be freed.
        return None


@contextlib.contextmanager
def explain_out_of_memory(purpose: str) -> Iterator[None]:
    """Raise a lack of memory inside as OutOfMemory, which names the `purpose` and gives advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(f"There is not enough memory for {purpose}: {MEMORY_ADVICE}.") from error


def _is_out_of_memory(error: BaseException) -> bool:
    # CUDA raises torch.OutOfMemoryError, a RuntimeError; a CPU a plain RuntimeError with this text.
    by_name = type(error).__name__ == "OutOfMemoryError"
    return by_name or isinstance(error, MemoryError) or "allocate memory" in str(error)
