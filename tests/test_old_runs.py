"""Runs, libraries, graphs and weights of version 02a7f75 go on, open, are measured and replay (see its README)."""

import json
import re
import shutil
import signal
import sqlite3
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.command import CommandResult, run_command, start_command, wait_for_command

DATA = Path(__file__).parent / "data" / "runs_02a7f75"
ABSORBING = "--set steps=2 --set batch_size=4 --set lora=2 --set lr=0.02 --set save_every=1".split()
ELSEWHERE = ("run", "path", "seconds", "target_modules")
"""Keys whose values depend on where and when something ran, or are in no order."""
NEAR = {"rel": 1e-3, "abs": 1e-4}
"""How near figures of models are that were trained on another processor."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works on a copy of the data, in its folder."""
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    with tarfile.open(DATA / "runs.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOGNAME", "ada")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The model is too small for more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def edgewise(capsys: pytest.CaptureFixture[str]) -> Any:
    """The command, which has to end with `code`."""

    def command(*arguments: object, code: int = 0) -> CommandResult:
        done = run_command(capsys, *arguments)
        assert done.code == code, done.err
        return done

    return command


def asked() -> int:
    """How often the scripted models were asked."""
    return Path("asked").stat().st_size if Path("asked").exists() else 0


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


def calls(run: str) -> int:
    """What a run paid for, by its result."""
    return read(f"{run}/result.json")["costs"]["total"]["calls"]


def recorded(run: str) -> int:
    """Calls in the journal of a run."""
    connection = sqlite3.connect(f"{run}/journal.sqlite")
    ((found,),) = connection.execute("SELECT count(*) FROM calls")
    connection.close()
    return found


def same(old: Any, new: Any, at: str = "", **within: float) -> None:
    """Equal data: the same keys everywhere and, but for place and time, the same values."""
    if isinstance(old, dict):
        assert isinstance(new, dict) and sorted(old) == sorted(new), at
        for key in old:
            if key not in ELSEWHERE:
                same(old[key], new[key], f"{at}/{key}", **within)
    elif isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), at
        for number, pair in enumerate(zip(old, new, strict=True)):
            same(*pair, f"{at}/{number}", **within)
    elif isinstance(old, float):
        assert new == pytest.approx(old, **(within or {"rel": 1e-4, "abs": 1e-6})), at
    else:
        assert old == new, at


def keys(data: Any) -> Any:
    """The keys of nested data, without its values."""
    if isinstance(data, dict):
        return {key: keys(value) for key, value in data.items()}
    return [keys(each) for each in data] if isinstance(data, list) else None


def same_files(old: str, new: str, **within: float) -> None:
    """Two runs left files of the same names, and plain data that is the same."""
    names = [sorted(str(x.relative_to(run)) for x in Path(run).rglob("*.json")) for run in (old, new)]
    shared = [{x for x in each if not x.startswith("checkpoints/")} for each in names]
    assert shared[0] == shared[1]
    for name in sorted(shared[0] - {"artifact/manifest.json", "sampled.json"}):
        contents = [read(f"{run}/{name}") for run in (old, new)]
        if name == "result.json" and Path(old, "sampled.json").exists():
            for content in contents:  # which rows were asked before is not kept with a checkpoint
                del content["costs"]["example"]
        same(*contents, name, **within)
    manifests = [read(f"{run}/artifact/manifest.json") for run in (old, new)]
    assert keys(manifests[0]) == keys(manifests[1])
    settings = [tomllib.loads(Path(run, "config.toml").read_text("utf-8")) for run in (old, new)]
    assert settings[0].items() <= settings[1].items()
    lines = [Path(run, "rollouts.jsonl").read_text().splitlines() for run in (old, new)]
    assert len(lines[0]) == len(lines[1])
    assert list(json.loads(lines[0][0])) == list(json.loads(lines[1][0]))


def means(done: CommandResult) -> dict[str, float]:
    return {arm["name"]: arm["mean"]["estimate"] for arm in json.loads(done.out)["evidence"]["results"]}


def measured(run: str) -> dict[str, float]:
    """The means of the arms in a run's result."""
    return {arm["name"]: arm["mean"]["estimate"] for arm in read(f"{run}/result.json")["evidence"]["results"]}


# ---- lessons ---------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(edgewise: Any) -> None:
    paid = recorded("colours_stopped")
    done = edgewise("improve", "colours", "--run", "colours_stopped")
    assert paid == 90 and asked() == calls("colours_whole") - paid
    same_files("colours_whole", "colours_stopped")
    assert "6 lessons" in done.out and Path("colours_stopped/report.html").exists()


def test_a_finished_run_taken_up_again_asks_nothing(edgewise: Any) -> None:
    shutil.copytree("colours_whole", "again")
    edgewise("improve", "colours", "--run", "again")
    assert asked() == 0
    same_files("colours_whole", "again")


def test_a_run_is_known_to_be_of_its_task_and_settings(edgewise: Any) -> None:
    done = edgewise("improve", "colours", "--run", "colours_stopped", "--set", "group_size=4", code=2)
    assert "was started with another group_size" in done.err
    done = edgewise("improve", "adds", "--run", "colours_stopped", code=2)
    assert "holds a run of another task" in done.err
    assert asked() == 0


@pytest.mark.parametrize("journal", ["colours_whole", "colours_whole/journal.sqlite"])
def test_a_run_replays(journal: str, edgewise: Any) -> None:
    edgewise("improve", "colours", "--replay", journal, "--run", "replayed")
    assert asked() == 0
    same_files("colours_whole", "replayed")


def test_a_run_is_reported(edgewise: Any) -> None:
    for run in ("colours_whole", "sums_whole", "shares_whole", "absorbed_whole", "colours_measured"):
        assert edgewise("report", run).out.strip() == f"{run}/report.html"
        page = Path(run, "report.html").read_text("utf-8")
        assert f"{read(f'{run}/result.json')['evidence']['results'][0]['mean']['estimate']:.3f}" in page


def test_lessons_are_shown_and_measured(edgewise: Any) -> None:
    places = ("colours_whole", "colours_whole/artifact", "colours.edge", "team.sqlite@2")
    for place in places:
        shown = edgewise("library", "show", place).out
        assert "A rose is red" in shown and "A leaf is green" in shown
    assert "6 lessons" in edgewise("library", "show", "colours_stopped@1").out
    assert len(edgewise("library", "log", "colours_whole").out.splitlines()) >= 2
    arms = [word for place in places for word in ("--artifact", place)]
    done = edgewise("evaluate", "colours", *arms, "--run", "four", "--model", "scripted/players:colours", "--json")
    found = means(done)
    expected = measured("colours_whole")
    assert found.pop("unchanged") == expected["before"]
    assert set(found.values()) == {expected["after"]} and len(found) == 4


def test_a_measurement_taken_up_again_asks_nothing(edgewise: Any) -> None:
    before = read("colours_measured/result.json")
    done = edgewise("evaluate", "colours", "--artifact", "colours_whole", "--run", "colours_measured", "--json")
    assert asked() == 0
    same(before, json.loads(done.out))


# ---- a library in a store --------------------------------------------------------------------------------


def test_a_store_has_its_history(edgewise: Any) -> None:
    log = json.loads(edgewise("library", "log", "team.sqlite", "--json").out)
    assert [commit["number"] for commit in log] == [5, 4, 3, 2, 1]
    assert [commit["author"] for commit in log] == ["ada", "bob", "bob", "ada", "ada"]
    assert [commit["parent"] for commit in log] == [*(commit["id"] for commit in log[1:]), None]
    shown = {n: edgewise("library", "show", f"team.sqlite@{n}").out for n in range(1, 6)}
    assert "locked always" in shown[3] and "locked" not in shown[2] + shown[5]
    assert edgewise("library", "diff", "team.sqlite@2", "team.sqlite@head").out == "no change\n"
    assert edgewise("library", "diff", "team.sqlite@1", "team.sqlite").out.count("+ ") == 5
    exported = json.loads(edgewise("library", "export", "team.sqlite@2", "--as", "json").out)
    kept = read("shared_whole/artifact/library.json")
    assert keys(exported) == keys(kept) and [x["id"] for x in exported["lessons"]] == [x["id"] for x in kept["lessons"]]


def test_a_store_is_changed_further(edgewise: Any) -> None:
    Path("more.txt").write_text("- Never answer yellow\n")
    assert "version 6" in edgewise("library", "merge", "team.sqlite", "more.txt").out
    assert "version 7" in edgewise("library", "rollback", "team.sqlite@4").out
    assert edgewise("library", "diff", "team.sqlite@4", "team.sqlite").out == "no change\n"
    assert "version 8" in edgewise("library", "lock", "team.sqlite", "G1").out
    log = json.loads(edgewise("library", "log", "team.sqlite", "--json").out)
    assert [commit["number"] for commit in log] == [*range(8, 0, -1)]
    assert len({json.dumps(keys({**commit, "parent": None})) for commit in log}) == 1


def test_stopped_run_of_a_shared_library_resumes_and_commits(edgewise: Any) -> None:
    edgewise("library", "import", "colours.edge", "team.sqlite#night")  # others went on meanwhile
    begun, paid = read("shared_stopped/start.json"), recorded("shared_stopped")
    done = edgewise("improve", "colours", "--library", "team.sqlite#night", "--run", "shared_stopped")
    assert asked() == calls("shared_whole") - paid
    same(read("shared_whole/result.json"), read("shared_stopped/result.json"))
    assert "committed as version 3 of team.sqlite" in done.out
    assert read("shared_stopped/start.json") == begun
    assert keys(begun) == keys(read("shared_whole/start.json"))


# ---- graphs ----------------------------------------------------------------------------------------------


def test_stopped_graph_search_resumes_to_the_same_end(edgewise: Any, one_thread: None) -> None:
    paid = recorded("sums_stopped")
    edgewise("improve", "sums", "--by", "graph", "--run", "sums_stopped")
    assert paid == 130 and asked() == calls("sums_whole") - paid
    same_files("sums_whole", "sums_stopped", **NEAR)


def test_a_search_for_graphs_replays(edgewise: Any, one_thread: None) -> None:
    edgewise("improve", "sums", "--by", "graph", "--replay", "sums_whole", "--run", "replayed")
    assert asked() == 0
    same_files("sums_whole", "replayed", **NEAR)


@pytest.mark.parametrize("place", ["sums_whole", "sums_whole/artifact/graph.json", "table.edge"])
def test_a_design_is_shown_graph_by_graph(place: str, edgewise: Any) -> None:
    shown = json.loads(edgewise("graph", "show", place, "--json").out)
    assert sum(each["queries"] for each in shown["graphs"]) > 0
    for each in shown["graphs"]:
        assert edgewise("graph", "show", f"{place}@{each['version']}", "--as", "mermaid").out
    assert "calculator" in edgewise("graph", "show", place).out


def test_graphs_are_shown_compared_and_exported(edgewise: Any, tmp_path: Path) -> None:
    first, second = edgewise("graph", "show", "hand.json").out.splitlines()[1:]
    assert "first" in first and "drafter" in first and "hears first; answers" in second
    again = json.loads(edgewise("graph", "show", "hand.json", "--as", "json").out)
    assert again == read("hand.json")
    assert edgewise("graph", "show", "fixed.edge").out
    assert "+ " in edgewise("graph", "diff", "fixed.edge", "hand.json").out
    for number, place in enumerate(("sums_whole", "table.edge", "fixed.edge")):
        shown = json.loads(edgewise("graph", "show", place, "--json").out)
        one = f"{place}@{shown['graphs'][0]['version']}"
        edgewise("graph", "export", one, tmp_path / f"module_{number}")
        assert (tmp_path / f"module_{number}" / "langgraph.json").exists()


def test_graphs_are_measured(edgewise: Any, one_thread: None) -> None:
    arms = ("--artifact", "sums_whole", "--artifact", "hand.json", "--artifact", "colours.edge")
    done = edgewise("evaluate", "sums", *arms, "--model", "scripted/players:sums", "--run", "new", "--json")
    same(read("sums_measured/result.json"), json.loads(done.out))
    arms = ("--artifact", "table.edge", "--artifact", "fixed.edge")
    done = edgewise("evaluate", "adds", *arms, "--run", "other", "--json")
    same(read("adds_measured/result.json"), json.loads(done.out))


def test_lessons_of_nodes_are_served(tmp_path: Path) -> None:
    process = start_command("serve", "nodes.edge", "--port", 0, "--model", "scripted/players:numbers")
    assert process.stderr
    try:
        line = process.stderr.readline()
        url = re.search(r"at (http\S+/v1)", line)
        assert url, line + process.stderr.read()
        with openai.OpenAI(base_url=url[1], api_key="any", max_retries=0) as client:
            said = [answer(client, system) for system in ("You find the number.", "You write it.")]
    finally:
        process.send_signal(signal.SIGINT)
        wait_for_command(process)
    assert said == ["8", "<8>"]


def answer(client: openai.OpenAI, system: str) -> str | None:
    asked = [{"role": "system", "content": system}, {"role": "user", "content": "it is 8"}]
    reply = client.chat.completions.create(model="any", messages=asked)  # type: ignore[arg-type]
    return reply.choices[0].message.content


# ---- weights ---------------------------------------------------------------------------------------------

alone = pytest.mark.usefixtures("one_thread")


@alone
def test_stopped_training_resumes_to_the_same_weights(edgewise: Any) -> None:
    import torch
    from safetensors.torch import load_file

    first = [read(f"shares_stopped/steps/00{n}/step.json") for n in (1, 2, 3, 4)]
    done = edgewise("improve", "shares", "--by", "weights", "--run", "shares_stopped")
    assert "going on after step 4" in done.err and "step 5 of 6" in done.err and "step 4 of 6" not in done.err
    assert [read(f"shares_stopped/steps/00{n}/step.json") for n in (1, 2, 3, 4)] == first
    same_files("shares_whole", "shares_stopped", **NEAR)
    assert keys(read("shares_whole/sampled.json")) == keys(read("shares_stopped/sampled.json"))
    whole, parts = (
        load_file(f"{run}/artifact/weights/model.safetensors") for run in ("shares_whole", "shares_stopped")
    )
    assert whole.keys() == parts.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-3, atol=1e-4)


@alone
def test_weights_are_measured(edgewise: Any) -> None:
    arms = ("--artifact", "shares_whole", "--artifact", "absorbed_whole")
    done = edgewise("evaluate", "shares", *arms, "--run", "new", "--json")
    same(read("shares_measured/result.json"), json.loads(done.out), **NEAR)
    packed = edgewise("evaluate", "shares", "--artifact", "shares.edge", "--run", "packed", "--json")
    assert means(packed)["shares"] == means(done)["shares_whole"]


@alone
def test_methods_that_were_compared_are_not_trained_again(edgewise: Any) -> None:
    before = read("compared/compare.json")
    more = ("--methods", "dr_grpo,rloo", "--seeds", 1, "--run", "compared", "--set", "steps=2")
    done = edgewise("compare", "shares", *more)
    assert "2 of them are done and stay as they are" in done.err and "step 1" not in done.err
    same(before, read("compared/compare.json"))
    assert Path("compared/report.html").exists()


@alone
def test_stopped_absorbing_goes_on_and_ends_as_one_that_was_not(edgewise: Any) -> None:
    done = edgewise("absorb", "shares", "--artifact", "notes.txt", "--run", "absorbed_stopped", *ABSORBING)
    assert "going on after step 1" in done.err
    same_files("absorbed_whole", "absorbed_stopped", **NEAR)
