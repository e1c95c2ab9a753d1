"""Memory that is kept: a large part of the heap is asked to be on huge pages, and none of it is taken yet."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage")
GIGABYTE = 1 << 20
"""In kB."""
FRESH = """
from edgewise.learner.hardware.memory import keep_freed_memory

keep_freed_memory()
print(open("/proc/self/smaps").read())
"""


def mappings(smaps: str) -> list[dict[str, str]]:
    """What the system says of each part of a process's memory."""
    areas: list[dict[str, str]] = []
    for line in smaps.splitlines():
        name, colon, value = line.partition(":")
        if " " in name or not colon:
            areas.append({})
        else:
            areas[-1][name] = value.strip()
    return areas


@pytest.mark.skipif(
    not HUGE.exists() or platform.libc_ver()[0] != "glibc", reason="needs huge pages of Linux, and glibc"
)
def test_heap_growth_is_reserved_on_huge_pages_but_not_used() -> None:
    # In a new process: the heap of this one may have been taken by other tests.
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    large = [
        area
        for area in mappings(done.stdout)
        if "hg" in area.get("VmFlags", "").split() and int(area["Size"].split()[0]) > GIGABYTE
    ]
    assert large
    assert all(int(area["Rss"].split()[0]) < int(area["Size"].split()[0]) / 2 for area in large)
