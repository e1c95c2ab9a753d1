"""
Gradient steps on the moves of a policy, by any loss over their log-probs.

A learner holds the parameters of one policy while they change: the weights of a network, with Adam, or the rows of a
table, with plain gradient descent. How moves are scored and how losses are summed up is the same for both.

M moves, K roles, N the most agents, H heads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import Space
from edgewise.mas.search.policy.network import NetworkPolicy, PolicyNetwork, one_thread, to_tensors
from edgewise.mas.search.policy.state_features import MoveBatch
from edgewise.mas.search.policy.subset_sampling import Floats, Integers, tail_probabilities
from edgewise.mas.search.policy.tabular import KEYS, TabularPolicy, name_states

Policy = NetworkPolicy | TabularPolicy


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What losses and penalties read of M moves; `old_logp` is from when the moves were sampled."""

    logp: Tensor  # [M]
    old_logp: Tensor  # [M]
    advantage: Tensor  # [M]
    entropy: Tensor  # [M]


Loss = Callable[[LossInputs], Tensor]


@dataclass(frozen=True, slots=True)
class MoveScores:
    """Log-probs of M moves, apart for the action and for its agents, and the entropy of the choice."""

    action: Tensor  # [M]
    agents: Tensor  # [M]
    entropy: Tensor  # [M]


# ---- scores ----------------------------------------------------------------------------------------


def score_moves(
    space: Space, moves: MoveBatch, action_logp: Tensor, agent_logits: Tensor, *, action_entropy: bool = False
) -> MoveScores:
    """
    Return the scores of moves, from log-probs of actions [M, K + 2] and logits of agents [M, N].

    The entropy is that of the action and its agents, or of the action alone.
    """
    action = torch.from_numpy(moves.action)
    chosen = torch.from_numpy(moves.chosen)
    entropy = -(action_logp.exp() * action_logp.clamp(min=-1e9)).sum(1)

    # Both ways of choosing agents are scored for all moves; the action says which one counts, for EXIT none.
    subset = score_subsets(agent_logits, chosen, torch.from_numpy(moves.states.is_agent), moves.min_inputs)
    can_delete = moves.states.can_delete
    allowed = torch.from_numpy(can_delete | ~can_delete.any(1, keepdims=True))
    delete_logp = agent_logits.masked_fill(~allowed, -1e9).log_softmax(1)
    deletion = (delete_logp * chosen).sum(1), -(delete_logp.exp() * delete_logp).sum(1)

    is_role, is_delete = action < space.delete_action, action == space.delete_action
    zero = torch.zeros_like(entropy)
    agents, agents_entropy = (
        torch.where(is_role, a, torch.where(is_delete, b, zero)) for a, b in zip(subset, deletion, strict=True)
    )
    if not action_entropy:
        entropy = entropy + agents_entropy
    return MoveScores(action_logp.gather(1, action[:, None])[:, 0], agents, entropy)


def score_subsets(logits: Tensor, chosen: Tensor, is_agent: Tensor, min_size: Integers) -> tuple[Tensor, Tensor]:
    """
    Return log-probs [M] of sets of agents that are large enough, and the entropy of the choices before that condition.

    With e_j = 1 for the agents of a set S and tail as in `mas.search.policy.subset_sampling`,

        log P(S | |S| >= R) = sum_j (e_j log sigmoid(l_j) + (1 - e_j) log sigmoid(-l_j)) - log tail[0][R]
    """
    yes, no = logsigmoid(logits), logsigmoid(-logits)
    logp = (torch.where(chosen, yes, no) * is_agent).sum(1)
    entropy = -((yes.exp() * yes + no.exp() * no) * is_agent).sum(1)

    # tail[0][0] is 1, so only moves with R > 0 have a condition.
    rows = np.flatnonzero(min_size)
    if len(rows):
        max_size = int(min_size.max(initial=0))
        tails = torch.stack(tail_probabilities((yes.exp() * is_agent)[rows], max_size)[0])  # [R + 1, rows]
        tail = tails[torch.from_numpy(min_size[rows]), torch.arange(len(rows))]
        logp = logp.index_add(0, torch.from_numpy(rows), -tail.clamp(min=1e-300).log())
    return logp, entropy


# ---- learners --------------------------------------------------------------------------------------


class PolicyLearner(ABC):
    """The parameters of a policy while they are learned; `joint` is that of the policy."""

    joint: bool

    @abstractmethod
    def policy(self) -> Policy:
        """Return the policy with the parameters of the moment."""

    @abstractmethod
    def score(self, moves: MoveBatch, queries: Sequence[Query]) -> MoveScores:
        """Return the scores of moves, with gradients; there is one query for each build."""

    @abstractmethod
    def descend(self, loss: Tensor) -> None:
        """Take one step down a loss."""

    def logp(self, moves: MoveBatch, queries: Sequence[Query]) -> Floats:
        """Return log-probs [H, M] by head, for `update` later on."""
        with torch.no_grad():
            return torch.stack(self._split_heads(self.score(moves, queries))).numpy()

    def _split_heads(self, scores: MoveScores) -> list[Tensor]:
        """Return the log-probs [M] that have a ratio of their own: whole moves, or actions and agents apart."""
        return [scores.action + scores.agents] if self.joint else [scores.action, scores.agents]

    @one_thread()
    def update(
        self,
        moves: MoveBatch,
        queries: Sequence[Query],
        old_logp: Floats,
        advantage: Floats,
        weights: Floats,
        loss: Loss,
        penalties: Sequence[Loss] = (),
    ) -> float:
        """
        Take one step down sum((loss + penalties) * weights) over moves, and return the value before it.

        `old_logp` [H, M] is what `logp` returned when the moves were sampled; `advantage` and `weights` are [M].
        """
        scores, total = self.score(moves, queries), torch.zeros((), dtype=torch.float64)
        gain, share = torch.from_numpy(advantage), torch.from_numpy(weights)
        for number, logp in enumerate(self._split_heads(scores)):
            x = LossInputs(logp, torch.from_numpy(old_logp[number]), gain, scores.entropy)
            # Penalties look at the whole move, so they count once.
            extra = penalties if number == 0 else ()
            total = total + ((loss(x) + sum(p(x) for p in extra)) * share).sum()
        self.descend(total)
        return float(total.detach())


class NetworkLearner(PolicyLearner):
    """Learns the weights of a network by Adam, with the norm of the gradient clipped."""

    def __init__(self, policy: NetworkPolicy, rate: float, clip: float = 1.0):
        self.start, self.joint, self.clip = policy, policy.joint, clip
        self.weights = to_tensors(policy.weights, requires_grad=True)
        self.network = PolicyNetwork(policy.space, self.weights, policy.joint)
        self.adam = torch.optim.Adam(self.weights.values(), lr=rate)

    def policy(self) -> NetworkPolicy:
        """Return the policy with the weights of the moment."""
        weights = {name: w.detach().numpy().astype(np.float32) for name, w in self.weights.items()}
        return NetworkPolicy(self.start.space, weights, self.start.encoder, self.start.joint)

    @one_thread()
    def score(self, moves: MoveBatch, queries: Sequence[Query]) -> MoveScores:
        """Return the scores of moves, with gradients; there is one query for each build."""
        query = self.network.project_queries(queries)[torch.from_numpy(moves.build)]
        action_logp, agent_logits = self.network.forward(moves.states, query)
        return score_moves(self.start.space, moves, action_logp, agent_logits(moves.action))

    def descend(self, loss: Tensor) -> None:
        """Take a step of Adam, and round to float32, so that the stored policy is exactly the one that learns."""
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip)
        self.adam.step()
        with torch.no_grad():
            for weight in self.weights.values():
                weight.copy_(weight.float().double())


class TabularLearner(PolicyLearner):
    """Learns the rows of a table by plain gradient descent; only rows of moves that were learned from are stored."""

    def __init__(self, policy: TabularPolicy, rate: float):
        self.start, self.joint, self.rate = policy, policy.joint, rate
        self.rows = to_tensors(policy.logits, requires_grad=True)

    def policy(self) -> TabularPolicy:
        """Return the policy with the rows of the moment."""
        logits = {name: tuple(row.tolist()) for name, row in self.rows.items()}
        return TabularPolicy(self.start.space, logits, self.start.key, self.start.joint)

    def score(self, moves: MoveBatch, queries: Sequence[Query]) -> MoveScores:
        """Return the scores of moves, with gradients; there is one query for each build."""
        space, keys = self.start.space, [KEYS[self.start.key](query) for query in queries]
        states = name_states(moves.states, [keys[build] for build in moves.build])
        with_actions = [f"{state}|{action}" for state, action in zip(states, moves.action, strict=True)]
        actions = self._read(states, [True] * len(moves), space.num_actions)
        agents = self._read(with_actions, moves.action != space.exit_action, space.agents)
        masked = actions.masked_fill(~torch.from_numpy(moves.states.action_mask), -torch.inf)
        return score_moves(space, moves, masked.log_softmax(1), agents, action_entropy=True)

    def descend(self, loss: Tensor) -> None:
        """Take a step of gradient descent."""
        loss.backward()
        with torch.no_grad():
            for row in self.rows.values():
                if row.grad is not None:
                    row -= self.rate * row.grad
                    row.grad = None

    def _read(self, names: Sequence[str], is_learned: Sequence[bool], width: int) -> Tensor:
        """Return rows [M, width] by name; while gradients are on, missing rows that are learned are added."""
        zero, rows = torch.zeros(width, dtype=torch.float64), []
        for name, learned in zip(names, is_learned, strict=True):
            if name not in self.rows and learned and torch.is_grad_enabled():
                self.rows[name] = zero.clone().requires_grad_()
            rows.append(self.rows.get(name, zero))
        return torch.stack(rows)


def make_learner(policy: Policy, rate: float, clip: float) -> PolicyLearner:
    """Return a learner that starts from a policy; a table does not clip the gradient."""
    if isinstance(policy, TabularPolicy):
        return TabularLearner(policy, rate)
    return NetworkLearner(policy, rate, clip)
