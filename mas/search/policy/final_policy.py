"""
The design of a search: its policy, settled on the graphs of which most is sure.

A policy that is still looking has a likeliest graph that changes from step to step among those that are nearly as
good. So a copy of it is drawn, on the last queries seen, to the graph with the best lower bound on each: one of the
best graphs known or its own. It stays a policy, which answers for queries never seen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.designs.interface import Draft, Query
from edgewise.mas.graph.construction import build, moves_for
from edgewise.mas.graph.graph import Graph
from edgewise.mas.search.policy.network import LossInputs, NetworkPolicy
from edgewise.mas.search.policy.state_features import encode_moves
from edgewise.mas.search.policy.tabular import TabularPolicy
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

SURE = 2.0
"""Standard deviations of doubt that are taken off what a graph is thought to be worth."""
RATE, CLIP = 0.03, 1.0
CHECKED = 5
"""Updates between two looks at what is likeliest."""


def settle_policy(
    policy: NetworkPolicy | TabularPolicy,
    estimate: RewardSurrogate,
    known: Sequence[Draft],
    queries: Sequence[Query],
    updates: int,
) -> NetworkPolicy | TabularPolicy:
    """The policy after as many updates as it takes until the surest graphs are the likeliest, at most `updates`."""
    surest = _surest(policy, estimate, known, queries)
    moves = encode_moves(policy.space, [draft.build.moves for draft in surest if draft.build])
    learner = policy.learner(RATE, CLIP)
    old, even = learner.logp(moves, queries), np.full(len(moves), 1 / len(queries))
    for number in range(updates):
        if number % CHECKED == 0 and _alike(policy.graphs(queries), surest, policy.space.roles):
            break
        learner.update(moves, queries, old, np.ones(len(moves)), even, unlikelihood)
        policy = learner.policy()
    return policy


def unlikelihood(x: LossInputs) -> Any:
    """(M,) how unlikely moves are, to be minimised."""
    return -x.logp


def _surest(
    policy: NetworkPolicy | TabularPolicy, estimate: RewardSurrogate, known: Sequence[Draft], queries: Sequence[Query]
) -> list[Draft]:
    """For each query, of those known and the policy's own, the one with the best lower bound."""
    found = list[Draft]()
    for query, own in zip(queries, policy.graphs(queries), strict=True):
        drafts = [*known, Draft(own, build(policy.space, moves_for(policy.space, own)))]
        mean, doubt = estimate.posterior([draft.graph for draft in drafts], query)
        bound = mean - SURE * np.sqrt(np.maximum(0.0, np.diag(doubt)))
        found.append(drafts[int(bound.argmax())])
    return found


def _alike(graphs: Sequence[Graph], drafts: Sequence[Draft], roles: tuple[str, ...]) -> bool:
    return all(hash_shape(roles, a) == hash_shape(roles, b.graph) for a, b in zip(graphs, drafts, strict=True))
