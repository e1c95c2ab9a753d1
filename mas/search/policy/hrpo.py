"""
HRPO, the learner of MasHost (arXiv 2506.08507): groups of graphs are compared, and single moves are rewarded.

The paper names two levels, a group-relative advantage over the graphs of a query and a reward of single actions, in a
clipped surrogate, with the first steps exempt from their cost. This is a reconstruction; all formulas are ours:

    r        = (1 - smooth) reward + smooth (prediction of the reward surrogate)
    A_i      = (r_i - mean r) / (std r + eps), 0 where all r of the group are equal
    A_(i,t)  = A_i + BETA (rho_(i,t) - mean rho of the group)
    rho      = credit / std            for adding an agent that the graph keeps, within -1 ... 1
               - credit / std          for deleting one
               - REDUNDANCY            for adding one that is deleted, or falls away at the end
               - MOVE_COST [t > exempt]  for adding any
    loss     = - min(ratio A, clip(ratio, 1 - LOW, 1 + HIGH) A) - entropy H

Credit is the measured one (`Trial.credit`) where there is one, else that of the surrogate, less what an agent lost by
its inputs (measured edges below zero in `Trial.edge_credit`; gains by inputs are in its own credit). std is the
standard deviation of all rewards so far.

M moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.graph.construction import Move, build
from edgewise.mas.search.policy.final_policy import settle_policy
from edgewise.mas.search.policy.policy_gradient import LossInputs, Policy, make_learner
from edgewise.mas.search.policy.state_features import encode_moves
from edgewise.mas.search.surrogate.explorer import Explorer
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate
from edgewise.toolkit.groups import advantage as advantages
from edgewise.toolkit.groups import step_credit as credits
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.types import Plan
from edgewise.toolkit.util.seeds import derive_seed

# The paper states no number. These were chosen by bench/topology.py.
EPOCHS = 2
# Clip range of the ratio, as in DAPO (arXiv 2503.14476).
LOW, HIGH = 0.2, 0.28
GRADIENT_CLIP = 1.0
# Weight of the rewards of single moves.
BETA = 0.3
# Cost of adding an agent, and of adding one that is not in the final graph.
MOVE_COST, REDUNDANCY = 0.1, 0.5
# Graphs in an imagined group, and the advantage of one standard deviation of rewards there.
IMAGINED_SIZE, IMAGINED_GAIN = 16, 3.0
# Queries that the design is settled on.
LAST_QUERIES = 32

QueryTrial = tuple[Query, Trial]


@dataclass(frozen=True, slots=True)
class HrpoSettings:
    """
    Settings of `Hrpo`. Ablations: `action_reward` False, `group_advantage` False, `exemption` 0.

    Measures beyond the paper that save samples. `estimate`: credit that was not measured is predicted. `smooth`: how
    much of a reward is the prediction from all trials. `explore`: the share of drafts that are edits of good graphs;
    they are learned from as if the policy had sampled them, which draws it towards them. `imagined`: rounds in a step
    on fresh samples and the best graphs known, with predicted rewards. `settle`: most updates of the copy of the
    policy that is the design (`mas.search.policy.final_policy`).
    """

    rate: float = 0.01
    entropy: float = 0.05
    exemption: int = 2
    action_reward: bool = True
    group_advantage: bool = True
    estimate: bool = True
    smooth: float = 0.7
    imagined: int = 3
    explore: float = 0.75
    settle: int = 60


@dataclass
class Hrpo:
    """Learns a policy. `learn` must get what `propose` returned since the last `learn`."""

    start: Policy
    settings: HrpoSettings = HrpoSettings()

    def __post_init__(self) -> None:
        space = self.start.space
        self.learner = make_learner(self.start, self.settings.rate, GRADIENT_CLIP)
        self.policy = self.start
        self.surrogate = RewardSurrogate(space.roles, space.answers)
        self.explorer = Explorer(space, self.surrogate)
        self.last_queries: dict[str, Query] = {}

    def propose(self, queries: Sequence[Query], size: int, seed: int) -> Plan[list[list[Draft]]]:
        """
        Sample from the policy; each draft depends on the query and the seed alone.

        The last `explore` share of each group are edits of good graphs (`mas.search.surrogate.explorer`).
        """
        groups = self._sample_drafts(queries, size, seed)
        count = int(size * self.settings.explore)
        for query, drafts in zip(queries, groups, strict=True):
            edits = self.explorer.propose(query, count, derive_seed(seed, "edits", query.id))
            drafts[size - len(edits) :] = edits
        return groups
        yield

    def learn(self, groups: Sequence[TrialGroup], seed: int) -> Plan[None]:
        """Train on the moves of these groups, then on those of imagined groups."""
        self.surrogate.fit(groups)
        new = {group.query.id: group.query for group in groups}
        older = [query for key, query in self.last_queries.items() if key not in new]
        self.last_queries = {query.id: query for query in [*older, *new.values()][-LAST_QUERIES:]}
        built = [group for group in groups if any(trial.draft.build for trial in group.trials)]
        if built:
            self.explorer.update_elite(built)
            self._train(built, is_real=True)

        # Imagined groups: fresh samples and the best graphs known on the same queries, with predicted rewards.
        for number in range(self.settings.imagined):
            imagined, queries = [], [group.query for group in groups]
            samples = self._sample_drafts(queries, IMAGINED_SIZE, derive_seed(seed, "imagined", number))
            for group, drafts in zip(groups, samples, strict=True):
                drafts = [*drafts, *self.explorer.best]
                rewards = self.surrogate.predict([d.graph for d in drafts], [group.query] * len(drafts))
                trials = tuple(map(Trial, drafts, rewards.tolist()))
                imagined.append(TrialGroup(group.query, trials))
            self._train(imagined, is_real=False)
        return
        yield

    def design(self) -> Policy:
        """Return the policy, settled; as it is where `settle` is 0 or nothing was tried."""
        if not (self.settings.settle and self.last_queries):
            return self.policy
        queries = tuple(self.last_queries.values())
        return settle_policy(self.policy, self.surrogate, self.explorer.elite, queries, self.settings.settle)

    def _sample_drafts(self, queries: Sequence[Query], size: int, seed: int) -> list[list[Draft]]:
        seeds = [derive_seed(seed, "graph", query.id, i) for query in queries for i in range(size)]
        samples = self.policy.sample([query for query in queries for _ in range(size)], seeds)
        builds = [build(self.policy.space, moves) for moves in samples]
        drafts = [Draft(built.graph, built) for built in builds]
        return [drafts[i * size : (i + 1) * size] for i in range(len(queries))]

    # ---- training ----------------------------------------------------------------------------------

    def _train(self, groups: Sequence[TrialGroup], is_real: bool) -> None:
        """Take EPOCHS steps on the moves of all trials that were built move by move."""
        settings = self.settings
        numbered = [(i, g.query, t) for i, g in enumerate(groups) for t in g.trials if t.draft.build]
        trials = [(query, trial) for _, query, trial in numbered]
        queries = tuple(query for query, _ in trials)
        moves = encode_moves(self.start.space, [t.draft.build.moves for _, t in trials if t.draft.build])

        rewards = np.array([trial.reward for _, trial in trials])
        if is_real and settings.smooth:
            predicted = self.surrogate.predict([trial.draft.graph for _, trial in trials], queries)
            rewards = (1 - settings.smooth) * rewards + settings.smooth * predicted
        table = Table.from_arrays([number for number, _, _ in numbered], rewards, moves.build)

        old_logp, advantage = self.learner.logp(moves, queries), self._advantages(table, trials, is_real)
        weights = np.full(len(moves), 1 / len(trials))
        penalties = (partial(entropy_bonus, scale=settings.entropy),)
        for _ in range(EPOCHS):
            self.learner.update(moves, queries, old_logp, advantage, weights, clipped_surrogate, penalties)
        self.policy = self.learner.policy()

    def _advantages(self, table: Table, trials: Sequence[QueryTrial], is_real: bool) -> NDArray[np.float64]:
        """Return A_(i,t) [M]: the advantage of the whole graph, and that of the move."""
        if not self.settings.group_advantage:
            advantage = advantages.zero(table)
        elif is_real:
            advantage = advantages.standardised(table)
        else:
            # Not divided by the group's own standard deviation: where predictions hardly differ, they shall move
            # the policy hardly.
            advantage = advantages.centred(table) * (IMAGINED_GAIN / self.surrogate.reward_std)
        if not self.settings.action_reward:
            return credits.broadcast(table, advantage)
        columns = {"action_reward": self.move_rewards(trials)}
        table = Table(table.group, table.reward, table.rollout, columns)
        return credits.action_wise(table, advantage, beta=BETA)

    def move_rewards(self, trials: Sequence[QueryTrial]) -> NDArray[np.float64]:
        """Return rho [M] of all moves of these trials."""
        roles, credit = self.start.space.roles, [dict(trial.credit) for _, trial in trials]
        if self.settings.estimate:
            predicted = self.surrogate.node_credit(
                [trial.draft.graph for _, trial in trials], [query for query, _ in trials]
            )
            credit = [{**guess, **measured} for guess, measured in zip(predicted, credit, strict=True)]

        # A deleted agent is in no graph, so its credit is the mean of its role.
        by_role: dict[int, list[float]] = {}
        for (_, trial), own in zip(trials, credit, strict=True):
            for name, value in own.items():
                by_role.setdefault(roles.index(trial.draft.graph[name].role), []).append(value)
        role_credit = {role: float(np.mean(values)) for role, values in by_role.items()}

        rewards, std, exemption = [], self.surrogate.reward_std, self.settings.exemption
        for (_, trial), own in zip(trials, credit, strict=True):
            # Harm by an input counts against the agent that receives it.
            for (_, name), value in trial.edge_credit.items():
                own[name] = own.get(name, 0.0) + min(0.0, value)
            if built := trial.draft.build:
                rewards.append(
                    compute_move_rewards(len(roles), built.moves, built.move_numbers, own, std, exemption, role_credit)
                )
        return np.concatenate(rewards)


def compute_move_rewards(
    delete_action: int,
    moves: Sequence[Move],
    move_numbers: Mapping[str, int],
    credit: Mapping[str, float],
    reward_std: float,
    exemption: int,
    role_credit: Mapping[int, float] | None = None,
) -> NDArray[np.float64]:
    """
    Return rho of the moves of one build; see the head of the module.

    `move_numbers` has the number of the move that added each agent of the final graph, `credit` is that of these
    agents, and `role_credit` the mean credit of a role's agents.
    """
    rewards = np.zeros(len(moves))
    final_agents = {number: name for name, number in move_numbers.items()}
    present: list[int] = []  # for each agent that is there, the number of the move that added it
    for number, move in enumerate(moves):
        if move.action == delete_action:
            role = moves[present.pop(move.agents[0])].action
            rewards[number] = np.clip(-(role_credit or {}).get(role, 0.0) / reward_std, -1, 1)
        elif move.action < delete_action:
            present.append(number)
            if number in final_agents:
                rewards[number] = np.clip(credit.get(final_agents[number], 0.0) / reward_std, -1, 1)
            else:
                rewards[number] = -REDUNDANCY
            rewards[number] -= MOVE_COST * (number >= exemption)
    return rewards


def clipped_surrogate(x: LossInputs, low: float = LOW, high: float = HIGH) -> Tensor:
    """Return the clipped surrogate [M] of PPO (arXiv 1707.06347), to be minimised."""
    ratio = (x.logp - x.old_logp).exp()
    return -(ratio * x.advantage).minimum(ratio.clamp(1 - low, 1 + high) * x.advantage)


def entropy_bonus(x: LossInputs, *, scale: float) -> Tensor:
    """Return a penalty [M] on certainty: minus the entropy."""
    return -scale * x.entropy
