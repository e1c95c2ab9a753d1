"""Measure a design on held-out rows, beside one agent and one agent at equal tokens."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgewise.mas.credit.failures import classify_failure, count_failures
from edgewise.mas.credit.reward import render_formula
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.interface import Design
from edgewise.mas.graph.graph import Graph, single
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

# Rows whose graphs an artefact shows.
EXAMPLES = 20


def measure_outcome(spec: GraphSpec, design: Design, baseline: Design, accepted: Design) -> Plan[RunOutcome]:
    """Measure a design, whether or not the gate accepted it, beside one agent and the baseline at equal tokens."""
    start, rows = FixedDesign(single()), spec.task.test
    arms: dict[str, Design] = {ONE: start, DESIGNED: design}
    if baseline.version != start.version:
        arms[EQUAL] = baseline

    # All arms run on the same rows with the same seeds.
    yield StageStarted(f"measuring on {len(rows)} held-out rows")
    results = yield [run_design(spec, arm, rows) for arm in arms.values()]
    runs = dict(zip(arms, results, strict=True))
    groups = {
        name: [group_rollouts(row, of_row) for row, of_row in zip(rows, of_arm, strict=True)]
        for name, of_arm in runs.items()
    }
    flat = [group for of_arm in groups.values() for group in of_arm]
    yield GroupsFinished(flat)
    check_alive([rollout for group in flat for rollout in group.rollouts])
    evaluation = compare_arms(groups, spec.config.samples)

    # Why wrong answers of the design were wrong.
    def grade(row: Example, rollout: Rollout) -> Plan[Score]:
        return spec.task.reward.grade(row, rollout, spec.judge)

    pairs = [(row, run) for row, of_row in zip(rows, runs[DESIGNED], strict=True) for run in of_row]
    classes = yield [classify_failure(run, spec.catalogue, row, grade) for row, run in pairs]
    failures = {str(name): count for name, count in count_failures(classes).items()}
    yield GraphsMeasured(GraphMeasurement(spec, design, evaluation, groups, failures))

    files, unchanged = (build_artifact_files(spec, result) for result in (accepted, start))
    return RunOutcome(evaluation, files, unchanged)


def compare_arms(groups: Mapping[str, Sequence[Group]], samples: int) -> Evaluation:
    """Compare arms with the first one."""
    arms = [Arm(name, tuple(of_arm)) for name, of_arm in groups.items()]
    return compare(arms, ks=tuple(sorted({1, samples})))


def build_artifact_files(spec: GraphSpec, design: Design) -> dict[str, Any]:
    """Return graph.json, the design with the graphs of some queries to look at, and roles.json, the roles in full."""
    queries = [spec.query_of(row) for row in spec.task.test[:EXAMPLES]]
    examples = [
        {"query": query.id, "graph": graph.to_json()}
        for query, graph in zip(queries, design.graphs(queries), strict=True)
    ]
    data = {**design.to_json(), "examples": examples}

    # The task's tools that the design may use: for one graph those of its nodes, else all.
    team = spec.build_team("use", spec.config.eval_sampling)
    tools = list(team.task_tools)
    if isinstance(design, FixedDesign):
        used = {name for node in design.graph.nodes for name in team.tool_names(node)}
        tools = [name for name in tools if name in used]
    if tools:
        data["tools"] = tools
    roles = {name: role.model_dump(mode="json", exclude_defaults=True) for name, role in spec.catalogue.items()}
    return {"graph.json": data, "roles.json": roles}


@dataclass(frozen=True, slots=True)
class GraphMeasurement:
    """The content of RUN/wiring.json for the report: the graphs that were used, and the arms at equal tokens."""

    spec: GraphSpec
    design: Design
    evaluation: Evaluation
    groups: Mapping[str, Sequence[Group]]
    failures: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        graphs = self.design.graphs([self.spec.query_of(row) for row in self.spec.task.test])
        counts = Counter(graph.version for graph in graphs)
        by_version = {graph.version: graph for graph in graphs}
        # Graphs, the most used first, with the costs of their nodes; the arms as points of mean reward over tokens.
        costs = self.node_costs(graphs)
        front = [
            {
                "arm": result.name,
                "mean": result.mean.estimate,
                "tokens": count_group_tokens(self.groups[result.name]) / max(1, result.rollouts),
            }
            for result in self.evaluation.results
        ]

        # The design against one agent at equal tokens: mean difference, interval, p.
        baseline = EQUAL if EQUAL in self.groups else ONE
        arms = {name: self.groups[name] for name in (baseline, DESIGNED)}
        against = compare_arms(arms, self.spec.config.samples).results[1].against
        return {
            "formula": render_formula(self.spec.reward_weights),
            "graphs": [
                {"graph": by_version[v].to_json(), "rows": n, "version": v, "nodes": costs[v]}
                for v, n in counts.most_common()
            ],
            "front": front,
            "equal_tokens": {"rival": baseline, **(asdict(against.mean) if against else {})},
            "failures": dict(self.failures),
        }

    def node_costs(self, graphs: Sequence[Graph]) -> dict[str, dict[str, dict[str, float]]]:
        """Return by graph and node the mean tokens of a run, and the dollars where the node's model has a price."""
        usage: dict[Graph, dict[str, Usage]] = defaultdict(lambda: defaultdict(Usage))
        runs: Counter[Graph] = Counter()
        for graph, group in zip(graphs, self.groups[DESIGNED], strict=True):
            runs[graph] += len(group.rollouts)
            for step in (step for rollout in group.rollouts for step in rollout.steps):
                for node in step.subrollouts:
                    usage[graph][node.role] += node.usage

        config, costs = self.spec.config, dict[str, dict[str, dict[str, float]]]()
        for graph, count in runs.items():
            of_graph = costs[graph.version] = {}
            for name, used in usage[graph].items():
                price = find_price(graph[name].model or config.model, config.price_list)
                usd = {"usd": cost(used, price) / PICO / count} if price else {}
                of_graph[name] = {"tokens": used.total / count, **usd}
        return costs
