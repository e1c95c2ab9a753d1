"""`edgewise absorb`: lessons into weights, beside the lessons themselves."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgewise import absorb
from edgewise.experience.library.library import Library, make_lesson
from edgewise.learner.absorption.loop import (
    answer_as_teacher,
    build_demonstrations,
    imitate_answers,
    load_engine,
    select_answers,
    select_rows,
)
from edgewise.learner.absorption.spec import AbsorbSpec
from edgewise.learner.monitoring.retention import Retention, estimate_ratio, measure_retention
from edgewise.learner.policy.policy import Policy
from edgewise.learner.update.imitation import Demonstration
from edgewise.toolkit.errors import ConfigError, Hopeless, LibraryError, LimitReached
from edgewise.toolkit.evaluation.comparison import Arm, compare
from edgewise.toolkit.evaluation.statistics import Interval
from edgewise.toolkit.rollout.agent import Agent
from edgewise.toolkit.rollout.tool_calls import add_call_instructions
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.tools.tool import FunctionTool
from edgewise.toolkit.tracking.events import Event, StageStarted
from edgewise.toolkit.types import (
    Example,
    Group,
    Message,
    Request,
    Rollout,
    Sampling,
    Score,
    Step,
    TokenizedTurn,
    Tool,
    Usage,
)
from tests.support.command import CommandResult, run_command
from tests.support.learner.jobs import task_file

LIBRARY = Library((make_lesson("Say little."), make_lesson("Say it again.")))
QUICK: dict[str, Any] = {"steps": 4, "batch_size": 6, "group_size": 4, "lora": 4, "lr": 0.02}
SET = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_file(tmp_path_factory.mktemp("shares"), model)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("library") / "lessons.edge"
    usual = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 6, "prompt_tokens": 4000, "embedder": ""}
    return Artifact("", "openai/other", {"library.json": LIBRARY.to_json()}, usual).save(place)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- the whole -------------------------------------------------------------------------------------------


def test_result_has_three_arms_and_usable_weights(folder: Path, library: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    done = run_command(capsys, "absorb", folder, "--artifact", library, "--run", run, *SET)
    assert done.code == 0, done.err
    assert "with lessons" in done.out and "tokens shorter" in done.out
    result, about = (json.loads((run / name).read_text()) for name in ("result.json", "weights.json"))
    arms = {arm["name"]: arm for arm in result["evidence"]["results"]}
    assert list(arms) == ["before", "absorbed", "with lessons"]
    assert arms["absorbed"]["mean"]["estimate"] > arms["before"]["mean"]["estimate"]
    # The prompt of the weights that learnt is the bare one.
    assert arms["absorbed"]["usage"]["input"] == arms["before"]["usage"]["input"]
    assert about["kept"]["saved"] > len("Say little.")
    assert "without the lessons" in (run / "report.html").read_text()
    again = run_command(capsys, "evaluate", folder, "--artifact", run, "--json")
    assert _means(again)["run"] == arms["absorbed"]["mean"]["estimate"]


def test_weights_without_a_gain_are_not_in_the_artefact(
    folder: Path, library: Path, tmp_path: Path, capsys: Any
) -> None:
    still = ("--set", "lr=1e-12", "--set", "steps=1")
    done = run_command(capsys, "absorb", folder, "--artifact", library, "--run", tmp_path / "run", *SET, *still)
    assert done.code == 1, done.err
    assert not Artifact.load(tmp_path / "run").folders


def _means(done: CommandResult) -> dict[str, float]:
    assert done.code == 0, done.err
    return {arm["name"]: arm["mean"]["estimate"] for arm in json.loads(done.out)["evidence"]["results"]}


def test_resumed_run_equals_an_uninterrupted_one(folder: Path, library: Path, tmp_path: Path) -> None:
    task, settings = Task.read(folder), {**QUICK, "save_every": 1}
    whole = absorb(task, library, run=tmp_path / "whole", **settings)
    with pytest.raises(LimitReached):
        absorb(task, library, run=tmp_path / "parts", calls=60, **settings)
    events: list[Event] = []
    parts = absorb(task, library, run=tmp_path / "parts", on_event=events.append, **settings)
    assert "going on after step 2" in [event.text for event in events if isinstance(event, StageStarted)]
    assert parts.evidence == whole.evidence
    ends = [load_file(tmp_path / run / "artifact/weights/adapter_model.safetensors") for run in ("whole", "parts")]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


def test_without_good_answers_the_run_is_hopeless(model: str, library: Path, tmp_path: Path) -> None:
    task = Task.read(task_file(tmp_path / "constant", model, reward="constant"))
    with pytest.raises(Hopeless, match="worth learning"):
        absorb(task, library, run=tmp_path / "run", **QUICK)


# ---- a step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [0, 4], ids=["whole", "lora"])
def test_teacher_has_the_first_weights(folder: Path, library: Path, lora: int) -> None:
    spec = AbsorbSpec.from_library(Task.read(folder), str(library), {**QUICK, "lora": lora})
    engine = load_engine(spec)
    requests = [Request("", (Message("user", "say"),), Sampling(1.0, 1.0, 6, seed=i)) for i in range(4)]
    before, own = answer_as_teacher(engine, requests), engine.answer(requests)
    assert [reply.message for reply in before] == [reply.message for reply in own]
    imitate_answers(spec, engine, [Demonstration((65,), (66, 257))] * 8, 1)
    after, own = answer_as_teacher(engine, requests), engine.answer(requests)
    assert [reply.tokens for reply in after] == [reply.tokens for reply in before]
    assert [reply.tokens for reply in own] != [reply.tokens for reply in before]


def run(row: str, reward: float | None, text: str = "x") -> Rollout:
    step = Step((), Message("assistant", text), tokens=TokenizedTurn((1,), (2,), (0.0,)))
    score = None if reward is None else Score(reward)
    return Rollout(row, "solver", 0, (step,), "stop", score)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], [1.0, 1.0, 1.0]),  # a row that all or none solve
        ([[0.5, 0.6], [0.9, 0.2]], [0.6, 0.9]),  # not below the mean of its row
        ([[0.1, 0.1], [0.9, 0.9]], [0.9, 0.9]),
        ([[0.7, 0.7], [0.7, 0.7]], []),  # nothing says what is good
        ([[None, 1.0], [0.0, None]], [1.0]),
        ([[None]], []),
    ],
)
def test_selected_answers_reach_their_row_mean(rewards: list[list[float | None]], expected: list[float]) -> None:
    groups = [
        Group(Example(str(i), ()), "solver", tuple(run(str(i), reward) for reward in row))
        for i, row in enumerate(rewards)
    ]
    assert [result.score.value for _, result in select_answers(groups) if result.score] == expected


def test_every_row_is_answered_once_an_epoch(folder: Path, library: Path) -> None:
    task = Task.read(folder)
    spec = AbsorbSpec.from_library(task, str(library), {**QUICK, "batch_size": 4})
    steps = -(-len(task.train) // 4)
    result = [select_rows(spec, number) for number in range(1, 2 * steps + 1)]
    for epoch in (1, 2):
        ids = [row.id for number, rows in result if number == epoch for row in rows]
        assert sorted(ids) == sorted(row.id for row in task.train)


@pytest.mark.parametrize("place", ["before", "system", "after"])
def test_demonstrations_lack_lessons_and_keep_tool_results(model: str, place: Any) -> None:
    policy = Policy.load(model.removeprefix("torch/"), device="cpu", dtype="float32")
    tool = FunctionTool(Tool("look", "Looks.", {}), lambda: "")
    agent = Agent("", tools=(tool,), calling="text")
    row = Example("r", (Message("user", "Where?"),))
    dressed = replace(LIBRARY, place=place).insert_lessons(row.messages)
    first = add_call_instructions(dressed, agent.tools)
    between = (Message("assistant", "<tool>"), Message("user", "<result>"))
    steps = tuple(
        Step(prompt, Message("assistant", "x"), tokens=TokenizedTurn((1,), (120, 257), (0.0, 0.0)))
        for prompt in (first, (*first, *between))
    )
    pairs = build_demonstrations(policy, agent, row, Rollout("r", "solver", 0, steps, "stop"))
    plain = add_call_instructions(row.messages, agent.tools)
    assert [pair.prompt for pair in pairs] == [policy.encode(plain), policy.encode((*plain, *between))]
    assert all(pair.answer == (120, 257) for pair in pairs)
    assert "Say little" not in policy.decode(pairs[1].prompt)


# ---- what is kept ----------------------------------------------------------------------------------------


def test_ratio_of_gains_has_an_interval_over_rows() -> None:
    whole = [0.0, 1.0] * 50
    result = estimate_ratio([0.5 * x for x in whole], whole)
    assert result and [result.estimate, result.low, result.high] == pytest.approx([0.5] * 3)
    noisy = estimate_ratio([x if i % 3 else 0.0 for i, x in enumerate(whole)], whole)
    assert noisy and noisy.low < noisy.estimate < noisy.high
    assert noisy.low > 0.5 and noisy.high < 0.8


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        ([-0.1, 0.0], None),
        ([0.0, 0.0], None),
        ([1.0, -0.9, 0.0], Interval(1.0, -inf, inf)),  # the lessons' own gain may be none
        ([1.0], Interval(1.0, -inf, inf)),
    ],
)
def test_ratio_to_an_uncertain_gain_has_no_interval(whole: list[float], expected: Interval | None) -> None:
    assert estimate_ratio(whole, whole) == expected


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (Interval(0.9, 0.7, 1.1), "keep 90% of the lessons' gain (95 % interval 70% to 110%)"),
        (Interval(0.9, -inf, inf), "no interval"),
        (None, "no gain to keep"),
    ],
)
def test_retention_is_text_and_plain_data(share: Interval | None, says: str) -> None:
    result = Retention(share, 12.0)
    assert says in str(result) and "12 tokens shorter" in str(result)
    written = json.dumps(result.to_json(), allow_nan=False)
    assert Retention.from_json(json.loads(written)) == result


def test_retention_is_measured_from_three_arms() -> None:
    def arm(name: str, rewards: list[float], tokens: int) -> Arm:
        step = Step((), Message("assistant", "x"), Usage(input=tokens))
        groups = [
            Group(Example(str(i), ()), "solver", (Rollout(str(i), "solver", 0, (step,), "stop", Score(x)),))
            for i, x in enumerate(rewards)
        ]
        return Arm(name, tuple(groups))

    arms = [arm("before", [0.0] * 10, 5), arm("absorbed", [0.6] * 10, 5), arm("with lessons", [0.8] * 10, 30)]
    result = measure_retention(compare(arms))
    assert result.share and result.share.estimate == pytest.approx(0.75)
    assert result.saved == 25


# ---- what does not go together ---------------------------------------------------------------------------


def test_dry_run_forecasts_and_loads_nothing(folder: Path, library: Path, capsys: Any) -> None:
    done = run_command(capsys, "absorb", folder, "--artifact", library, "--dry-run", *SET)
    assert done.code == 0, done.err
    assert "rollouts 96" in done.out and not Path("runs").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "dapo"}, "no setting 'method'"),
        ({"embedder": "x"}, "no setting 'embedder'"),
        ({"stepz": 3}, "no setting 'stepz'"),
        ({"model": "openai/gpt-4o-mini"}, "not at hand"),
    ],
)
def test_settings_of_other_methods_are_refused(
    folder: Path, library: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        absorb(Task.read(folder), library, run="run", **settings)


def test_library_without_lessons_is_refused(folder: Path, tmp_path: Path) -> None:
    empty = Artifact("", "", {"library.json": Library().to_json()}).save(tmp_path / "none.edge")
    with pytest.raises(LibraryError, match="no lessons"):
        absorb(Task.read(folder), empty, **QUICK)


def test_run_resumes_with_its_own_library_only(folder: Path, library: Path, tmp_path: Path) -> None:
    task = Task.read(folder)
    with pytest.raises(LimitReached):
        absorb(task, library, run=tmp_path / "run", calls=30, **QUICK)
    (tmp_path / "lessons.txt").write_text("Say nothing.\n")
    with pytest.raises(ConfigError, match=r"another .*library"):
        absorb(task, tmp_path / "lessons.txt", run=tmp_path / "run", **QUICK)
