"""One thread for what models compute: whoever calls, however deep, and with the memory that is kept."""

import asyncio
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edgewise.learner.api import train
from edgewise.learner.config import WeightsConfig
from edgewise.learner.hardware import compute_thread, process_group
from edgewise.learner.hardware.compute_thread import run_in_compute_thread, submit_to_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.learner.training import engine
from edgewise.learner.training.engine import Engine
from edgewise.learner.update.gradient_step import UpdateStats
from edgewise.toolkit.errors import Interrupted, OutOfMemory
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.types import Message, Request, Sampling
from tests.support.learner import tiny
from tests.support.learner.shares import SETTINGS, task

HEAP = """
import asyncio, re, threading

def work():
    # The first allocation of a thread gives it the heap that it stays with.
    return bytearray(1000) and None

async def others():
    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))

{before}
import edgewise.learner
{after}
from edgewise.learner.hardware.memory import keep_freed_memory
from edgewise.learner.hardware.compute_thread import submit_to_compute_thread

def made():
    import torch
    keep_freed_memory()
    return [torch.zeros(size) for size in (1_000, 100_000, 10_000_000)]

tensors = submit_to_compute_thread(made).result()
for line in open("/proc/self/smaps"):
    if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
        a, b = (int(x, 16) for x in line.split()[0].split("-"))
    if line.startswith("VmFlags") and "hg" in line.split():
        print(any(a <= x.data_ptr() < b for x in tensors[-1:]))
"""


@run_in_compute_thread
def where() -> str:
    return threading.current_thread().name


@run_in_compute_thread
def nested() -> str:
    return where()


def test_everybody_gets_the_same_thread() -> None:
    async def go() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(where) for _ in range(8)))

    names = {*asyncio.run(go()), where(), nested(), submit_to_compute_thread(where).result()}
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_errors_and_contexts_go_through() -> None:
    told: ContextVar[str] = ContextVar("told")
    told.set("here")
    assert run_in_compute_thread(told.get)() == "here"
    with pytest.raises(ZeroDivisionError):
        run_in_compute_thread(divmod)(1, 0)


def test_threads_of_a_product_are_as_many_as_the_caller_wants() -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert run_in_compute_thread(torch.get_num_threads)() == count
    finally:
        torch.set_num_threads(before)


def test_who_comes_first_together_gets_the_same_thread() -> None:
    compute_thread._executor.cache_clear()
    ready = threading.Barrier(8)

    def first() -> str:
        ready.wait()
        return submit_to_compute_thread(threading.get_ident).result()

    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(first) for _ in range(8)]
    assert len({each.result() for each in found}) == 1


def test_a_process_of_several_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(
        process_group, "cuda", SimpleNamespace(is_available=lambda: True, set_device=taken.append)
    )
    for local, size in ((0, 1), (1, 2)):
        process_group.bind_device(SimpleNamespace(local=local, size=size))
    assert taken == [1]


def an_engine(model: Policy | None = None) -> Engine:
    """One without a run around it."""
    engine = Engine.__new__(Engine)
    config = resolve_config(WeightsConfig, {"model": "torch/tiny"})
    engine.__dict__ |= {"config": config, "method": None, "ranks": process_group.SINGLE_PROCESS, "policy": model}
    engine.__dict__ |= {"optimizer": SimpleNamespace(param_groups=[]), "slice_tokens": 1}
    return engine


def test_an_update_that_waits_for_the_thread_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "update", lambda *_: UpdateStats())
    engine, free = an_engine(), threading.Event()
    submit_to_compute_thread(free.wait, 20)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(engine.update, None, 3)
        while not engine.begun:
            time.sleep(0.001)
        assert engine.begun == 3 and not done.done()
        free.set()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_memory_for_no_optimizer_or_no_model_is_a_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(engine, "update", short)
    with pytest.raises(OutOfMemory, match="for the optimizer: use LoRA"):
        an_engine().update(None, 1)
    monkeypatch.setattr(Policy, "load", short)
    with pytest.raises(OutOfMemory, match="for torch/tiny: use LoRA"):
        an_engine().reload()


def test_what_is_drawn_ends_at_the_next_token_once_an_engine_is_stopped() -> None:
    model = Policy.from_model(tiny.model(max_position_embeddings=100_000), tiny.tokenizer(), name="tiny")
    model.stop_ids = frozenset()
    engine = an_engine(model)
    long = Request("torch/tiny", (Message("user", "a"),), sampling=Sampling(max_tokens=90_000))
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(engine.answer, [long])
        time.sleep(0.2)
        engine.stop()
        with pytest.raises(Interrupted):
            drawn.result(timeout=10)


def test_a_run_computes_in_that_thread_alone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def watched(name: str) -> None:
        inner = getattr(engine, name)

        def outer(*args: object, **kwargs: object) -> object:
            seen.setdefault(name, set()).add(threading.current_thread().name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(engine, name, outer)

    watched("update")
    watched("answer")
    watched("bind_device")
    train(task(), model=model, run=tmp_path / "run", **{**SETTINGS, "steps": 2})
    assert seen == {"update": {where()}, "answer": {where()}, "bind_device": {where()}}


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists() or platform.libc_ver()[0] != "glibc",
    reason="needs huge pages of Linux, and glibc",
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_that_thread_has_the_memory_that_is_kept(order: str) -> None:
    script = HEAP.format(**{"before": "", "after": "", order: "asyncio.run(others())"})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "True" in done.stdout.splitlines()
