"""`edgewise improve --by graph` and `evaluate` over artefacts of both kinds, from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.patterns import chain
from edgewise.mas.graph.graph import single
from edgewise.toolkit.run.artifact import Artifact
from tests.support.command import ROOT, run_command
from tests.support.mas import sums

ROLES = '[calculator]\ndoes = "calculates"\nprompt = "Calculate exactly."\n'
TASK = """\
[task]
rows = "rows.jsonl"
id = "id"
prompt = "{q}"
target = "target"
reward = "exact"
splits = { train = 0.4, validation = 0.3, test = 0.3, seed = 1 }

[improve]
epochs = 1

[graph]
encoder = "hashing"
steps = 4
credit = 2
roles = ["calculator", "drafter", "majority"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A task for both ways: what is about lessons stands in [improve], what is about graphs in [graph]."""
    folder = tmp_path_factory.mktemp("sums")
    (folder / "task.toml").write_text(TASK + f'roles_file = "{folder / "roles.toml"}"\n')
    (folder / "roles.toml").write_text(ROLES)
    lines = [json.dumps(row) for row in sums.rows(50)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def test_graph_is_designed_shown_evaluated_and_exported(folder, tmp_path, capsys):
    run, model = tmp_path / "run", ["--model", sums.SCRIPTED]
    done = run_command(capsys, "improve", folder, "--by", "graph", *model, "--run", run)
    assert done.code == 0, done.err
    assert "Against one agent" in done.out and "reward while learning: reward = quality" in done.out

    shown = run_command(capsys, "graph", "show", run)
    assert shown.code == 0 and "calculator" in shown.out

    library = tmp_path / "lessons.md"
    library.write_text("- Calculate with care.\n")
    compared = run_command(capsys, "evaluate", folder, "--artifact", run, "--artifact", library, *model, "--json")
    assert compared.code == 0, compared.err
    means = {arm["name"]: arm["mean"]["estimate"] for arm in json.loads(compared.out)["evidence"]["results"]}
    assert means["run"] > 0.9 > means["unchanged"]
    assert len(means) == 3


def test_graphs_and_lessons_are_graded_by_the_same_judge(folder, tmp_path, capsys):
    graph = Artifact("t", sums.SCRIPTED, {"graph.json": FixedDesign(single("drafter")).to_json()})
    saved = graph.save(tmp_path / "graph.edge")
    (tmp_path / "rows.jsonl").write_text((folder / "rows.jsonl").read_text())
    (tmp_path / "task.toml").write_text(TASK.replace('"exact"', '"judge"'))
    words = ["--set", f"distiller={sums.JUDGE}", "--model", sums.SCRIPTED, "--json"]
    done = run_command(capsys, "evaluate", tmp_path, "--artifact", saved, *words)
    assert done.code == 0, done.err
    costs = json.loads(done.out)["costs"]
    # An answer that both arms gave to a row is graded once.
    assert costs["role"]["measure"]["calls"] / 2 < costs["role"]["judge"]["calls"]
    assert costs["role"]["judge"]["calls"] == costs["model"][sums.JUDGE]["calls"]


@pytest.mark.parametrize("form", [lambda graph: graph.to_json(), lambda graph: FixedDesign(graph).to_json()])
def test_handwritten_graph_is_evaluated_beside_the_model(folder, tmp_path, capsys, form):
    saved = tmp_path / "hand.json"
    saved.write_text(json.dumps(form(chain("drafter", "calculator"))))
    words = ["--model", sums.SCRIPTED, "--set", f"distiller={sums.JUDGE}", "--json"]
    done = run_command(capsys, "evaluate", folder, "--artifact", saved, *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    arms = found["evidence"]["results"]
    assert [arm["name"] for arm in arms] == ["unchanged", "hand"]
    assert found["costs"]["total"]["calls"] == 3 * arms[0]["rollouts"]


def test_graph_json_inside_an_artefact_is_the_artefact(folder, tmp_path, capsys):
    roles = {"calculator": {"name": "calculator", "does": "calculates", "prompt": "Calculate exactly."}}
    files = {"graph.json": FixedDesign(single("calculator")).to_json(), "roles.json": roles}
    Artifact("t", sums.SCRIPTED, files).save(tmp_path / "kept")
    words = ["--set", f"distiller={sums.JUDGE}", "--model", sums.SCRIPTED, "--json"]
    done = run_command(capsys, "evaluate", folder, "--artifact", tmp_path / "kept" / "graph.json", *words)
    assert done.code == 0, done.err


def test_dry_run_prints_the_forecast_of_graphs(folder, capsys):
    done = run_command(capsys, "improve", folder, "--by", "graph", "--model", sums.SCRIPTED, "--dry-run")
    assert done.code == 0, done.err
    assert "graphs" in done.out and "at the gate" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--distiller", "openai/x"), "--distiller is about lessons"),
        (("--library", "team.sqlite"), "--library is about lessons"),
        (("--set", "rolls=solver"), "no setting 'rolls'; did you mean 'roles'?"),
        (("--calls", "3"), "too small to show anything"),
    ],
)
def test_foreign_options_and_wrong_settings_are_one_sentence(folder, capsys, words, sentence):
    done = run_command(capsys, "improve", folder, "--by", "graph", "--model", sums.SCRIPTED, *words)
    assert done.code == 2
    assert sentence in done.err


def test_policy_without_torch_is_one_sentence():
    hidden = (
        "import sys; sys.modules['torch'] = None; from edgewise.mas.search.load_design import read_design; "
        "read_design({'kind': 'policy'})"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, cwd=ROOT)
    assert "ConfigError: These graphs are chosen by a policy, which needs torch" in done.stderr
