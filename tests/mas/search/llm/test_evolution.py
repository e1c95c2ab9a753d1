"""Evolution by a model: it improves on a planted task, takes bad replies as data, and repeats."""

import asyncio
import json
import random
from collections import Counter

import numpy as np
import pytest

from edgewise.mas.designs.interface import Draft, Trial, TrialGroup
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.mas.search.llm.evolution import Evolution, inherit_settings, parent_probabilities
from edgewise.mas.search.llm.graph_writer import parse_reply
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Message, Reply, Request
from tests.support.mas.planted import ROLES, SPACE, alike, answer, query, searched, worth, written
from tests.support.plans import play


def evolution(**given) -> Evolution:
    return Evolution(SPACE, ROLES, "m", **given)


def test_evolution_finds_the_planted_team() -> None:
    before = worth(evolution(), alike)
    after = worth(searched(evolution(), 6, reward=alike), alike)
    assert before == pytest.approx(-0.09)
    assert after > 0.4, "0.46 is the best: a programmer, and a reviser that hears it"


def test_all_queries_of_a_step_get_the_same_drafts() -> None:
    drafts = play(evolution().propose([query(0), query(1)], 6, 0), answer)
    assert drafts[0] == drafts[1] and drafts[0][0].graph == single("solver")
    assert len({draft.graph.version for draft in drafts[0]}) == 6


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_there_are_as_many_drafts_as_the_size(size: int) -> None:
    searcher = searched(evolution(), 3, size=size, reward=alike)
    assert all(version in {r.graph for r in searcher.records} for version in searcher.pool)


def test_promising_graph_is_tried_again() -> None:
    searcher = searched(evolution(), 5, reward=alike)
    trials = Counter(record.graph for record in searcher.records)
    assert trials[searcher.design().version] > 6


def test_prompt_has_team_score_failures_and_earlier_changes() -> None:
    requests: list[Request] = []

    def model(request: Request) -> str:
        requests.append(request)
        return answer(request)

    searcher = evolution()
    trial = Trial(Draft(single("solver")), -0.5, credit={"solver": 0.25})
    play(searcher.learn([TrialGroup(query(7), (trial,))], 0), model)
    play(searcher.propose([query(0)], 8, 0), model)
    prompt = requests[0].messages[1].content
    assert '"role": "solver"' in prompt and "mean reward -0.50 +- 0.1" in prompt
    assert "solver: +0.250" in prompt and "## Reward -0.50\nprove by steps item 7" in prompt
    assert "tried" not in prompt
    searched(searcher, 3, first=1, model=model, reward=alike)
    assert any("# Changes of this team that were tried\n- so: mean reward" in r.messages[1].content for r in requests)
    assert all(r.schema and r.payer.role == "designer" and r.sampling.max_tokens for r in requests)
    assert all(name in requests[0].messages[0].content for name in ROLES)


BAD = {
    "no JSON": ("I would add a critic.", "There is no JSON"),
    "no graph": ('{"why": "x", "graph": {"nodes": []}}', "not readable"),
    "a list": ("[1, 2]", "no JSON object"),
    "a role that is not there": (written("wizard"), "no role 'wizard'"),
    "a cycle": (written("solver", "solver").replace('"edges": [', '"edges": [["solver-1", "solver-0"], '), "cycle"),
    "too large": (written(*["solver"] * 5), "at most 4"),
    "no answer": (written("planner"), "gives no answer"),
    "the same again": (written("solver"), "tried already"),
}


@pytest.mark.parametrize(("reply", "reason"), BAD.values(), ids=BAD)
def test_bad_reply_is_retried_once_then_replaced_by_an_edit(reply, reason) -> None:
    requests: list[Request] = []

    def model(request: Request) -> str:
        requests.append(request)
        return reply

    searcher = evolution()
    (drafts,) = play(searcher.propose([query(0)], 2, 0), model)
    assert len(requests) == 2 and reason in requests[1].messages[-1].content
    assert [count for problem, count in searcher.problems.items() if reason in problem] == [2]
    assert drafts[1].graph.version != drafts[0].graph.version
    assert searcher.pool[drafts[1].graph.version].change == "a random edit"


def test_corrected_reply_is_used() -> None:
    replies = iter(["no", written("planner", "programmer")])
    searcher = evolution()
    (drafts,) = play(searcher.propose([query(0)], 2, 0), lambda request: next(replies))
    assert [node.role for node in drafts[1].graph.nodes] == ["planner", "programmer"]
    assert searcher.pool[drafts[1].graph.version].change == "so"


def test_failed_call_is_not_repeated() -> None:
    requests: list[Request] = []

    def model(request: Request) -> Reply:
        requests.append(request)
        return Reply(Message("assistant", ""), "refused", error="no such model")

    searcher = evolution()
    play(searcher.propose([query(0)], 2, 0), model)
    assert len(requests) == 1 and searcher.problems == {"The model did not answer: no such model.": 1}


def test_search_does_not_depend_on_the_order_of_replies() -> None:
    async def slow(request: Request) -> str:
        await asyncio.sleep(random.random() / 200)
        return answer(request)

    together = searched(evolution(), 3, reward=alike, run=lambda plan: asyncio.run(drive(plan, ScriptedClient(slow))))
    alone = searched(evolution(), 3, reward=alike)
    assert together == alone


def test_parents_are_sampled_with_aflows_probabilities() -> None:
    p = parent_probabilities([0.5, 0.45, 0.2])
    soft = np.exp(0.2 * np.array([0.0, -5.0, -30.0]))
    assert p == pytest.approx(0.1 + 0.7 * soft / soft.sum())
    assert p.sum() == pytest.approx(1)


def test_child_inherits_what_the_model_does_not_see() -> None:
    parent = Graph((Node(name="a", role="solver", model="big", lessons=("count twice",)),), (), "a")
    child = Graph(
        (Node(name="a", role="solver", prompt="Be brief."), Node(name="b", role="reviser")), (("a", "b"),), "b"
    )
    child_of_parent = inherit_settings(child, parent)
    assert child_of_parent["a"] == Node(
        name="a", role="solver", model="big", lessons=("count twice",), prompt="Be brief."
    )
    assert child_of_parent["b"] == child["b"]


def test_reply_chooses_roles_and_prompts_but_no_model_or_tool() -> None:
    node = {"name": "a", "role": "solver", "prompt": "Think.", "model": "dear/one", "tools": ["rm"]}
    graph, _ = parse_reply(json.dumps({"graph": {"nodes": [node], "edges": [], "exit": "a"}}), CATALOGUE, 4)
    assert graph.nodes == (Node(name="a", role="solver", prompt="Think."),)
