"""
Defects found by reading the authors' public code of Training-Free GRPO: none of them may be here.

Numbers are those of docs/method.md. What other files test is listed there too.
"""

import asyncio
import json
import threading
import time
from itertools import pairwise

import pytest

from edgewise import Task, improve
from edgewise.experience.config import ExperienceConfig
from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.spec import ExperienceSpec
from edgewise.experience.training.loop import learn
from edgewise.experience.training.records import summarise_groups
from edgewise.experience.training.rollouts import LessonPool, measure
from edgewise.experience.training.step import study_group
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.tracking.events import (
    EffectsMeasured,
    Event,
    GroupsFinished,
    RolloutFinished,
    StageStarted,
    StepFinished,
)
from tests.support import toy
from tests.support.plans import play

PAPER = {"gate": "off", "inclusion": 1.0, "refill": False, "rest": False, "guards": False, "pool": False}
CONFIG = ExperienceConfig(model="scripted/toy", epochs=2, batch_size=10, **PAPER)


def run_learning(config=CONFIG, answer=toy.play, task=None):
    """Play the whole loop; its outcome, requests in order, and step records."""
    requests, events = [], []

    def record(request):
        requests.append(request)
        return answer(request)

    outcome = play(learn(ExperienceSpec(task or toy.task(), config)), record, events)
    return outcome, requests, [event.record for event in events if isinstance(event, StepFinished)]


def prompt_text(request):
    return "\n".join(message.content for message in request.messages)


def row_ids(record):
    return [study.group.example.id for study in record.studies]


def test_01_every_epoch_has_an_order_of_its_own():
    _, _, records = run_learning()
    first = [row for r in records if r.epoch == 1 for row in row_ids(r)]
    second = [row for r in records if r.epoch == 2 for row in row_ids(r)]
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != sorted(first)


def test_03_settings_of_learning_never_reach_measuring():
    _, requests, _ = run_learning()
    by_role = {
        role: {r.sampling.temperature for r in requests if r.payer.role == role}
        for role in ("rollout", "measure", "distiller")
    }
    assert by_role == {"rollout": {0.7}, "measure": {0.3}, "distiller": {0.0}}
    assert CONFIG.eval_temperature == 0.3


def test_04_distiller_has_its_own_temperature_and_length():
    _, requests, _ = run_learning()
    assert {(r.sampling.temperature, r.sampling.max_tokens) for r in requests if r.schema} == {(0.0, 16_384)}


def test_05_what_is_measured_is_the_library_that_was_learnt():
    outcome, requests, records = run_learning()
    prompts = [r.messages[-1].content for r in requests if r.payer.role == "measure"]
    assert any(records[-1].library.render() in text for text in prompts)
    before, after = outcome.evaluation.results
    assert after.mean.estimate > before.mean.estimate


def test_06_two_tasks_in_one_process_share_nothing():
    alone = run_learning()[0].files
    run_learning(task=toy.task(30))
    assert run_learning()[0].files == alone


def test_08_unreadable_comparison_skips_one_group_alone():
    def answer(request):
        return "garbage" if request.schema and "a sea?" in prompt_text(request) else toy.play(request)

    _, _, records = run_learning(answer=answer)
    studies = [s for r in records for s in r.studies]
    assert any("3 tries" in s.skip_reason for s in studies)
    assert any(s.proposals for s in studies)


def test_08_failed_update_is_incomplete_and_changes_nothing():
    def answer(request):
        update = request.schema and "# Proposed operations" in prompt_text(request)
        return "garbage" if update else toy.play(request)

    outcome, _, records = run_learning(answer=answer)
    incomplete = [r for r in records if any(s.proposals for s in r.studies)]
    assert incomplete
    assert all(r.incomplete and not r.to_json()["complete"] for r in incomplete)
    assert outcome.files["library.json"]["lessons"] == []
    assert outcome.files == outcome.start


def half(answer, target):
    return 0.5


def test_09_equal_rewards_teach_nothing_whatever_their_mean():
    task = Task.from_rows(toy.rows(), prompt=toy.PROMPT, id="id", reward=half)
    _, requests, records = run_learning(task=task)
    assert all(s.skip_reason == "all rewards are equal" for r in records for s in r.studies)
    assert not any(r.payer.role == "distiller" for r in requests)


def test_09_groups_are_known_by_row_and_not_by_text():
    rows = [{"id": f"r{n}", "q": "same question", "target": str(n)} for n in range(9)]
    parts = {"train": rows[:4], "test": [{"id": "t", "q": "another", "target": "1"}]}
    task = Task.from_rows(parts, prompt="{q}", id="id")
    _, _, records = run_learning(task=task, answer=lambda request: str((request.sampling.seed or 0) % 9))
    assert sorted(row_ids(records[0])) == ["r0", "r1", "r2", "r3"]


def test_10_the_last_short_batch_is_used():
    _, _, records = run_learning()
    assert [len(r.studies) for r in records if r.epoch == 1] == [10, 10, 4]


def test_11_statistics_of_nothing_are_no_error():
    assert summarise_groups([])["runs"] == 0


def test_12_changed_settings_are_refused_and_not_ignored(tmp_path):
    settings = {"model": "scripted/tests.support.toy:play", "epochs": 1, "run": tmp_path}
    improve(toy.task(), **settings)
    with pytest.raises(ConfigError, match="group_size"):
        improve(toy.task(), group_size=7, **settings)
    with pytest.raises(ConfigError, match="another task"):
        improve(toy.task(30), **settings)


@pytest.mark.parametrize("place", ["system", "before", "after", "split"])
def test_13_lessons_have_one_place_in_learning_and_in_use(place):
    library = Library((make_lesson("A brick is red"), make_lesson("One word", "form")), place)
    config = CONFIG.model_copy(update={"place": place})
    row = toy.task().train[0]
    prompts = {}

    def answer(request):
        prompts.setdefault(request.payer.role, request.messages)
        return toy.play(request)

    spec = ExperienceSpec(toy.task(), config)
    play(study_group(spec, library, row, LessonPool(library, 1, 0)), answer)
    play(measure(spec, library, [row]), answer)
    assert prompts["rollout"] == prompts["measure"] == library.insert_lessons(row.messages)


def test_16_a_group_is_compared_while_other_groups_still_run():
    slowest = toy.task().train[0].messages[-1].content
    order = []

    async def answer(request):
        text = request.messages[-1].content
        await asyncio.sleep(0.3 if text == slowest else 0.0)
        order.append("compare" if request.schema else "slow" if text == slowest else "rollout")
        return toy.play(request)

    async def go():
        await drive(learn(ExperienceSpec(toy.task(), CONFIG)), ScriptedClient(answer))

    asyncio.run(go())
    assert order.index("compare") < order.index("slow")


def slow_grade(answer, target):
    assert threading.current_thread() is not threading.main_thread()
    time.sleep(0.02)
    return float(answer == target)


def test_17_a_slow_reward_does_not_hold_up_the_others():
    task = Task.from_rows(toy.rows(), prompt=toy.PROMPT, id="id", reward=slow_grade)
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 4})
    ticks = []

    async def go():
        async def tick():
            while True:
                ticks.append(time.monotonic())
                await asyncio.sleep(0.005)

        beside = asyncio.create_task(tick())
        await drive(learn(ExperienceSpec(task, config)), ScriptedClient(toy.play))
        beside.cancel()

    asyncio.run(go())
    assert max(b - a for a, b in pairwise(ticks)) < 0.5


def test_19_a_long_trajectory_is_cut_in_the_middle():
    from edgewise.experience.distil.distiller import MAX_TRAJECTORY_CHARS, render_trajectory
    from edgewise.toolkit.types import Message, Rollout, Step

    step = Step((), Message("assistant", "start " + "x" * 100_000 + " end"))
    text = render_trajectory(Rollout("e", "solver", 0, (step,), "stop"))
    assert len(text) < MAX_TRAJECTORY_CHARS + 100
    assert "start" in text
    assert text.endswith("end")
    assert "left out" in text


def test_21_a_step_without_operations_makes_no_batch_call():
    _, requests, records = run_learning(answer=lambda request: "red")
    assert not any(request.schema for request in requests)
    assert all(not r.incomplete for r in records)


def test_26_every_rollout_has_its_own_reproducible_seed():
    first, second = run_learning()[1], run_learning()[1]
    seeds = [r.sampling.seed for r in first if r.payer.role == "rollout"]
    assert len(set(seeds)) == len(seeds)
    assert [r.sampling.seed for r in second if r.payer.role == "rollout"] == seeds


def test_group_size_one_learns_from_every_rollout():
    _, requests, _ = run_learning(CONFIG.model_copy(update={"group_size": 1}))
    assert sum(1 for r in requests if r.schema and "# Attempts" in r.messages[-1].content) == 48


def test_without_truth_no_group_is_skipped_or_graded():
    config = CONFIG.model_copy(update={"truth": False, "epochs": 1})
    _, requests, records = run_learning(config)
    assert not any(s.skip_reason == "all rewards are equal" for r in records for s in r.studies)
    prompts = [m.content for r in requests if r.schema for m in r.messages if m.role == "user"]
    assert prompts
    assert not any("Reference answer" in text or "reward" in text for text in prompts)


def test_direct_writes_lessons_without_rollouts():
    lessons = json.dumps([{"action": "add", "text": "A brick is red"}])
    config = CONFIG.model_copy(update={"direct": True})
    outcome, requests, _ = run_learning(config, answer=lambda request: lessons if request.schema else toy.play(request))
    assert not any(r.payer.role == "rollout" for r in requests)
    assert outcome.files["library.json"]["lessons"][0]["text"] == "A brick is red"


def test_library_of_a_step_is_in_the_prompts_of_the_next():
    _, requests, records = run_learning()
    second = [r for r in requests if r.payer.role == "rollout" and r.payer.step == 2]
    assert records[0].library.lessons
    assert all(records[0].library.lessons[0].text in r.messages[-1].content for r in second)


def test_events_cover_every_stage():
    events: list[Event] = []
    play(learn(ExperienceSpec(toy.task(), CONFIG)), toy.play, events)
    assert {type(event) for event in events} == {
        StageStarted,
        RolloutFinished,
        GroupsFinished,
        StepFinished,
        EffectsMeasured,
    }


@pytest.mark.parametrize("pool", [False, True])
def test_gate_runs_no_row_twice_under_one_library(pool):
    config = CONFIG.model_copy(update={"gate": "on", "pool": pool, "epochs": 1, "leave_one_out": 0})
    _, requests, _ = run_learning(config)
    for step in {request.payer.step for request in requests}:
        prompts = [prompt_text(r) for r in requests if r.payer.role == "gate" and r.payer.step == step]
        assert len(prompts) == len(set(prompts))
    assert any(request.payer.role == "gate" for request in requests)
