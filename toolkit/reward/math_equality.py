"""
Equality of two pieces of mathematics, safe to call from any thread.

The work is done by worker processes that are started when needed and kept until the program ends, as importing the
library takes half a second; see `toolkit.reward.math_worker` for the other end.
"""

import atexit
import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from edgewise.toolkit.errors import RewardError

SCRIPT = Path(__file__).with_name("math_worker.py")
_STEPS = 4
"""Steps of a worker that have a time limit each: two tries to parse the target, the answer, the comparison."""

# Idle workers. Threads take one and put it back; the semaphore bounds the number of busy ones.
_idle: "queue.SimpleQueue[subprocess.Popen[str]]" = queue.SimpleQueue()
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)


def is_equal(gold: str, answer: str, timeout: float) -> bool | None:
    """
    Return whether `answer` equals `gold`; None if it took longer than about `timeout` seconds.

    Blocks the thread. Raises RewardError if the worker process breaks.
    """
    if answer.strip() == gold.strip():
        return True
    seconds = max(1, math.ceil(timeout))
    with _slots:
        try:
            worker = _idle.get_nowait()
        except queue.Empty:
            worker = subprocess.Popen(
                [sys.executable, "-I", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert worker.stdin and worker.stdout

        # The worker enforces the limit of each step itself; the alarm is for when it can't.
        is_late = threading.Event()
        alarm = threading.Timer(_STEPS * seconds + 10, lambda: (is_late.set(), worker.kill()))
        alarm.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.write(json.dumps([gold, answer, seconds]) + "\n")
                worker.stdin.flush()
            line = worker.stdout.readline()
        finally:
            alarm.cancel()

        # No line: the worker was killed, or it crashed. It is not used again.
        if line:
            _idle.put(worker)
            return json.loads(line)
        _stop(worker)
        if not is_late.is_set():
            raise RewardError(f"the process that compares formulas ended with exit code {worker.returncode}")
        return None


def _stop(worker: "subprocess.Popen[str]") -> None:
    worker.kill()
    worker.communicate()


@atexit.register
def _stop_all() -> None:
    while not _idle.empty():
        _stop(_idle.get())
