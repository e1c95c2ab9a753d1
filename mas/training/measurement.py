"""Measure a design on held-out rows, beside one agent and one agent at equal tokens."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgewise.mas.credit.failures import count_failures, classify_failure
from edgewise.mas.credit.reward import render_formula
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Design
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.runtime.graph_run import GraphRun
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.records import DESIGNED, EQUAL, ONE, count_group_tokens
from edgewise.mas.training.trials import group_rollouts, run_design
from edgewise.toolkit.budget.ledger import PICO, cost
from edgewise.toolkit.budget.prices import find_price
from edgewise.toolkit.evaluation.comparison import Arm, Evaluation, compare
from edgewise.toolkit.rollout.health import check_alive
from edgewise.toolkit.run.runner import RunOutcome
from edgewise.toolkit.tracking.events import GraphsMeasured, GroupsFinished, StageStarted
from edgewise.toolkit.types import Example, Group, Plan, Rollout, Score, Usage

EXAMPLES = 20
"""Rows whose graphs an artefact shows."""


def measure_outcome(job: GraphSpec, found: Design, rival: Design, kept: Design) -> Plan[RunOutcome]:
    """The measurement of what was found, whether or not it is kept, beside one agent and one at equal tokens."""
    start = FixedDesign(single())
    arms: dict[str, Design] = {ONE: start, DESIGNED: found}
    if rival.version != start.version:
        arms[EQUAL] = rival
    runs = yield from measured(job, arms)
    groups = {name: _groups(job, each) for name, each in runs.items()}
    evaluation = compare_arms(groups, job.config.samples)
    failures = yield from _failures(job, runs[DESIGNED])
    yield GraphsMeasured(GraphMeasurement(job, found, evaluation, groups, failures))
    files, unchanged = (build_artifact_files(job, design) for design in (kept, start))
    return RunOutcome(evaluation, files, unchanged)


Runs = list[list[GraphRun]]
"""The runs of an arm: the samples of each test row."""


def measured(job: GraphSpec, arms: Mapping[str, Design]) -> Plan[dict[str, Runs]]:
    """Run designs on the same test rows and samples."""
    rows = job.task.test
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    found = yield [run_design(job, design, rows) for design in arms.values()]
    groups = [group for each in found for group in _groups(job, each)]
    yield GroupsFinished(groups)
    check_alive([run for group in groups for run in group.rollouts])
    return dict(zip(arms, found, strict=True))


def _groups(job: GraphSpec, runs: Runs) -> list[Group]:
    return [group_rollouts(row, each) for row, each in zip(job.task.test, runs, strict=True)]


def _failures(job: GraphSpec, runs: Runs) -> Plan[dict[str, int]]:
    """Why wrong answers were wrong, counted by class; `Failure` names them."""

    def grade(row: Example, run: Rollout) -> Plan[Score]:
        return job.task.reward.grade(row, run, job.judge)

    rows = [(row, run) for row, each in zip(job.task.test, runs, strict=True) for run in each]
    found = yield [classify_failure(run, job.catalogue, row, grade) for row, run in rows]
    return {str(name): count for name, count in count_failures(found).items()}


def compare_arms(groups: Mapping[str, Sequence[Group]], samples: int) -> Evaluation:
    """The arms against the first one."""
    arms = [Arm(name, tuple(found)) for name, found in groups.items()]
    return compare(arms, ks=tuple(sorted({1, samples})))


def build_artifact_files(job: GraphSpec, design: Design) -> dict[str, Any]:
    """What the artefact keeps: the design with the graphs of some queries to look at, and the roles in full."""
    queries = [job.query_of(row) for row in job.task.test[:EXAMPLES]]
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


def _own_tools(job: GraphSpec, design: Design) -> list[str]:
    """The tools of the task that a design may use: of one graph those of its nodes, else all."""
    team = job.build_team("use", job.config.eval_sampling)
    if not isinstance(design, FixedDesign):
        return list(team.task_tools)
    used = {name for node in design.graph.nodes for name in team.tool_names(node)}
    return [name for name in team.task_tools if name in used]


def _spent(
    job: GraphSpec, graphs: Sequence[Graph], groups: Sequence[Group]
) -> dict[str, dict[str, dict[str, float]]]:
    """By graph and node, the mean tokens of a run, and dollars where the price of the node's model is known."""
    usage: dict[Graph, dict[str, Usage]] = defaultdict(lambda: defaultdict(Usage))
    runs: Counter[Graph] = Counter()
    for graph, group in zip(graphs, groups, strict=True):
        runs[graph] += len(group.rollouts)
        for agent in (each for run in group.rollouts for step in run.steps for each in step.subrollouts):
            usage[graph][agent.role] += agent.usage
    return {
        graph.version: {
            name: _mean_cost(job, graph[name], used, runs[graph]) for name, used in usage[graph].items()
        }
        for graph in runs
    }


def _mean_cost(job: GraphSpec, node: Node, usage: Usage, runs: int) -> dict[str, float]:
    price = find_price(node.model or job.config.model, job.config.price_list)
    return {"tokens": usage.total / runs, **({"usd": cost(usage, price) / PICO / runs} if price else {})}


@dataclass(frozen=True, slots=True)
class GraphMeasurement:
    """What RUN/wiring.json holds for the report: the graphs that were used, and how they compare at equal tokens."""

    job: GraphSpec
    design: Design
    evaluation: Evaluation
    groups: Mapping[str, Sequence[Group]]
    failures: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = self.job.task.test
        graphs = self.design.graphs([self.job.query_of(row) for row in rows])
        counts = Counter(graph.version for graph in graphs)
        by_version = {graph.version: graph for graph in graphs}
        spent = _spent(self.job, graphs, self.groups[DESIGNED])
        return {
            "formula": render_formula(self.job.reward_weights),
            "graphs": [
                {"graph": by_version[v].to_json(), "rows": n, "version": v, "nodes": spent[v]}
                for v, n in counts.most_common()
            ],
            "front": [
                {
                    "arm": result.name,
                    "mean": result.mean.estimate,
                    "tokens": count_group_tokens(self.groups[result.name]) / runs,
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
        found = compare_arms({name: self.groups[name] for name in (rival, DESIGNED)}, self.job.config.samples)
        mean = found.results[1].against.mean if found.results[1].against else None
        return {"rival": rival, **(asdict(mean) if mean else {})}
