"""A search for graphs from rows to artefact: what is found, kept, refused, resumed and compared."""

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
def found(tmp_path_factory):
    """A whole run."""
    run = tmp_path_factory.mktemp("wiring") / "run"
    return design(sums.task(), model=sums.SCRIPTED, run=run, **SETTINGS)


def results(result):
    return {each.name: each for each in result.evidence.results}


def test_the_designed_graphs_beat_one_agent_also_at_equal_tokens(found):
    arms = results(found)
    assert found.improved
    assert arms["one agent"].mean.estimate < 0.6
    assert arms["designed"].mean.estimate > 0.9
    equal = json.loads((found.path / "wiring.json").read_text())["equal_tokens"]
    assert equal["low"] > 0


def test_different_queries_get_different_graphs(found):
    used = read_design(found.artifact.files["graph.json"])
    first, second = json.loads((found.path / "wiring.json").read_text())["graphs"][:2]
    assert {node["role"] for node in first["graph"]["nodes"]} != {
        node["role"] for node in second["graph"]["nodes"]
    }
    assert used.to_json()["kind"] == "policy"


def test_the_report_and_the_steps_tell_what_was_done(found):
    page = (found.path / "report.html").read_text()
    assert "Used for" in page and "quality - 0.02" in page and "calculator" in page
    wiring = json.loads((found.path / "wiring.json").read_text())
    front = {each["arm"]: each["tokens"] for each in wiring["front"]}
    used = [each["rows"] * node["tokens"] for each in wiring["graphs"] for node in each["nodes"].values()]
    assert sum(used) / sum(each["rows"] for each in wiring["graphs"]) == pytest.approx(front["designed"])
    assert f"tokens {round(next(iter(wiring['graphs'][0]['nodes'].values()))['tokens'])}" in page
    steps = sorted(found.path.glob("steps/*/step.json"))
    assert len(steps) == SETTINGS["steps"] + 1
    last = json.loads(steps[-1].read_text())
    assert last["gate"]["winner"] == "designed" and last["gate"]["p"] <= 0.05
    first = json.loads(steps[0].read_text())
    assert {trial["graph"] for group in first["groups"] for trial in group["trials"]}


def test_what_runs_of_a_group_share_is_in_the_books_and_not_paid(found):
    shared, total = found.costs["shared"], found.costs["total"]
    assert shared["calls"] > 0 and shared["input"] > 0 and shared["usd"] == 0
    assert total["calls"] == found.costs["learning"]["calls"] + found.costs["measuring"]["calls"]


def test_rollouts_are_kept_with_what_their_agents_did(found):
    lines = [json.loads(line) for line in (found.path / "rollouts.jsonl").read_text().splitlines()]
    assert any(len(line.get("calls", [])) > 1 for line in lines)


def test_without_a_better_graph_the_plain_agent_stays(tmp_path):
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
        asked = len(server.bodies)
        with pytest.raises(LimitReached):
            run(tmp_path / "stopped", Limits(calls=150))
        resumed = run(tmp_path / "stopped")
        assert len(server.bodies) == 2 * asked
    assert resumed.evidence == whole.evidence
    assert (resumed.path / "artifact/graph.json").read_bytes() == (
        whole.path / "artifact/graph.json"
    ).read_bytes()
    assert resumed.costs["total"] == whole.costs["total"]


@pytest.mark.parametrize("search", ["random", "fixed", "edges", "tabular"])
def test_every_searcher_runs_by_the_same_loop_and_keeps_to_the_limit_on_agents(tmp_path, search):
    settings = SETTINGS | {"steps": 2, "agents": 2}
    result = design(sums.task(30), model=sums.SCRIPTED, run=tmp_path / "run", search=search, **settings)
    assert set(results(result)) >= {"one agent", "designed"}
    steps = [json.loads(file.read_text()) for file in tmp_path.glob("run/steps/*/step.json")]
    sizes = {len(t["nodes"]) for step in steps for group in step["groups"] for t in group["trials"]}
    assert sizes and max(sizes) <= 2


def test_batches_go_through_all_rows_before_any_comes_again():
    task = sums.task(20)
    job = GraphSpec(task, resolve_config(GraphConfig, {"batch_size": 5}), queries={})
    first = [row.id for number in (1, 2, 3) for row in select_batch(job, number)[0]]
    assert len(set(first)) == 15
    assert select_batch(job, 4)[1] == 1 and select_batch(job, 5)[1] == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"roles": "programer"}, "no role 'programer'.*programmer"),
        ({"roles": "researcher"}, "no role 'researcher' that this task has the tools for"),
        ({"search": "magic"}, "search"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        design(sums.task(10), model=sums.SCRIPTED, **settings)


def test_nodes_have_a_price_where_their_model_has_one(tmp_path):
    price = {sums.SCRIPTED: (2.0, 4.0)}
    done = design(sums.task(), model=sums.SCRIPTED, run=tmp_path / "r", prices=price, **SETTINGS)
    wiring = json.loads((tmp_path / "r" / "wiring.json").read_text())
    dollars = sum(each["rows"] * node["usd"] for each in wiring["graphs"] for node in each["nodes"].values())
    assert 0 < dollars < done.costs["total"]["usd"]
    assert "$/1,000 " in (tmp_path / "r" / "report.html").read_text()
