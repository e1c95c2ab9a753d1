"""
How fast the joint policy samples and learns: groups of 8, graphs of 12 agents, 14 roles, one core.

The policy is made to build graphs of all 12 agents. An update scores all moves of the group, differentiates, and takes
a step. Times are the least of many repeats, since other work on the machine only adds; medians are printed too.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from common import quick, report

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import Space, replay
from edgewise.mas.search.policy.hrpo import clipped_surrogate, entropy_bonus
from edgewise.mas.search.policy.network import NetworkPolicy
from edgewise.mas.search.policy.policy_gradient import NetworkLearner
from edgewise.mas.search.policy.state_features import encode_moves

GROUP, AGENTS, ROLES, FEATURES = 8, 12, 14, 384


def policy() -> NetworkPolicy:
    """One that hardly ever ends before the graph is full."""
    space = Space(tuple(f"role{i}" for i in range(ROLES)), (0,) * 10 + (1, 1, 2, 2), agents=AGENTS, moves=2 * AGENTS)
    start = NetworkPolicy.start(space, FEATURES, 0)
    start.weights["node_size"][:, space.exit_action] = -12.0
    start.weights["node_size"][:, space.delete_action] = -12.0
    start.weights["node_size"][AGENTS] = 0.0
    return start


def times(work: Callable[[int], object], repeats: int) -> list[float]:
    found = []
    for repeat in range(repeats):
        started = time.perf_counter()
        work(repeat)
        found.append(time.perf_counter() - started)
    return found


def main() -> int:
    torch.set_num_threads(1)
    repeats, rng, start = 20 if quick() else 100, np.random.default_rng(0), policy()
    queries = [Query("q", "", rng.normal(size=FEATURES).astype(np.float32))] * GROUP
    sampling = times(lambda n: start.sample(queries, range(GROUP * n, GROUP * (n + 1))), repeats)
    builds = start.sample(queries, range(GROUP))
    learner, gain = NetworkLearner(start, 1e-3), rng.normal(size=sum(map(len, builds)))
    weights = np.full(len(gain), 1 / GROUP)

    def update(repeat: int) -> None:
        moves = encode_moves(start.space, builds)
        old = learner.logp(moves, queries)
        learner.update(
            moves, queries, old, gain, weights, lambda x: clipped_surrogate(x, low=0.2, high=0.28),
            [lambda x: entropy_bonus(x, scale=0.01)],
        )  # fmt: skip

    updating = times(update, repeats)
    figures = {
        "graphs_per_second": round(GROUP / min(sampling), 1),
        "graphs_per_second_median": round(GROUP / statistics.median(sampling), 1),
        "update_ms": round(1000 * min(updating), 1),
        "update_ms_median": round(1000 * statistics.median(updating), 1),
        "agents": statistics.fmean(len(replay(start.space, moves)) for moves in builds),
        "moves": len(gain),
    }
    holds = figures["graphs_per_second"] >= 200 and figures["update_ms"] < 50
    return report("policy", figures, ">= 200 graphs per second sampled; < 50 ms per update (least of repeats)", holds)


if __name__ == "__main__":
    sys.exit(main())
