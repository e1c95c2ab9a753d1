"""`edgewise graph`: what it shows, compares and refuses."""

import json
from xml.etree import ElementTree

import pytest

from edgewise import Artifact
from edgewise.mas.graph.graph import Graph, Node, single
from edgewise.mas.graph.roles import CATALOGUE
from tests.support.command import CommandResult, run_command

PAIR = Graph((Node(name="drafter", role="drafter"), Node(name="judge", role="judge")), (("drafter", "judge"),), "judge")
ONE = single("solver")
POLICY = {
    "kind": "policy",
    "examples": [{"query": str(n), "graph": g.to_json()} for n, g in enumerate([ONE, PAIR, PAIR])],
}


@pytest.fixture
def graph(capsys, tmp_path, monkeypatch):
    """`edgewise graph` in a folder with graph.json, a fixed and a policy artefact, and a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps(PAIR.to_json()))
    roles = {"notary": {"name": "notary", "does": "signs", "tools": ["stamp"]}, "broken": 3}
    own = Graph((Node(name="n", role="notary"),), (), "n")
    fixed = {"kind": "fixed", "graph": own.to_json(), "examples": [{"query": "q", "graph": own.to_json()}]}
    Artifact("t", "m", {"graph.json": fixed, "roles.json": roles}).save("fixed.edge")
    Artifact("t", "m", {"graph.json": POLICY}).save("run/artifact")
    Artifact("t", "m", {"library.json": {}}).save("words.edge")

    def command(*arguments: object) -> CommandResult:
        return run_command(capsys, "graph", *arguments)

    return command


# ---- show ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["graph.json", "."])
def test_graph_is_shown_level_by_level(graph, place):
    done = graph("show", place)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"graph {PAIR.version}", "1  drafter", "2  judge    hears drafter; answers"]


def test_artefact_is_shown_with_its_own_roles(graph):
    assert "(notary) tools: stamp" in graph("show", "fixed.edge").out
    data = json.loads(graph("show", "fixed.edge", "--json").out)
    assert (data["kind"], data["graphs"][0]["queries"]) == ("fixed", 1)


@pytest.mark.parametrize("place", ["run", "run/artifact", "run/artifact/graph.json"])
def test_policy_is_shown_as_a_table_of_graphs(graph, place):
    lines = graph("show", place).out.splitlines()
    assert lines[0] == "2 different graphs for 3 queries"
    assert lines[1].split() == [PAIR.version, *"2 of 3 queries 2 agents: drafter, judge".split()]
    assert lines[2].split() == [ONE.version, *"1 of 3 queries 1 agent: solver".split()]
    assert lines[-2:] == [f"graph {ONE.version}", "1  solver  answers"]
    data = json.loads(graph("show", place, "--json").out)
    assert [(each["version"], each["queries"]) for each in data["graphs"]] == [(PAIR.version, 2), (ONE.version, 1)]


def test_version_picks_one_of_several_graphs(graph):
    done = graph("show", f"run@{ONE.version[:5]}", "--as", "json")
    assert Graph.from_json(json.loads(done.out)) == ONE


@pytest.mark.parametrize("form", ["mermaid", "svg", "json"])
def test_other_forms_show_one_graph(graph, form):
    done = graph("show", "run", "--as", form)
    assert (done.code, done.out) == (2, "")
    assert "run holds 2 graphs: choose one as run@VERSION" in done.err
    assert done.err.count("\n") == 1
    assert graph("show", f"run@{PAIR.version}", "--as", form).code == 0


def test_forms_can_be_read_by_others(graph):
    assert Graph.from_json(json.loads(graph("show", "graph.json", "--as", "json").out)) == PAIR
    assert ElementTree.fromstring(graph("show", "graph.json", "--as", "svg").out).tag.endswith("}svg")
    assert graph("show", "graph.json", "--as", "mermaid").out.startswith("flowchart TD\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "bad.json is no JSON"),
        ("[]", "bad.json holds no agent graph: it must be a JSON object"),
        ("{}", "The graph is not readable: nodes: Field required"),
        ('{"kind": "policy"}', "is a design of kind 'policy' without examples"),
        ('{"kind": "policy", "examples": 3}', "bad.json is damaged: its examples"),
        ('{"kind": "policy", "examples": [{}]}', "The graph is not readable"),
        ('{"kind": "fixed"}', "The graph is not readable"),
    ],
)
def test_file_that_is_no_graph_is_refused(graph, tmp_path, content, sentence):
    (tmp_path / "bad.json").write_text(content)
    done = graph("show", "bad.json")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert sentence in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "nowhere"), "There is no artefact at nowhere"),
        (("show", "words.edge"), "words.edge holds no agent graph: it was not made by --by graph"),
        (("show", "run@zzz"), "run holds no graph 'zzz'; there is"),
        (("show", "graph.json", "--as", "png"), "--as takes text, mermaid, svg, json, not 'png'"),
        (("diff", "graph.json", "run"), "run holds 2 graphs: choose one"),
        (("roles", "--roles", "nowhere.toml"), "no file of roles at nowhere.toml"),
    ],
)
def test_wrong_usage_is_one_sentence(graph, arguments, sentence):
    done = graph(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert sentence in done.err


def test_file_name_may_have_an_at_sign(graph, tmp_path):
    (tmp_path / "a@b.json").write_text(json.dumps(ONE.to_json()))
    assert ONE.version in graph("show", "a@b.json").out


# ---- diff and roles ------------------------------------------------------------------------------------------


def test_diff_prints_what_changed(graph):
    done = graph("diff", f"run@{ONE.version}", "graph.json")
    assert done.out.splitlines() == [
        "- node solver (solver)",
        "+ node drafter (drafter)",
        "+ node judge (judge)",
        "+ edge drafter -> judge",
        "~ exit solver becomes judge",
    ]
    data = json.loads(graph("diff", f"run@{ONE.version}", "graph.json", "--json").out)
    assert data[-1] == {"subject": "exit", "name": "", "field": "", "before": "solver", "after": "judge"}
    assert graph("diff", "graph.json", "graph.json").out == "no change\n"


def test_roles_are_listed_with_those_of_a_file(graph, tmp_path):
    (tmp_path / "mine.toml").write_text('[notary]\ndoes = "signs"\ntools = ["stamp"]\nturns = 1\nmax_tokens = 9\n')
    lines = graph("roles", "--roles", "mine.toml").out.splitlines()
    assert [line.split()[0] for line in lines] == [*CATALOGUE, "notary"]
    assert lines[-1].endswith("signs (gives an answer; tools: stamp; 1 call of 9 tokens at most)")
    assert any("(gives an answer; hears 2 or more; no model)" in line for line in lines)
    data = json.loads(graph("roles", "--json").out)
    assert [role["name"] for role in data] == list(CATALOGUE)
