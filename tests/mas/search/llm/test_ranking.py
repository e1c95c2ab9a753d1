"""What is thought of graphs: fair to those that met hard queries, careful with those that were lucky once."""

import numpy as np
import pytest

from edgewise.mas.search.llm.ranking import TrialRecord, best_rated, rate_graphs


def seen(**rewards: dict[str, float]) -> list[TrialRecord]:
    return [TrialRecord(graph, query, reward) for graph, by in rewards.items() for query, reward in by.items()]


def test_a_graph_that_met_hard_queries_is_not_thought_worse() -> None:
    rng = np.random.default_rng(0)
    effect = {"good": 0.2, "poor": 0.0, "usual": 0.1}
    hard = {f"q{n}": -0.6 * (n < 20) for n in range(40)}
    tried = {"good": range(25), "poor": range(15, 40), "usual": range(40)}
    records = [
        TrialRecord(g, f"q{n}", effect[g] + hard[f"q{n}"] + 0.05 * rng.normal())
        for g, ns in tried.items()
        for n in ns
    ]
    raw = {g: np.mean([r.reward for r in records if r.graph == g]) for g in effect}
    assert raw["good"] < raw["poor"]
    found = rate_graphs(records)
    assert best_rated(found) == "good"
    assert found["good"].mean - found["poor"].mean == pytest.approx(0.2, abs=0.05)


def test_one_lucky_trial_is_less_than_many_good_ones() -> None:
    records = seen(
        lucky={"q0": 1.0},
        steady={f"q{n}": 0.7 + 0.3 * (n % 2) for n in range(10)},
        plain={f"q{n}": 0.6 - 0.3 * (n % 2) for n in range(10)},
    )
    found = rate_graphs(records)
    assert best_rated(found) == "steady"
    assert found["lucky"].deviation > found["steady"].deviation
    assert [found[g].trials for g in ("lucky", "steady", "plain")] == [1, 10, 10]


def test_what_was_not_tried_here_is_as_good_as_expected_and_less_sure() -> None:
    records = seen(tried={"q0": 0.6, "q1": 0.5}, other={"q0": 0.2, "q1": 0.3})
    found = rate_graphs(records, {"tried": 0.4, "other": 0.4, "elsewhere": 0.4})
    assert found["tried"].mean > found["elsewhere"].mean == 0.4 > found["other"].mean
    assert (found["elsewhere"].trials, best_rated(found)) == (0, "tried")
    assert found["elsewhere"].deviation > found["tried"].deviation


def test_nothing_seen_is_nothing_thought() -> None:
    assert rate_graphs([]) == {}
