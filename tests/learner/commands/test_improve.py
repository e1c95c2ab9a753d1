"""`edgewise improve --by weights`, and what can be done with what it leaves: evaluate, serve, report."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from edgewise.experience.library.library import Library, make_lesson
from edgewise.learner.commands.improve import ImproveWeights
from edgewise.learner.config import WeightsConfig
from edgewise.learner.methods.method import describe
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.respond import answer
from edgewise.learner.spec import WeightsSpec
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.graph.graph import single
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.config import parse_settings
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Message, Request
from tests.support.command import ROOT, CommandResult, run_command, start_command, wait_for_command
from tests.support.learner import tiny
from tests.support.learner.jobs import task_file


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_file(tmp_path_factory.mktemp("shares"), model)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """The directory of a finished run, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "full"
    return run, wait_for_command(start_command("improve", folder, "--by", "weights", "--run", run))


@pytest.fixture(scope="module")
def adapted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with LoRA."""
    run = tmp_path_factory.mktemp("runs") / "lora"
    more = ("--set", "lora=4", "--set", "lr=0.05", "--set", "steps=12")
    done = wait_for_command(start_command("improve", folder, "--by", "weights", "--run", run, *more))
    assert done.code == 0, done.err
    return run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def means(done: CommandResult) -> dict[str, float]:
    assert done.code == 0, done.err
    return {arm["name"]: arm["mean"]["estimate"] for arm in json.loads(done.out)["evidence"]["results"]}


# ---- improve ---------------------------------------------------------------------------------------------


def test_improve_by_weights_prints_like_the_other_ways(trained: tuple[Path, CommandResult]) -> None:
    run, done = trained
    assert done.code == 0, done.err
    for part in ("before", "after", "95 % interval", "Method dr_grpo, 10 steps on cpu", "learning: 160 calls"):
        assert part in done.out
    assert f"artefact: {run}/artifact" in done.out
    for part in ("run directory", "cpu, . threads, float32", "up to about", "step 1: mean reward"):
        assert re.search(part, done.err)
    assert not done.error_lines


def test_dry_run_loads_no_model_and_checks_its_name(folder: Path, capsys: Any, tmp_path: Path) -> None:
    done = run_command(capsys, "improve", folder, "--by", "weights", "--dry-run", "--json")
    plan = json.loads(done.out)
    assert plan["calls"] == {"rollouts": 160, "measuring": 72}
    wrong = run_command(capsys, "improve", folder, "--by", "weights", "--model", "torch/no-such", "--dry-run")
    assert wrong.code == 2 and "There is no no-such here" in wrong.error_lines[0]
    assert not list(tmp_path.iterdir())


def test_set_and_task_file_override_the_method_alike(model: str, tmp_path: Path) -> None:
    def described(folder: Path, *settings: str) -> list[str]:
        return describe(WeightsSpec.from_settings(Task.read(folder), parse_settings(settings)).method)

    more = {"method": "grpo", "penalties": "kl3,entropy", "loss": {"high": 0.28}, "epochs": 2}
    table = task_file(tmp_path / "a", model, **more)
    plain = task_file(tmp_path / "b", model, method="grpo")
    given = described(plain, "penalties=kl3,entropy", "loss.high=0.28", "epochs=2")
    assert described(table) == given
    assert "epochs: 2" in given and any("high=0.28" in line for line in given)
    assert described(table, "penalties=none", "epochs=3")[-3:-1] == ["penalties: none", "epochs: 3"]
    assert any("loss: plain" in line for line in described(table, "loss=plain"))
    assert described(plain, "overrides=loss.high=0.28, penalties=kl3,entropy", "epochs=2") == given


def test_nested_tables_override_penalties(model: str, tmp_path: Path) -> None:
    folder = task_file(tmp_path, model, method="grpo", overrides=["penalties=kl3"], penalties={"kl3": {"beta": 0.2}})
    config = ImproveWeights(folder, {}, (), None).prepare().config
    assert isinstance(config, WeightsConfig)
    assert config.overrides == ("penalties=kl3", "penalties.kl3.beta=0.2")


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "arguments", "sentence"),
    [
        ({"method": "grop"}, (), "did you mean 'grpo'"),
        ({}, ("--set", "loss.hihg=1"), "has no parameter 'hihg'"),
        ({}, ("--set", "losses=plain"), "There is no setting 'losses'"),
        ({}, ("--set", "loss=plane"), "loss has no part 'plane'; did you mean 'plain'"),
        ({}, ("--model", "openai/gpt-4o"), "not at hand"),
        ({}, ("--set", "device=cuda:9"), "no device"),
        ({}, ("--library", "x.sqlite"), "about lessons"),
        ({}, ("--replay", "x"), "weights are trained, not asked"),
        ({"prompt": "say {text}" + "!" * 600}, (), "tokens, and .* reads 512 at most"),
        ({"reward": "constant"}, ("--set", "steps=20"), "no row had runs with different rewards"),
        ({"reward": "nothing"}, (), "nan"),
    ],
)
def test_bad_input_is_one_sentence(
    model: str, tmp_path: Path, capsys: Any, changes: Any, arguments: Any, sentence: str
) -> None:
    task = task_file(tmp_path / "task", model, **changes)
    done = run_command(capsys, "improve", task, "--by", "weights", "--run", tmp_path / "run", *arguments)
    assert (done.code, done.out) == (2, "")
    assert len(done.error_lines) == 1
    assert re.search(sentence, done.error_lines[0]), done.error_lines


def test_model_without_chat_template_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    bare = tiny.save_model(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    done = run_command(capsys, "improve", task_file(tmp_path / "t", f"torch/{bare}"), "--by", "weights")
    assert done.code == 2 and "has no chat template" in done.error_lines[0]


@pytest.mark.parametrize("arguments", [("improve", "t", "--by", "weights"), ("methods",)])
def test_missing_torch_names_the_extra(arguments: tuple[str, ...]) -> None:
    script = "import sys; sys.modules['torch'] = None; from edgewise.toolkit.cli.app import main; main()"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"edgewise: .* needs? torch: pip install 'edgewise\[learner\]'\.\n", done.stderr)


# ---- what is left ----------------------------------------------------------------------------------------


def test_lessons_graphs_and_weights_share_an_evaluation(
    folder: Path, trained: tuple[Path, CommandResult], adapted: Path, model: str, tmp_path: Path, capsys: Any
) -> None:
    run = trained[0]
    lessons = {"library.json": Library(lessons=(make_lesson("Say A."),)).to_json()}
    words = Artifact("t", model, lessons, {"max_tokens": 6, "temperature": 1.0}).save(tmp_path / "words")
    graph = Artifact("t", model, {"graph.json": FixedDesign(single("drafter")).to_json()}).save(tmp_path / "graph.edge")
    packed = Artifact.load(run).save(tmp_path / "packed.edge")
    arms = [part for path in (words, graph, run, packed, adapted) for part in ("--artifact", path)]
    done = run_command(capsys, "evaluate", folder, *arms, "--json", "--run", tmp_path / "both")
    found = means(done)
    assert list(found) == ["unchanged", "words", "graph", "full", "packed", "lora"]
    assert found["full"] == found["packed"] > found["unchanged"] + 0.15
    assert found["lora"] > found["unchanged"]
    result = json.loads((run / "result.json").read_text())["evidence"]["results"]
    # The run had another precision, so that a few samples differ.
    assert found["unchanged"] == pytest.approx(result[0]["mean"]["estimate"], abs=0.05)
    assert found["full"] == pytest.approx(result[1]["mean"]["estimate"], abs=0.05)
    lines = [json.loads(line) for line in (tmp_path / "both" / "rollouts.jsonl").read_text().splitlines()]
    assert len({line["library"] for line in lines}) == 6 - 1  # packed is full again


def test_weights_of_different_models_need_an_explicit_model(
    folder: Path, trained: tuple[Path, CommandResult], tmp_path: Path, capsys: Any
) -> None:
    other = Artifact.load(trained[0])
    other = Artifact(other.task, "torch/other", other.files, other.settings, (), other.folders)
    arms = ("--artifact", trained[0], "--artifact", other.save(tmp_path / "other"))
    done = run_command(capsys, "evaluate", folder, *arms)
    assert done.code == 2 and "say with --model" in done.error_lines[0]


def test_one_model_at_a_time_is_in_memory(
    folder: Path, trained: tuple[Path, CommandResult], adapted: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[Any] = []
    most = []
    load = Policy.load

    def counted(*given: Any, **named: Any) -> Policy:
        gc.collect()
        most.append(sum(each() is not None for each in alive))
        policy = load(*given, **named)
        alive.append(weakref.ref(policy.model))
        return policy

    monkeypatch.setattr(Policy, "load", counted)
    done = run_command(capsys, "evaluate", folder, "--artifact", trained[0], "--artifact", adapted, "--json")
    assert len(means(done)) == 3
    assert most == [0, 0, 0]


def told(artifact: Artifact, question: str, seed: int) -> str:
    """What the artefact's weights say, asked without a server."""
    policy = Policy.load(artifact.model_in_use.removeprefix("torch/"))
    sampling = replace(artifact.sampling, seed=seed)
    (reply,) = answer(policy, [Request("x", (Message("user", question),), sampling)])
    return reply.message.content


@pytest.mark.parametrize("which", ["trained", "adapted"])
def test_weights_are_served(which: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(which)
    run = found[0] if isinstance(found, tuple) else found
    process = start_command("serve", run, "--port", 0)
    assert process.stderr
    try:
        line = process.stderr.readline()
        url = re.search(r"at (http\S+/v1)", line)
        assert url, line + process.stderr.read()
        with openai.OpenAI(base_url=url[1], api_key="any", max_retries=0) as client:
            said = client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "say word 1"}], seed=1
            )
        assert said.choices[0].message.content == told(Artifact.load(run), "say word 1", seed=1)
        assert said.usage and said.usage.completion_tokens <= 6
    finally:
        process.send_signal(signal.SIGINT)
        done = wait_for_command(process)
    assert "1 calls" in done.err


def test_serve_refuses_another_model_for_weights(trained: tuple[Path, CommandResult], capsys: Any) -> None:
    done = run_command(capsys, "serve", trained[0], "--model", "openai/gpt-4o")
    assert done.code == 2 and "leave it out" in done.error_lines[0]


def test_trained_weights_can_be_trained_further(folder: Path, adapted: Path, tmp_path: Path, capsys: Any) -> None:
    model = Artifact.load(adapted).model_in_use
    run = tmp_path / "again"
    more = ("--model", model, "--run", run, "--set", "steps=1", "--set", "lora=2")
    done = run_command(capsys, "improve", folder, "--by", "weights", *more)
    assert done.code in (0, 1), done.err
    assert json.loads((run / "weights" / "adapter_config.json").read_text())["base_model_name_or_path"] == model[6:]


def test_report_of_training_has_curves_method_and_answers(trained: tuple[Path, CommandResult]) -> None:
    run, _ = trained
    page = (run / "report.html").read_text()
    for part in ("Mean reward per step", "Mean length of replies", "Entropy of replies", "No KL:", "Method"):
        assert part in page
    for part in ("arXiv 2503.20783", "dr_grpo", "per_sequence|constant|weigh", "advantage", "Rows that changed"):
        assert re.search(part, page)
    assert "candidate library" not in page and "no operations" not in page
    assert "does not hold these answers" not in page


# ---- the other ways with weights in this process ---------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "settings"),
    [
        ("experience", ["epochs=1", "batch_size=5", "group_size=2", "distiller_max_tokens=6"]),
        ("graph", ["search=tabular", "encoder=hashing", "steps=2", "credit=0", "samples=1"]),
    ],
)
def test_other_ways_improve_a_torch_model(
    by: str, settings: list[str], folder: Path, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    more = [part for setting in settings for part in ("--set", setting)]
    done = run_command(capsys, "improve", folder, "--by", by, "--run", run, *more)
    assert done.code in (0, 1), done.err
    assert (run / "report.html").exists()
    assert Artifact.load(run).model.startswith("torch/")
