"""
The final policy of a search: the policy, restricted to the graphs with the best lower confidence bounds.

A policy that still explores has a likeliest graph that changes from step to step, among those that are nearly as good.
So a copy of it is trained, on the last queries, towards the graph with the best lower bound on each: one of the best
graphs known, or its own. It stays a policy, which answers queries that it has never seen.
"""

from collections.abc import Sequence

import numpy as np

from edgewise.mas.designs.graph_features import hash_shape
from edgewise.mas.designs.interface import Draft, Query
from edgewise.mas.graph.construction import build, moves_for
from edgewise.mas.search.policy.policy_gradient import Policy, make_learner
from edgewise.mas.search.policy.state_features import encode_moves
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

# Standard deviations that the lower bound takes off the mean.
BOUND = 2.0
RATE, CLIP = 0.03, 1.0
# Updates between two checks of the likeliest graphs.
CHECK_EVERY = 5


def settle_policy(
    policy: Policy, surrogate: RewardSurrogate, known: Sequence[Draft], queries: Sequence[Query], max_updates: int
) -> Policy:
    """Return the policy after at most `max_updates` updates, fewer where its likeliest graphs are the targets."""
    space = policy.space

    # The target of each query: the draft with the best lower bound, of those known and the policy's own.
    targets: list[Draft] = []
    for query, own in zip(queries, policy.graphs(queries), strict=True):
        drafts = [*known, Draft(own, build(space, moves_for(space, own)))]
        mean, covariance = surrogate.posterior([draft.graph for draft in drafts], query)
        bound = mean - BOUND * np.sqrt(np.maximum(0.0, np.diag(covariance)))
        targets.append(drafts[int(bound.argmax())])
    shapes = [hash_shape(space.roles, draft.graph) for draft in targets]

    # Maximum likelihood of the targets' moves.
    moves = encode_moves(space, [draft.build.moves for draft in targets if draft.build])
    learner = make_learner(policy, RATE, CLIP)
    old_logp, weights = learner.logp(moves, queries), np.full(len(moves), 1 / len(queries))
    for number in range(max_updates):
        is_check = number % CHECK_EVERY == 0
        if is_check and [hash_shape(space.roles, graph) for graph in policy.graphs(queries)] == shapes:
            break
        learner.update(moves, queries, old_logp, np.ones(len(moves)), weights, lambda x: -x.logp)
        policy = learner.policy()
    return policy
