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
from edgewise.learner.training import engine as engine_module
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

def make():
    import torch
    keep_freed_memory()
    return [torch.zeros(size) for size in (1_000, 100_000, 10_000_000)]

tensors = submit_to_compute_thread(make).result()
for line in open("/proc/self/smaps"):
    if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
        a, b = (int(x, 16) for x in line.split()[0].split("-"))
    if line.startswith("VmFlags") and "hg" in line.split():
        print(any(a <= x.data_ptr() < b for x in tensors[-1:]))
"""


@run_in_compute_thread
def get_thread_name() -> str:
    return threading.current_thread().name


@run_in_compute_thread
def call_nested() -> str:
    return get_thread_name()


def test_all_callers_get_the_same_thread() -> None:
    async def go() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(get_thread_name) for _ in range(8)))

    names = {*asyncio.run(go()), get_thread_name(), call_nested(), submit_to_compute_thread(get_thread_name).result()}
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_errors_and_context_variables_pass_through() -> None:
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("here")
    assert run_in_compute_thread(variable.get)() == "here"
    with pytest.raises(ZeroDivisionError):
        run_in_compute_thread(divmod)(1, 0)


def test_compute_thread_uses_the_callers_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert run_in_compute_thread(torch.get_num_threads)() == count
    finally:
        torch.set_num_threads(before)


def test_concurrent_first_callers_get_one_thread() -> None:
    compute_thread._get_executor.cache_clear()
    ready = threading.Barrier(8)

    def first() -> str:
        ready.wait()
        return submit_to_compute_thread(threading.get_ident).result()

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(first) for _ in range(8)]
    assert len({future.result() for future in futures}) == 1


def test_each_process_binds_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[int] = []
    monkeypatch.setattr(process_group, "cuda", SimpleNamespace(is_available=lambda: True, set_device=devices.append))
    for local, size in ((0, 1), (1, 2)):
        process_group.bind_device(SimpleNamespace(local=local, size=size))
    assert devices == [1]


def make_engine(model: Policy | None = None) -> Engine:
    """An engine without a run around it."""
    engine = Engine.__new__(Engine)
    config = resolve_config(WeightsConfig, {"model": "torch/tiny"})
    engine.__dict__ |= {"config": config, "method": None, "group": process_group.SINGLE_PROCESS, "policy": model}
    engine.__dict__ |= {"optimizer": SimpleNamespace(param_groups=[]), "slice_tokens": 1}
    return engine


def test_update_has_begun_while_it_waits_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "update", lambda *_: UpdateStats())
    engine, free = make_engine(), threading.Event()
    submit_to_compute_thread(free.wait, 20)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(engine.update, None, 3)
        while not engine.last_step:
            time.sleep(0.001)
        assert engine.last_step == 3 and not done.done()
        free.set()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_lack_of_memory_for_model_or_optimizer_gives_advice(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(engine_module, "update", short)
    with pytest.raises(OutOfMemory, match="for the optimizer: use LoRA"):
        make_engine().update(None, 1)
    monkeypatch.setattr(Policy, "load", short)
    with pytest.raises(OutOfMemory, match="for torch/tiny: use LoRA"):
        make_engine().reload()


def test_sampling_ends_at_the_next_token_after_engine_stop() -> None:
    model = Policy.from_model(tiny.model(max_position_embeddings=100_000), tiny.tokenizer(), name="tiny")
    model.stop_ids = frozenset()
    engine = make_engine(model)
    long = Request("torch/tiny", (Message("user", "a"),), sampling=Sampling(max_tokens=90_000))
    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(engine.answer, [long])
        time.sleep(0.2)
        engine.stop()
        with pytest.raises(Interrupted):
            replies.result(timeout=10)


def test_run_computes_in_the_compute_thread_only(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[str]] = {}

    def watch(name: str) -> None:
        inner = getattr(engine_module, name)

        def outer(*args: object, **kwargs: object) -> object:
            threads.setdefault(name, set()).add(threading.current_thread().name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(engine_module, name, outer)

    watch("update")
    watch("answer")
    watch("bind_device")
    train(task(), model=model, run=tmp_path / "run", **{**SETTINGS, "steps": 2})
    assert threads == {"update": {get_thread_name()}, "answer": {get_thread_name()}, "bind_device": {get_thread_name()}}


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists() or platform.libc_ver()[0] != "glibc",
    reason="needs huge pages of Linux, and glibc",
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_compute_thread_allocates_from_the_kept_heap(order: str) -> None:
    script = HEAP.format(**{"before": "", "after": "", order: "asyncio.run(others())"})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "True" in done.stdout.splitlines()
