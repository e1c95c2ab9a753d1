"""A planner and its sub-agents from the command line: improve, evaluate, library show, report and serve."""

import asyncio
import json
from pathlib import Path

import pytest

from edgewise.mas.two_level.answerer import build_answerer
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.types import Message, Request
from tests.support.command import run_command
from tests.support.mas import passwords
from tests.support.mas.passwords import BACKWARDS, HAND_OVER

MODEL = "scripted/tests.support.mas.passwords:play"
SETTINGS = {
    "search": "two_level",
    "expert": "tests.support.mas.passwords:expert",
    "epochs": 1,
    "group_size": 4,
    "calling": "native",
    "planner_prompt": passwords.LEAD,
    "sub_prompt": passwords.WORK,
}
OPTIONS = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("passwords")
    rows = [{"word": word, "target": word[::-1]} for word in passwords.WORDS]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.toml").write_text(
        '[task]\nname = "passwords"\nrows = "rows.jsonl"\nprompt = "Say the password for: {word}"\nreward = "exact"\n'
        "splits = { train = 0.3, validation = 0.5, test = 0.2 }\n"
    )
    return folder


@pytest.fixture(scope="module")
def run(task: Path) -> Path:
    """A finished run."""
    return task / "run"


def test_two_libraries_are_learnt_by_the_command(capsys, task, run):
    done = run_command(capsys, "improve", task, "--by", "graph", "--model", MODEL, *OPTIONS, "--run", run, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    libraries = result["artifact"]["libraries.json"]
    assert [x["text"] for x in libraries["planner"]["lessons"]] == [HAND_OVER]
    assert [x["text"] for x in libraries["sub"]["lessons"]] == [BACKWARDS]
    before, after = (arm["mean"]["estimate"] for arm in result["evidence"]["results"])
    assert before < 0.5 < after == 1.0
    assert json.loads((run / "steps" / "001" / "step.json").read_text())["gate"]["winner"] == "both"


def test_what_was_learnt_is_printed_and_reported(capsys, task, run):
    done = run_command(capsys, "improve", task, "--by", "graph", "--model", MODEL, *OPTIONS, "--run", run)
    assert done.code == 0, done.err
    assert "1 lesson for the planner:" in done.out
    assert "1 lesson for the sub-agents:" in done.out
    assert run_command(capsys, "report", run).code == 0
    report = (run / "report.html").read_text("utf-8")
    assert "Lessons for the planner" in report
    assert HAND_OVER in report and BACKWARDS in report


def test_a_dry_run_prints_the_forecast_and_calls_no_model(capsys, task):
    done = run_command(
        capsys, "improve", task, "--by", "graph", "--model", MODEL, *OPTIONS, "--distiller", MODEL, "--dry-run"
    )
    assert done.code == 0, done.err
    assert "distiller" in done.out


def test_evaluate_runs_planner_and_sub_agents(capsys, task, run):
    done = run_command(capsys, "evaluate", task, "--artifact", run, "--model", MODEL, "--json", "--run", task / "eval")
    assert done.code == 0, done.err
    unchanged, learnt = json.loads(done.out)["evidence"]["results"]
    assert learnt["mean"]["estimate"] == 1.0 > unchanged["mean"]["estimate"]


def test_library_show_prints_both_libraries_or_one(capsys, run):
    both = run_command(capsys, "library", "show", run)
    assert both.code == 0, both.err
    assert HAND_OVER in both.out and BACKWARDS in both.out
    sub = run_command(capsys, "library", "show", f"{run}#sub")
    assert HAND_OVER not in sub.out and BACKWARDS in sub.out
    wrong = run_command(capsys, "library", "show", f"{run}#other")
    assert wrong.code == 2
    assert "planner, sub" in wrong.err


def test_a_request_is_answered_by_planner_and_sub_agents(run):
    artifact = Artifact.load(run)
    answer = build_answerer(artifact, "scripted/passwords", ScriptedClient(passwords.play))
    question = (Message("user", "Say the password for: drawer"),)
    reply = asyncio.run(answer(Request("scripted/passwords", question)))
    assert reply.message.content == "reward"


def test_an_artefact_with_a_users_tool_is_not_served(run):
    artifact = Artifact.load(run)
    files = {**artifact.files, "tools.json": ["square"]}
    with pytest.raises(ArtifactError, match="square"):
        build_answerer(Artifact("", "", files, artifact.settings), "scripted/passwords", ScriptedClient(passwords.play))


def test_an_artefact_does_not_choose_the_sub_agents_server(run):
    artifact = Artifact.load(run)
    stranger = Artifact("", "", artifact.files, {**artifact.settings, "sub_model": "http://stranger.example/v1#m"})
    with pytest.raises(ArtifactError, match="another server"):
        build_answerer(stranger, "openai/m", ScriptedClient(passwords.play))
