"""Lessons on building teams: they are learned from comparisons, used, and turned into a design without a model."""

import asyncio
import json
import random

import pytest

from edgewise.experience.guard.guard import Guard
from edgewise.experience.library.library import Library, make_lesson
from edgewise.mas.designs.clustered import ClusteredDesign
from edgewise.mas.designs.interface import Draft, Trial
from edgewise.mas.graph.graph import single
from edgewise.mas.search.llm.lesson_search import LessonSearch, describe_trial
from edgewise.mas.search.load_design import read_design
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.types import Example, Message, Reply, Request
from tests.support.mas.planted import KINDS, ROLES, SPACE, WANTED, answer, chain, query, searched, tried, worth, written
from tests.support.plans import play


def lessons(**given) -> LessonSearch:
    return LessonSearch(SPACE, ROLES, "m", **given)


def test_search_learns_the_team_of_each_kind_of_query() -> None:
    before, after = lessons(), searched(lessons(), 5)
    assert worth(before) == pytest.approx(0.11)
    assert worth(after) > 0.4, "0.51 is the best, and one team for all reaches 0.11"
    texts = " ".join(x.text for x in after.library.lessons)
    assert all(f"let one {role} answer" in texts for role in WANTED.values())


def test_lessons_change_the_designs() -> None:
    taught = lessons(library=Library((make_lesson("Where the task asks to prove by steps, let one reasoner answer."),)))
    ((_, designed, *_),) = play(taught.propose([query(1)], 6, 0), answer)
    assert designed.graph == single("reasoner")


def test_design_tells_kinds_apart_without_a_model() -> None:
    design = searched(lessons(encoder="hashing"), 5).design()
    assert isinstance(design, ClusteredDesign) and design.encoder == "hashing"
    exits = [g[g.exit].role for g in design.graphs([query(900 + n) for n in range(3)])]
    assert exits == [WANTED[kind] for kind in KINDS]
    assert read_design(json.loads(json.dumps(design.to_json()))) == design


def test_drafts_of_a_query_differ() -> None:
    drafts = play(lessons().propose([query(0), query(1)], 8, 0), lambda request: written("planner", "solver"))
    assert [len({draft.graph.version for draft in group}) for group in drafts] == [8, 8]


def test_graphs_are_compared_only_where_rewards_differ() -> None:
    requests: list[Request] = []

    def model(request: Request) -> str:
        requests.append(request)
        return answer(request)

    searcher = lessons()
    graphs = [[Draft(single(role)) for role in ("solver", "programmer")]] * 2
    first, second = tried([query(0), query(1)], graphs)
    play(searcher.learn([first, second], 0), model)
    compared = [r for r in requests if r.messages[0].content.startswith("You compare")]
    assert len(compared) == 1 and all(r.payer.role == "distiller" for r in requests)
    prompt = compared[0].messages[1].content
    assert "count letters in item 0" in prompt and "(reward 0.55; size 1)\n1 agents; programmer answers" in prompt
    assert "(reward -0.05; size 1)\n1 agents; solver answers" in prompt
    (learnt,) = searcher.library.lessons
    assert learnt.sources == ("q0",) and learnt.born == 1


def test_description_has_inputs_and_credit_of_agents() -> None:
    trial = Trial(Draft(chain("planner", "solver")), 0.5, credit={"n0": -0.1})
    assert describe_trial(trial) == (
        "2 agents; n1 answers\n- n0 (planner) hears nobody\n- n1 (solver) hears n0\n"
        "Reward that is lost without an agent: n0 -0.1"
    )


def test_unusable_replies_leave_random_graphs_and_are_counted() -> None:
    searcher = searched(lessons(), 2, model=lambda request: "Let me think.")
    assert not searcher.library.lessons and len(searcher.graphs) > 6
    assert searcher.problems["There is no JSON in the reply."] == 2 * 6 * 4 * 2
    assert sum(count for problem, count in searcher.problems.items() if "no operations after 3 tries" in problem) == 12


def test_unreadable_update_applies_the_proposals() -> None:
    def model(request: Request) -> str:
        return "hm" if request.messages[0].content.startswith("You keep") else answer(request)

    assert len(searched(lessons(), 1, model=model).library) == 3


def test_lesson_that_copies_a_row_is_refused() -> None:
    row = Example("r", (Message("user", "Count the letters in the word zyzzyvaquorum."),), "zyzzyvaquorum")
    leak = {"action": "add", "id": None, "kind": "content", "text": "Count the letters in the word zyzzyvaquorum."}

    def model(request: Request) -> str:
        learning = request.messages[0].content.startswith(("You compare", "You keep"))
        return json.dumps({"operations": [leak]}) if learning else answer(request)

    assert len(searched(lessons(guard=None), 1, model=model).library) == 1
    guarded = searched(lessons(guard=Guard.from_examples([row])), 1, model=model)
    assert not guarded.library.lessons and any(problem.startswith("It ") for problem in guarded.problems)


def test_misleading_lesson_can_be_deleted() -> None:
    drop = json.dumps({"operations": [{"action": "delete", "id": "G0", "kind": "content", "text": ""}]})
    searcher = lessons(library=Library((make_lesson("Where anything is asked, let a solver answer alone."),)))
    drafts = [[Draft(single(role)) for role in ("solver", "programmer")]]
    play(searcher.learn(tried([query(0)], drafts), 0), lambda request: drop)
    assert not searcher.library.lessons


def test_failed_designer_stops_nothing() -> None:
    searcher = lessons()
    (drafts,) = play(
        searcher.propose([query(0)], 4, 0), lambda r: Reply(Message("assistant", ""), "failed", error="overloaded")
    )
    assert len(drafts) == 4 and searcher.problems == {"The model did not answer: overloaded.": 4}


def test_search_does_not_depend_on_the_order_of_replies() -> None:
    async def slow(request: Request) -> str:
        await asyncio.sleep(random.random() / 200)
        return answer(request)

    together = searched(lessons(), 2, run=lambda plan: asyncio.run(drive(plan, ScriptedClient(slow))))
    alone = searched(lessons(), 2)
    assert together.library == alone.library and together.records == alone.records
    assert together.design() == alone.design()


def test_design_is_one_agent_before_any_trial() -> None:
    assert lessons().design().graphs([query(0)]) == [single("solver")]
