"""Learning from a library that a team shares: where a run starts, and what it hands back."""

import json
import re
from dataclasses import replace

import pytest

from edgewise.experience.library.library import LEAD, Library, estimate_tokens, make_lesson
from edgewise.experience.store.store import Store
from tests.support import toy
from tests.support.command import run_command, write_task
from tests.support.server import Server

FACTS = [make_lesson(f"A {thing} is {toy.COLOURS[n % 3]}") for n, thing in enumerate(toy.THINGS)]
HALF = Library((*FACTS[:2], replace(make_lesson("Never shout", "form"), locked=True)))
PAGES = {"pool": False, "batch_size": 24, "leave_one_out": 0}


@pytest.fixture
def team(tmp_path):
    """A store with a library, and a task beside it."""
    place = tmp_path / "team.sqlite"
    with Store(str(place)) as store:
        store.commit(HALF, "by hand", parent=None)
    write_task(tmp_path / "task", improve=PAGES)
    return tmp_path


def improve(capsys, folder, *more, run="run", lib="team.sqlite"):
    return run_command(capsys, "improve", folder / "task", "--run", folder / run, "--library", folder / lib, *more)


def commits(folder, name="main"):
    with Store(str(folder / "team.sqlite")) as store:
        return store.list_commits(name)


def commit_change(folder, change):
    """Somebody else's commit."""
    with Store(str(folder / "team.sqlite")) as store:
        store.update(lambda library: library.with_lessons(change(library.lessons)), "somebody else")


def texts(library):
    return {x.text for x in library.lessons}


def read(path):
    return json.loads(path.read_text())


def artefact_texts(folder):
    """The lessons of a run's artefact."""
    return texts(Library.from_json(read(folder / "run/artifact/library.json")))


def test_repeated_command_commits_once(team, capsys):
    first = improve(capsys, team)
    assert first.code == 0
    assert f"committed as version 2 of {team / 'team.sqlite'}" in first.out
    second = improve(capsys, team)
    assert "holds it already, as version 2" in second.out
    newest, _ = commits(team)
    assert newest.message == "learnt in run"
    assert texts(newest.library) == artefact_texts(team) > texts(HALF)
    assert json.loads((team / "run/artifact/manifest.json").read_text())["parents"] == [commits(team)[1].id]


def test_resumed_run_keeps_its_start_and_merges_later_commits(team, capsys):
    stopped = improve(capsys, team, "--calls", "100")
    assert stopped.code == 3
    commit_change(team, lambda old: (*old, make_lesson("Think of the sea")))
    result = improve(capsys, team)
    assert result.code == 0
    start = Library.from_json(read(team / "run/start.json")["library"])
    assert start == HALF
    assert "Think of the sea" not in (team / "run/rollouts.jsonl").read_text()
    newest = commits(team)[0]
    assert newest.number == 3
    assert "Think of the sea" not in artefact_texts(team) > texts(HALF)
    assert texts(newest.library) == {*artefact_texts(team), "Think of the sea"}


def test_resumed_run_needs_no_store_until_its_end(team, capsys):
    assert improve(capsys, team, "--calls", "100").code == 3
    (team / "team.sqlite").rename(team / "away.sqlite")
    assert improve(capsys, team, "--calls", "200").code == 3
    (team / "away.sqlite").rename(team / "team.sqlite")
    assert improve(capsys, team).code == 0
    assert [x.number for x in commits(team)] == [2, 1]


REWORDING = """
import json
from tests.support import toy

def play(request):
    said = toy.play(request)
    if request.schema and "# Proposed" in request.messages[-1].content:
        found = json.loads(said)["operations"]
        return json.dumps([*found, {"action": "modify", "id": "G0", "text": "A brick is red, all through"}])
    return said
"""


def test_conflict_shows_both_sides_and_commits_nothing(team, capsys, monkeypatch):
    monkeypatch.chdir(team)
    monkeypatch.syspath_prepend(team)
    (team / "rewording.py").write_text(REWORDING)
    options = ("--model", "scripted/rewording:play")
    assert improve(capsys, team, "--calls", "100", *options).code == 3
    commit_change(team, lambda old: [replace(old[0], text="A brick is red, or it is no brick"), *old[1:]])
    for _ in range(2):
        result = improve(capsys, team, *options)
        assert (result.code, result.out) == (2, "")
        message = result.error_lines[0]
        assert re.search(r"ours: +A brick is red, or it is no brick.*theirs: +A brick is red, all through", message)
    assert len(commits(team)) == 2
    assert "A brick is red, all through" in artefact_texts(team)

    command = re.search(r"edgewise (library merge .*) --take", message)[1].split()
    assert run_command(capsys, *command).code == 2
    assert run_command(capsys, *command, "--take", "theirs").code == 0
    settled = texts(commits(team)[0].library)
    assert "A brick is red, all through" in settled
    assert "A brick is red, or it is no brick" not in settled


def test_run_is_committed_only_to_the_store_it_began_from(team, capsys):
    with Store(str(team / "other.sqlite")) as other:
        other.commit(Library((FACTS[5],)), "by others", parent=None)
    assert improve(capsys, team, "--calls", "100").code == 3
    result = improve(capsys, team, lib="other.sqlite")
    assert result.code == 2
    assert "did not begin from" in result.error_lines[0]
    with Store(str(team / "other.sqlite")) as other:
        assert [x.number for x in other.list_commits()] == [1]
    assert improve(capsys, team).code == 0
    assert len(commits(team)) == 2


def test_run_begun_without_library_takes_none_later(team, capsys):
    assert run_command(capsys, "improve", team / "task", "--run", team / "run", "--calls", "100").code == 3
    result = improve(capsys, team)
    assert result.code == 2
    assert "was begun without --library" in result.error_lines[0]
    assert not (team / "run/start.json").exists()


def test_run_without_improvement_commits_nothing(team, capsys):
    with Store(str(team / "team.sqlite")) as store:
        store.update(lambda _: HALF.with_lessons((*FACTS, *HALF.lessons[2:])), "all there is to know")
    result = improve(capsys, team)
    assert result.code == 1
    assert "committed" not in result.out
    assert len(commits(team)) == 2


def test_missing_store_is_created_by_the_first_commit(tmp_path, capsys):
    write_task(tmp_path / "task", improve=PAGES)
    result = improve(capsys, tmp_path, lib="team.sqlite#colours")
    assert result.code == 0
    assert "committed as version 1 of" in result.out
    assert texts(commits(tmp_path, "colours")[0].library) == artefact_texts(tmp_path)


def test_library_file_is_a_start_and_stays_unchanged(team, capsys):
    (team / "flat.json").write_text(json.dumps({"G0": "A brick is red"}))
    before = (team / "flat.json").read_bytes()
    result = improve(capsys, team, lib="flat.json")
    assert result.code == 0
    assert "committed" not in result.out
    assert (team / "flat.json").read_bytes() == before
    assert "A brick is red" in artefact_texts(team)


def test_damaged_start_file_is_reported_in_one_sentence(team, capsys):
    assert improve(capsys, team, "--calls", "100").code == 3
    (team / "run/start.json").write_text('{"library": 7}')
    result = improve(capsys, team)
    assert result.code == 2
    assert "start.json is damaged" in result.error_lines[0]


# ---- what becomes visible of effects ------------------------------------------------------------------


def test_effects_appear_in_artefact_store_command_and_report(tmp_path, capsys):
    write_task(tmp_path / "task", toy.rows(200), improve={**PAGES, "leave_one_out": 3})
    bad = make_lesson("A moss is blue")
    with Store(str(tmp_path / "team.sqlite")) as store:
        store.commit(Library((*FACTS[:4], bad)), "by hand", parent=None)
    assert improve(capsys, tmp_path).code == 0
    effects = {x["text"]: x["effect"] for x in read(tmp_path / "run/artifact/library.json")["lessons"]}
    measured = {text: effect for text, effect in effects.items() if effect}
    assert FACTS[0].text in measured
    assert commits(tmp_path)[0].library == Library.from_json(read(tmp_path / "run/artifact/library.json"))
    for lib in (tmp_path / "run", tmp_path / "team.sqlite"):
        output = run_command(capsys, "library", "show", lib)
        line = next(line for line in output.out.splitlines() if FACTS[0].text in line)
        effect = measured[FACTS[0].text]
        assert f"{effect['estimate']:+.3f} ({effect['low']:+.3f} to {effect['high']:+.3f})" in line
        assert f" {effect['uses']} " in line
    report = (tmp_path / "run/report.html").read_text()
    assert "effect [95 %]" in report
    for text, effect in measured.items():
        assert text in report
        assert f"{effect['uses']:,}" in report


# ---- in use as it was measured -------------------------------------------------------------------------


def test_evaluate_uses_the_prompt_tokens_of_the_artefact(tmp_path, capsys):
    """A library too large for its prompt: `evaluate` shows each question what `improve` showed it."""
    start = Library((*FACTS[:6], *(make_lesson(f"Item {n} is of no use to anybody") for n in range(30))))
    (tmp_path / "start.json").write_text(json.dumps(start.to_json()))
    write_task(tmp_path / "task", improve={**PAGES, "prompt_tokens": 40})
    with Server(toy.serve) as server:
        model = ("--model", f"{server.url}#toy")
        result = improve(capsys, tmp_path, *model, "--set", "gate=off", lib="start.json")
        assert result.code == 0
        lines = [json.loads(line) for line in (tmp_path / "run/rollouts.jsonl").read_text().splitlines()]
        version = read(tmp_path / "run/result.json")["evidence"]["results"][-1]["version"]
        measured = {line["messages"][-2]["content"] for line in lines if line["library"] == version}
        server.bodies.clear()
        (tmp_path / "plain").mkdir()
        plain = write_task(tmp_path / "plain", improve=PAGES)  # says nothing of prompt_tokens
        second = run_command(
            capsys, "evaluate", plain, "--artifact", tmp_path / "run", "--run", tmp_path / "again", *model
        )
        assert second.code == 0, second.err
        prompts = {body["messages"][-1]["content"] for body in server.bodies}
    with_lessons = {text for text in prompts if text.startswith(LEAD)}
    assert with_lessons
    assert with_lessons <= measured
    assert all(estimate_tokens(text.rpartition("\n\n")[0]) <= 40 for text in with_lessons)
