"""One thread for what models compute: whoever calls, however deep, and with the memory that is kept."""

import asyncio
import platform
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest

import learner.engine
from learner.api import train
from learner.thread import in_one_thread, submitted
from tests.learner.shares import SETTINGS, task

HEAP = """
import asyncio, re, threading

def work():
    # The first allocation of a thread gives it the heap that it stays with.
    return bytearray(1000) and None

async def others():
    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))

{before}
import learner
{after}
from learner.memory import keep_freed_memory
from learner.thread import submitted

def made():
    import torch
    keep_freed_memory()
    return [torch.zeros(size) for size in (1_000, 100_000, 10_000_000)]

tensors = submitted(made).result()
for line in open("/proc/self/smaps"):
    if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
        a, b = (int(x, 16) for x in line.split()[0].split("-"))
    if line.startswith("VmFlags") and "hg" in line.split():
        print(any(a <= x.data_ptr() < b for x in tensors[-1:]))
"""


@in_one_thread
def where() -> str:
    return threading.current_thread().name


@in_one_thread
def nested() -> str:
    return where()


def test_everybody_gets_the_same_thread() -> None:
    async def go() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(where) for _ in range(8)))

    names = {*asyncio.run(go()), where(), nested(), submitted(where).result()}
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_errors_and_contexts_go_through() -> None:
    told: ContextVar[str] = ContextVar("told")
    told.set("here")
    assert in_one_thread(told.get)() == "here"
    with pytest.raises(ZeroDivisionError):
        in_one_thread(divmod)(1, 0)


def test_a_run_computes_in_that_thread_alone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def watched(name: str) -> None:
        inner = getattr(learner.engine, name)

        def outer(*args: object, **kwargs: object) -> object:
            seen.setdefault(name, set()).add(threading.current_thread().name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(learner.engine, name, outer)

    watched("update")
    watched("answer")
    train(task(), model=model, run=tmp_path / "run", **{**SETTINGS, "steps": 2})
    assert seen == {"update": {where()}, "answer": {where()}}


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists() or platform.libc_ver()[0] != "glibc",
    reason="needs huge pages of Linux, and glibc",
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_that_thread_has_the_memory_that_is_kept(order: str) -> None:
    script = HEAP.format(**{"before": "", "after": "", order: "asyncio.run(others())"})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "True" in done.stdout.splitlines()
