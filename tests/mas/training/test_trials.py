"""Trials of a row: the drafts, the plain agent, and the graphs that end inside of the drafts."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edgewise.mas.config import GraphConfig
from edgewise.mas.designs.fixed import EqualTokenBaseline, FixedDesign
from edgewise.mas.designs.interface import Draft
from edgewise.mas.designs.patterns import chain, self_consistency
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training import gate
from edgewise.mas.training.gate import build_equal_token_baseline
from edgewise.mas.training.loop import prepare_spec
from edgewise.mas.training.trials import EvaluatedGraphs, evaluate_drafts, run_design
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Request
from tests.support.mas import sums
from tests.support.plans import play

TEAM = Graph(
    tuple(Node(name=role, role=role) for role in ("calculator", "drafter", "critic", "majority")),
    (("drafter", "critic"), ("calculator", "majority"), ("drafter", "majority"), ("critic", "majority")),
    "majority",
)
SHORT = chain("drafter", "critic", "reviser")


def make_spec(model: Any, reward: str = "exact", **settings: object) -> GraphSpec:
    given = {"model": sums.SCRIPTED, "judge": sums.JUDGE, "encoder": "hashing", **settings}
    roles = {"roles": "calculator,drafter,critic,reviser,majority"}
    config = resolve_config(GraphConfig, {**given, **roles})
    task = sums.Task.from_rows(sums.rows(10), prompt="{q}", reward=reward, id="id", name="sums", splits=sums.SPLITS)
    return play(prepare_spec(GraphSpec(task, config, sums.ROLES)), model)


def evaluate(*graphs: Graph, reward: str = "exact", **settings: object) -> tuple[EvaluatedGraphs, list[Request]]:
    """Evaluate graphs on the first row; return the trials and the requests."""
    requests: list[Request] = []

    def model(request: Request) -> str:
        requests.append(request)
        return sums.play(request) if request.model != sums.JUDGE else sums.judge(request)

    spec = make_spec(model, reward, **settings)
    row = next(row for row in spec.task.train if row.id.startswith("s"))
    return play(evaluate_drafts(spec, row, [Draft(graph) for graph in graphs], 1), model), requests


def extra_qualities(row_trials: EvaluatedGraphs) -> dict[tuple[str, ...], float]:
    """Qualities by the roles of the graphs that ran beside the drafts."""
    return {tuple(n.role for n in t.draft.graph.nodes): t.parts["quality"] for t in row_trials.trials.extra_trials}


def test_inner_answers_are_graded_without_more_calls() -> None:
    graded, requests = evaluate(TEAM)
    assert extra_qualities(graded) == {("solver",): 0.0, ("drafter",): 0.0, ("calculator",): 1.0}
    assert len(requests) == len(evaluate(TEAM, inner=False)[1])


def test_shared_inner_agent_counts_once_and_no_draft_is_extra() -> None:
    assert set(extra_qualities(evaluate(TEAM, SHORT)[0])) == {("solver",), ("drafter",), ("calculator",)}
    assert set(extra_qualities(evaluate(TEAM, SHORT, single("drafter"), single())[0])) == {("calculator",)}


@pytest.mark.parametrize(("reward", "settings"), [("judge", {}), ("exact", {"inner": False})])
def test_inner_answers_are_not_graded_by_a_model_or_when_off(reward, settings) -> None:
    assert set(extra_qualities(evaluate(TEAM, reward=reward, **settings)[0])) == {("solver",)}


def test_inner_trial_equals_the_trial_of_its_graph_alone() -> None:
    graded, _ = evaluate(TEAM)
    alone, _ = evaluate(single("calculator"))
    inner = next(t for t in graded.trials.extra_trials if t.draft.graph == single("calculator"))
    assert replace(alone.trials.trials[0], draft=inner.draft) == inner


def test_equal_token_baseline_has_no_run_limits() -> None:
    spec = make_spec(sums.play, graph_calls=4)
    votes = self_consistency(6, "drafter")
    for design, calls in ((FixedDesign(votes), 4), (EqualTokenBaseline(votes), 6)):
        plan = run_design(spec, design, spec.task.test[:1])
        ((run,),) = asyncio.run(drive(plan, ScriptedClient(sums.play)))
        drafts = [output for (output,) in run.outcomes.values() if output.rollout]
        assert sum(output.status == "ok" for output in drafts) == calls


def test_equal_token_baseline_is_at_most_the_size_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_NODES", 5)
    spec = make_spec(sums.play)
    rival = play(build_equal_token_baseline(spec, FixedDesign(self_consistency(20, "drafter"))), sums.play)
    assert len(rival.graph) == 5 and rival.graph[rival.graph.exit].role == "majority"


def test_tabular_search_needs_torch_and_joint_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="joint=false is for search=hrpo"):
        make_spec(sums.play, search="tabular", joint=False)
    monkeypatch.setattr("edgewise.mas.spec.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="search=tabular needs torch"):
        make_spec(sums.play, search="tabular")


def test_run_limits_are_settings() -> None:
    spec = make_spec(sums.play, prices={sums.SCRIPTED: (1.0, 1.0)}, graph_usd=1e-9, graph_concurrency=2)
    assert spec.limits.concurrency == 2
    plan = run_design(spec, FixedDesign(self_consistency(6, "drafter")), spec.task.test[:1])
    ((run,),) = asyncio.run(drive(plan, ScriptedClient(sums.play)))
    assert {output.status for (output,) in run.outcomes.values() if output.rollout} == {"limit"}
