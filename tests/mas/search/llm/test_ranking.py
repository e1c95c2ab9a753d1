"""Ratings of graphs: fair to those that met hard queries, careful with those that were lucky once."""

import numpy as np
import pytest

from edgewise.mas.search.llm.ranking import TrialRecord, best_rated, rate_graphs


def make_records(**rewards: dict[str, float]) -> list[TrialRecord]:
    return [TrialRecord(graph, query, reward) for graph, by in rewards.items() for query, reward in by.items()]


def test_rating_is_corrected_for_hard_queries() -> None:
    rng = np.random.default_rng(0)
    effect = {"good": 0.2, "poor": 0.0, "usual": 0.1}
    hard = {f"q{n}": -0.6 * (n < 20) for n in range(40)}
    tried = {"good": range(25), "poor": range(15, 40), "usual": range(40)}
    records = [
        TrialRecord(g, f"q{n}", effect[g] + hard[f"q{n}"] + 0.05 * rng.normal()) for g, ns in tried.items() for n in ns
    ]
    raw = {g: np.mean([r.reward for r in records if r.graph == g]) for g in effect}
    assert raw["good"] < raw["poor"]
    ratings = rate_graphs(records)
    assert best_rated(ratings) == "good"
    assert ratings["good"].mean - ratings["poor"].mean == pytest.approx(0.2, abs=0.05)


def test_one_lucky_trial_is_rated_below_many_good_ones() -> None:
    records = make_records(
        lucky={"q0": 1.0},
        steady={f"q{n}": 0.7 + 0.3 * (n % 2) for n in range(10)},
        plain={f"q{n}": 0.6 - 0.3 * (n % 2) for n in range(10)},
    )
    ratings = rate_graphs(records)
    assert best_rated(ratings) == "steady"
    assert ratings["lucky"].deviation > ratings["steady"].deviation
    assert [ratings[g].trials for g in ("lucky", "steady", "plain")] == [1, 10, 10]


def test_untried_graph_keeps_its_expected_mean_with_more_doubt() -> None:
    records = make_records(tried={"q0": 0.6, "q1": 0.5}, other={"q0": 0.2, "q1": 0.3})
    ratings = rate_graphs(records, {"tried": 0.4, "other": 0.4, "elsewhere": 0.4})
    assert ratings["tried"].mean > ratings["elsewhere"].mean == 0.4 > ratings["other"].mean
    assert (ratings["elsewhere"].trials, best_rated(ratings)) == (0, "tried")
    assert ratings["elsewhere"].deviation > ratings["tried"].deviation


def test_no_records_give_no_ratings() -> None:
    assert rate_graphs([]) == {}
