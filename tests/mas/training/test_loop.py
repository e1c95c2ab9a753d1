"""A search for graphs from rows to artefact: designs, the gate, the report, resuming, and settings."""

import json
from pathlib import Path

import pytest

from edgewise.mas.api import design
from edgewise.mas.config import GraphConfig
from edgewise.mas.search.load_design import read_design
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import select_batch
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import ConfigError, LimitReached
from edgewise.toolkit.run.config import resolve_config
from tests.support.mas import sums
from tests.support.server import Server

SETTINGS = {
    "own_roles": sums.ROLES,
    "encoder": "hashing",
    "steps": 5,
    "roles": "calculator,drafter,critic,reviser,majority",
    "credit": 4,
}


@pytest.fixture(scope="module")
def run_result(tmp_path_factory):
    """A whole run."""
    run = tmp_path_factory.mktemp("wiring") / "run"
    return design(sums.task(), model=sums.SCRIPTED, run=run, **SETTINGS)


def results(result):
    return {arm.name: arm for arm in result.evidence.results}


def test_design_beats_one_agent_also_at_equal_tokens(run_result):
    arms = results(run_result)
    assert run_result.improved
    assert arms["one agent"].mean.estimate < 0.6
    assert arms["designed"].mean.estimate > 0.9
    equal = json.loads((run_result.path / "wiring.json").read_text())["equal_tokens"]
    assert equal["low"] > 0


def test_different_queries_get_different_graphs(run_result):
    used = read_design(run_result.artifact.files["graph.json"])
    first, second = json.loads((run_result.path / "wiring.json").read_text())["graphs"][:2]
    assert {node["role"] for node in first["graph"]["nodes"]} != {node["role"] for node in second["graph"]["nodes"]}
    assert used.to_json()["kind"] == "policy"


def test_report_and_step_files_show_the_search(run_result):
    page = (run_result.path / "report.html").read_text()
    assert "Used for" in page and "quality - 0.02" in page and "calculator" in page
    wiring = json.loads((run_result.path / "wiring.json").read_text())
    front = {arm["arm"]: arm["tokens"] for arm in wiring["front"]}
    used = [used["rows"] * node["tokens"] for used in wiring["graphs"] for node in used["nodes"].values()]
    assert sum(used) / sum(used["rows"] for used in wiring["graphs"]) == pytest.approx(front["designed"])
    assert f"tokens {round(next(iter(wiring['graphs'][0]['nodes'].values()))['tokens'])}" in page
    steps = sorted(run_result.path.glob("steps/*/step.json"))
    assert len(steps) == SETTINGS["steps"] + 1
    last = json.loads(steps[-1].read_text())
    assert last["gate"]["winner"] == "designed" and last["gate"]["p"] <= 0.05
    first = json.loads(steps[0].read_text())
    assert {trial["graph"] for group in first["groups"] for trial in group["trials"]}


def test_shared_runs_of_a_group_are_counted_but_not_paid(run_result):
    shared, total = run_result.costs["shared"], run_result.costs["total"]
    assert shared["calls"] > 0 and shared["input"] > 0 and shared["usd"] == 0
    assert total["calls"] == run_result.costs["learning"]["calls"] + run_result.costs["measuring"]["calls"]


def test_rollouts_are_stored_with_their_subrollouts(run_result):
    lines = [json.loads(line) for line in (run_result.path / "rollouts.jsonl").read_text().splitlines()]
    assert any(len(line.get("calls", [])) > 1 for line in lines)


def test_plain_agent_stays_without_a_better_graph(tmp_path):
    rows = [row for row in sums.rows(60) if row["id"].startswith("w")]
    task = sums.Task.from_rows(rows, prompt="{q}", reward="exact", id="id", name="words", splits=sums.SPLITS)
    result = design(task, model=sums.SCRIPTED, run=tmp_path / "run", **SETTINGS | {"steps": 1})
    assert not result.improved
    assert [node["role"] for node in result.artifact.files["graph.json"]["graph"]["nodes"]] == ["solver"]


@pytest.mark.parametrize("concurrency", [1, 64])
def test_concurrency_and_a_stop_change_nothing(tmp_path, concurrency):
    settings = SETTINGS | {"steps": 2, "concurrency": concurrency}

    def run(path: Path, limits: Limits | None = None):
        return design(sums.task(40), model=f"{server.url}#sums", run=path, limits=limits, **settings)

    with Server(sums.serve) as server:
        whole = run(tmp_path / "whole")
        requests = len(server.bodies)
        with pytest.raises(LimitReached):
            run(tmp_path / "stopped", Limits(calls=150))
        resumed = run(tmp_path / "stopped")
        assert len(server.bodies) == 2 * requests
    assert resumed.evidence == whole.evidence
    assert (resumed.path / "artifact/graph.json").read_bytes() == (whole.path / "artifact/graph.json").read_bytes()
    assert resumed.costs["total"] == whole.costs["total"]


@pytest.mark.parametrize("search", ["random", "fixed", "edges", "tabular"])
def test_every_searcher_keeps_the_limit_on_agents(tmp_path, search):
    settings = SETTINGS | {"steps": 2, "agents": 2}
    result = design(sums.task(30), model=sums.SCRIPTED, run=tmp_path / "run", search=search, **settings)
    assert set(results(result)) >= {"one agent", "designed"}
    steps = [json.loads(file.read_text()) for file in tmp_path.glob("run/steps/*/step.json")]
    sizes = {len(t["nodes"]) for step in steps for group in step["groups"] for t in group["trials"]}
    assert sizes and max(sizes) <= 2


def test_batches_visit_all_rows_before_any_repeats():
    task = sums.task(20)
    spec = GraphSpec(task, resolve_config(GraphConfig, {"batch_size": 5}), queries={})
    first = [row.id for number in (1, 2, 3) for row in select_batch(spec, number)[0]]
    assert len(set(first)) == 15
    assert select_batch(spec, 4)[1] == 1 and select_batch(spec, 5)[1] == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"roles": "programer"}, "no role 'programer'.*programmer"),
        ({"roles": "researcher"}, "no role 'researcher' that this task has the tools for"),
        ({"search": "magic"}, "search"),
    ],
)
def test_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        design(sums.task(10), model=sums.SCRIPTED, **settings)


def test_nodes_have_costs_where_their_model_has_a_price(tmp_path):
    price = {sums.SCRIPTED: (2.0, 4.0)}
    done = design(sums.task(), model=sums.SCRIPTED, run=tmp_path / "r", prices=price, **SETTINGS)
    wiring = json.loads((tmp_path / "r" / "wiring.json").read_text())
    dollars = sum(used["rows"] * node["usd"] for used in wiring["graphs"] for node in used["nodes"].values())
    assert 0 < dollars < done.costs["total"]["usd"]
    assert "$/1,000 " in (tmp_path / "r" / "report.html").read_text()
