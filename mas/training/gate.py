"""Compare the design with one agent that may use as many tokens."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewise.mas.designs.fixed import EqualTokenBaseline, FixedDesign
from edgewise.mas.designs.interface import Design
from edgewise.mas.designs.patterns import self_consistency
from edgewise.mas.graph.graph import MAX_NODES, single
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.records import DESIGNED, GraphStep, mean, count_group_tokens
from edgewise.mas.training.trials import measure_design
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.evaluation.gate import Choice, Scores, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted, StepFinished
from edgewise.toolkit.types import Example, Plan

SIZING_ROWS = 16
"""Training rows on which the tokens of a design are compared with one agent's."""


def decide_by_gate(job: GraphSpec, design: Design, rival: Design, number: int) -> Plan[Design]:
    """The design if it beats its rival, one agent at equal tokens, on the validation rows; else the plain agent."""
    start: Design = FixedDesign(single())
    if job.config.gate == "off":
        return design
    rows = job.task.validation[: job.config.gate_rows]
    yield StageStarted(f"comparing with one agent at equal tokens on {len(rows)} validation rows")
    choice: Choice[Design]
    if design.version == start.version:
        choice = Choice(start, "", Verdict(False, 0.0, 0))
    else:
        choice = yield from choose(rival, {DESIGNED: design}, rows, _scores(job), job.config.alpha)
    yield StepFinished(GraphStep(number, job.config.steps, choice=choice))
    return design if choice.winner else start


def _scores(job: GraphSpec) -> Any:
    def scores(design: Design, rows: Sequence[Example]) -> Plan[Scores]:
        groups = yield from measure_design(job, design, rows, "gate")
        yield GroupsFinished(groups)
        return np.array([mean([valid_reward(run) or 0.0 for run in group.rollouts]) for group in groups])

    return scores


def build_equal_token_baseline(job: GraphSpec, design: Design) -> Plan[EqualTokenBaseline]:
    """
    One agent that may use no fewer tokens than a design did on some training rows.

    It drafts k answers and takes a vote, k being the tokens of the design over those of one draft, rounded up, and at
    least 3 and at most as many as a graph has room for; it is the plain agent where that one uses no fewer already.
    """
    plain, draft = EqualTokenBaseline(single()), FixedDesign(single("drafter"))
    if design.version == plain.version:
        return plain
    rows = shuffle(job.task.train, job.config.seed, 0)[:SIZING_ROWS]
    found = yield [measure_design(job, each, rows, "gate") for each in (design, plain, draft)]
    ours, one, each = map(count_group_tokens, found)
    if ours <= one:
        return plain
    times = max(3, math.ceil(ours / max(1, each)))
    if times >= MAX_NODES:
        yield StageStarted(
            f"one agent would draft {times} times at equal tokens; a graph has {MAX_NODES} agents"
        )
    return EqualTokenBaseline(self_consistency(min(times, MAX_NODES - 1), "drafter"))
