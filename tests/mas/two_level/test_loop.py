"""Learning at two levels: each library gets its own lessons, the gate decides, and a run can be repeated."""

import asyncio
import json

import numpy as np
import pytest

from edgewise.experience.library.library import Library, make_lesson
from edgewise.mas.two_level.config import TwoLevelConfig
from edgewise.mas.two_level.delegation import sub_rollouts
from edgewise.mas.two_level.libraries import TwoLibraries
from edgewise.mas.two_level.loop import TwoLevelResult, evaluate_two_levels, learn_two_levels
from edgewise.mas.two_level.system import TwoLevelSpec
from edgewise.toolkit.budget.journal import Journal
from edgewise.toolkit.errors import AllFailed, ArtifactError, RewardError
from edgewise.toolkit.evaluation.gate import rungs, spend_alpha
from edgewise.toolkit.model.middleware import JournalClient
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.config import resolve_config
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Message, Reply
from edgewise.toolkit.util.files import dump_json
from tests.support import plans
from tests.support.mas import passwords
from tests.support.mas.passwords import BACKWARDS, HAND_OVER


def config(**settings) -> TwoLevelConfig:
    return resolve_config(TwoLevelConfig, passwords.SETTINGS, settings)


def spec(task=None, expert=passwords.expert, **settings) -> TwoLevelSpec:
    return TwoLevelSpec(task or passwords.task(), config(**settings), expert)


def learning(task=None, expert=passwords.expert, **settings):
    return learn_two_levels(spec(task, expert, **settings))


def learned(model=passwords.play, **settings) -> tuple[TwoLevelResult, list]:
    """What was learnt, and all requests."""
    requests = []

    def answer(request):
        requests.append(request)
        return model(request)

    return plans.play(learning(**settings), answer), requests


def texts(library: Library) -> list[str]:
    return [x.text for x in library.lessons]


def as_text(found: TwoLevelResult) -> str:
    return dump_json([found.libraries.to_json(), *(step.to_json() for step in found.steps)])


def test_each_side_learns_the_lesson_that_it_needs():
    found, _ = learned()
    assert texts(found.libraries.planner) == [HAND_OVER]
    assert texts(found.libraries.sub) == [BACKWARDS]
    (step,) = found.steps
    assert step.choice.winner == "both"
    assert step.choice.means["both"] == 1.0
    assert step.choice.means["current"] < 0.5
    assert "signal for the planner" in step.summary()
    born = found.libraries.sub.lessons[0]
    assert set(born.sources) <= {row.id for row in passwords.task().train}
    assert any("/sub/" in run for run in born.rollouts)
    assert all("/main/" in run for run in found.libraries.planner.lessons[0].rollouts)


def test_what_was_learnt_holds_on_rows_that_learning_never_saw():
    task, found = passwords.task(), learned()[0].libraries
    arms = {"before": TwoLibraries(), "planner": TwoLibraries(found.planner), "after": found}
    evaluation = plans.play(evaluate_two_levels(spec(task, samples=4), arms), passwords.play)
    before, planner, after = (result.mean.estimate for result in evaluation.results)
    assert before < planner < after == 1.0


def test_without_a_gate_everything_is_kept():
    found, requests = learned(gate="off", epochs=2)
    assert texts(found.libraries.planner) == [HAND_OVER]
    assert texts(found.libraries.sub) == [BACKWARDS]
    assert [step.choice for step in found.steps] == [None, None]
    assert {request.payer.role for request in requests} == {"rollout", "distiller"}
    assert {request.payer.step for request in requests} == {1, 2}


def test_the_gate_refuses_lessons_that_help_nobody():
    def misled(request):
        said = passwords.play(request)
        return said.replace("Hand", "Never hand").replace("Spell", "Do not spell") if request.schema else said

    found, _ = learned(misled)
    assert found.libraries == TwoLibraries()
    assert found.steps[0].choice.winner == ""
    assert found.steps[0].updates["main"].library.lessons


def planner_always_wrong(request):
    """Says nothing of what its sub-agents found, so that no main run is ever right."""
    said = passwords.play(request)
    answers_to = request.messages[-1].role
    return "I do not know" if answers_to == "tool" and isinstance(said, str) else said


def test_sub_agents_learn_where_every_main_run_failed():
    found, _ = learned(planner_always_wrong, gate="off", siblings=0)
    assert found.steps[0].skipped["main"] == {"equal": len(passwords.task().train)}
    assert texts(found.libraries.planner) == []
    assert texts(found.libraries.sub) == [BACKWARDS]


def test_siblings_of_a_failed_planner_are_compared():
    found, _ = learned(planner_always_wrong, gate="off")
    inside = [
        each.contrast for studied in found.steps[0].queries for each in studied.results if each.contrast.siblings_of
    ]
    assert inside
    for contrast in inside:
        parents = {run.sample for run in contrast.rollouts}
        assert len(parents) == 1
        assert contrast.level == "sub"
        assert len({run.score.value for run in contrast.rollouts}) > 1


def test_learn_main_calls_no_expert():
    def never(answer: str) -> float:
        raise AssertionError("asked")

    found, requests = learned(learn="main", expert=never, gate="off")
    assert texts(found.libraries.planner) == [HAND_OVER]
    assert texts(found.libraries.sub) == []
    assert set(found.steps[0].skipped["sub"]) <= {"no rewards", "no calls"}
    assert any(request.messages[0].content == passwords.WORK for request in requests)


def test_sub_agents_may_have_a_model_of_their_own():
    _, requests = learned(sub_model="scripted/small", gate="off")
    by_side = {r.messages[0].content: r.model for r in requests if r.payer.role == "rollout"}
    assert by_side == {passwords.LEAD: "scripted/passwords", passwords.WORK: "scripted/small"}
    assert "scripted/small" in config(sub_model="scripted/small").models


def test_a_single_agent_has_no_sub_agents():
    found, requests = learned(learn="single", single_prompt=passwords.WORK, gate="off")
    asked = [request for request in requests if request.payer.role == "rollout"]
    assert all(not request.tools and request.messages[0].content == passwords.WORK for request in asked)
    assert found.steps[0].skipped["sub"] == {"no calls": len(passwords.task().train)}
    assert texts(found.libraries.sub) == []


@pytest.mark.parametrize(
    "align", [{"align": "off"}, {"align": "copies"}, {"align": "copies", "depth": 1}, {"align": "copies", "depth": 8}]
)
def test_every_alignment_learns_the_same_here(align):
    found, _ = learned(gate="off", **align)
    assert texts(found.libraries.sub) == [BACKWARDS]


def test_copies_with_a_depth_below_the_calls_drop_sub_runs():
    step = learned(gate="off", align="copies", depth=1)[0].steps[0]
    studied = next(each for each in step.queries if not each.sub.skipped)
    calls = np.bincount(studied.sub.parents)
    assert calls.max() == 2
    assert np.count_nonzero(studied.sub.advantages) <= np.count_nonzero(calls)


def test_repeated_run_is_byte_equal_at_any_concurrency():
    first, asked = learned()
    again = asyncio.run(drive(learning(), ScriptedClient(passwords.play)))
    assert as_text(again) == as_text(first)
    assert len(asked) > 100
    assert as_text(learned(seed=1)[0]) != as_text(first)


class Dies(Exception):
    pass


@pytest.mark.parametrize("after", [1, 60, 400])
def test_a_run_that_was_killed_goes_on_without_paying_twice(after, tmp_path):
    whole, asked = learned()
    assert len(asked) > after
    paid = []

    def answer(request):
        if len(paid) == after:
            raise Dies
        paid.append(request)
        return passwords.play(request)

    with Journal(tmp_path / "journal.sqlite") as journal, pytest.raises(Dies):
        asyncio.run(drive(learning(), JournalClient(ScriptedClient(answer), journal)))
    after_death = ScriptedClient(passwords.play)
    with Journal(tmp_path / "journal.sqlite") as journal:
        resumed = asyncio.run(drive(learning(), JournalClient(after_death, journal)))
    assert as_text(resumed) == as_text(whole)
    assert len(paid) + len(after_death.requests) == len({repr(request) for request in asked})


def test_tools_in_words_teach_as_well():
    found, requests = learned(calling="text")
    assert not any(request.tools for request in requests)
    assert (texts(found.libraries.planner), texts(found.libraries.sub)) == ([HAND_OVER], [BACKWARDS])


def test_distiller_without_operations_is_recorded():
    found, _ = learned(lambda r: "no JSON" if r.schema else passwords.play(r), gate="off")
    assert found.libraries == TwoLibraries()
    problems = [each["problem"] for q in found.steps[0].to_json()["queries"] for each in q["comparisons"]]
    assert problems
    assert all("no operations after 3 tries" in problem for problem in problems)


def test_an_update_that_cannot_be_read_is_recorded_by_level():
    def answer(request):
        update = request.schema and "Proposed operations" in request.messages[-1].content
        return "no JSON" if update or (len(request.messages) > 2 and request.schema) else passwords.play(request)

    record = learned(answer)[0].steps[0].to_json()
    assert record["incomplete"].startswith("main: ") and "; sub: " in record["incomplete"]
    assert record["gate"]["rows"] == 0


def test_a_model_that_always_fails_stops_the_run():
    with pytest.raises(AllFailed):
        learned(lambda request: Reply(Message("assistant", ""), "failed", error="down"))


def test_an_expert_that_is_none_is_refused():
    with pytest.raises(RewardError):
        learned(expert="no such reward")


def test_lessons_over_the_cap_are_left_out_and_said():
    found, _ = learned(gate="off", library_tokens=1)
    assert found.libraries == TwoLibraries()
    assert "no room" in found.steps[0].to_json()["outcomes"]["sub"][-1]["reason"]


# ---- parts -----------------------------------------------------------------------------------------


def started(planner: str = "", sub: str = "") -> TwoLibraries:
    return TwoLibraries(*(Library((make_lesson(text),) if text else ()) for text in (planner, sub)))


def test_each_level_is_compared_with_its_own_lessons_in_view():
    start, requests = started("A planner's old lesson.", "A sub-agent's old lesson."), []

    def answer(request):
        requests.append(request)
        return passwords.play(request)

    plan = learn_two_levels(spec(gate="off"), start)
    found = plans.play(plan, answer)
    compared = [r.messages for r in requests if "You compare" in r.messages[0].content]
    for system, user in (messages[:2] for messages in compared):
        side = "sub-agent" if "those of sub-agents" in system.content else "planner"
        assert f"A {side}'s old lesson." in user.content
    assert texts(found.libraries.planner) == ["A planner's old lesson.", HAND_OVER]
    assert texts(found.libraries.sub) == ["A sub-agent's old lesson.", BACKWARDS]
    runs = found.steps[0].queries[0].main.group.rollouts
    assert {run.version for run in runs} == {start.version}
    assert {each.version for run in runs for each in sub_rollouts(run)} <= {start.sub.version}


def test_lessons_that_copy_a_row_do_not_enter():
    row = passwords.task().train[0]

    def leaking(request):
        said = passwords.play(request)
        return said.replace(BACKWARDS, f"For {row.metadata['word']} say {row.target}.") if request.schema else said

    found, _ = learned(leaking, gate="off")
    assert texts(found.libraries.sub) == []
    assert texts(learned(leaking, gate="off", guards=False)[0].libraries.sub) != []


def test_the_gate_spends_its_error_rate_over_the_steps():
    """A test that accepted hands its level on, so the second may spend all that is left."""

    def sub_agents_first(request):
        said = passwords.play(request)
        if request.schema and HAND_OVER in said:
            return said.replace(HAND_OVER, "Be polite.") if request.payer.step == 2 else '{"operations": []}'
        return said

    found, _ = learned(sub_agents_first, epochs=2, samples=4, gate_rows=24)
    first, second = (step.choice for step in found.steps)
    assert (first.winner, second.winner) == ("both", "")
    looks, n = rungs(24, 1), second.verdict.rows
    assert n
    before = max([look for look in looks if look < n], default=0)
    assert second.verdict.level == pytest.approx(0.05 * (spend_alpha(n / 24) - spend_alpha(before / 24)))


def test_the_tools_of_the_task_are_the_sub_agents():
    def square(x: int) -> int:
        """The square."""
        return x * x

    rows = [{"word": word, "target": word[::-1]} for word in passwords.WORDS]
    task = Task.from_rows(rows, prompt="Say the password for: {word}", tools=[square])
    _, requests = learned(task=task, gate="off")
    tools = {r.messages[0].content: [t.name for t in r.tools] for r in requests if r.payer.role == "rollout"}
    assert tools == {passwords.LEAD: ["delegate"], passwords.WORK: ["square"]}


def test_two_libraries_read_back_what_they_wrote():
    both = TwoLibraries(Library((make_lesson("Split it."),)), Library((make_lesson("Check."),), place="system"))
    assert TwoLibraries.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert TwoLibraries(both.sub, both.planner).version != both.version != TwoLibraries().version


@pytest.mark.parametrize("data", [None, [], {}, {"planner": {}}, {"planner": 1, "sub": 2}, {"lessons": []}])
def test_what_are_no_two_libraries_is_refused(data):
    with pytest.raises(ArtifactError):
        TwoLibraries.from_json(data)
