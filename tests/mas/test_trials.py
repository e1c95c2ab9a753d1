"""What is tried on a row: the drafts, the plain agent, and the graphs that end inside of the drafts."""

from dataclasses import replace

import pytest

from mas.baselines import chain
from mas.config import WiringConfig
from mas.graph import Graph, Node, single
from mas.job import Job
from mas.loop import prepared
from mas.search import Draft
from mas.trials import Tried, tried
from tests.mas import sums
from tests.plans import play
from toolkit.config import resolve
from toolkit.types import Request

TEAM = Graph(
    tuple(Node(name=role, role=role) for role in ("calculator", "drafter", "critic", "majority")),
    (("drafter", "critic"), ("calculator", "majority"), ("drafter", "majority"), ("critic", "majority")),
    "majority",
)
SHORT = chain("drafter", "critic", "reviser")


def found(*graphs: Graph, reward: str = "exact", **settings: object) -> tuple[Tried, list[Request]]:
    """What was tried on the first row, and the requests."""
    asked: list[Request] = []

    def model(request: Request) -> str:
        asked.append(request)
        return sums.play(request) if request.model != sums.JUDGE else sums.judge(request)

    given = {"model": sums.SCRIPTED, "judge": sums.JUDGE, "encoder": "hashing", **settings}
    roles = {"roles": "calculator,drafter,critic,reviser,majority"}
    config = resolve(WiringConfig, {**given, **roles})
    task = sums.Task.from_rows(
        sums.rows(10), prompt="{q}", reward=reward, id="id", name="sums", splits=sums.SPLITS
    )
    job = play(prepared(Job(task, config, sums.ROLES)), model)
    row = next(row for row in task.train if row.id.startswith("s"))
    return play(tried(job, row, [Draft(graph) for graph in graphs], 1), model), asked


def beside(each: Tried) -> dict[tuple[str, ...], float]:
    """Qualities by the roles of the graphs that ran beside the drafts."""
    return {tuple(n.role for n in t.draft.graph.nodes): t.parts["quality"] for t in each.trials.beside}


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
    inner = next(t for t in graded.trials.beside if t.draft.graph == single("calculator"))
    assert replace(alone.trials.trials[0], draft=inner.draft) == inner
