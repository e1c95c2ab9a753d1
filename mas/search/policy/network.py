"""
The joint policy of MasHost (arXiv 2506.08507): log pi = log pi_theta(node action) + log pi_phi(edges | node action).

Node head: a softmax over the K roles, DELETE and EXIT that are allowed. Edge head: with a role, each agent that is
there is chosen by a Bernoulli of its own, given that at least as many are chosen as the role must hear
(`mas.search.policy.subset_sampling`, exact); with DELETE, a softmax over the agents; with EXIT, nothing. The networks are ours, as the
paper states none: a log-linear part that learns from few samples, and a small network beside it.

B states, K roles, N the most agents, D query features, H hidden. Computed in float64, kept in float32.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.construction import BuildState, Move, Space, apply, build_graph, replay
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.policy import subset_sampling
from edgewise.mas.search.policy.state_features import FACTS, StateBatch, MoveBatch, encode_states
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.seeds import derive_seed

QUERY, ROLE, HIDDEN = 16, 8, 32
WIDEST = 12.0
"""Logits of edges stay within this, so that no chance is ever exactly 0 or 1."""

PolicyWeights = Mapping[str, NDArray[np.float32]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one core: for matrices as small as these, waiting for a second one takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class MoveScores:
    """What the policy says of M moves: log-probs (M,) of both heads, and their entropies (M,)."""

    node: Tensor
    edges: Tensor
    entropy: Tensor

    @property
    def logp(self) -> Tensor:
        """(M,) of the whole move."""
        return self.node + self.edges


# ---- the network -----------------------------------------------------------------------------------


def shapes(space: Space, features: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    k, n, facts, actions = len(space.roles), space.agents, len(FACTS), space.num_actions
    return {
        "query": (features, QUERY),
        "role": (k + 1, ROLE),
        "agent": (ROLE + facts, HIDDEN),
        "message": (HIDDEN, HIDDEN),
        "context": (QUERY + 2 * HIDDEN + k + 2, HIDDEN),
        "node": (HIDDEN, actions),
        "node_query": (QUERY, actions),
        "node_size": (n + 1, actions),
        "node_after": (k + 1, actions),
        "node_beside": (k, actions),
        "edge_agent": (HIDDEN, HIDDEN),
        "edge_context": (HIDDEN, HIDDEN),
        "edge_action": (ROLE, HIDDEN),
        "edge": (HIDDEN,),
        "edge_pair": (k + 1, k + 1),
        "edge_facts": (2, facts),
    }


ZERO = ("node", "node_query", "node_after", "node_beside", "edge", "edge_pair")
"""Weights that start at 0: the first policy has no opinion on roles."""


def started(space: Space, features: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """
    Weights of a policy without opinions on roles.

    Sizes vary (EXIT has about the same chance after each agent), DELETE is rare, and agents that nobody hears yet
    are heard rather than others, as what nobody hears falls away.
    """
    rng = np.random.default_rng(derive_seed(seed, "policy"))
    weights = {
        name: (rng.normal(size=shape) / np.sqrt(shape[0]) * (name not in ZERO)).astype(np.float32)
        for name, shape in shapes(space, features).items()
    }
    weights["node_size"] = _size_opinions(space)
    weights["edge_facts"] = np.zeros((2, len(FACTS)), np.float32)
    weights["edge_facts"][0, :3] = -1.0, 1.5, 0.5
    return weights


def _size_opinions(space: Space) -> NDArray[np.float32]:
    sizes = np.zeros((space.agents + 1, space.num_actions))
    for size in range(space.agents + 1):
        usable = max(1, sum(size >= least for least in space.min_inputs))
        sizes[size, space.exit_action] = np.log(usable / max(1, space.agents - size))
        sizes[size, space.delete_action] = np.log(usable * 0.05)
    return sizes.astype(np.float32)


class Net:
    """The forward pass over a dict of float64 tensors; the same for one state or thousands."""

    def __init__(self, space: Space, weights: Mapping[str, Tensor], joint: bool):
        self.space, self.w, self.joint = space, weights, joint

    def agents(self, states: StateBatch) -> Tensor:
        """(B, N, H) what stands for each agent: its role and facts, and those that it hears."""
        w = self.w
        there = torch.from_numpy(states.there)[..., None]
        own = torch.cat([w["role"][torch.from_numpy(states.roles)], torch.from_numpy(states.facts)], 2)
        own = torch.tanh(own @ w["agent"]) * there
        hears = torch.from_numpy(states.hears)
        heard = hears @ own / hears.sum(2, keepdim=True).clamp(min=1)
        return (own + torch.tanh(heard @ w["message"])) * there

    def context(self, states: StateBatch, query: Tensor, agents: Tensor) -> Tensor:
        """(B, H) what stands for the query and the graph so far."""
        size = torch.from_numpy(states.size)
        last = agents[torch.arange(len(size)), (size - 1).clamp(min=0)]
        mean = agents.sum(1) / size.clamp(min=1)[:, None]
        share = (size / self.space.agents)[:, None]
        left = torch.from_numpy(states.left)[:, None]
        parts = [query, mean, last, self.present(states), share, left]
        return torch.tanh(torch.cat(parts, 1) @ self.w["context"])

    def present(self, states: StateBatch) -> Tensor:
        """(B, K) how many agents of each role there are."""
        k = len(self.space.roles)
        return torch.from_numpy((states.roles[:, :, None] == np.arange(k)).sum(1).astype(np.float64))

    def node(self, states: StateBatch, query: Tensor, context: Tensor) -> Tensor:
        """(B, K + 2) log-probs of node actions; -inf where they are not allowed."""
        w, size = self.w, torch.from_numpy(states.size)
        roles = torch.from_numpy(states.roles)
        last = roles[torch.arange(len(size)), (size - 1).clamp(min=0)]
        logits = context @ w["node"] + query @ w["node_query"] + w["node_size"][size]
        logits = logits + w["node_after"][last] + self.present(states) @ w["node_beside"]
        return logits.masked_fill(~torch.from_numpy(states.mask), -torch.inf).log_softmax(1)

    def edges(self, states: StateBatch, agents: Tensor, context: Tensor, action: NDArray[np.int64]) -> Tensor:
        """(B, N) logits of the agents under an action each, which is a role or DELETE."""
        w, act = self.w, torch.from_numpy(np.minimum(action, self.space.delete_action))
        side = (act == self.space.delete_action).long()
        both = (
            agents @ w["edge_agent"]
            + (context @ w["edge_context"] + w["role"][act] @ w["edge_action"])[:, None]
        )
        logits = torch.tanh(both) @ w["edge"]
        logits = logits + w["edge_pair"][act].gather(1, torch.from_numpy(states.roles))
        logits = logits + (torch.from_numpy(states.facts) * w["edge_facts"][side][:, None]).sum(2)
        return WIDEST * torch.tanh(logits / WIDEST)

    def nodes(self, states: StateBatch, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs of node actions, the agents and the context that edges are chosen from."""
        agents = self.agents(states)
        context = self.context(states, query, agents)
        if self.joint:
            return self.node(states, query, context), agents, context
        blind = states.unwired(self.space)
        return self.node(blind, query, self.context(blind, query, self.agents(blind))), agents, context

    def score(self, moves: MoveBatch, query: Tensor) -> MoveScores:
        """Log-probs and entropies of moves; `query` (M, QUERY)."""
        states, action = moves.states, torch.from_numpy(moves.action)
        node, agents, context = self.nodes(states, query)
        logits = self.edges(states, agents, context, moves.action)
        chosen = torch.from_numpy(moves.chosen)
        added = self._sets(logits, chosen, torch.from_numpy(states.there), moves.least)
        gone = self._one(logits, chosen, states)
        role, delete = action < self.space.delete_action, action == self.space.delete_action
        spread = -(node.exp() * node.clamp(min=-1e9)).sum(1)
        zero = torch.zeros_like(spread)
        edges, more = (
            torch.where(role, a, torch.where(delete, b, zero)) for a, b in zip(added, gone, strict=True)
        )
        return MoveScores(node.gather(1, action[:, None])[:, 0], edges, spread + more)

    def _sets(
        self, logits: Tensor, chosen: Tensor, there: Tensor, least: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """(B,) log-probs of sets that are large enough, and the entropy of the Bernoullis before that condition."""
        yes, no = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
        logp = (torch.where(chosen, yes, no) * there).sum(1)
        spread = -((yes.exp() * yes + no.exp() * no) * there).sum(1)
        most = int(least.max(initial=0))
        rows = np.flatnonzero(least)
        if len(rows):
            tails = torch.stack(subset_sampling.tail_probabilities((yes.exp() * there)[rows], most)[0])
            tail = tails[torch.from_numpy(least[rows]), torch.arange(len(rows))]
            logp = logp.index_add(0, torch.from_numpy(rows), -tail.clamp(min=1e-300).log())
        return logp, spread

    def _one(self, logits: Tensor, chosen: Tensor, states: StateBatch) -> tuple[Tensor, Tensor]:
        """(B,) log-prob of the one agent that goes, and the entropy of that choice."""
        may = torch.from_numpy(states.deletable | ~states.deletable.any(1, keepdims=True))
        logp = logits.masked_fill(~may, -1e9).log_softmax(1)
        return (logp * chosen).sum(1), -(logp.exp() * logp).sum(1)


# ---- the value -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkPolicy:
    """
    Weights over a space: which graph to build for which query. `encoder` names what made the query features.

    `joint` False is an ablation: roles are chosen for the whole graph without a look at its edges.
    """

    space: Space
    weights: PolicyWeights
    encoder: str = ""
    joint: bool = True

    @classmethod
    def start(
        cls, space: Space, features: int, seed: int, *, encoder: str = "", joint: bool = True
    ) -> "NetworkPolicy":
        """A policy without opinions on roles, for (features,) of a query."""
        return cls(space, started(space, features, seed), encoder, joint)

    @property
    def version(self) -> str:
        """A hash of space, encoder and weights."""
        return self._version

    @cached_property
    def _version(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def _net(self) -> Net:
        return Net(self.space, tensors(self.weights), self.joint)

    def learner(self, rate: float, clip: float) -> "NetworkLearner":
        """What learns from here on."""
        return NetworkLearner(self, rate, clip)

    def sample(self, queries: Sequence[Query], seeds: Sequence[int]) -> list[tuple[Move, ...]]:
        """One build for each query, all built side by side; each depends on its own query and seed alone."""
        draws = np.stack(
            [np.random.default_rng(s).random((self.space.moves, self.space.agents + 1)) for s in seeds]
        )
        return self._built(queries, lambda rows, turn: subset_sampling.SampleMoves(draws[rows, turn]))

    def likeliest(self, queries: Sequence[Query]) -> list[tuple[Move, ...]]:
        """For each query the build whose moves are the most likely, one after the other."""
        return self._built(queries, lambda rows, turn: subset_sampling.TakeLikeliest())

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """The graph of each query: that of its likeliest moves."""
        return [build_graph(self.space, _end(self.space, moves)) for moves in self.likeliest(queries)]

    @one_thread()
    @torch.no_grad()
    def _built(self, queries: Sequence[Query], chooser: Callable[[Any, int], Any]) -> list[tuple[Move, ...]]:
        features = projected(self._net.w, queries)
        states, moves = [BuildState() for _ in queries], [[] for _ in queries]
        for turn in range(self.space.moves):
            rows = [row for row, state in enumerate(states) if not state.done]
            if not rows:
                break
            found = self._moved([states[row] for row in rows], features[rows], chooser(rows, turn))
            for row, move in zip(rows, found, strict=True):
                moves[row].append(move)
                states[row] = apply(self.space, states[row], move)
        return [tuple(each) for each in moves]

    def _moved(self, states: Sequence[BuildState], query: Tensor, choose: Any) -> list[Move]:
        """One move for each state."""
        space, now = self.space, encode_states(self.space, states)
        node, agents, context = self._net.nodes(now, query)
        action = choose.one(_rounded(node.exp()))
        logits = self._net.edges(now, agents, context, action)
        chance = _rounded(torch.sigmoid(logits)) * now.there
        least = np.array([*space.min_inputs, 0, 0])[action]
        heard = choose.several(chance, least)
        gone = choose.another(_rounded(logits.masked_fill(~torch.from_numpy(now.deletable), -1e9).softmax(1)))
        return [
            Move(int(a), () if a == space.exit_action else (int(g),) if a == space.delete_action else _places(h))
            for a, h, g in zip(action, heard, gone, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data; weights are base64 of little-endian float32 with their shape."""
        weights = {
            name: {"shape": list(w.shape), "data": base64.b64encode(w.astype("<f4").tobytes()).decode()}
            for name, w in sorted(self.weights.items())
        }
        return {
            "kind": "policy",
            "space": self.space.to_json(),
            "encoder": self.encoder,
            "joint": self.joint,
            "weights": weights,
        }

    @classmethod
    def from_json(cls, data: Any) -> "NetworkPolicy":
        """Read plain data. Raises GraphError for data that is no policy, or weights that do not fit its space."""
        try:
            space = Space.from_json(data["space"])
            weights = {name: _array(each) for name, each in data["weights"].items()}
            policy = cls(space, weights, data["encoder"], data["joint"])
            wanted = shapes(space, weights["query"].shape[0])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise GraphError(f"The policy of agent graphs is not readable: {error}.") from error
        for name, shape in wanted.items():
            if name not in weights or weights[name].shape != shape or not np.isfinite(weights[name]).all():
                raise GraphError(f"The policy's weight {name!r} is missing, of a wrong shape, or not finite.")
        return policy


def _array(data: Any) -> NDArray[np.float32]:
    raw = np.frombuffer(base64.b64decode(data["data"], validate=True), "<f4")
    return raw.reshape([int(n) for n in data["shape"]]).astype(np.float32)


def _rounded(values: Tensor) -> NDArray[np.float64]:
    """To nine digits: what is left depends on neither the batch nor the machine."""
    return values.numpy().round(9)


def _places(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(map(int, np.flatnonzero(chosen)))


def _end(space: Space, moves: Sequence[Move]) -> BuildState:
    return replay(space, moves)


# ---- learning --------------------------------------------------------------------------------------


def tensors(weights: PolicyWeights, *, learn: bool = False) -> dict[str, Tensor]:
    """Weights as float64 tensors."""
    return {name: torch.tensor(w, dtype=torch.float64, requires_grad=learn) for name, w in weights.items()}


def projected(weights: Mapping[str, Tensor], queries: Sequence[Query]) -> Tensor:
    """(B, QUERY) what the policy sees of the queries."""
    features = torch.from_numpy(np.stack([query.features for query in queries]).astype(np.float64))
    return features @ weights["query"]


@dataclass(frozen=True, slots=True)
class LossInputs:
    """
    What losses and penalties read of M moves, as in the learner's update.

    Log-probs now and when they were taken, advantages, entropies: (M,) each.
    """

    logp: Tensor
    old_logp: Tensor
    advantage: Tensor
    entropy: Tensor


Loss = Callable[[LossInputs], Tensor]


def slopes(
    loss: Loss,
    penalties: Sequence[Loss],
    logp: NDArray[np.float64],
    old_logp: NDArray[np.float64],
    advantage: NDArray[np.float64],
    entropy: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """sum((loss + penalties) * weights) and its slopes (M,) by log-prob and entropy, for policies without torch."""
    now, spread = (torch.tensor(each, requires_grad=True) for each in (logp, entropy))
    x = LossInputs(now, torch.from_numpy(old_logp), torch.from_numpy(advantage), spread)
    total = ((loss(x) + sum(p(x) for p in penalties)) * torch.from_numpy(weights)).sum() + 0 * (
        now + spread
    ).sum()
    by_logp, by_spread = torch.autograd.grad(total, [now, spread])
    return float(total.detach()), by_logp.numpy(), by_spread.numpy()


class NetworkLearner:
    """The weights while they are learned, and Adam's state. `policy()` is the value of the moment."""

    def __init__(self, policy: NetworkPolicy, rate: float, clip: float = 1.0):
        self.start, self.clip = policy, clip
        self.weights = tensors(policy.weights, learn=True)
        self.net = Net(policy.space, self.weights, policy.joint)
        self.adam = torch.optim.Adam(self.weights.values(), lr=rate)

    def policy(self) -> NetworkPolicy:
        """The weights as they are."""
        weights = {name: w.detach().numpy().astype(np.float32) for name, w in self.weights.items()}
        return NetworkPolicy(self.start.space, weights, self.start.encoder, self.start.joint)

    @one_thread()
    def score(self, moves: MoveBatch, queries: Sequence[Query]) -> MoveScores:
        """Moves under the weights as they are; one query for each build."""
        return self.net.score(moves, projected(self.weights, queries)[torch.from_numpy(moves.build)])

    def logp(self, moves: MoveBatch, queries: Sequence[Query]) -> NDArray[np.float64]:
        """(H, M) log-probs by head: one row for the joint policy, else nodes and edges apart."""
        with torch.no_grad():
            return torch.stack(self._heads(self.score(moves, queries))).numpy()

    @one_thread()
    def update(
        self,
        moves: MoveBatch,
        queries: Sequence[Query],
        old_logp: NDArray[np.float64],
        advantage: NDArray[np.float64],
        weights: NDArray[np.float64],
        loss: Loss,
        penalties: Sequence[Loss] = (),
    ) -> float:
        """
        One step of Adam down sum((loss + penalties) * weights) over moves; the value before it.

        `old_logp` (H, M) is what `logp` gave when the moves were taken; `advantage` and `weights` are (M,).
        """
        scored, gain, share = (
            self.score(moves, queries),
            torch.from_numpy(advantage),
            torch.from_numpy(weights),
        )
        total = torch.zeros((), dtype=torch.float64)
        for number, logp in enumerate(self._heads(scored)):
            x = LossInputs(logp, torch.from_numpy(old_logp[number]), gain, scored.entropy)
            extra = penalties if number == 0 else ()
            total = total + ((loss(x) + sum(p(x) for p in extra)) * share).sum()
        self.adam.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip)
        self.adam.step()
        self._round()
        return float(total.detach())

    def _heads(self, scored: MoveScores) -> list[Tensor]:
        return [scored.logp] if self.start.joint else [scored.node, scored.edges]

    @torch.no_grad()
    def _round(self) -> None:
        """To float32, so that the policy that is kept is exactly the one that learns."""
        for w in self.weights.values():
            w.copy_(w.float().double())
