"""
Learning in wiring: steps of a search, a test against one agent at equal tokens, and the measurement.

Everything here is a plan (see `toolkit.types.Plan`), so a run that was stopped is taken up from its journal.
"""

from collections.abc import Sequence
from dataclasses import replace

from edgewise.mas.credit.evidence import Evidence
from edgewise.mas.designs.interface import Query, Searcher
from edgewise.mas.designs.query_encoder import encode, resolve_encoder
from edgewise.mas.search.registry import create_searcher
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.gate import decide_by_gate, build_equal_token_baseline
from edgewise.mas.training.measurement import measure_outcome
from edgewise.mas.training.records import (
    MEASURING,
    GraphStep,
)
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

# ---- the job ---------------------------------------------------------------------------------------


def learn(job: GraphSpec) -> Plan[RunOutcome]:
    """Search for graphs on the training rows, test what was found, and measure it on rows never seen."""
    job = yield from charge_to_step(prepare_spec(job), 1)
    found, known = create_searcher(job), Evidence()
    for number in range(1, job.config.steps + 1):
        record, known = yield from charge_to_step(step(job, found, known, number), number)
        yield StepFinished(record)
    last = job.config.steps + 1
    design = found.design()
    rival = yield from charge_to_step(build_equal_token_baseline(job, design), last)
    kept = yield from charge_to_step(decide_by_gate(job, design, rival, last), last)
    return (yield from charge_to_step(measure_outcome(job, design, rival, kept), MEASURING))


def prepare_spec(job: GraphSpec, rows: Sequence[Example] | None = None) -> Plan[GraphSpec]:
    """The job with its rows as queries, and with roles that a model proposed and that showed their worth."""
    task = job.task
    rows = (*task.train, *task.validation, *task.test) if rows is None else rows
    texts = [row.messages[-1].content for row in rows]
    encoder = yield from resolve_encoder(job.config.encoder)
    vectors = yield from encode(encoder, texts)
    queries = {row.id: Query(row.id, text, v) for row, text, v in zip(rows, texts, vectors, strict=True)}
    job = replace(job, queries=queries, encoder=encoder)
    return replace(job, extra_roles={**job.extra_roles, **(yield from recruit_roles(job))})


def step(
    job: GraphSpec, searcher: Searcher, known: Evidence, number: int
) -> Plan[tuple[GraphStep, Evidence]]:
    """Try drafts on the step's rows, measure what their parts are worth, and tell the searcher."""
    config = job.config
    rows, epoch = select_batch(job, number)
    yield StageStarted(f"step {number}: {len(rows)} rows, {config.group_size} graphs each")
    seed = derive_seed(config.seed, "search", number)
    drafts = yield from searcher.propose([job.query_of(row) for row in rows], config.group_size, seed)
    found = yield [evaluate_drafts(job, row, each, number) for row, each in zip(rows, drafts, strict=True)]
    yield GroupsFinished([each.group for each in found])
    check_alive([run for each in found for run in each.group.members])
    found, known = yield from assign_credit(job, found, number, known)
    yield from searcher.learn([each.trials for each in found], seed)
    return GraphStep(number, epoch, tuple(found)), known


def select_batch(job: GraphSpec, number: int) -> tuple[tuple[Example, ...], int]:
    """The rows of a step and their epoch: one pass over the training rows after the other, each in its own order."""
    rows, size = job.task.train, min(job.config.batch_size, len(job.task.train))
    places = range((number - 1) * size, number * size)
    decks = {
        epoch: shuffle(rows, job.config.seed, epoch) for epoch in {place // len(rows) for place in places}
    }
    picked = {(row := decks[place // len(rows)][place % len(rows)]).id: row for place in places}
    return tuple(picked.values()), 1 + places[0] // len(rows)


# ---- whether it is better --------------------------------------------------------------------------


# ---- the measurement -------------------------------------------------------------------------------
