"""Predicted rewards of graphs, from few trials of others."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve

from edgewise.mas.designs.graph_features import expected_cost, extract_features, hash_shape, inner_graphs
from edgewise.mas.designs.interface import Draft, Query, Trial, TrialGroup
from edgewise.mas.designs.patterns import chain
from edgewise.mas.graph.graph import Graph, single
from edgewise.mas.search.surrogate import gaussian_process
from edgewise.mas.search.surrogate.gaussian_process import RewardSurrogate

ROLES = ("solver", "planner", "critic", "judge")
ANSWERS = (True, False, False, True)
QUERY = Query("q", "", np.ones(4, np.float32))
JUDGED = chain("planner", "solver", "judge")


def group(rewards: dict[Graph, float], beside: dict[Graph, float] | None = None) -> TrialGroup:
    trials, more = (
        tuple(Trial(Draft(graph), reward) for graph, reward in by_graph.items()) for by_graph in (rewards, beside or {})
    )
    return TrialGroup(QUERY, trials, more)


def fit(*groups: TrialGroup, **settings: Any) -> RewardSurrogate:
    surrogate = RewardSurrogate(ROLES, ANSWERS, **settings)
    for new in groups:
        surrogate.fit([new])
    return surrogate


def predict(surrogate: RewardSurrogate, graph: Graph) -> float:
    return float(surrogate.predict([graph], [QUERY])[0])


def test_trial_beside_the_drafts_counts_like_a_draft() -> None:
    both = {single("solver"): 1.0, single("judge"): 0.0}
    beside = fit(group({single("judge"): 0.0}, {single("solver"): 1.0}))
    assert predict(beside, single("solver")) == pytest.approx(predict(fit(group(both)), single("solver")))


def test_merged_rows_give_the_same_posterior() -> None:
    rng, graphs = np.random.default_rng(1), [single(), single("judge"), JUDGED, chain("planner", "solver")]
    trials = [group({graphs[int(rng.integers(4))]: float(rng.random())}) for _ in range(60)]
    single_rows, merged = fit(*trials), fit(*trials, window=10)
    assert merged.observations and single_rows.observations
    assert (len(single_rows.observations), float(merged.observations.counts.sum())) == (60, 60)
    assert len(merged.observations) <= 10
    assert merged.reward_std == pytest.approx(single_rows.reward_std)
    for graph in [*graphs, chain("solver", "judge")]:
        (mean, variance), (mean_2, variance_2) = (x.posterior([graph], QUERY) for x in (single_rows, merged))
        assert mean_2[0] == pytest.approx(mean[0]) and variance_2[0, 0] == pytest.approx(variance[0, 0])


def test_least_tried_and_oldest_shapes_leave_the_window_first() -> None:
    once = [group({graph: 0.0}) for graph in (JUDGED, single("planner"), single("critic"))]
    rows = fit(*[group({single("solver"): 1.0})] * 3, *once, window=3).observations
    assert rows
    assert [len(graph) for graph in rows.graphs] == [1, 1, 1]
    assert rows.counts.tolist() == [3, 1, 1]


def test_inner_graphs_end_at_agents_that_answer() -> None:
    assert inner_graphs(ROLES, ANSWERS, JUDGED) == (chain("planner", "solver"),)
    assert inner_graphs(ROLES, (), JUDGED) == (single("planner"), chain("planner", "solver"))


def test_better_inner_answer_raises_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = group({single("solver"): 0.0, chain("planner", "solver"): 1.0, chain("solver", "judge"): 0.0})
    prediction = predict(fit(trials, trials), JUDGED)
    monkeypatch.setattr(gaussian_process, "INSIDE_GAIN", 0.0)
    monkeypatch.setattr(gaussian_process, "INSIDE_STD", 0.0)
    assert prediction > predict(fit(trials, trials), JUDGED) + 0.05


def test_primal_weights_give_the_prediction_of_the_dual_form() -> None:
    """Without queries the value of a graph's answer is its prediction, but for its cost and the mean."""
    rng = np.random.default_rng(0)
    graphs = [single(), JUDGED, chain("planner", "solver"), chain("solver", "critic")]
    rounds = [group({graph: float(rng.random()) for graph in graphs}) for _ in range(3)]
    surrogate = fit(*rounds, query_weight=0.0)
    std, trials = surrogate.reward_std, surrogate.trials
    surrogate.previous = gaussian_process.PrimalWeights.from_dual(trials, surrogate.dual / std, len(ROLES))
    costs = expected_cost(JUDGED) + trials.prior_mean.mean()
    assert surrogate.answer_value(JUDGED) * std == pytest.approx(predict(surrogate, JUDGED) + std * costs)


def test_variance_is_least_where_there_were_trials() -> None:
    surrogate = fit(*[group({single(): 1.0, single("judge"): 0.0})] * 5)
    covariance = surrogate.posterior([single(), JUDGED], QUERY)[1]
    assert 0 < covariance[0, 0] < covariance[1, 1]


def test_posterior_is_that_of_the_textbook() -> None:
    """
    Rasmussen and Williams, algorithm 2.1, on a kernel that is computed pair by pair.

    This is what scikit-learn's GaussianProcessRegressor does with a precomputed kernel and the noise in its diagonal.
    """
    rng = np.random.default_rng(3)
    queries = [Query(f"q{i}", "", rng.normal(size=4).astype(np.float32)) for i in range(3)]
    graphs = [single(), single("judge"), JUDGED, chain("planner", "solver"), chain("solver", "critic")]
    surrogate = RewardSurrogate(ROLES, ANSWERS)
    groups: list[TrialGroup] = []
    for _ in range(3):
        samples = [[graphs[i] for i in rng.permutation(5)[:3]] for _ in queries]
        trials = [tuple(Trial(Draft(graph), float(rng.random())) for graph in row) for row in samples]
        step = [TrialGroup(query, row) for query, row in zip(queries, trials, strict=True)]
        surrogate.fit(step)
        groups += step
    seen = [(trial.draft.graph, group.query) for group in groups for trial in group.trials]
    rewards = np.array([trial.reward for group in groups for trial in group.trials])
    std = rewards.std()

    def kernel(a: tuple[Graph, Query], b: tuple[Graph, Query]) -> float:
        (g, q), (h, r) = a, b
        cosine = q.features @ r.features / np.linalg.norm(q.features) / np.linalg.norm(r.features)
        inside = surrogate.best_inner_value(g) * surrogate.best_inner_value(h)
        value = extract_features(ROLES, g) @ extract_features(ROLES, h)
        value += 0.33**2 * (hash_shape(ROLES, g) == hash_shape(ROLES, h))
        value += 0.3**2 * (1 + (g[g.exit].role == h[h.exit].role)) * inside
        return float(value * (0.7 + 0.3 * max(0.0, cosine)))

    def matrix(one: list[tuple[Graph, Query]], other: list[tuple[Graph, Query]]) -> np.ndarray:
        return np.array([[kernel(a, b) for b in other] for a in one])

    def prior_mean(points: list[tuple[Graph, Query]]) -> np.ndarray:
        return std * np.array([0.5 * surrogate.best_inner_value(g) - expected_cost(g) for g, _ in points])

    # The three rewards of a group share noise with half the variance of a reward's own.
    noise = np.eye(len(seen)) + np.kron(np.eye(9), np.full((3, 3), 0.5))
    new = [(graph, queries[1]) for graph in [*graphs, chain("critic", "judge")]]
    residual = rewards - prior_mean(seen)
    factor = cho_factor(matrix(seen, seen) + noise)
    across = matrix(new, seen)
    mean = across @ cho_solve(factor, residual - residual.mean()) + prior_mean(new) + residual.mean()
    covariance = std**2 * (matrix(new, new) - across @ cho_solve(factor, across.T))

    surrogate_mean, surrogate_covariance = surrogate.posterior([graph for graph, _ in new], queries[1])
    assert surrogate_mean + rewards.mean() == pytest.approx(mean)
    assert surrogate_covariance == pytest.approx(covariance)
