"""One step: what the gate may spend and refuses, and what a lesson remembers of its origin."""

import json
import re

import pytest

from edgewise.experience import improve
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.evaluation.gate import rungs
from tests.support import toy
from tests.support.learned import job, learned, text_of, writing

LYING = "A sky is red"


def rows_of(task, thing: str) -> tuple[str, ...]:
    return tuple(row.id for row in task.validation if f"a {thing}?" in row.messages[-1].content)


def liar(request):
    """The toy model with a distiller that tells the truth of everything but the sky."""
    said = toy.play(request)
    return re.sub(r"A sky is \w+", LYING, said) if request.schema else said


TASK = toy.task(200)
ONE_STEP = {"batch_size": len(TASK.train), "inclusion": 1.0, "leave_one_out": 0}


def test_a_candidate_that_makes_an_anchor_worse_is_refused_however_much_it_gains():
    free = learned(liar, task=TASK, **ONE_STEP).steps[0].choice
    bound = learned(liar, task=TASK, anchors=rows_of(TASK, "sky"), **ONE_STEP).steps[0].choice
    assert free.winner
    assert free.verdict.difference > 0.4
    assert bound.winner == ""
    assert not bound.chosen.lessons
    assert bound.verdict.worse
    assert set(bound.verdict.worse) <= set(rows_of(TASK, "sky"))
    assert "refused: anchors got worse" in bound.summary()
    assert bound.to_json()["worse"] == list(bound.verdict.worse)


def test_anchors_that_stay_as_good_refuse_nothing():
    anchors = (*rows_of(TASK, "brick"), TASK.train[0].id)
    assert learned(task=TASK, anchors=anchors, **ONE_STEP).steps[0].choice.winner


@pytest.mark.parametrize("gate", ["on", "off"])
def test_test_rows_are_no_anchors_and_nothing_is_paid_before_that_is_said(gate, tmp_path):
    with pytest.raises(
        ConfigError, match=f"'anchors': no training or validation row has the id '{TASK.test[0].id}'"
    ):
        improve(TASK, model="scripted/tests.support.toy:play", run=tmp_path, gate=gate, anchors=[TASK.test[0].id])
    assert not list(tmp_path.iterdir())


def part_of_a_look(choice) -> float:
    """What one candidate may spend at the last look of a test, as a part of the test's level."""
    candidates = len(choice.means) - 1
    looks = rungs(len(TASK.validation), candidates)
    now = looks.index(choice.verdict.rows)
    before, after = ((looks[n] / looks[-1]) ** 3 if n >= 0 else 0.0 for n in (now - 1, now))
    return (after - before) / candidates


def test_the_steps_of_a_run_share_its_error_rate():
    """A test that accepts hands its level on; one that refuses has spent it."""
    run = learned(task=TASK, epochs=2, batch_size=20, leave_one_out=0)
    planned = 2 * -(-len(TASK.train) // 20)
    share = 0.05 / planned
    level = share
    for number, step in enumerate(run.steps, 1):
        verdict = step.choice.verdict
        if verdict.rows:
            assert verdict.level == pytest.approx(level * part_of_a_look(step.choice))
        assert step.choice.winner == "" or verdict.p <= level
        spending = step.state.spending
        assert (spending.done, spending.tests) == (number, planned)
        level = share + (level if step.choice.winner else 0.0)
        assert spending.level == pytest.approx(level if number < planned else level - share)
    assert any(step.choice.winner for step in run.steps)
    assert not all(step.choice.winner for step in run.steps)
    written = [step.to_json()["gate"] for step in run.steps]
    assert [gate["level"] for gate in written] == [step.choice.verdict.level for step in run.steps]


def test_a_gain_that_a_lavish_level_would_accept_is_not_accepted_at_the_runs_level():
    """18 validation rows, two of nine things known: better on a few rows, and no more."""
    two = writing(
        {"action": "add", "text": "A brick is red"},
        {"action": "add", "text": "A leaf is green"},
    )
    strict, lavish = (learned(two, alpha=alpha, leave_one_out=0).steps[0].choice for alpha in (0.05, 0.9))
    assert strict.verdict.difference > 0
    assert strict.winner == ""
    assert lavish.winner
    assert strict.verdict.level < strict.verdict.p <= 0.9


def test_the_proposals_as_they_stand_are_tried_where_the_update_can_not_be_read():
    def answer(request):
        return (
            "garbage" if request.schema and "# Proposed operations" in text_of(request) else toy.play(request)
        )

    record = learned(answer, task=TASK, **ONE_STEP).steps[0]
    assert record.incomplete
    assert record.choice.winner == "as proposed"
    assert len(record.library) == len(toy.THINGS)


@pytest.mark.parametrize("pool", [False, True])
def test_lessons_name_rollouts_that_the_run_has_recorded(pool, tmp_path):
    improve(toy.task(), model="scripted/tests.support.toy:play", run=tmp_path, epochs=1, batch_size=12, pool=pool)
    lines = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    lessons = json.loads((tmp_path / "artifact/library.json").read_text())["lessons"]
    by_id = {line["id"]: line for line in lines}
    assert len(by_id) == len(lines), "an id names one rollout"
    assert lessons
    for lesson in lessons:
        assert lesson["rollouts"]
        assert {by_id[name]["example"] for name in lesson["rollouts"]} == set(lesson["sources"])


def test_an_update_that_merges_proposals_keeps_no_rollouts_that_it_can_not_tell():
    def answer(request):
        if request.schema and "# Proposed operations" in text_of(request):
            return json.dumps([{"action": "add", "text": "Things have colours"}])
        return toy.play(request)

    (lesson,) = learned(answer, gate="off", batch_size=24).library.lessons
    assert lesson.rollouts == ()
    assert len(lesson.sources) > 1


def test_settings_that_can_not_go_together_are_found_before_any_call():
    with pytest.raises(ConfigError, match="'anchors'"):
        job(anchors=("nobody",))
