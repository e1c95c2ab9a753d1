"""Evolution by a model: it improves on a planted toy, takes bad replies as data, and repeats."""

import asyncio
import json
import random
from collections import Counter

import numpy as np
import pytest

from edgewise.mas.designs.interface import Draft, Trial, TrialGroup
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.mas.search.llm.evolution import Evolution, parent_probabilities, inherit_settings
from edgewise.mas.search.llm.graph_writer import parse_reply
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Message, Reply, Request
from tests.support.mas.planted import ROLES, SPACE, alike, answer, query, searched, worth, written
from tests.support.plans import play


def evolution(**given) -> Evolution:
    return Evolution(SPACE, ROLES, "m", **given)


def test_it_finds_the_planted_team() -> None:
    before = worth(evolution(), alike)
    after = worth(searched(evolution(), 6, reward=alike), alike)
    assert before == pytest.approx(-0.09)
    assert after > 0.4, "0.46 is the best: a programmer, and a reviser that hears it"


def test_all_queries_of_a_step_try_the_same_graphs_and_the_first_one_is_among_them() -> None:
    drafts = play(evolution().propose([query(0), query(1)], 6, 0), answer)
    assert drafts[0] == drafts[1] and drafts[0][0].graph == single("solver")
    assert len({draft.graph.version for draft in drafts[0]}) == 6


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_there_are_as_many_drafts_as_asked_for(size: int) -> None:
    found = searched(evolution(), 3, size=size, reward=alike)
    assert all(version in {r.graph for r in found.records} for version in found.pool)


def test_a_promising_graph_is_tried_again() -> None:
    found = searched(evolution(), 5, reward=alike)
    trials = Counter(record.graph for record in found.records)
    assert trials[found.design().version] > 6


def test_the_model_is_shown_the_team_its_score_its_failures_and_what_was_tried() -> None:
    asked: list[Request] = []

    def model(request: Request) -> str:
        asked.append(request)
        return answer(request)

    found = evolution()
    trial = Trial(Draft(single("solver")), -0.5, credit={"solver": 0.25})
    play(found.learn([TrialGroup(query(7), (trial,))], 0), model)
    play(found.propose([query(0)], 8, 0), model)
    told = asked[0].messages[1].content
    assert '"role": "solver"' in told and "mean reward -0.50 +- 0.1" in told
    assert "solver: +0.250" in told and "## Reward -0.50\nprove by steps item 7" in told
    assert "tried" not in told
    searched(found, 3, first=1, model=model, reward=alike)
    assert any(
        "# Changes of this team that were tried\n- so: mean reward" in r.messages[1].content for r in asked
    )
    assert all(r.schema and r.payer.role == "designer" and r.sampling.max_tokens for r in asked)
    assert all(name in asked[0].messages[0].content for name in ROLES)


BAD = {
    "no JSON": ("I would add a critic.", "There is no JSON"),
    "no graph": ('{"why": "x", "graph": {"nodes": []}}', "not readable"),
    "a list": ("[1, 2]", "no JSON object"),
    "a role that is not there": (written("wizard"), "no role 'wizard'"),
    "a cycle": (
        written("solver", "solver").replace('"edges": [', '"edges": [["solver-1", "solver-0"], '),
        "cycle",
    ),
    "too large": (written(*["solver"] * 5), "at most 4"),
    "no answer": (written("planner"), "gives no answer"),
    "the same again": (written("solver"), "tried already"),
}


@pytest.mark.parametrize(("reply", "reason"), BAD.values(), ids=BAD)
def test_a_bad_reply_is_told_what_is_wrong_once_and_then_a_random_edit_takes_its_place(reply, reason) -> None:
    asked: list[Request] = []

    def model(request: Request) -> str:
        asked.append(request)
        return reply

    found = evolution()
    (drafts,) = play(found.propose([query(0)], 2, 0), model)
    assert len(asked) == 2 and reason in asked[1].messages[-1].content
    assert [count for problem, count in found.problems.items() if reason in problem] == [2]
    assert drafts[1].graph.version != drafts[0].graph.version
    assert found.pool[drafts[1].graph.version].change == "a random edit"


def test_a_reply_that_is_mended_is_used() -> None:
    replies = iter(["no", written("planner", "programmer")])
    found = evolution()
    (drafts,) = play(found.propose([query(0)], 2, 0), lambda request: next(replies))
    assert [node.role for node in drafts[1].graph.nodes] == ["planner", "programmer"]
    assert found.pool[drafts[1].graph.version].change == "so"


def test_a_failed_call_is_not_asked_again() -> None:
    asked: list[Request] = []

    def model(request: Request) -> Reply:
        asked.append(request)
        return Reply(Message("assistant", ""), "refused", error="no such model")

    found = evolution()
    play(found.propose([query(0)], 2, 0), model)
    assert len(asked) == 1 and found.problems == {"The model did not answer: no such model.": 1}


def test_it_repeats_and_does_not_depend_on_the_order_of_replies() -> None:
    async def slow(request: Request) -> str:
        await asyncio.sleep(random.random() / 200)
        return answer(request)

    together = searched(
        evolution(), 3, reward=alike, run=lambda plan: asyncio.run(drive(plan, ScriptedClient(slow)))
    )
    alone = searched(evolution(), 3, reward=alike)
    assert together == alone


def test_parents_are_drawn_with_aflows_chances() -> None:
    found = parent_probabilities([0.5, 0.45, 0.2])
    soft = np.exp(0.2 * np.array([0.0, -5.0, -30.0]))
    assert found == pytest.approx(0.1 + 0.7 * soft / soft.sum())
    assert found.sum() == pytest.approx(1)


def test_an_edit_keeps_what_the_model_is_not_shown() -> None:
    parent = Graph((Node(name="a", role="solver", model="big", lessons=("count twice",)),), (), "a")
    child = Graph(
        (Node(name="a", role="solver", prompt="Be brief."), Node(name="b", role="reviser")),
        (("a", "b"),),
        "b",
    )
    kept = inherit_settings(child, parent)
    assert kept["a"] == Node(
        name="a", role="solver", model="big", lessons=("count twice",), prompt="Be brief."
    )
    assert kept["b"] == child["b"]


def test_a_reply_chooses_roles_and_prompts_and_no_model_or_tool() -> None:
    node = {"name": "a", "role": "solver", "prompt": "Think.", "model": "dear/one", "tools": ["rm"]}
    graph, _ = parse_reply(json.dumps({"graph": {"nodes": [node], "edges": [], "exit": "a"}}), CATALOGUE, 4)
    assert graph.nodes == (Node(name="a", role="solver", prompt="Think."),)
