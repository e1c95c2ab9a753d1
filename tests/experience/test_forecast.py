"""What a run says before its first call, against what it then does."""

import json
import re
from dataclasses import replace

import pytest

from edgewise import improve
from edgewise.experience.config import ExperienceConfig
from edgewise.experience.forecast import forecast
from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.errors import Hopeless, LimitTooSmall
from edgewise.toolkit.evaluation.statistics import minimum_detectable_gain
from edgewise.toolkit.reward.reward import resolve_reward
from edgewise.toolkit.run.forecast import check_limits
from tests.support import toy
from tests.support.command import SCRIPTED, run_command, write_task
from tests.support.learned import build_spec, run_learning

ROLES = {"rollouts": "rollout", "distiller": "distiller", "gate": "gate", "measuring": "measure"}
KINDS = [
    {},
    {"pool": True},
    {"gate": "off"},
    {"refill": False, "rest": False, "inclusion": 1.0},
    {"select": "vade", "allocate": "xrpo", "inclusion": 0.5},
    {"select": "vade", "refill": False},
    {"samples": 2, "leave_one_out": 3},
    {"direct": True},
]


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_forecast_bounds_the_calls_of_every_role(settings):
    plan = forecast(build_spec(epochs=2, **settings))
    run = run_learning(epochs=2, **settings)
    made = {name: len(run.requests_of(role)) for name, role in ROLES.items()}
    assert {name: made[name] for name in made if made[name] > plan.calls[name]} == {}
    assert made["measuring"] in (plan.calls["measuring"], plan.calls["measuring"] // 2)


def test_forecast_counts_tokens_of_the_start_library():
    start = Library(tuple(make_lesson(f"Lesson {n} is about thing {n} and nothing else") for n in range(40)))
    small, large = (forecast(build_spec(library=start, prompt_tokens=n)).tokens for n in (100, 10_000))
    assert large > small == forecast(build_spec()).tokens


def test_rollout_forecast_is_exact_without_refill_and_rest():
    settings = {"gate": "off", "refill": False, "rest": False, "epochs": 2}
    assert len(run_learning(**settings).requests_of("rollout")) == forecast(build_spec(**settings)).calls["rollouts"]


def test_smallest_gain_uses_the_level_of_a_candidate():
    plan = forecast(build_spec())
    assert plan.gain == minimum_detectable_gain(plan.rows["test"])
    level = 0.05 / 2 / 4  # two steps, four candidates each
    assert plan.gate_gain == minimum_detectable_gain(plan.rows["validation"], level=level, sides=1)
    assert forecast(build_spec(gate="off")).gate_gain is None
    assert forecast(build_spec(epochs=4)).gate_gain > plan.gate_gain > forecast(build_spec(samples=4)).gate_gain


@pytest.mark.parametrize(
    ("rows", "settings", "sentence"),
    [
        (12, {}, "validation rows can't show any gain at the gate"),
        (60, {"alpha": 1e-6}, "18 validation rows can't show any gain at the gate"),
        (12, {"gate": "off"}, "test rows can't show any gain"),
    ],
)
def test_too_few_rows_are_refused_unless_forced(rows, settings, sentence, tmp_path):
    task = toy.task(rows)
    plan = forecast(build_spec(task, **settings))
    config = build_spec(task, **settings).config
    with pytest.raises(Hopeless, match=sentence):
        check_limits(config, plan)
    check_limits(config.model_copy(update={"force": True}), plan)
    if rows == 12:
        given = {"model": SCRIPTED, "epochs": 1, **settings}
        with pytest.raises(Hopeless):
            improve(task, run=tmp_path / "refused", **given)
        assert not (tmp_path / "refused").exists()
        improve(task, run=tmp_path / "forced", force=True, **given)
        assert (tmp_path / "forced/result.json").exists()


def test_call_limit_must_pay_for_group_candidate_and_evaluation():
    plan = forecast(build_spec())
    rows = plan.rows
    assert plan.least == 2 * rows["test"] + 5 + 2 + 2 * rows["validation"]
    for calls, fits in ((plan.least, True), (plan.least - 1, False)):
        config = build_spec(calls=calls).config
        if fits:
            check_limits(config, plan)
        else:
            with pytest.raises(LimitTooSmall, match=f"--calls {calls} is too small to show anything"):
                check_limits(config, plan)
    check_limits(build_spec(calls=1, force=True).config, plan)


def test_command_refuses_in_one_sentence_unless_forced(tmp_path, capsys):
    task = write_task(tmp_path / "task", toy.rows(12))
    for extra in ((), ("--dry-run",)):
        refused = run_command(capsys, "improve", task, "--run", tmp_path / "run", *extra)
        assert (refused.code, refused.out) == (2, "")
        assert re.search(r"can't show any gain at the gate.*--gate off.*--force", refused.error_lines[0])
    forced = run_command(capsys, "improve", task, "--run", tmp_path / "run", "--force", "--json")
    assert forced.code in (0, 1)
    assert json.loads(forced.out)["task"] == "colours"
    plan = run_command(capsys, "improve", task, "--dry-run", "--force")
    assert plan.code == 0
    assert "smallest gain that is likely to show: +1.00 at the gate" in plan.out


@pytest.mark.parametrize(("reward", "per_row"), [("exact", 0), ("judge", 5), ("relative", 1)])
def test_forecast_counts_calls_of_a_judge(reward, per_row):
    task = replace(toy.task(), reward=resolve_reward(reward))
    plan = forecast(ExperienceSpec(task, ExperienceConfig(model="scripted/x", epochs=1, pool=False)))
    calls, rows = plan.calls, plan.rows
    assert plan.least == 5 + 2 + 2 * (rows["test"] + rows["validation"]) * (2 if per_row else 1)
    learning = per_row * len(task.train)
    assert calls.get("judge", 0) == (learning + calls["gate"] + calls["measuring"] if per_row else 0)
