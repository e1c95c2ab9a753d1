"""
Learning in wiring: steps of a search, a test against one agent at equal tokens, and the measurement.

Everything here is a plan (see `toolkit.types.Plan`), so a run that was stopped is taken up from its journal.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgewise.mas.credit.ablation import credited_with
from edgewise.mas.credit.evidence import Evidence
from edgewise.mas.credit.failures import counted, failure
from edgewise.mas.credit.reward import formula
from edgewise.mas.designs.fixed import Fixed, Rival
from edgewise.mas.designs.interface import Design, Query, Searcher
from edgewise.mas.designs.query_encoder import encoded, settled
from edgewise.mas.graph.graph import MOST_NODES, Graph, Node, single
from edgewise.mas.runtime.graph_run import GraphRun
from edgewise.mas.search.baselines import self_consistency
from edgewise.mas.search.registry import searcher
from edgewise.mas.spec import Job
from edgewise.mas.training.role_proposals import recruited
from edgewise.mas.training.trials import Tried, grouped, measure, measured_runs, tokens_of, tried
from edgewise.toolkit.budget.ledger import PICO, cost
from edgewise.toolkit.budget.prices import price_of
from edgewise.toolkit.errors import AllFailed
from edgewise.toolkit.evaluation.comparison import Arm, Evaluation, compare, reward_of
from edgewise.toolkit.evaluation.gate import Choice, Scores, Verdict, choose
from edgewise.toolkit.groups.sampling.row_selection import shuffled
from edgewise.toolkit.run.driver import booked
from edgewise.toolkit.run.runner import Outcome
from edgewise.toolkit.types import Example, Group, Note, Plan, Rollout, Score, Usage
from edgewise.toolkit.util.seeds import seed as seed_of

MEASURING = 0
EXAMPLES = 20
"""Rows whose graphs an artefact shows."""
SIZING = 16
"""Training rows on which the tokens of a design are compared with one agent's."""

ONE, DESIGNED, EQUAL = "one agent", "designed", "one agent, equal tokens"
"""Names of the arms that are measured."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step of the search saw; `choice` is the gate's, in the record after the last step."""

    number: int
    epoch: int
    tried: tuple[Tried, ...] = ()
    choice: Choice[Design] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: rewards, graphs and credits of the groups, the choice."""
        runs = [run.rollout for each in self.tried for run in each.runs[:-1]]
        rewards = [reward_of(run) or 0.0 for run in runs]
        return {
            "step": self.number,
            "epoch": self.epoch,
            "statistics": {
                "runs": len(runs),
                "mean_reward": _mean(rewards),
                "mixed": _mean([len({t.reward for t in each.trials.trials}) > 1 for each in self.tried]),
            },
            "groups": [_tried_json(each) for each in self.tried],
            "gate": self.choice.to_json() if self.choice else None,
        }

    def summary(self) -> str:
        """One line for people."""
        if self.choice:
            return f"gate, against one agent at equal tokens: {self.choice.summary()}"
        found = [t for each in self.tried for t in each.trials.trials]
        quality = _mean([t.parts.get("quality", 0.0) for t in found])
        alone = _mean([reward_of(each.runs[-1].rollout) or 0.0 for each in self.tried])
        sizes = _mean([len(t.draft.graph) for t in found])
        return (
            f"step {self.number}: graphs {quality:.2f}, one agent {alone:.2f}, {sizes:.1f} agents a graph, "
            f"{len({t.draft.graph.version for t in found})} different graphs"
        )


def _tried_json(each: Tried) -> dict[str, Any]:
    return {
        "example": each.row.id,
        "one_agent": reward_of(each.runs[-1].rollout) or 0.0,
        "trials": [
            {
                "graph": t.draft.graph.version,
                "nodes": [node.name for node in t.draft.graph.nodes],
                "edges": [list(edge) for edge in t.draft.graph.edges],
                "reward": t.reward,
                "parts": dict(t.parts),
                "credit": dict(t.credit),
            }
            for t in each.trials.trials
        ],
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


# ---- the job ---------------------------------------------------------------------------------------


def learn(job: Job) -> Plan[Outcome]:
    """Search for graphs on the training rows, test what was found, and measure it on rows never seen."""
    job = yield from booked(prepared(job), 1)
    found, known = searcher(job), Evidence()
    for number in range(1, job.config.steps + 1):
        record, known = yield from booked(step(job, found, known, number), number)
        yield Note("step", record)
    last = job.config.steps + 1
    design = found.design()
    rival = yield from booked(equal_tokens(job, design), last)
    kept = yield from booked(decided(job, design, rival, last), last)
    return (yield from booked(_outcome(job, design, rival, kept), MEASURING))


def prepared(job: Job, rows: Sequence[Example] | None = None) -> Plan[Job]:
    """The job with its rows as queries, and with roles that a model proposed and that showed their worth."""
    task = job.task
    rows = (*task.train, *task.validation, *task.test) if rows is None else rows
    texts = [row.messages[-1].content for row in rows]
    encoder = yield from settled(job.config.encoder)
    vectors = yield from encoded(encoder, texts)
    queries = {row.id: Query(row.id, text, v) for row, text, v in zip(rows, texts, vectors, strict=True)}
    job = replace(job, queries=queries, encoder=encoder)
    return replace(job, recruited={**job.recruited, **(yield from recruited(job))})


def step(job: Job, searcher: Searcher, known: Evidence, number: int) -> Plan[tuple[StepRecord, Evidence]]:
    """Try drafts on the step's rows, measure what their parts are worth, and tell the searcher."""
    config = job.config
    rows, epoch = batch(job, number)
    yield Note("stage", f"step {number}: {len(rows)} rows, {config.group_size} graphs each")
    seed = seed_of(config.seed, "search", number)
    drafts = yield from searcher.propose([job.query(row) for row in rows], config.group_size, seed)
    found = yield [tried(job, row, each, number) for row, each in zip(rows, drafts, strict=True)]
    yield Note("groups", [each.group for each in found])
    check_alive([each.group for each in found])
    found, known = yield from credited_with(job, found, number, known)
    yield from searcher.learn([each.trials for each in found], seed)
    return StepRecord(number, epoch, tuple(found)), known


def batch(job: Job, number: int) -> tuple[tuple[Example, ...], int]:
    """The rows of a step and their epoch: one pass over the training rows after the other, each in its own order."""
    rows, size = job.task.train, min(job.config.batch_size, len(job.task.train))
    places = range((number - 1) * size, number * size)
    decks = {
        epoch: shuffled(rows, job.config.seed, epoch) for epoch in {place // len(rows) for place in places}
    }
    picked = {(row := decks[place // len(rows)][place % len(rows)]).id: row for place in places}
    return tuple(picked.values()), 1 + places[0] // len(rows)


def check_alive(groups: Sequence[Group]) -> None:
    """Raise AllFailed where every single run broke: that says nothing of the graphs."""
    runs = [run for group in groups for run in group.members]
    if runs and all(run.failed for run in runs):
        raise AllFailed(
            f"Every one of {len(runs)} graph runs failed, the first one so: {runs[0].error} The failures are "
            "recorded: once the cause is mended, begin anew with another --run."
        )


# ---- whether it is better --------------------------------------------------------------------------


def decided(job: Job, design: Design, rival: Design, number: int) -> Plan[Design]:
    """The design if it beats its rival, one agent at equal tokens, on the validation rows; else the plain agent."""
    start: Design = Fixed(single())
    if job.config.gate == "off":
        return design
    rows = job.task.validation[: job.config.gate_rows]
    yield Note("stage", f"comparing with one agent at equal tokens on {len(rows)} validation rows")
    choice: Choice[Design]
    if design.version == start.version:
        choice = Choice(start, "", Verdict(False, 0.0, 0))
    else:
        choice = yield from choose(rival, {DESIGNED: design}, rows, _scores(job), job.config.alpha)
    yield Note("step", StepRecord(number, job.config.steps, choice=choice))
    return design if choice.winner else start


def _scores(job: Job) -> Any:
    def scores(design: Design, rows: Sequence[Example]) -> Plan[Scores]:
        groups = yield from measure(job, design, rows, "gate")
        yield Note("groups", groups)
        return np.array([_mean([reward_of(run) or 0.0 for run in group.members]) for group in groups])

    return scores


def equal_tokens(job: Job, design: Design) -> Plan[Rival]:
    """
    One agent that may use no fewer tokens than a design did on some training rows.

    It drafts k answers and takes a vote, k being the tokens of the design over those of one draft, rounded up, and at
    least 3 and at most as many as a graph has room for; it is the plain agent where that one uses no fewer already.
    """
    plain, draft = Rival(single()), Fixed(single("drafter"))
    if design.version == plain.version:
        return plain
    rows = shuffled(job.task.train, job.config.seed, 0)[:SIZING]
    found = yield [measure(job, each, rows, "gate") for each in (design, plain, draft)]
    ours, one, each = map(_tokens, found)
    if ours <= one:
        return plain
    times = max(3, math.ceil(ours / max(1, each)))
    if times >= MOST_NODES:
        yield Note(
            "stage", f"one agent would draft {times} times at equal tokens; a graph has {MOST_NODES} agents"
        )
    return Rival(self_consistency(min(times, MOST_NODES - 1), "drafter"))


def _tokens(groups: Sequence[Group]) -> int:
    return sum(tokens_of(run) for group in groups for run in group.members)


# ---- the measurement -------------------------------------------------------------------------------


def _outcome(job: Job, found: Design, rival: Design, kept: Design) -> Plan[Outcome]:
    """The measurement of what was found, whether or not it is kept, beside one agent and one at equal tokens."""
    start = Fixed(single())
    arms: dict[str, Design] = {ONE: start, DESIGNED: found}
    if rival.version != start.version:
        arms[EQUAL] = rival
    runs = yield from measured(job, arms)
    groups = {name: _groups(job, each) for name, each in runs.items()}
    evaluation = compared(groups, job.config.samples)
    failures = yield from _failures(job, runs[DESIGNED])
    yield Note("wiring", Wiring(job, found, evaluation, groups, failures))
    files, unchanged = (artifact_files(job, design) for design in (kept, start))
    return Outcome(evaluation, files, unchanged)


Runs = list[list[GraphRun]]
"""The runs of an arm: the samples of each test row."""


def measured(job: Job, arms: Mapping[str, Design]) -> Plan[dict[str, Runs]]:
    """Run designs on the same test rows and samples."""
    rows = job.task.test
    yield Note("stage", f"measuring on {len(rows)} held-out rows")
    found = yield [measured_runs(job, design, rows) for design in arms.values()]
    groups = [group for each in found for group in _groups(job, each)]
    yield Note("groups", groups)
    check_alive(groups)
    return dict(zip(arms, found, strict=True))


def _groups(job: Job, runs: Runs) -> list[Group]:
    return [grouped(row, each) for row, each in zip(job.task.test, runs, strict=True)]


def _failures(job: Job, runs: Runs) -> Plan[dict[str, int]]:
    """Why wrong answers were wrong, counted by class; `Failure` names them."""

    def grade(row: Example, run: Rollout) -> Plan[Score]:
        return job.task.reward.grade(row, run, job.judge)

    rows = [(row, run) for row, each in zip(job.task.test, runs, strict=True) for run in each]
    found = yield [failure(run, job.catalogue, row, grade) for row, run in rows]
    return {str(name): count for name, count in counted(found).items()}


def compared(groups: Mapping[str, Sequence[Group]], samples: int) -> Evaluation:
    """The arms against the first one."""
    arms = [Arm(name, tuple(found)) for name, found in groups.items()]
    return compare(arms, ks=tuple(sorted({1, samples})))


def artifact_files(job: Job, design: Design) -> dict[str, Any]:
    """What the artefact keeps: the design with the graphs of some queries to look at, and the roles in full."""
    queries = [job.query(row) for row in job.task.test[:EXAMPLES]]
    examples = [
        {"query": query.id, "graph": graph.to_json()}
        for query, graph in zip(queries, design.graphs(queries), strict=True)
    ]
    roles = {
        name: role.model_dump(mode="json", exclude_defaults=True) for name, role in job.catalogue.items()
    }
    data = {**design.to_json(), "examples": examples}
    if tools := _own_tools(job, design):
        data["tools"] = tools
    return {"graph.json": data, "roles.json": roles}


def _own_tools(job: Job, design: Design) -> list[str]:
    """The tools of the task that a design may use: of one graph those of its nodes, else all."""
    team = job.team("use", job.config.measuring)
    if not isinstance(design, Fixed):
        return list(team.own)
    used = {name for node in design.graph.nodes for name in team.tool_names(node)}
    return [name for name in team.own if name in used]


def _spent(
    job: Job, graphs: Sequence[Graph], groups: Sequence[Group]
) -> dict[str, dict[str, dict[str, float]]]:
    """By graph and node, the mean tokens of a run, and dollars where the price of the node's model is known."""
    usage: dict[Graph, dict[str, Usage]] = defaultdict(lambda: defaultdict(Usage))
    runs: Counter[Graph] = Counter()
    for graph, group in zip(graphs, groups, strict=True):
        runs[graph] += len(group.members)
        for agent in (each for run in group.members for step in run.steps for each in step.calls):
            usage[graph][agent.role] += agent.usage
    return {
        graph.version: {
            name: _mean_cost(job, graph[name], used, runs[graph]) for name, used in usage[graph].items()
        }
        for graph in runs
    }


def _mean_cost(job: Job, node: Node, usage: Usage, runs: int) -> dict[str, float]:
    price = price_of(node.model or job.config.model, job.config.price_list)
    return {"tokens": usage.total / runs, **({"usd": cost(usage, price) / PICO / runs} if price else {})}


@dataclass(frozen=True, slots=True)
class Wiring:
    """What RUN/wiring.json holds for the report: the graphs that were used, and how they compare at equal tokens."""

    job: Job
    design: Design
    evaluation: Evaluation
    groups: Mapping[str, Sequence[Group]]
    failures: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = self.job.task.test
        graphs = self.design.graphs([self.job.query(row) for row in rows])
        counts = Counter(graph.version for graph in graphs)
        by_version = {graph.version: graph for graph in graphs}
        spent = _spent(self.job, graphs, self.groups[DESIGNED])
        return {
            "formula": formula(self.job.weights),
            "graphs": [
                {"graph": by_version[v].to_json(), "rows": n, "version": v, "nodes": spent[v]}
                for v, n in counts.most_common()
            ],
            "front": [
                {
                    "arm": result.name,
                    "mean": result.mean.estimate,
                    "tokens": _tokens(self.groups[result.name]) / runs,
                }
                for result in self.evaluation.results
                if (runs := max(1, result.rollouts))
            ],
            "equal_tokens": self._at_equal_tokens(),
            "failures": dict(self.failures),
        }

    def _at_equal_tokens(self) -> dict[str, Any]:
        """The design against one agent at equal tokens: mean difference, interval, p."""
        rival = EQUAL if EQUAL in self.groups else ONE
        found = compared({name: self.groups[name] for name in (rival, DESIGNED)}, self.job.config.samples)
        mean = found.results[1].against.mean if found.results[1].against else None
        return {"rival": rival, **(asdict(mean) if mean else {})}
