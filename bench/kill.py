"""
100 random kills against a counting server: is any call asked again whose reply had arrived?

Runs of the toy task are killed with SIGKILL at random moments and resumed until they finish. The server notes when
it sent each reply. A call repeated although its reply was sent well before the kill is a failure; one whose reply
was on its way (or not yet on disk) at the kill is shown apart. The library must equal that of an undisturbed run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, quick, report

from tests.support import toy
from tests.support.server import Server

CONCURRENCY = 8
LATENCY = 0.05
"""Seconds that the server takes; it goes on with a call whose caller was killed, and answers nobody."""
ON_ITS_WAY = 0.05
"""Seconds between sending a reply and having it on disk at the other end, at the most."""
NOBODY = LATENCY + 0.05
"""Seconds after a kill in which a reply is sent to nobody: a new process takes longer to start."""


@dataclass
class Counting:
    """The toy model; remembers when each different call was answered."""

    sent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: dict[str, Any]) -> str:
        said = toy.serve(body)
        call = f"{body.get('seed')} {body['messages']}"
        with self.lock:
            self.sent[call].append(time.monotonic())
        return said

    def repeated(self, kills: list[float]) -> tuple[int, int]:
        """Calls asked again: those whose reply had arrived, and those on their way at a kill."""
        arrived = on_its_way = 0
        for times in self.sent.values():
            for first in times[:-1]:
                late = any(k - ON_ITS_WAY <= first <= k + NOBODY for k in kills)
                arrived, on_its_way = arrived + (not late), on_its_way + late
        return arrived, on_its_way


def start(url: str, run: Path) -> subprocess.Popen[bytes]:
    settings = {"epochs": 2, "batch_size": 12, "pool": False, "concurrency": CONCURRENCY}
    arguments = json.dumps({"url": url, "run": str(run), **settings})
    command = [sys.executable, "-m", "tests.support.laws.one_run", arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def finish_with_kills(url: str, run: Path, most: int, rng: random.Random) -> list[float]:
    """Kill and resume until the run ends or has been killed `most` times; when each kill was."""
    kills: list[float] = []
    while True:
        process = start(url, run)
        try:
            process.wait(rng.uniform(0.5, 3.0) if len(kills) < most else None)
            return kills
        except subprocess.TimeoutExpired:
            kills.append(time.monotonic())
            process.send_signal(signal.SIGKILL)
            process.wait()


def main() -> int:
    wanted = 8 if quick() else 100
    rng = random.Random(7)
    model, kills, libraries = Counting(), 0, set()
    arrived = on_its_way = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        while kills < wanted or not runs:
            model = Counting()
            with Server(model, latency=LATENCY) as server:
                run = Path(folder) / str(runs)
                found = finish_with_kills(server.url, run, min(12, wanted - kills), rng)
            repeated = model.repeated(found)
            arrived, on_its_way = arrived + repeated[0], on_its_way + repeated[1]
            kills, runs = kills + len(found), runs + 1
            libraries.add((run / "artifact" / "library.json").read_bytes())
        with Server(Counting()) as server:
            run = Path(folder) / "undisturbed"
            start(server.url, run).wait()
            undisturbed = (run / "artifact" / "library.json").read_bytes()
    figures = {
        "kills": kills,
        "runs": runs,
        "repeated_after_arrival": arrived,
        "repeated_on_its_way": on_its_way,
        "identical_library": libraries == {undisturbed},
    }
    holds = arrived == 0 and libraries == {undisturbed} and kills >= wanted
    return report("kill", figures, "0 calls repeated whose reply had arrived; identical library", holds)


if __name__ == "__main__":
    sys.exit(main())
