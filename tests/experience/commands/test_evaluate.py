"""`edgewise evaluate` takes any library, not only what a run of its own made."""

import json

from edgewise.experience.library.library import Library, make_lesson
from edgewise.experience.store.store import Store
from tests.support.command import run_command, write_task

RIGHT = Library((make_lesson("A brick is red"), make_lesson("A leaf is green"), make_lesson("A sea is blue")))


def test_store_version_and_file_are_evaluated_side_by_side(tmp_path, capsys):
    team = tmp_path / "team.sqlite"
    with Store(str(team)) as store:
        first = store.commit(Library((make_lesson("A brick is blue"),)), "wrong", parent=None)
        store.commit(RIGHT, "right", parent=first.id)
    (tmp_path / "list.json").write_text(json.dumps(RIGHT.to_json()))
    arms = [x for lib in (team, f"{team}@1", tmp_path / "list.json") for x in ("--artifact", lib)]
    task = write_task(tmp_path / "task")
    done = run_command(capsys, "evaluate", task, *arms, "--run", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    found = {arm["name"]: arm["mean"]["estimate"] for arm in json.loads(done.out)["evidence"]["results"]}
    assert list(found) == ["unchanged", "team", "team@1", "list"]
    assert found["team"] == found["list"] > found["unchanged"] > found["team@1"]
