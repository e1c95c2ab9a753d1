"""
8 processes write to one library at once, some killed: is any commit lost, or made twice?

Each process adds lessons under keys of its own and notes every answer in a file. At random moments one of them is
killed with SIGKILL and started again with the same keys; it repeats the last ones that were answered too. A moment
passes between an answer and its note, so that some are killed after a commit that they never heard of. At the end
every answered commit must be in the history exactly once, numbers must have no gap, parents must form one chain, and
the head must hold the lesson of every key exactly once.
"""

import contextlib
import functools
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from common import quick, report

from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.store.store import Commit, Store
from tests.support.postgres import binaries, running

WRITERS = 8
REPEATED = 3
"""Keys that were answered already and that a restarted writer commits again."""
PAUSE = 0.1, 0.5
"""Seconds between two kills."""
HEARING = 0.3
"""Seconds, at the most, that an answer takes to be noted."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["edgewise.experience.store.store", "tests.support.postgres", "common"])


def add(key: str, library: Library) -> Library:
    return library.with_lessons([*library.lessons, make_lesson(f"Lesson {key}.")])


def write(url: str, notes: Path, writer: int, lessons: int) -> None:
    """Add this writer's lessons, those that have been noted left out but for the last few."""
    started = datetime.now(UTC)
    noted = len(answers(notes))
    with Store(url) as store, notes.open("ab", buffering=0) as file:
        for number in range(max(0, noted - REPEATED), lessons):
            key = f"{writer}-{number}"
            commit = store.update(functools.partial(add, key), f"adds {key}", key=key)
            unheard = commit.at < started
            time.sleep(random.uniform(0, HEARING))
            file.write(f"{key} {commit.id} {'unheard' if unheard else 'made'}\n".encode())


def answers(notes: Path) -> dict[str, list[tuple[str, str]]]:
    """What a writer was told: for each key all ids, each with whether it was made before the writer started."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in notes.read_text().splitlines() if notes.exists() else []:
        key, id, when = line.split()
        found.setdefault(key, []).append((id, when))
    return found


def write_with_kills(url: str, notes: list[Path], lessons: int, kills: int) -> int:
    """Run all writers to their end, killing one now and then; how many were killed."""
    rng = random.Random(11)

    def start(writer: int) -> ForkServerProcess:
        process = processes.Process(target=write, args=(url, notes[writer], writer, lessons))
        process.start()
        return process

    running = [start(writer) for writer in range(WRITERS)]
    killed = 0
    while alive := [i for i, process in enumerate(running) if process.is_alive()]:
        time.sleep(rng.uniform(*PAUSE))
        victim = rng.choice(alive)
        if killed < kills and running[victim].is_alive():
            running[victim].kill()
            running[victim].join()
            killed += 1
            running[victim] = start(victim)
    failed = [process.exitcode for process in running if process.exitcode]
    assert not failed, f"writers ended with {failed}"
    return killed


def judge(log: list[Commit], told: dict[str, list[tuple[str, str]]], keys: set[str]) -> dict[str, int]:
    """Count what is wrong; `log` has the newest first."""
    ids = Counter(commit.id for commit in log)
    made = Counter(commit.message.removeprefix("adds ") for commit in log)
    held = Counter(x.text for x in log[0].library.lessons)
    lost = sum(not ids[id] for several in told.values() for id, _ in several)
    lost += sum(key not in told or not made[key] or not held[f"Lesson {key}."] for key in keys)
    twice = sum(count > 1 for counts in (ids, made, held) for count in counts.values())
    twice += sum(len({id for id, _ in several}) > 1 for several in told.values())
    numbers = [commit.number for commit in log]
    parents = [commit.parent for commit in log]
    gaps = numbers != list(range(len(log), 0, -1)) or parents != [*(x.id for x in log[1:]), None]
    unheard = sum(several[0][1] == "unheard" for several in told.values())
    return {"lost": lost, "duplicated": twice, "breaks_in_the_chain": int(gaps), "unheard": unheard}


def measure(url: str, folder: Path, lessons: int, kills: int) -> dict[str, float]:
    folder.mkdir()
    notes = [folder / f"writer-{i}" for i in range(WRITERS)]
    started = time.perf_counter()
    killed = write_with_kills(url, notes, lessons, kills)
    seconds = time.perf_counter() - started
    told = {key: several for path in notes for key, several in answers(path).items()}
    keys = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(lessons)}
    with Store(url) as store:
        log = store.list_commits()
    return {
        "commits": len(log),
        "kills": killed,
        **judge(log, told, keys),
        "commits_per_second": round(len(log) / seconds, 1),
    }


@contextlib.contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """The URL of an empty database of each kind; PostgreSQL waits for the disk here, as in real use."""
    here = {"sqlite": str(folder / "library.sqlite")}
    if binaries() is None:
        print("PostgreSQL is missing: apt-get install postgresql", file=sys.stderr)
        yield here
        return
    with running(durable=True) as server:
        yield {**here, "postgresql": server.database()}


def main() -> int:
    lessons, kills = (15, 8) if quick() else (50, 60)
    with tempfile.TemporaryDirectory() as name, databases(Path(name)) as urls:
        found = {kind: measure(url, Path(name) / kind, lessons, kills) for kind, url in urls.items()}
    figures = {f"{kind}_{key}": value for kind, them in found.items() for key, value in them.items()}
    wrong = sum(them["lost"] + them["duplicated"] + them["breaks_in_the_chain"] for them in found.values())
    enough = all(them["kills"] >= 3 and them["commits"] == WRITERS * lessons for them in found.values())
    if "postgresql" not in found:
        figures["postgresql"] = "missing"
    holds = wrong == 0 and enough and "postgresql" in found
    bar = f"{WRITERS} writers, some killed: 0 lost, 0 duplicated, one chain, on SQLite and PostgreSQL"
    return report("writers", figures, bar, holds)


if __name__ == "__main__":
    sys.exit(main())
