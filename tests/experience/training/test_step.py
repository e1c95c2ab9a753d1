"""One step: what the gate may spend and refuses, and what a lesson remembers of its origin."""

import json
import re

import pytest

from edgewise import improve
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.evaluation.gate import rungs
from tests.support import toy
from tests.support.learned import build_spec, distil_as, run_learning, text_of

LYING = "A sky is red"


def rows_of(task, thing: str) -> tuple[str, ...]:
    return tuple(row.id for row in task.validation if f"a {thing}?" in row.messages[-1].content)


def lying_model(request):
    """The toy model with a distiller that tells the truth of everything but the sky."""
    reply = toy.play(request)
    return re.sub(r"A sky is \w+", LYING, reply) if request.schema else reply


TASK = toy.task(200)
ONE_STEP = {"batch_size": len(TASK.train), "inclusion": 1.0, "leave_one_out": 0}


def test_candidate_that_makes_an_anchor_worse_is_refused():
    free = run_learning(lying_model, task=TASK, **ONE_STEP).steps[0].choice
    bound = run_learning(lying_model, task=TASK, anchors=rows_of(TASK, "sky"), **ONE_STEP).steps[0].choice
    assert free.winner
    assert free.verdict.difference > 0.4
    assert bound.winner == ""
    assert not bound.chosen.lessons
    assert bound.verdict.worse
    assert set(bound.verdict.worse) <= set(rows_of(TASK, "sky"))
    assert "refused: anchors got worse" in bound.summary()
    assert bound.to_json()["worse"] == list(bound.verdict.worse)


def test_unchanged_anchors_refuse_nothing():
    anchors = (*rows_of(TASK, "brick"), TASK.train[0].id)
    assert run_learning(task=TASK, anchors=anchors, **ONE_STEP).steps[0].choice.winner


@pytest.mark.parametrize("gate", ["on", "off"])
def test_test_rows_as_anchors_are_refused_before_any_call(gate, tmp_path):
    with pytest.raises(ConfigError, match=f"'anchors': no training or validation row has the id '{TASK.test[0].id}'"):
        improve(TASK, model="scripted/tests.support.toy:play", run=tmp_path, gate=gate, anchors=[TASK.test[0].id])
    assert not list(tmp_path.iterdir())


def part_of_a_look(choice) -> float:
    """What one candidate may spend at the last look of a test, as a part of the test's level."""
    candidates = len(choice.means) - 1
    looks = rungs(len(TASK.validation), candidates)
    now = looks.index(choice.verdict.rows)
    before, after = ((looks[n] / looks[-1]) ** 3 if n >= 0 else 0.0 for n in (now - 1, now))
    return (after - before) / candidates


def test_steps_share_the_error_rate_of_a_run():
    """A test that accepts hands its level on; one that refuses has spent it."""
    run = run_learning(task=TASK, epochs=2, batch_size=20, leave_one_out=0)
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


def test_gain_is_refused_at_a_strict_level_alone():
    """18 validation rows, two of nine things known: better on a few rows, and no more."""
    two = distil_as({"action": "add", "text": "A brick is red"}, {"action": "add", "text": "A leaf is green"})
    strict, lavish = (run_learning(two, alpha=alpha, leave_one_out=0).steps[0].choice for alpha in (0.05, 0.9))
    assert strict.verdict.difference > 0
    assert strict.winner == ""
    assert lavish.winner
    assert strict.verdict.level < strict.verdict.p <= 0.9


def test_unreadable_update_falls_back_to_the_proposals():
    def answer(request):
        return "garbage" if request.schema and "# Proposed operations" in text_of(request) else toy.play(request)

    record = run_learning(answer, task=TASK, **ONE_STEP).steps[0]
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


def test_fused_lesson_keeps_sources_and_no_rollouts():
    def answer(request):
        if request.schema and "# Proposed operations" in text_of(request):
            return json.dumps([{"action": "add", "text": "Things have colours"}])
        return toy.play(request)

    (lesson,) = run_learning(answer, gate="off", batch_size=24).library.lessons
    assert lesson.rollouts == ()
    assert len(lesson.sources) > 1


def test_conflicting_settings_are_refused_before_any_call():
    with pytest.raises(ConfigError, match="'anchors'"):
        build_spec(anchors=("nobody",))
