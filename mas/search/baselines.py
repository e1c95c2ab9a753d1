"""
Baselines on the same budget: random graphs, fixed designs, and REINFORCE on independent edges.

They have one design for all queries. None needs torch.
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

# Step size of Adam on the logits of edges, as in GPTSwarm.
LEARNING_RATE = 0.1
# Decay of the moving average of the reward.
BASELINE_DECAY = 0.9


@dataclass
class BestTried:
    """Base of searchers whose design is the best graph that was tried, and `default` before any trial."""

    default: Graph = field(init=False)
    tried: dict[str, Graph] = field(default_factory=dict, init=False)
    rewards: dict[str, list[float]] = field(default_factory=dict, init=False)

    def rank(self, width: float) -> list[Graph]:
        """Return graphs by mean + width * deviation / sqrt(trials), the best first, of equals the first tried."""
        # One deviation for all graphs: that of a few trials of one graph says little.
        rewards = [reward for own in self.rewards.values() for reward in own]
        deviation = float(np.std(rewards)) if rewards else 0.0
        bounds = {
            version: math.fsum(own) / len(own) + width * deviation / math.sqrt(len(own))
            for version, own in self.rewards.items()
        }
        return [self.tried[version] for version in sorted(bounds, key=bounds.__getitem__, reverse=True)]

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Record the rewards."""
        for trial in (trial for group in groups for trial in group.trials):
            graph = trial.draft.graph
            self.tried.setdefault(graph.version, graph)
            self.rewards.setdefault(graph.version, []).append(trial.reward)
        return
        yield

    def design(self) -> FixedDesign:
        """Return the graph with the best lower bound; the default before any trial."""
        return FixedDesign(next(iter(self.rank(-1.0)), self.default))


@dataclass
class BestOf(BestTried):
    """Tries given graphs, each once. Then half of the drafts are the most promising one, half of the rest the next."""

    graphs: tuple[Graph, ...]

    def __post_init__(self) -> None:
        self.default = self.graphs[0]

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Return graphs that were not tried yet, then the most promising ones."""
        untried = [graph for graph in self.graphs if graph.version not in self.tried]
        order, count = [*untried, *self.rank(1.0)], size * len(queries)
        if untried:
            indices = [i % len(order) for i in range(count)]
        else:
            # Halving: draft i is in the k-th half where i / count is in [1 - 2^-k, 1 - 2^-(k + 1)).
            indices = [min(len(order) - 1, int(math.log2(count / (count - i)))) for i in range(count)]
        drafts = [Draft(order[i]) for i in indices]
        return [drafts[i * size : (i + 1) * size] for i in range(len(queries))]
        yield


@dataclass
class RandomSearch(BestTried):
    """
    Samples uniform random moves.

    Half of the drafts are new; the other half tries the most promising ones again, since one lucky trial says little.
    """

    space: Space

    def __post_init__(self) -> None:
        self.default = single(self.space.roles[0])

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Return the most promising graphs again, and new ones."""
        count = size * len(queries)
        rng = np.random.default_rng(derive_seed(seed, "random"))
        drafts = [Draft(graph) for graph in self.rank(1.0)[: count // 2]]
        while len(drafts) < count:
            built = sample_random_build(self.space, rng)
            drafts.append(Draft(built.graph, built))
        return [drafts[i :: len(queries)] for i in range(len(queries))]
        yield


def sample_random_build(space: Space, rng: np.random.Generator) -> Build:
    """Return a build of random moves: sizes are about as likely, each edge has probability 0.5, nothing is deleted."""
    state, moves, size = BuildState(), [], int(rng.integers(1, space.agents + 1))
    while len(state) < size or not action_mask(space, state)[space.exit_action]:
        usable = np.flatnonzero(action_mask(space, state)[: space.delete_action])
        if not len(usable):
            break
        role = int(rng.choice(usable))
        is_input = rng.random(len(state)) < 0.5
        while is_input.sum() < space.min_inputs[role]:
            is_input[rng.integers(len(state))] = True
        moves.append(Move(role, tuple(map(int, np.flatnonzero(is_input)))))
        state = apply(space, state, moves[-1])
    return build(space, [*moves, Move(space.exit_action)])


@dataclass
class EdgeReinforce:
    """
    REINFORCE on independent edges, as in GPTSwarm (arXiv 2402.16823).

    `roles` is a fixed set of agents, the last the exit. The edge from an earlier to a later agent is there with
    probability sigmoid(logit), 0.5 at first. The gradient is that of E[(reward - baseline) log p(edges)], with a
    moving average of the reward as baseline. Agents whose output does not reach the exit fall away.
    """

    roles: tuple[str, ...]
    baseline: float | None = None
    time: int = 0

    def __post_init__(self) -> None:
        count = len(self.roles)
        self.pairs = [(a, b) for b in range(count) for a in range(b)]
        self.logits, self.first, self.second = (np.zeros(len(self.pairs)) for _ in range(3))
        self.edges: dict[int, NDArray[np.bool_]] = {}  # by the id of a draft: those of the last proposal

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """Sample each edge of each draft by itself."""
        rng = np.random.default_rng(derive_seed(seed, "edges"))
        self.edges, groups = {}, []
        for _ in queries:
            drafts = []
            for _ in range(size):
                edges = rng.random(len(self.logits)) < self._probabilities()
                drafts.append(Draft(self._make_graph(edges)))
                self.edges[id(drafts[-1])] = edges
            groups.append(drafts)
        return groups
        yield

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Take one step of Adam on the trials of the last proposal."""
        trials = [t for group in groups for t in group.trials if id(t.draft) in self.edges]
        if not trials:
            return
        rewards = np.array([trial.reward for trial in trials])
        edges = np.stack([self.edges[id(trial.draft)] for trial in trials])  # [trial, edge]
        mean = float(rewards.mean())
        baseline = mean if self.baseline is None else self.baseline
        self.baseline = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean

        # The slope of log p(edges) by a logit is edge - p. Adam has decays of 0.9 and 0.999, and corrects both moments
        # for their start at 0.
        gradient = ((rewards - baseline)[:, None] * (edges - self._probabilities())).mean(0)
        self.time += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.time), self.second / (1 - 0.999**self.time)
        self.logits = self.logits + LEARNING_RATE * first / (np.sqrt(second) + 1e-8)
        return
        yield

    def design(self) -> FixedDesign:
        """Return the graph of the edges that are more likely there than not."""
        return FixedDesign(self._make_graph(self.logits > 0))

    def _probabilities(self) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-self.logits))

    def _make_graph(self, edges: NDArray[np.bool_]) -> Graph:
        """Return the graph of these edges [pair], without agents whose output does not reach the exit."""
        present = [pair for pair, is_there in zip(self.pairs, edges, strict=True) if is_there]
        agents = {len(self.roles) - 1}
        for b in reversed(range(len(self.roles))):
            agents |= {a for a, target in present if target == b} if b in agents else set()
        names = assign_names(self.roles)
        nodes = tuple(Node(name=names[i], role=self.roles[i]) for i in sorted(agents))
        return Graph(nodes, tuple((names[a], names[b]) for a, b in present if b in agents), names[-1])
