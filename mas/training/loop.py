"""
The training loop of a search for graphs: steps of the search, the gate, and the measurement.

Everything here is a plan (see `toolkit.types.Plan`), so an interrupted run resumes from its journal.
"""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.mas.credit.evidence import Evidence
from edgewise.mas.designs.interface import Query, Searcher
from edgewise.mas.designs.query_encoder import encode, resolve_encoder
from edgewise.mas.search.registry import create_searcher
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.gate import build_equal_token_baseline, decide_by_gate
from edgewise.mas.training.measurement import measure_outcome
from edgewise.mas.training.records import MEASURING, GraphStep
from edgewise.mas.training.role_proposals import recruit_roles
from edgewise.mas.training.step_credit import assign_credit
from edgewise.mas.training.trials import evaluate_drafts
from edgewise.toolkit.groups.sampling.row_selection import shuffle
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.driver import charge_to_step
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GroupsFinished, StageStarted, StepFinished
from edgewise.toolkit.types import Example, Plan
from edgewise.toolkit.util.seeds import derive_seed


def learn(spec: GraphSpec) -> Plan[RunOutcome]:
    """Search for graphs on the training rows, test the design by the gate, and measure it on held-out rows."""
    spec = yield from charge_to_step(prepare_spec(spec), 1)
    searcher, evidence = create_searcher(spec), Evidence()
    for number in range(1, spec.config.steps + 1):
        record, evidence = yield from charge_to_step(step(spec, searcher, evidence, number), number)
        yield StepFinished(record)

    # The baseline is sized by the design, so both belong to the step after the last one.
    last, design = spec.config.steps + 1, searcher.design()
    baseline = yield from charge_to_step(build_equal_token_baseline(spec, design), last)
    accepted = yield from charge_to_step(decide_by_gate(spec, design, baseline, last), last)
    return (yield from charge_to_step(measure_outcome(spec, design, baseline, accepted), MEASURING))


def prepare_spec(spec: GraphSpec, rows: Sequence[Example] | None = None) -> Plan[GraphSpec]:
    """Return the spec with its rows as queries, and with the proposed roles that were admitted."""
    task = spec.task
    rows = (*task.train, *task.validation, *task.test) if rows is None else rows
    texts = [row.messages[-1].content for row in rows]
    encoder = yield from resolve_encoder(spec.config.encoder)
    vectors = yield from encode(encoder, texts)
    queries = {row.id: Query(row.id, text, v) for row, text, v in zip(rows, texts, vectors, strict=True)}
    spec = replace(spec, queries=queries, encoder=encoder)
    return replace(spec, extra_roles={**spec.extra_roles, **(yield from recruit_roles(spec))})


def step(spec: GraphSpec, searcher: Searcher, evidence: Evidence, number: int) -> Plan[tuple[GraphStep, Evidence]]:
    """Run drafts on the step's rows, measure the credit of their parts, and let the searcher learn."""
    config = spec.config
    rows, epoch = select_batch(spec, number)
    yield StageStarted(f"step {number}: {len(rows)} rows, {config.group_size} graphs each")
    seed = derive_seed(config.seed, "search", number)
    drafts = yield from searcher.propose([spec.query_of(row) for row in rows], config.group_size, seed)
    evaluated = yield [evaluate_drafts(spec, row, own, number) for row, own in zip(rows, drafts, strict=True)]
    groups = [row_trials.group for row_trials in evaluated]
    yield GroupsFinished(groups)
    check_alive([rollout for group in groups for rollout in group.rollouts])
    evaluated, evidence = yield from assign_credit(spec, evaluated, number, evidence)
    yield from searcher.learn([row_trials.trials for row_trials in evaluated], seed)
    return GraphStep(number, epoch, tuple(evaluated)), evidence


def select_batch(spec: GraphSpec, number: int) -> tuple[tuple[Example, ...], int]:
    """Return the rows of a step and their epoch; each epoch passes over all training rows in an order of its own."""
    rows, size = spec.task.train, min(spec.config.batch_size, len(spec.task.train))
    places = range((number - 1) * size, number * size)
    epochs = {place // len(rows) for place in places}
    shuffled = {epoch: shuffle(rows, spec.config.seed, epoch) for epoch in epochs}
    # By id, as a row may be the last of one epoch and the first of the next.
    batch = {(row := shuffled[place // len(rows)][place % len(rows)]).id: row for place in places}
    return tuple(batch.values()), 1 + places[0] // len(rows)
