"""Compare the design with one agent that may use as many tokens."""

import math
from collections.abc import Sequence

import numpy as np

from edgewise.mas.designs.fixed import EqualTokenBaseline, FixedDesign
from edgewise.mas.designs.interface import Design
from edgewise.mas.designs.patterns import self_consistency
from edgewise.mas.graph.graph import MAX_NODES, single
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.records import DESIGNED, GraphStep, count_group_tokens
from edgewise.mas.training.trials import measure_design, quality_of
from edgewise.toolkit.evaluation.gate import Choice, Scores, Verdict, choose
from edgewise.toolkit.evaluation.statistics import mean
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted, StepFinished
from edgewise.toolkit.types import Example, Plan

# Training rows on which the tokens of a design are compared with one agent's.
SIZING_ROWS = 16


def decide_by_gate(spec: GraphSpec, design: Design, baseline: Design, number: int) -> Plan[Design]:
    """Return the design if it beats its baseline at equal tokens on the validation rows, else the plain agent."""
    start: Design = FixedDesign(single())
    if spec.config.gate == "off":
        return design
    rows = spec.task.validation[: spec.config.gate_rows]
    yield StageStarted(f"comparing with one agent at equal tokens on {len(rows)} validation rows")

    def score(design: Design, rows: Sequence[Example]) -> Plan[Scores]:
        groups = yield from measure_design(spec, design, rows, "gate")
        yield GroupsFinished(groups)
        return np.array([mean([quality_of(rollout) for rollout in group.rollouts]) for group in groups])

    # The plain agent can't beat itself, but the step is recorded all the same.
    choice: Choice[Design]
    if design.version == start.version:
        choice = Choice(start, "", Verdict(False, 0.0, 0))
    else:
        choice = yield from choose(baseline, {DESIGNED: design}, rows, score, spec.config.alpha)
    yield StepFinished(GraphStep(number, spec.config.steps, choice=choice))
    return design if choice.winner else start


def build_equal_token_baseline(spec: GraphSpec, design: Design) -> Plan[EqualTokenBaseline]:
    """
    Return one agent that may use no fewer tokens than a design did on some training rows.

    It drafts k answers and takes a vote, with k = tokens of the design / tokens of one draft, rounded up, at least 3
    and at most the size of a graph. Where the plain agent uses no fewer tokens already, it is the baseline.
    """
    plain, draft = EqualTokenBaseline(single()), FixedDesign(single("drafter"))
    if design.version == plain.version:
        return plain
    rows = shuffle(spec.task.train, spec.config.seed, 0)[:SIZING_ROWS]
    groups = yield [measure_design(spec, arm, rows, "gate") for arm in (design, plain, draft)]
    design_tokens, plain_tokens, draft_tokens = map(count_group_tokens, groups)
    if design_tokens <= plain_tokens:
        return plain
    # A vote needs three; more drafts than a graph has room for cannot be run.
    drafts = max(3, math.ceil(design_tokens / max(1, draft_tokens)))
    if drafts >= MAX_NODES:
        yield StageStarted(f"one agent would draft {drafts} times at equal tokens; a graph has {MAX_NODES} agents")
    return EqualTokenBaseline(self_consistency(min(drafts, MAX_NODES - 1), "drafter"))
