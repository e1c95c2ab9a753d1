"""
HRPO, the learner of MasHost (arXiv 2506.08507): groups of graphs are compared, and single moves are rewarded.

The paper names two levels, a group-relative advantage over the graphs of a query and a reward of single actions, in a
clipped surrogate, with steps at the start exempt from their cost. This is a reconstruction: the formulas beyond that
are ours.

    r        = (1 - smooth) reward + smooth (what the estimate says of the graph)
    A_i      = (r_i - mean r) / (std r + eps), 0 where all r of the group are equal
    A_(i,t)  = A_i + beta (rho_(i,t) - mean rho of the group)
    rho      = worth / spread            for adding an agent that the graph keeps, within -1 ... 1
               - worth / spread          for deleting one
               - redundancy              for adding one that is deleted, or falls away at the end
               - move_cost [t > exempt]  for adding any
    loss     = - min(ratio A, clip(ratio, 1 - low, 1 + high) A) - entropy_bonus H

Worth is measured (`Trial.credit`) where it was, else estimated (`mas.search.surrogate.gaussian_process`), less what an agent lost by hearing
others (measured edges below zero in `Trial.edge_credit`; what it gained by hearing them is in its own worth); spread is
the standard deviation of all rewards so far. M moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.graph.construction import Move, build
from edgewise.mas.search.policy.final_policy import settle_policy
from edgewise.mas.search.policy.network import LossInputs, NetworkPolicy
from edgewise.mas.search.policy.state_features import MoveBatch, encode_moves
from edgewise.mas.search.policy.tabular import TabularPolicy
from edgewise.mas.search.surrogate.explorer import Explorer
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate
from edgewise.toolkit.groups import advantage as advantages
from edgewise.toolkit.groups import step_credit as credits
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.types import Plan
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class HrpoSettings:
    """
    Settings of `Hrpo`; none is the paper's, which states none.

    Ablations: `action_reward` False, `group_advantage` False, `exemption` 0; and `Policy.start(joint=False)`.

    Measures beyond the paper that save samples. `estimate`: worth that was not measured is estimated. `smooth`: how
    much of a reward is what all trials together say of its graph. `explore`: the share of drafts that are edits of
    good graphs; they are learned from as if the policy had drawn them, which draws it towards them. `imagined`: so many
    rounds a step on fresh draws and the best graphs known, with the reward that the estimate says, `imagined_gain`
    times as strong as one standard deviation of rewards. `settle`: the design is a copy of the policy after at most so
    many updates towards the graphs of which most is sure (`mas.search.policy.final_policy`).
    """

    rate: float = 0.01
    epochs: int = 2
    low: float = 0.2
    high: float = 0.28
    entropy: float = 0.05
    gradient_clip: float = 1.0
    beta: float = 0.3
    move_cost: float = 0.1
    redundancy: float = 0.5
    exemption: int = 2
    action_reward: bool = True
    group_advantage: bool = True
    estimate: bool = True
    smooth: float = 0.7
    imagined: int = 3
    imagined_size: int = 16
    imagined_gain: float = 3.0
    explore: float = 0.75
    settle: int = 60


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was learned from in a step: moves, the queries of their builds, old log-probs, advantages, weights."""

    moves: MoveBatch
    queries: tuple[Query, ...]
    old_logp: NDArray[np.float64]
    advantage: NDArray[np.float64]
    weights: NDArray[np.float64]


Tried = tuple[Query, Trial]

LAST = 32
"""Queries that a design is settled on."""


@dataclass
class Hrpo:
    """Learns a policy. What it learns from must be what it proposed since the last `learn`."""

    start: NetworkPolicy | TabularPolicy
    settings: HrpoSettings = HrpoSettings()

    def __post_init__(self) -> None:
        s = self.settings
        self.learner = self.start.learner(s.rate, s.gradient_clip)
        self.estimate = RewardSurrogate(self.start.space.roles, self.start.space.answers)
        self.policy: NetworkPolicy | TabularPolicy = self.start
        self.explorer = Explorer(self.start.space, self.estimate)
        self.last: dict[str, Query] = {}

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """
        Draws from the policy; each depends on the query and the seed alone.

        The last `explore` share of each group are edits of good graphs (`mas.search.surrogate.explorer`).
        """
        drafts = self._drawn(queries, size, seed)
        count = int(size * self.settings.explore)
        for query, found in zip(queries, drafts, strict=True):
            edits = self.explorer.propose(query, count, derive_seed(seed, "edits", query.id))
            found[size - len(edits) :] = edits
        return drafts
        yield

    def _drawn(self, queries: Sequence[Query], size: int, seed: int) -> list[list[Draft]]:
        seeds = [derive_seed(seed, "graph", query.id, i) for query in queries for i in range(size)]
        moves = self.policy.sample([query for query in queries for _ in range(size)], seeds)
        builds = [build(self.policy.space, each) for each in moves]
        drafts = [Draft(b.graph, b) for b in builds]
        return [drafts[i * size : (i + 1) * size] for i in range(len(queries))]

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Several epochs over the moves of these groups, then over those of imagined ones."""
        self.estimate.fit(groups)
        new = {group.query.id: group.query for group in groups}
        older = [query for key, query in self.last.items() if key not in new]
        self.last = {query.id: query for query in [*older, *new.values()][-LAST:]}
        built = [g for g in groups if any(t.draft.build for t in g.trials)]
        if built:
            self.explorer.update_elite(built)
            self._epochs([self._remembered(built)])
        for number in range(self.settings.imagined):
            drawn = self._imagined(groups, derive_seed(seed, "imagined", number))
            self._epochs([self._remembered(drawn, real=False)])
        return
        yield

    def _imagined(self, groups: Sequence[TrialGroup], seed: int) -> list[TrialGroup]:
        """Fresh draws on the same queries, with the reward that the estimate says."""
        queries = [group.query for group in groups]
        drafts = self._drawn(queries, self.settings.imagined_size, seed)
        return [
            TrialGroup(q, tuple(Trial(d, r) for d, r in zip(ds, self._guessed(ds, q), strict=True)))
            for q, ds in zip(queries, ([*each, *self.explorer.best] for each in drafts), strict=True)
        ]

    def _guessed(self, drafts: Sequence[Draft], query: Query) -> list[float]:
        return self.estimate.predict([d.graph for d in drafts], [query] * len(drafts)).tolist()

    def _epochs(self, batches: Sequence[Remembered]) -> None:
        for _ in range(self.settings.epochs):
            for each in batches:
                self._update(each)
        self.policy = self.learner.policy()

    def design(self) -> NetworkPolicy | TabularPolicy:
        """The policy, settled; as it is where `settle` is 0 or nothing was tried."""
        if not (self.settings.settle and self.last):
            return self.policy
        queries = tuple(self.last.values())
        return settle_policy(self.policy, self.estimate, self.explorer.elite, queries, self.settings.settle)

    def _update(self, each: Remembered) -> None:
        s = self.settings
        loss, penalties = partial(clipped_surrogate, low=s.low, high=s.high), (partial(entropy_bonus, scale=s.entropy),)
        self.learner.update(
            each.moves, each.queries, each.old_logp, each.advantage, each.weights, loss, penalties
        )

    def _remembered(self, groups: Sequence[TrialGroup], real: bool = True) -> Remembered:
        trials = [(group.query, t) for group in groups for t in group.trials if t.draft.build]
        labels = [number for number, group in enumerate(groups) for t in group.trials if t.draft.build]
        moves = encode_moves(self.start.space, [t.draft.build.moves for _, t in trials if t.draft.build])
        table = Table.from_arrays(labels, self._rewards(trials, real), moves.build)
        queries, weights = tuple(query for query, _ in trials), np.full(len(moves), 1 / len(trials))
        return Remembered(
            moves, queries, self.learner.logp(moves, queries), self._gains(table, trials, real), weights
        )

    def _rewards(self, trials: Sequence[Tried], real: bool) -> NDArray[np.float64]:
        own, s = np.array([t.reward for _, t in trials]), self.settings.smooth
        if not s or not real:
            return own
        return (1 - s) * own + s * self.estimate.predict(
            [t.draft.graph for _, t in trials], [q for q, _ in trials]
        )

    def _gains(self, table: Table, trials: Sequence[Tried], real: bool) -> NDArray[np.float64]:
        """(M,) table -> advantage -> credit."""
        s = self.settings
        if not s.group_advantage:
            whole = advantages.zero(table)
        elif real:
            whole = advantages.standardised(table)
        else:  # an estimate that says little shall move little
            whole = advantages.centred(table) * (s.imagined_gain / self.estimate.reward_std)
        if not s.action_reward:
            return credits.broadcast(table, whole)
        step = self._move_rewards(trials)
        table = Table(table.group, table.reward, table.rollout, {"action_reward": step})
        return credits.action_wise(table, whole, beta=s.beta)

    def _worth(self, trials: Sequence[Tried]) -> list[dict[str, float]]:
        """The worth of the nodes of each trial: measured where it was, else estimated."""
        if not self.settings.estimate:
            return [dict(t.credit) for _, t in trials]
        found = self.estimate.node_credit([t.draft.graph for _, t in trials], [q for q, _ in trials])
        return [{**guess, **t.credit} for guess, (_, t) in zip(found, trials, strict=True)]

    def _move_rewards(self, trials: Sequence[Tried]) -> NDArray[np.float64]:
        """(M,) rho of all moves."""
        roles, worth = self.start.space.roles, self._worth(trials)
        by_role: dict[int, list[float]] = {}
        for (_, t), each in zip(trials, worth, strict=True):
            for name, value in each.items():
                by_role.setdefault(roles.index(t.draft.graph[name].role), []).append(value)
        of_role = {role: float(np.mean(values)) for role, values in by_role.items()}
        builds = [t.draft.build for _, t in trials if t.draft.build]
        worth = [subtract_harm(each, t.edge_credit) for each, (_, t) in zip(worth, trials, strict=True)]
        found = [
            compute_move_rewards(len(roles), b.moves, b.move_numbers, w, self.estimate.reward_std, self.settings, of_role)
            for b, w in zip(builds, worth, strict=True)
        ]
        return np.concatenate(found)


def subtract_harm(worth: Mapping[str, float], edges: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """The worth of agents, less that of the edges that lead to each and are worth less than nothing."""
    found = dict(worth)
    for (_, name), value in edges.items():
        found[name] = found.get(name, 0.0) + min(0.0, value)
    return found


def compute_move_rewards(
    delete: int,
    moves: Sequence[Move],
    made_by: Mapping[str, int],
    worth: Mapping[str, float],
    spread: float,
    settings: HrpoSettings,
    of_role: Mapping[int, float] | None = None,
) -> NDArray[np.float64]:
    """
    (moves,) rho of the moves of one build; see the head of the module.

    `worth` is that of the agents by name; `of_role` what agents of a role are worth in the mean, which is what is
    known of an agent that was deleted.
    """
    found, standing = np.zeros(len(moves)), list[int]()
    kept = {number: name for name, number in made_by.items()}
    for number, move in enumerate(moves):
        if move.action == delete:
            gone = moves[standing.pop(move.agents[0])].action
            found[number] = np.clip(-(of_role or {}).get(gone, 0.0) / spread, -1, 1)
        elif move.action < delete:
            standing.append(number)
            own = (
                np.clip(worth.get(kept[number], 0.0) / spread, -1, 1)
                if number in kept
                else -settings.redundancy
            )
            found[number] = own - settings.move_cost * (number >= settings.exemption)
    return found


def clipped_surrogate(x: LossInputs, *, low: float, high: float) -> Any:
    """(M,) the clipped surrogate of PPO (arXiv 1707.06347), to be minimised."""
    ratio = (x.logp - x.old_logp).exp()
    return -(ratio * x.advantage).minimum(ratio.clamp(1 - low, 1 + high) * x.advantage)


def entropy_bonus(x: LossInputs, *, scale: float) -> Any:
    """(M,) less for what is less certain."""
    return -scale * x.entropy
