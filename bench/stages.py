"""
Whether stages stream: one step of 100 groups of 5 with log-normal latencies at concurrency 128.

Its wall time is compared with the lower bound (the larger of all work / concurrency and the longest chain of calls
that wait for each other) and with the same calls run stage by stage, each waiting for the last of the one before.
"""

import asyncio
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from common import quick, report

from edgewise.experience.config import ExperienceConfig
from edgewise.experience.distil import distiller as distil
from edgewise.experience.distil.distiller import Distiller
from edgewise.experience.library.library import Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.rollouts import LessonPool
from edgewise.experience.training.step import study_group
from edgewise.toolkit.model.middleware import RateLimit
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.rollout import agent
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Plan, Request
from edgewise.toolkit.util.seeds import derive_seed
from tests.support import toy

CONCURRENCY, GROUPS, SIZE = 128, 100, 5
SIGMA = 1.0
CONFIG = ExperienceConfig(model="scripted/toy", group_size=SIZE, summaries="always", pool=False)


@dataclass
class Slow:
    """The toy model with a latency of its own for each request: the same in every order of calls."""

    median: float
    draw: int
    calls: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    async def __call__(self, request: Request) -> str:
        text = request.messages[-1].content
        stage = "compare" if request.schema else request.payer.role
        key = derive_seed(self.draw, text, request.sampling.seed or 0, stage)
        seconds = self.median * float(np.random.default_rng(key).lognormal(0.0, SIGMA))
        self.calls[stage, request.payer.example].append(seconds)
        await asyncio.sleep(seconds)
        return toy.play(request)

    def bound(self) -> float:
        """The least time in seconds that any schedule takes."""
        work = sum(map(sum, self.calls.values())) / CONCURRENCY
        chains = defaultdict(float)
        for (_, example), seconds in self.calls.items():
            chains[example] += max(seconds)
        return max(work, *chains.values())


def streaming(task: Task, distiller: Distiller) -> Plan[object]:
    job = ExperienceSpec(task, CONFIG)
    return (yield [study_group(job, Library(), row, LessonPool(Library(), 1, 0)) for row in task.train])


def by_stages(task: Task, distiller: Distiller) -> Plan[object]:
    """The same calls with a barrier after every stage."""
    runner = ExperienceSpec(task, CONFIG).rollout_agent
    groups = yield [
        agent.run_group(runner, row, row.messages, task.reward, judge="", size=SIZE, seed=derive_seed(0, 1))
        for row in task.train
    ]
    mixed = [group for group in groups if group.is_mixed]
    runs = [(group.example, run) for group in mixed for run in group.rollouts]
    flat = iter((yield [distil.summarise_rollout(distiller, example, run) for example, run in runs]))
    summaries = [[next(flat) for _ in group.rollouts] for group in mixed]
    return (
        yield [
            distil.compare_summaries(distiller, group.example, group.rollouts, found, Library())
            for group, found in zip(mixed, summaries, strict=True)
        ]
    )


def run(plan_of, median: float, draw: int) -> tuple[float, float]:
    task = toy.task(GROUPS * 3)
    rows = (*task.train, *task.validation, *task.test)[:GROUPS]
    task = toy.with_train(task, rows)
    slow = Slow(median, draw)
    client = RateLimit(ScriptedClient(slow), CONCURRENCY)
    distiller = Distiller("scripted/toy", summaries="always")
    started = time.perf_counter()
    asyncio.run(drive(plan_of(task, distiller), client))
    return time.perf_counter() - started, slow.bound()


def main() -> int:
    median, draws = (0.1, 5) if quick() else (0.25, 9)
    to_bound, to_stages = [], []
    for draw in range(draws):
        wall, bound = run(streaming, median, draw)
        staged, _ = run(by_stages, median, draw)
        to_bound.append(wall / bound)
        to_stages.append(wall / staged)
    figures = {
        "to_lower_bound": round(statistics.median(to_bound), 3),
        "to_lower_bound_worst": round(max(to_bound), 3),
        "to_stage_barriers": round(statistics.median(to_stages), 3),
        "draws": draws,
    }
    holds = figures["to_lower_bound"] <= 1.15 and figures["to_stage_barriers"] <= 0.75
    return report("stages", figures, "median <= 1.15 x lower bound and <= 0.75 x stage barriers", holds)


if __name__ == "__main__":
    sys.exit(main())
