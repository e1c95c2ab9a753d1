"""Learning from a library that a team shares: where a run starts, and what it hands back."""

import json
import re
from dataclasses import replace

import pytest

from edgewise.experience.library.library import LEAD, Library, make_lesson, estimate_tokens
from edgewise.experience.store.store import Store
from tests.support import toy
from tests.support.command import inside, task_file
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
    task_file(tmp_path / "task", improve=PAGES)
    return tmp_path


def improve(capsys, folder, *more, run="run", lib="team.sqlite"):
    return inside(capsys, "improve", folder / "task", "--run", folder / run, "--library", folder / lib, *more)


def commits(folder, name="main"):
    with Store(str(folder / "team.sqlite")) as store:
        return store.list_commits(name)


def changing(folder, change):
    """Somebody else's commit."""
    with Store(str(folder / "team.sqlite")) as store:
        store.update(lambda library: library.with_lessons(change(library.lessons)), "somebody else")


def texts(library):
    return {x.text for x in library.lessons}


def read(path):
    return json.loads(path.read_text())


def learnt(folder):
    """The lessons of a run's artefact."""
    return texts(Library.from_json(read(folder / "run/artifact/library.json")))


def test_what_was_learnt_is_committed_once_however_often_the_command_is_run(team, capsys):
    first = improve(capsys, team)
    assert first.code == 0
    assert f"committed as version 2 of {team / 'team.sqlite'}" in first.out
    again = improve(capsys, team)
    assert "holds it already, as version 2" in again.out
    newest, _ = commits(team)
    assert newest.message == "learnt in run"
    assert texts(newest.library) == learnt(team) > texts(HALF)
    assert json.loads((team / "run/artifact/manifest.json").read_text())["parents"] == [commits(team)[1].id]


def test_a_resumed_run_starts_from_what_it_began_with_and_merges_what_others_did_since(team, capsys):
    stopped = improve(capsys, team, "--calls", "100")
    assert stopped.code == 3
    changing(team, lambda old: (*old, make_lesson("Think of the sea")))
    done = improve(capsys, team)
    assert done.code == 0
    began = Library.from_json(read(team / "run/start.json")["library"])
    assert began == HALF
    assert "Think of the sea" not in (team / "run/rollouts.jsonl").read_text()
    newest = commits(team)[0]
    assert newest.number == 3
    assert "Think of the sea" not in learnt(team) > texts(HALF)
    assert texts(newest.library) == {*learnt(team), "Think of the sea"}


def test_a_resumed_run_needs_no_store_until_its_end(team, capsys):
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


def test_a_conflict_says_both_sides_changes_nothing_and_keeps_the_run(team, capsys, monkeypatch):
    monkeypatch.chdir(team)
    monkeypatch.syspath_prepend(team)
    (team / "rewording.py").write_text(REWORDING)
    options = ("--model", "scripted/rewording:play")
    assert improve(capsys, team, "--calls", "100", *options).code == 3
    changing(team, lambda old: [replace(old[0], text="A brick is red, or it is no brick"), *old[1:]])
    for _ in range(2):
        done = improve(capsys, team, *options)
        assert (done.code, done.out) == (2, "")
        said = done.sentences[0]
        assert re.search(
            r"ours: +A brick is red, or it is no brick.*theirs: +A brick is red, all through", said
        )
    assert len(commits(team)) == 2
    assert "A brick is red, all through" in learnt(team)

    command = re.search(r"edgewise (library merge .*) --take", said)[1].split()
    assert inside(capsys, *command).code == 2
    assert inside(capsys, *command, "--take", "theirs").code == 0
    settled = texts(commits(team)[0].library)
    assert "A brick is red, all through" in settled
    assert "A brick is red, or it is no brick" not in settled


def test_a_run_is_handed_back_to_the_library_that_it_began_from_and_to_no_other(team, capsys):
    with Store(str(team / "other.sqlite")) as other:
        other.commit(Library((FACTS[5],)), "by others", parent=None)
    assert improve(capsys, team, "--calls", "100").code == 3
    done = improve(capsys, team, lib="other.sqlite")
    assert done.code == 2
    assert "did not begin from" in done.sentences[0]
    with Store(str(team / "other.sqlite")) as other:
        assert [x.number for x in other.list_commits()] == [1]
    assert improve(capsys, team).code == 0
    assert len(commits(team)) == 2


def test_a_run_that_began_without_a_library_is_not_given_one_later(team, capsys):
    assert inside(capsys, "improve", team / "task", "--run", team / "run", "--calls", "100").code == 3
    done = improve(capsys, team)
    assert done.code == 2
    assert "was begun without --library" in done.sentences[0]
    assert not (team / "run/start.json").exists()


def test_a_run_that_finds_nothing_commits_nothing(team, capsys):
    with Store(str(team / "team.sqlite")) as store:
        store.update(lambda _: HALF.with_lessons((*FACTS, *HALF.lessons[2:])), "all there is to know")
    done = improve(capsys, team)
    assert done.code == 1
    assert "committed" not in done.out
    assert len(commits(team)) == 2


def test_a_store_that_is_not_there_yet_is_begun(tmp_path, capsys):
    task_file(tmp_path / "task", improve=PAGES)
    done = improve(capsys, tmp_path, lib="team.sqlite#colours")
    assert done.code == 0
    assert "committed as version 1 of" in done.out
    assert texts(commits(tmp_path, "colours")[0].library) == learnt(tmp_path)


def test_a_library_that_is_no_store_is_a_start_and_is_left_alone(team, capsys):
    (team / "flat.json").write_text(json.dumps({"G0": "A brick is red"}))
    before = (team / "flat.json").read_bytes()
    done = improve(capsys, team, lib="flat.json")
    assert done.code == 0
    assert "committed" not in done.out
    assert (team / "flat.json").read_bytes() == before
    assert "A brick is red" in learnt(team)


def test_a_damaged_start_is_one_sentence(team, capsys):
    assert improve(capsys, team, "--calls", "100").code == 3
    (team / "run/start.json").write_text('{"library": 7}')
    done = improve(capsys, team)
    assert done.code == 2
    assert "start.json is damaged" in done.sentences[0]


# ---- what becomes visible of effects ------------------------------------------------------------------


def test_effects_are_in_the_artefact_the_store_library_show_and_the_report(tmp_path, capsys):
    task_file(tmp_path / "task", toy.rows(200), improve={**PAGES, "leave_one_out": 3})
    bad = make_lesson("A moss is blue")
    with Store(str(tmp_path / "team.sqlite")) as store:
        store.commit(Library((*FACTS[:4], bad)), "by hand", parent=None)
    assert improve(capsys, tmp_path).code == 0
    effects = {x["text"]: x["effect"] for x in read(tmp_path / "run/artifact/library.json")["lessons"]}
    measured = {text: effect for text, effect in effects.items() if effect}
    assert FACTS[0].text in measured
    assert commits(tmp_path)[0].library == Library.from_json(read(tmp_path / "run/artifact/library.json"))
    for lib in (tmp_path / "run", tmp_path / "team.sqlite"):
        shown = inside(capsys, "library", "show", lib)
        line = next(line for line in shown.out.splitlines() if FACTS[0].text in line)
        effect = measured[FACTS[0].text]
        assert f"{effect['estimate']:+.3f} ({effect['low']:+.3f} to {effect['high']:+.3f})" in line
        assert f" {effect['uses']} " in line
    report = (tmp_path / "run/report.html").read_text()
    assert "effect [95 %]" in report
    for text, effect in measured.items():
        assert text in report
        assert f"{effect['uses']:,}" in report


# ---- in use as it was measured -------------------------------------------------------------------------


def test_an_artefact_is_evaluated_within_the_tokens_that_it_was_measured_with(tmp_path, capsys):
    """A library too large for its prompt: `evaluate` shows each question what `improve` showed it."""
    start = Library((*FACTS[:6], *(make_lesson(f"Item {n} is of no use to anybody") for n in range(30))))
    (tmp_path / "start.json").write_text(json.dumps(start.to_json()))
    task_file(tmp_path / "task", improve={**PAGES, "prompt_tokens": 40})
    with Server(toy.serve) as server:
        model = ("--model", f"{server.url}#toy")
        done = improve(capsys, tmp_path, *model, "--set", "gate=off", lib="start.json")
        assert done.code == 0
        lines = [json.loads(line) for line in (tmp_path / "run/rollouts.jsonl").read_text().splitlines()]
        version = read(tmp_path / "run/result.json")["evidence"]["results"][-1]["version"]
        measured = {line["messages"][-2]["content"] for line in lines if line["library"] == version}
        server.bodies.clear()
        (tmp_path / "plain").mkdir()
        plain = task_file(tmp_path / "plain", improve=PAGES)  # says nothing of prompt_tokens
        again = inside(
            capsys, "evaluate", plain, "--artifact", tmp_path / "run", "--run", tmp_path / "again", *model
        )
        assert again.code == 0, again.err
        asked = {body["messages"][-1]["content"] for body in server.bodies}
    dressed = {text for text in asked if text.startswith(LEAD)}
    assert dressed
    assert dressed <= measured
    assert all(estimate_tokens(text.rpartition("\n\n")[0]) <= 40 for text in dressed)
