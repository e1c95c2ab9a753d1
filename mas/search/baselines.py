"""
Searchers to compare with, on the same budget: random graphs, fixed designs, and REINFORCE on independent edges.

They keep one design for all queries. None needs torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Draft, Query, TrialGroup
from edgewise.mas.graph.construction import Build, BuildState, Move, Space, action_mask, apply, build
from edgewise.mas.graph.graph import Graph, Node, assign_names, single
from edgewise.toolkit.types import Plan
from edgewise.toolkit.util.seeds import derive_seed

# ---- fixed designs ---------------------------------------------------------------------------------


# ---- what was seen of graphs -----------------------------------------------------------------------


@dataclass(slots=True)
class RewardHistory:
    """Rewards by graph."""

    graphs: dict[str, Graph] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=dict)

    def add(self, groups: Sequence[TrialGroup]) -> None:
        """Take in trials."""
        for group in groups:
            for trial in group.trials:
                found = trial.draft.graph
                self.graphs.setdefault(found.version, found)
                self.rewards.setdefault(found.version, []).append(trial.reward)

    def ranked(self, spread: float) -> list[str]:
        """Versions by mean + spread * deviation / sqrt(trials), the best first; of equals the first seen."""
        every = [r for rewards in self.rewards.values() for r in rewards]
        deviation = float(np.std(every)) if every else 0.0

        def bound(version: str) -> float:
            rewards = self.rewards[version]
            return math.fsum(rewards) / len(rewards) + spread * deviation / math.sqrt(len(rewards))

        return sorted(self.rewards, key=bound, reverse=True)

    def best(self) -> Graph | None:
        """The graph of the best lower bound: mean - deviation / sqrt(trials)."""
        ranked = self.ranked(-1.0)
        return self.graphs[ranked[0]] if ranked else None


# ---- searchers -------------------------------------------------------------------------------------


@dataclass
class BestOf:
    """Tries given designs and keeps the best: those of the highest upper bound are tried again first."""

    graphs: tuple[Graph, ...]
    seen: RewardHistory = field(default_factory=RewardHistory)

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Designs that were not tried yet, then the most promising, each once a query while there are enough."""
        fresh = [g for g in self.graphs if g.version not in self.seen.graphs]
        known = [self.seen.graphs[version] for version in self.seen.ranked(1.0)]
        turn = [*fresh, *known]
        places = range(size * len(queries))
        drafts = [Draft(turn[i % len(turn)]) for i in (places if fresh else _halving(places, len(turn)))]
        return [drafts[i * size : (i + 1) * size] for i in range(len(queries))]
        yield

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Remember the rewards."""
        self.seen.add(groups)
        return
        yield

    def design(self) -> FixedDesign:
        """The best so far; the first one before any trial."""
        return FixedDesign(self.seen.best() or self.graphs[0])


def _halving(places: range, among: int) -> list[int]:
    """Half of the places to the first, half of the rest to the second, and so on."""
    return [min(among - 1, int(math.log2(len(places) / (len(places) - p)))) for p in places]


@dataclass
class RandomSearch:
    """
    Uniform random moves.

    Half of the drafts are new; the other half tries again what promised the most, since one lucky trial says little.
    """

    space: Space
    seen: RewardHistory = field(default_factory=RewardHistory)

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """New graphs, and the most promising ones again."""
        count = size * len(queries)
        rng = np.random.default_rng(derive_seed(seed, "random"))
        again = [self.seen.graphs[version] for version in self.seen.ranked(1.0)[: count // 2]]
        drafts = [Draft(g) for g in again]
        drafts += [Draft(b.graph, b) for b in (sample_random_build(self.space, rng) for _ in range(count - len(drafts)))]
        return [drafts[i :: len(queries)] for i in range(len(queries))]
        yield

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Remember the rewards."""
        self.seen.add(groups)
        return
        yield

    def design(self) -> FixedDesign:
        """The best so far; one agent of the first role before any trial."""
        return FixedDesign(self.seen.best() or single(self.space.roles[0]))


def sample_random_build(space: Space, rng: np.random.Generator) -> Build:
    """A build of uniform random moves: sizes are about evenly likely, each edge is a coin, there is no DELETE."""
    state, moves, size = BuildState(), [], int(rng.integers(1, space.agents + 1))
    while len(state) < size or not action_mask(space, state)[space.exit_action]:
        usable = np.flatnonzero(action_mask(space, state)[: space.delete_action])
        if not len(usable):
            break
        move = _random_role(space, state, int(rng.choice(usable)), rng)
        moves.append(move)
        state = apply(space, state, move)
    return build(space, [*moves, Move(space.exit_action)])


def _random_role(space: Space, state: BuildState, role: int, rng: np.random.Generator) -> Move:
    heard = rng.random(len(state)) < 0.5
    while heard.sum() < space.min_inputs[role]:
        heard[rng.integers(len(state))] = True
    return Move(role, tuple(map(int, np.flatnonzero(heard))))


@dataclass
class EdgeReinforce:
    """
    REINFORCE on independent edges, as in GPTSwarm (arXiv 2402.16823).

    `roles` is a fixed set of agents, the last the exit; each edge from an earlier to a later one is there with chance
    sigmoid(logit), 0.5 at first; the baseline is a moving average of the reward; Adam at 0.1. Agents
    whose word does not reach the exit fall away.
    """

    roles: tuple[str, ...]
    rate: float = 0.1
    keep: float = 0.9
    logits: NDArray[np.float64] = field(init=False)
    baseline: float | None = None
    first: NDArray[np.float64] = field(init=False)
    second: NDArray[np.float64] = field(init=False)
    time: int = 0

    def __post_init__(self) -> None:
        count = len(self.roles) * (len(self.roles) - 1) // 2
        self.logits, self.first, self.second = (np.zeros(count) for _ in range(3))
        self.drawn: dict[int, NDArray[np.bool_]] = {}

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Each edge of each draft is a coin of its own."""
        rng = np.random.default_rng(derive_seed(seed, "edges"))
        self.drawn = {}
        return [[self._draft(rng.random(len(self.logits))) for _ in range(size)] for _ in queries]
        yield

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """One step of Adam up the mean of (reward - baseline) * gradient of the log-prob of the edges."""
        trials = [t for group in groups for t in group.trials if id(t.draft) in self.drawn]
        if trials:
            self._step(
                np.array([t.reward for t in trials]), np.stack([self.drawn[id(t.draft)] for t in trials])
            )
        return
        yield

    def _step(self, rewards: NDArray[np.float64], edges: NDArray[np.bool_]) -> None:
        mean = float(rewards.mean())
        base = mean if self.baseline is None else self.baseline
        gradient = ((rewards - base)[:, None] * (edges - self._chance())).mean(0)
        self.baseline = self.keep * base + (1 - self.keep) * mean
        self.time += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.time), self.second / (1 - 0.999**self.time)
        self.logits = self.logits + self.rate * first / (np.sqrt(second) + 1e-8)

    def design(self) -> FixedDesign:
        """The edges that are more likely there than not."""
        return FixedDesign(self._graph(self.logits > 0))

    def _draft(self, uniform: NDArray[np.float64]) -> Draft:
        edges = uniform < self._chance()
        draft = Draft(self._graph(edges))
        self.drawn[id(draft)] = edges
        return draft

    def _chance(self) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-self.logits))

    def _graph(self, edges: NDArray[np.bool_]) -> Graph:
        count = len(self.roles)
        pairs = [(a, b) for b in range(count) for a in range(b)]
        there = [pair for pair, on in zip(pairs, edges, strict=True) if on]
        kept = {count - 1}
        for b in range(count - 1, -1, -1):
            kept |= {a for a, c in there if c == b} if b in kept else set()
        names = assign_names(self.roles)
        nodes = tuple(Node(name=names[p], role=self.roles[p]) for p in sorted(kept))
        return Graph(nodes, tuple((names[a], names[b]) for a, b in there if b in kept), names[-1])
