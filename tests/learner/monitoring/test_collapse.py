"""Alarms: rare where rewards only fluctuate, raised where learning falls apart."""

from dataclasses import replace

import numpy as np
import pytest

from edgewise.learner.monitoring.collapse import StepStats, best_window_reward, detect_collapse

FINE = StepStats(reward=0.5, length=20, entropy=1.0, kl=0.001, valid=1.0, cut=0.0)


def steps(rewards, **changes) -> list[StepStats]:
    return [replace(FINE, reward=float(r), **changes) for r in rewards]


def test_noise_seldom_alarms() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for run in range(200):
        level = np.linspace(0.3, 0.3 + 0.4 * (run % 2), 60)
        history = steps(np.clip(level + rng.normal(0, 0.08, 60), 0, 1))
        alarms += any(detect_collapse(history[:n]) for n in range(1, 61))
    assert alarms <= 10


def test_losing_half_of_the_gain_alarms_within_a_window() -> None:
    history = steps([0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.1, 0.05, 0.0, 0.0, 0.0])
    assert "fell from 0.70" in detect_collapse(history)
    assert not detect_collapse(history[:11])
    assert best_window_reward(history) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"valid": 0.2}, "can be graded"),
        ({"cut": 1.0}, "run into max_tokens"),
        ({"entropy": 6.0}, "became random"),
        ({"entropy": 0.01}, "no longer differ"),
        ({"length": 1.0}, "became short: 1 tokens, from 20"),
    ],
)
def test_broken_replies_alarm(change: dict[str, float], words: str) -> None:
    assert words in detect_collapse([*[FINE] * 10, *[replace(FINE, **change)] * 5])


def test_low_entropy_with_a_higher_reward_is_no_collapse() -> None:
    history = [*[FINE] * 10, *[replace(FINE, reward=0.95, entropy=0.01)] * 5]
    assert detect_collapse(history) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [({"loss": float("nan")}, "no number"), ({"kl": 2.0}, "2.00 nats"), ({"kl": float("nan")}, "nan nats")],
)
def test_one_broken_step_alarms(change: dict[str, float], words: str) -> None:
    assert words in detect_collapse([FINE, replace(FINE, **change)])


def test_empty_history_does_not_alarm() -> None:
    assert detect_collapse([]) == "" and best_window_reward([]) == 0.0
