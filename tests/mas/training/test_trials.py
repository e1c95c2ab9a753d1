"""What is tried on a row: the drafts, the plain agent, and the graphs that end inside of the drafts."""

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
from edgewise.mas.training import loop
from edgewise.mas.training.gate import build_equal_token_baseline
from edgewise.mas.training.loop import prepare_spec
from edgewise.mas.training.trials import EvaluatedGraphs, run_design, evaluate_drafts
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


def a_job(model: Any, reward: str = "exact", **settings: object) -> GraphSpec:
    given = {"model": sums.SCRIPTED, "judge": sums.JUDGE, "encoder": "hashing", **settings}
    roles = {"roles": "calculator,drafter,critic,reviser,majority"}
    config = resolve_config(GraphConfig, {**given, **roles})
    task = sums.Task.from_rows(
        sums.rows(10), prompt="{q}", reward=reward, id="id", name="sums", splits=sums.SPLITS
    )
    return play(prepare_spec(GraphSpec(task, config, sums.ROLES)), model)


def found(*graphs: Graph, reward: str = "exact", **settings: object) -> tuple[EvaluatedGraphs, list[Request]]:
    """What was tried on the first row, and the requests."""
    asked: list[Request] = []

    def model(request: Request) -> str:
        asked.append(request)
        return sums.play(request) if request.model != sums.JUDGE else sums.judge(request)

    job = a_job(model, reward, **settings)
    row = next(row for row in job.task.train if row.id.startswith("s"))
    return play(evaluate_drafts(job, row, [Draft(graph) for graph in graphs], 1), model), asked


def beside(each: EvaluatedGraphs) -> dict[tuple[str, ...], float]:
    """Qualities by the roles of the graphs that ran beside the drafts."""
    return {tuple(n.role for n in t.draft.graph.nodes): t.parts["quality"] for t in each.trials.extra_trials}


def test_what_inner_agents_answer_is_graded_without_a_call_more() -> None:
    graded, asked = found(TEAM)
    assert beside(graded) == {("solver",): 0.0, ("drafter",): 0.0, ("calculator",): 1.0}
    assert len(asked) == len(found(TEAM, inner=False)[1])


def test_an_agent_that_two_drafts_share_counts_once_and_a_draft_is_not_beside_itself() -> None:
    assert set(beside(found(TEAM, SHORT)[0])) == {("solver",), ("drafter",), ("calculator",)}
    assert set(beside(found(TEAM, SHORT, single("drafter"), single())[0])) == {("calculator",)}


@pytest.mark.parametrize(("reward", "settings"), [("judge", {}), ("exact", {"inner": False})])
def test_inner_agents_are_not_graded_where_that_asks_a_model_or_is_not_wanted(reward, settings) -> None:
    assert set(beside(found(TEAM, reward=reward, **settings)[0])) == {("solver",)}


def test_a_smaller_trial_is_what_its_graph_gets_by_itself() -> None:
    graded, _ = found(TEAM)
    alone, _ = found(single("calculator"))
    inner = next(t for t in graded.trials.extra_trials if t.draft.graph == single("calculator"))
    assert replace(alone.trials.trials[0], draft=inner.draft) == inner


def test_no_limit_of_a_run_cuts_one_agent_at_equal_tokens_short() -> None:
    job = a_job(sums.play, graph_calls=4)
    votes = self_consistency(6, "drafter")
    for design, calls in ((FixedDesign(votes), 4), (EqualTokenBaseline(votes), 6)):
        plan = run_design(job, design, job.task.test[:1])
        ((run,),) = asyncio.run(drive(plan, ScriptedClient(sums.play)))
        drafts = [each for (each,) in run.outcomes.values() if each.rollout]
        assert sum(each.status == "ok" for each in drafts) == calls


def test_one_agent_at_equal_tokens_has_no_more_agents_than_a_graph_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "MOST_NODES", 5)
    job = a_job(sums.play)
    rival = play(build_equal_token_baseline(job, FixedDesign(self_consistency(20, "drafter"))), sums.play)
    assert len(rival.graph) == 5 and rival.graph[rival.graph.exit].role == "majority"


def test_a_table_needs_torch_and_draws_roles_with_their_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="joint=false is for search=hrpo"):
        a_job(sums.play, search="tabular", joint=False)
    monkeypatch.setattr("edgewise.mas.spec.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="search=tabular needs torch"):
        a_job(sums.play, search="tabular")


def test_the_limits_of_a_run_are_settings() -> None:
    job = a_job(sums.play, prices={sums.SCRIPTED: (1.0, 1.0)}, graph_usd=1e-9, graph_concurrency=2)
    assert job.limits.concurrency == 2
    plan = run_design(job, FixedDesign(self_consistency(6, "drafter")), job.task.test[:1])
    ((run,),) = asyncio.run(drive(plan, ScriptedClient(sums.play)))
    assert {each.status for (each,) in run.outcomes.values() if each.rollout} == {"limit"}
