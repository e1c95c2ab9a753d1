"""
Whether two pieces of mathematics are equal, safe in threads.

The work is done by processes that are started when needed and kept until the program ends, as loading the
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

_idle: "queue.SimpleQueue[subprocess.Popen[str]]" = queue.SimpleQueue()
_places = threading.BoundedSemaphore(os.cpu_count() or 1)


def equal(gold: str, answer: str, timeout: float) -> bool | None:
    """
    Whether `answer` says what `gold` says; None if it took longer than about `timeout` seconds.

    Blocks. Raises RewardError if the comparing process breaks.
    """
    if answer.strip() == gold.strip():
        return True
    with _places:
        return _asked(_worker(), gold, answer, max(1, math.ceil(timeout)))


def _worker() -> "subprocess.Popen[str]":
    try:
        return _idle.get_nowait()
    except queue.Empty:
        return subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


def _asked(worker: "subprocess.Popen[str]", gold: str, answer: str, seconds: int) -> bool | None:
    # The worker keeps the time of each of its four steps itself; this is for when it can't.
    late = threading.Event()
    alarm = threading.Timer(4 * seconds + 10, lambda: (late.set(), worker.kill()))
    alarm.start()
    try:
        line = _exchanged(worker, json.dumps([gold, answer, seconds]))
    finally:
        alarm.cancel()
    if line:
        _idle.put(worker)
        return json.loads(line)
    _end(worker)
    if not late.is_set():
        raise RewardError(f"the process that compares formulas ended with exit code {worker.returncode}")
    return None


def _exchanged(worker: "subprocess.Popen[str]", line: str) -> str:
    assert worker.stdin and worker.stdout
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
    return worker.stdout.readline()


def _end(worker: "subprocess.Popen[str]") -> None:
    worker.kill()
    worker.communicate()


@atexit.register
def _end_all() -> None:
    while not _idle.empty():
        _end(_idle.get())
