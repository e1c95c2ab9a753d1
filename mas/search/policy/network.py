"""
Policy as a small network: a log-linear part that learns from few samples, and a hidden layer beside it.

MasHost (arXiv 2506.08507) states no network, so this one is ours:

    agents    h_i = tanh(W_agent [role_i, facts_i]),    a_i = h_i + tanh(W_message mean of h over the inputs of i)
    context   c = tanh(W_context [query, mean of a, last a, counts of roles, share of agents, moves left])
    actions   W_node c + W_query query + b_size + b_after(last role) + W_beside (counts of roles)     -> softmax
    agent i   w_edge . tanh(W a_i + W' c + W'' action) + b_pair(action, role_i) + w_facts . facts_i   -> logit

B states, K roles, N the most agents, F facts, D query features, H hidden. Computed in float64, stored in float32.
"""

import base64
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
from edgewise.mas.graph.construction import Space
from edgewise.mas.search.policy.build_policy import BuildPolicy, MoveProbabilities, ReadProbabilities
from edgewise.mas.search.policy.state_features import FACTS, StateBatch
from edgewise.mas.search.policy.subset_sampling import Floats, Integers
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.seeds import derive_seed

QUERY, ROLE, HIDDEN = 16, 8, 32
# Bound on the logits of agents, so that no probability is ever exactly 0 or 1.
MAX_LOGIT = 12.0

PolicyWeights = Mapping[str, NDArray[np.float32]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one core: for matrices as small as these, waiting for a second core takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- weights ---------------------------------------------------------------------------------------


def weight_shapes(space: Space, features: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight."""
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


# With these weights at 0 the first policy prefers no role.
ZERO_AT_START = ("node", "node_query", "node_after", "node_beside", "edge", "edge_pair")


def initialize_weights(space: Space, features: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return weights of a policy that prefers no role, and whose graphs differ in size."""
    rng = np.random.default_rng(derive_seed(seed, "policy"))
    weights = {
        name: (rng.normal(size=shape) / np.sqrt(shape[0]) * (name not in ZERO_AT_START)).astype(np.float32)
        for name, shape in weight_shapes(space, features).items()
    }

    # EXIT after each agent has a probability of about 1 / (agents that there is room for), so that all sizes are
    # about as likely: its odds against u usable roles with logit 0 are exp(log(u / room)) / u. DELETE is rare.
    sizes = np.zeros((space.agents + 1, space.num_actions))
    for size in range(space.agents + 1):
        usable = max(1, sum(size >= min_inputs for min_inputs in space.min_inputs))
        sizes[size, space.exit_action] = np.log(usable / max(1, space.agents - size))
        sizes[size, space.delete_action] = np.log(usable * 0.05)
    weights["node_size"] = sizes.astype(np.float32)

    # Logits of inputs: -1, and +1.5 for an agent without a successor, which would fall away, and +0.5 for the last.
    weights["edge_facts"] = np.zeros((2, len(FACTS)), np.float32)
    weights["edge_facts"][0, :3] = -1.0, 1.5, 0.5
    return weights


def to_tensors(weights: Mapping[str, Any], *, requires_grad: bool = False) -> dict[str, Tensor]:
    """Return weights as float64 tensors."""
    return {
        name: torch.tensor(weight, dtype=torch.float64, requires_grad=requires_grad) for name, weight in weights.items()
    }


# ---- forward pass ----------------------------------------------------------------------------------


class PolicyNetwork:
    """
    The forward pass over float64 weights, the same for one state or thousands.

    `joint` False is an ablation: actions are chosen without a look at the edges.
    """

    def __init__(self, space: Space, weights: Mapping[str, Tensor], joint: bool):
        self.space, self.weights, self.joint = space, weights, joint

    def project_queries(self, queries: Sequence[Query]) -> Tensor:
        """Return what the policy sees of queries [B, QUERY]."""
        features = np.stack([query.features for query in queries]).astype(np.float64)
        return torch.from_numpy(features) @ self.weights["query"]

    def forward(self, states: StateBatch, query: Tensor) -> tuple[Tensor, Callable[[Integers], Tensor]]:
        """
        Return log-probs of actions [B, K + 2], and a function from actions [B] to logits of agents [B, N].

        `query` is [B, QUERY].
        """
        agents = self.embed_agents(states)
        context = self.embed_context(states, query, agents)
        seen, seen_context = states, context
        if not self.joint:
            seen = states.without_edges(self.space)
            seen_context = self.embed_context(seen, query, self.embed_agents(seen))
        return self.action_logp(seen, query, seen_context), lambda action: self.agent_logits(
            states, agents, context, action
        )

    def embed_agents(self, states: StateBatch) -> Tensor:
        """Return the embedding of each agent [B, N, H], made of its role, its facts and its inputs."""
        w, is_agent = self.weights, torch.from_numpy(states.is_agent)[..., None]
        own = torch.cat([w["role"][torch.from_numpy(states.roles)], torch.from_numpy(states.facts)], 2)
        own = torch.tanh(own @ w["agent"]) * is_agent
        inputs = torch.from_numpy(states.inputs)
        mean_input = inputs @ own / inputs.sum(2, keepdim=True).clamp(min=1)
        return (own + torch.tanh(mean_input @ w["message"])) * is_agent

    def embed_context(self, states: StateBatch, query: Tensor, agents: Tensor) -> Tensor:
        """Return the embedding of the query and the graph so far [B, H]."""
        size = torch.from_numpy(states.size)
        last = agents[torch.arange(len(size)), (size - 1).clamp(min=0)]
        mean = agents.sum(1) / size.clamp(min=1)[:, None]
        share = (size / self.space.agents)[:, None]
        moves_left = torch.from_numpy(states.moves_left)[:, None]
        parts = [query, mean, last, self.count_roles(states), share, moves_left]
        return torch.tanh(torch.cat(parts, 1) @ self.weights["context"])

    def count_roles(self, states: StateBatch) -> Tensor:
        """Return how many agents of each role there are [B, K]."""
        roles = np.arange(len(self.space.roles))
        return torch.from_numpy((states.roles[:, :, None] == roles).sum(1).astype(np.float64))

    def action_logp(self, states: StateBatch, query: Tensor, context: Tensor) -> Tensor:
        """Return log-probs of actions [B, K + 2], -inf where they are not allowed."""
        w, size = self.weights, torch.from_numpy(states.size)
        last_role = torch.from_numpy(states.roles)[torch.arange(len(size)), (size - 1).clamp(min=0)]
        logits = context @ w["node"] + query @ w["node_query"] + w["node_size"][size]
        logits = logits + w["node_after"][last_role] + self.count_roles(states) @ w["node_beside"]
        return logits.masked_fill(~torch.from_numpy(states.action_mask), -torch.inf).log_softmax(1)

    def agent_logits(self, states: StateBatch, agents: Tensor, context: Tensor, action: Integers) -> Tensor:
        """Return logits of agents [B, N] under an action [B] each, which is a role or DELETE."""
        # EXIT chooses no agents; it is scored as DELETE, which has the row after the last role, and not used.
        w, act = self.weights, torch.from_numpy(np.minimum(action, self.space.delete_action))
        side = (act == self.space.delete_action).long()
        shared = context @ w["edge_context"] + w["role"][act] @ w["edge_action"]
        logits = torch.tanh(agents @ w["edge_agent"] + shared[:, None]) @ w["edge"]
        logits = logits + w["edge_pair"][act].gather(1, torch.from_numpy(states.roles))
        logits = logits + (torch.from_numpy(states.facts) * w["edge_facts"][side][:, None]).sum(2)
        return MAX_LOGIT * torch.tanh(logits / MAX_LOGIT)


# ---- the policy ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkPolicy(BuildPolicy):
    """Weights over a space; `encoder` names what made the query features. `joint` is that of `PolicyNetwork`."""

    space: Space
    weights: PolicyWeights
    encoder: str = ""
    joint: bool = True

    @classmethod
    def start(cls, space: Space, features: int, seed: int, *, encoder: str = "", joint: bool = True) -> "NetworkPolicy":
        """Return a policy that prefers no role, for queries with so many features."""
        return cls(space, initialize_weights(space, features, seed), encoder, joint)

    @cached_property
    def network(self) -> PolicyNetwork:
        """The forward pass with these weights, without gradients."""
        return PolicyNetwork(self.space, to_tensors(self.weights), self.joint)

    def read_probabilities(self, queries: Sequence[Query]) -> ReadProbabilities:
        """Return a function that computes the probabilities of moves on these queries."""
        projected = self.network.project_queries(queries)

        @one_thread()
        def read(rows: list[int], states: StateBatch) -> MoveProbabilities:
            action_logp, agent_logits = self.network.forward(states, projected[rows])

            @one_thread()
            def agents(chosen: Integers) -> tuple[Floats, Floats]:
                logits = agent_logits(chosen)
                deletable = logits.masked_fill(~torch.from_numpy(states.can_delete), -1e9)
                return _round(torch.sigmoid(logits)) * states.is_agent, _round(deletable.softmax(1))

            return MoveProbabilities(_round(action_logp.exp()), agents)

        return read

    def to_json(self) -> dict[str, Any]:
        """Return plain data; weights are base64 of little-endian float32 with their shape."""
        weights = {
            name: {"shape": list(w.shape), "data": base64.b64encode(w.astype("<f4").tobytes()).decode()}
            for name, w in sorted(self.weights.items())
        }
        head = {"kind": "policy", "space": self.space.to_json(), "encoder": self.encoder}
        return {**head, "joint": self.joint, "weights": weights}

    @classmethod
    def from_json(cls, data: Any) -> "NetworkPolicy":
        """Read plain data. Raises GraphError for data that is no policy, or weights that do not fit its space."""
        try:
            space = Space.from_json(data["space"])
            weights = {}
            for name, stored in data["weights"].items():
                flat = np.frombuffer(base64.b64decode(stored["data"], validate=True), "<f4")
                weights[name] = flat.reshape([int(n) for n in stored["shape"]]).astype(np.float32)
            policy = cls(space, weights, data["encoder"], data["joint"])
            shapes = weight_shapes(space, weights["query"].shape[0])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise GraphError(f"The policy of agent graphs is not readable: {error}.") from error
        for name, shape in shapes.items():
            if name not in weights or weights[name].shape != shape or not np.isfinite(weights[name]).all():
                raise GraphError(f"The policy's weight {name!r} is missing, of a wrong shape, or not finite.")
        return policy


def _round(values: Tensor) -> Floats:
    """Round to nine digits: what is left depends neither on the batch nor on the machine."""
    return values.numpy().round(9)
