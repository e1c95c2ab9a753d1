"""Methods compared on one task: the same seeds and shares, one report; what ended is never run again."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgewise import compare
from edgewise.learner.comparison.lineup import build_lineup, parse_contenders
from edgewise.learner.comparison.results import ComparisonResult
from edgewise.learner.comparison.tables import render_comparison
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError, Hopeless, Interrupted, LimitTooSmall
from edgewise.toolkit.tracking.events import Event, RunOpened, StageStarted, StepFinished
from tests.support.command import CommandResult, run_command
from tests.support.learner.jobs import task_file
from tests.support.learner.shares import SETTINGS, early, task

FEW: dict[str, Any] = {**{k: v for k, v in SETTINGS.items() if k != "method"}, "steps": 2, "samples": 2}
METHODS = "dr_grpo, grpo(penalties=none, lr=0.05)"


@pytest.fixture(scope="module")
def result(model: str, tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    """Two methods with two seeds each."""
    run = tmp_path_factory.mktemp("compared") / "c"
    return compare(task(), METHODS, seeds=2, model=model, run=run, seed=5, **{**FEW, "steps": 6})


@pytest.fixture
def folder(model: str, tmp_path: Path) -> Path:
    return task_file(tmp_path / "task", model, steps=2)


@pytest.fixture
def command(folder: Path, tmp_path: Path, capsys: Any) -> Any:
    """`edgewise compare` of the task, in a directory of its own."""

    def run(methods: str, *arguments: object) -> CommandResult:
        options = ("--methods", methods, "--run", tmp_path / "c", *arguments)
        return run_command(capsys, "compare", folder, *options)

    return run


def evidence(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())["evidence"]


def means(run: Path, arm: str) -> dict[str, float]:
    rows = [row for row in evidence(run)["rows"] if row["arm"] == arm]
    return {row["example"]: sum(row["rewards"]) / len(row["rewards"]) for row in rows}


# ---- what comes of it ------------------------------------------------------------------------------------


def test_each_method_and_seed_has_a_run_directory(result: ComparisonResult) -> None:
    folders = ("dr_grpo", "grpo-penalties=none-lr=0.05")
    for folder in folders:
        for seed in (5, 6):
            run = result.path / folder / f"seed-{seed}"
            config = (run / "config.toml").read_text()
            assert f"seed = {seed}" in config
            assert (run / "artifact" / "manifest.json").exists() and (run / "report.html").exists()
            assert not (run / "checkpoints").exists()
    first, second = (means(result.path / folder / "seed-5", "before") for folder in folders)
    assert first == second


def test_estimates_are_those_of_the_runs(result: ComparisonResult) -> None:
    first, second = result.methods
    assert (first.name, second.name) == ("dr_grpo", "grpo(penalties=none, lr=0.05)")
    for line in result.methods:
        every = [x for run in line.runs for x in means(result.path / run.path, "after").values()]
        assert line.after and line.after.estimate == pytest.approx(sum(every) / len(every))
        assert line.after.low < line.after.estimate < line.after.high
        assert line.gain and line.before
        assert line.gain.estimate == pytest.approx(line.after.estimate - line.before.estimate)
        assert line.use and (line.use.steps, line.use.calls) == (6, 6 * 16)
    assert first.against is None and first.holm is None
    assert second.against and second.after and first.after
    assert second.against.estimate == pytest.approx(second.after.estimate - first.after.estimate)
    assert second.holm == second.against.p  # one comparison
    step = json.loads((result.path / first.runs[0].path / "steps" / "003" / "step.json").read_text())
    assert first.runs[0].rewards[2] == step["statistics"]["mean_reward"]
    middle = first.curve[2]
    assert middle.mean == pytest.approx((first.runs[0].rewards[2] + first.runs[1].rewards[2]) / 2)
    assert middle.low is not None and middle.high is not None and 0 <= middle.low <= middle.mean <= middle.high


def test_report_stands_alone_and_draws_the_json(result: ComparisonResult) -> None:
    page = (result.path / "report.html").read_text()
    assert not re.search(r"<script|https?://|url\(", page)
    data = json.loads((result.path / "compare.json").read_text())
    assert data == json.loads(json.dumps(result.to_json()))
    pictures = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    curve = next(one for one in pictures if "Mean reward per step" in (one[0].text or ""))
    for style, line in zip("ab", data["methods"], strict=True):
        dots = [one for one in curve.iter("circle") if one.get("class") == style and len(one)]
        hints = [f"{item['step']}: {item['mean']:.3f}" for item in line["curve"]]
        assert [dot[0].text for dot in dots] == hints
        band = next(one for one in curve.iter("polygon") if one.get("class") == f"{style} band")
        corners = [tuple(map(float, item.split(","))) for item in str(band.get("points")).split()]
        assert len(corners) == 2 * len(hints)
        low, high = corners[: len(hints)], corners[: -len(hints) - 1 : -1]
        heights = [float(dot.get("cy", "nan")) for dot in dots]
        # Down is up: the lower end of a band has the larger y.
        assert all(a[1] >= y >= b[1] for a, b, y in zip(low, high, heights, strict=True))
    for line in data["methods"]:
        assert f"{line['after']['estimate']:.3f} [{line['after']['low']:.3f}" in page


def test_table_has_intervals_tokens_and_time_of_every_method(result: ComparisonResult) -> None:
    lines = render_comparison(result)
    assert lines[0].startswith("2 methods, seeds 5 to 6, 8 held-out rows, 2 samples of each")
    assert lines[2].split()[:5] == ["method", "ended", "before", "after", "gain"]
    assert "against dr_grpo" in lines[2]
    assert all("2 of 2" in line for line in lines[3:5])
    calls = 4 * (6 * 16 + 2 * 8 * 2)
    assert f"in all: {calls:,} calls" in lines[-2] and lines[-1] == f"report: {result.path}/report.html"


def test_methods_and_seeds_can_be_added(result: ComparisonResult, model: str, tmp_path: Path) -> None:
    begun: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StageStarted) and str(event.text).startswith("run "):
            begun.append(event.text)

    settings: dict[str, Any] = {**FEW, "steps": 6, "seed": 5, "model": model, "run": result.path}
    again = compare(task(), METHODS, seeds=2, on_event=on_event, **settings)
    assert not begun and again == result
    more = compare(task(), "dr_grpo,rloo", seeds=1, on_event=on_event, **settings)
    assert begun == ["run 2 of 2: rloo, seed 5; about 0 minutes to go"]
    assert [line.finished_count for line in more.methods] == [1, 1]
    with pytest.raises(ConfigError, match=r"rloo: .* was started with another steps"):
        compare(task(), "rloo", seeds=1, **{**settings, "steps": 7})


# ---- what goes wrong -------------------------------------------------------------------------------------


def tall(completion: str, **_: Any) -> float:
    """Rewards above 1, which ngrpo refuses."""
    return 2 * early(completion) + 0.5


def constant(completion: str, **_: Any) -> float:
    return 0.5


def test_failed_method_is_a_line_and_the_others_go_on(model: str, tmp_path: Path) -> None:
    result = compare(task(test=2, reward=tall), "ngrpo,dr_grpo", seeds=1, model=model, run=tmp_path / "c", **FEW)
    failed, ended = result.methods
    assert (failed.finished_count, ended.finished_count) == (0, 1)
    assert "above the best one of 1" in failed.runs[0].why
    assert ended.against is None and ended.after and ended.gain
    assert (failed.after, failed.use) == (None, None)
    assert result.exit_code == 0
    assert any(line.startswith("ngrpo, seed 0: A reward of") for line in render_comparison(result))
    assert "above the best one of 1" in (result.path / "report.html").read_text()


def test_hopeless_run_is_not_repeated(model: str, tmp_path: Path) -> None:
    settings = {**FEW, "steps": 12, "batch_size": 1, "group_size": 2, "model": model, "run": tmp_path / "c"}
    events: list[Event] = []
    for _ in range(2):
        result = compare(task(test=2, reward=constant), "grpo", seeds=1, on_event=events.append, **settings)
        assert result.exit_code == Hopeless.exit_code
        assert "no row had runs with different rewards" in result.methods[0].runs[0].why
    assert sum(isinstance(event, RunOpened) for event in events) == 1


def test_runs_share_a_limit_and_resume_with_a_higher_one(command: Any, tmp_path: Path) -> None:
    # A step takes 16 calls, and measuring 2 * 36: there is nothing to learn with, and not enough to measure.
    short = command("dr_grpo,grpo", "--seeds", 1, "--calls", 2 * 60)
    assert short.code == 3 and len(short.error_lines) == 1
    assert "2 of 2 runs reached their share of a limit" in short.error_lines[0]
    assert "The limit on calls (60) does not allow another call" in short.out
    assert "0 of 1" in short.out and "1/2: calls 120" in short.err
    # 36 calls are gone; of the rest, one step leaves what measuring takes.
    done = command("dr_grpo,grpo", "--seeds", 1, "--calls", 2 * 130, "--json")
    assert done.code == 0 and not done.error_lines
    for line in json.loads(done.out)["methods"]:
        assert line["after"] and line["use"]["steps"] == 1
        assert line["runs"][0]["why"] == "the run's limit of 130 calls leaves no more than measuring takes"


def test_interrupted_comparison_resumes(model: str, tmp_path: Path) -> None:
    where = tmp_path / "c"

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.record.number == 2 and (where / "grpo").exists():
            os.kill(os.getpid(), signal.SIGINT)

    settings: dict[str, Any] = {**FEW, "steps": 8, "model": model, "run": where}
    with pytest.raises(Interrupted) as stopped:
        compare(task(test=2), "dr_grpo,grpo", seeds=1, on_event=stop, **settings)
    assert stopped.value.__notes__ == [f"What was learnt is kept: go on with --run {where}"]
    table = json.loads((where / "compare.json").read_text())  # of the time when the first run had ended
    assert [bool(line["after"]) for line in table["methods"]] == [True, False]
    assert table["methods"][1]["runs"][0]["why"] == "not carried out yet"
    stages: list[str] = []
    result = compare(
        task(test=2),
        "dr_grpo,grpo",
        seeds=1,
        on_event=lambda event: stages.append(str(event.text)) if isinstance(event, StageStarted) else None,
        **settings,
    )
    assert stages[0].startswith("run 2 of 2: grpo, seed 0")
    assert any(stage.startswith("going on after step") for stage in stages)
    assert [line.finished_count for line in result.methods] == [1, 1]


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "arguments", "sentence"),
    [
        ("grpo,ngrop", (), "There is no method 'ngrop'; did you mean 'ngrpo'"),
        ("grpo, grpo", (), "grpo is named twice"),
        (",", (), "nothing to compare"),
        ("grpo,dapo(loss.high=0.3", (), "'dapo\\(loss.high=0.3' is no method"),
        ("grpo(steps=3)", (), "steps must be the same for all methods, as --set steps"),
        ("grpo,dapo(loss.hihg=0.3)", (), r"dapo\(loss.hihg=0.3\): clipped has no parameter 'hihg'"),
        ("grpo,cispo", ("--set", "loss.delta=3"), "cispo: clipped_weight has no parameter 'delta'"),
        ("grpo", ("--set", "method=dapo"), "--methods says which are compared"),
        ("grpo", ("--set", "stpes=3"), "There is no setting 'stpes'"),
        ("grpo", ("--model", "openai/gpt-4o"), "not at hand"),
        ("grpo", ("--model", "torch/nowhere"), "no nowhere here"),
        ("grpo,dapo", ("--calls", 5), "leaves each nothing"),
        ("grpo,dapo", ("--usd", 0), "must be a number above zero"),
    ],
)
def test_bad_input_is_one_sentence_before_any_run(
    command: Any, tmp_path: Path, methods: str, arguments: tuple[Any, ...], sentence: str
) -> None:
    done = command(methods, *arguments)
    assert (done.code, done.out) == (2, "") and len(done.error_lines) == 1
    assert re.search(sentence, done.error_lines[0]), done.error_lines
    assert not (tmp_path / "c").exists()


def test_dry_run_forecasts_all_runs_together(command: Any, tmp_path: Path) -> None:
    plan = command("grpo,dapo", "--seeds", 3, "--calls", 6000, "--dry-run")
    assert plan.code == 0
    assert "6 runs, one after the other" in plan.out and "1/6: calls 6,000" in plan.out
    assert "disk: up to about" in plan.out
    data = json.loads(command("grpo,dapo", "--seeds", 3, "--dry-run", "--json").out)
    assert data["calls"] == {"rollouts": 6 * 2 * 16, "measuring": 6 * 2 * 9 * 4}
    assert data["runs"][:3] == ["grpo, seed 0", "dapo, seed 0", "grpo, seed 1"]
    assert not (tmp_path / "c").exists()


def test_methods_are_parsed_with_their_settings() -> None:
    result = parse_contenders(["Dr-GRPO, dapo(penalties=kl3,entropy, loss.high=0.3)", "grpo(epochs=2)"])
    assert [item.name for item in result] == ["dr_grpo", "dapo(penalties=kl3,entropy, loss.high=0.3)", "grpo(epochs=2)"]
    assert result[1].settings == {"penalties": "kl3,entropy", "loss.high": 0.3}


def test_limits_are_split_equally_and_never_exceeded(model: str) -> None:
    options = {**FEW, "model": model, "tokens": 1_000_003, "usd": None, "minutes": 9.0}
    plan = build_lineup(task(), "grpo,dapo,rloo", 2, options)
    shares = [run.spec.config.limits for run in plan.runs]
    assert set(shares) == {Limits(tokens=1_000_003 // 6, minutes=1.5)}
    with pytest.raises(LimitTooSmall):
        build_lineup(task(), "grpo,dapo,rloo", 2, {**options, "tokens": 5})


def test_directory_of_a_run_is_refused(model: str, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").touch()
    with pytest.raises(ConfigError, match="holds a run and not a comparison"):
        compare(task(), "grpo", seeds=1, model=model, run=tmp_path, **FEW)
