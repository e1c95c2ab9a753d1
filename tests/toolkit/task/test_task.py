import datetime
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.task.examples import canonical_json
from edgewise.toolkit.task.splits import split_sizes
from edgewise.toolkit.task.task import Task, describe
from edgewise.toolkit.types import Message, ToolCall

TRIAGE = Path(__file__).parents[3] / "examples" / "support_triage"
ROWS = [{"id": f"r{n:02}", "text": f"message {n}", "team": "amber"} for n in range(20)]
TICKETS = {"prompt": "Route: {text}", "target": "team", "id": "id"}


def build(rows=ROWS, **changes) -> Task:
    return Task.from_rows(rows, **{**TICKETS, **changes})


def ids(task: Task) -> list[list[str]]:
    return [[e.id for e in part] for part in (task.train, task.validation, task.test)]


def write(folder: Path, toml: str, **files: list[dict]) -> Path:
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.toml").write_text(toml)
    return folder


def test_example_task_is_read_and_split_exactly():
    task = Task.read(TRIAGE)
    assert [len(part) for part in ids(task)] == [65, 61, 78]
    assert task.name == "support_triage" and task.path == TRIAGE / "task.toml"
    example = task.train[0]
    assert example.target in {"amber", "birch", "cobalt", "heron", "maple", "quartz"}
    assert example.messages[0].content.endswith(f"Message: {example.metadata['text']}")


def test_file_and_rows_give_the_same_task(tmp_path):
    toml = '[task]\nrows = "rows.jsonl"\nid = "id"\nprompt = "Route: {text}"\ntarget = "team"\nname = "task"'
    from_file, from_rows = Task.read(write(tmp_path, toml, rows=ROWS)), build()
    assert (ids(from_file), from_file.fingerprint) == (ids(from_rows), from_rows.fingerprint)


def test_prompt_is_filled_in_and_keeps_braces():
    row = {"text": "{not} a field", "n": 3, "seen": ["a", "ü"], "target": 1}
    task = Task.from_rows({"test": [row]}, prompt='{n}: {text} {seen} {{"team": ...}}')
    assert task.test[0].messages == (Message("user", '3: {not} a field ["a", "ü"] {"team": ...}'),)


def test_fields_can_swap_columns():
    row = {"text": "label", "label": "body"}
    task = Task.from_rows({"test": [row]}, prompt="{text}", target="label", fields={"text": "label", "label": "text"})
    assert (task.test[0].messages[0].content, task.test[0].target) == ("body", "label")


def test_chat_messages_replace_the_prompt():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "2 + 2?", "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]
    rows = [{"chat": chat, "target": "4"}, {"chat": json.dumps(chat[:1]), "target": "4"}]
    task = Task.from_rows({"train": rows[:1], "test": rows[1:]}, messages="chat")
    assert task.train[0].messages == (
        Message("user", "2 + 2?"),
        Message("assistant", "", (ToolCall("1", "add", "{}"),)),
        Message("tool", "4", tool_call_id="1"),
    )
    assert task.test[0].messages == (Message("user", "2 + 2?"),)


def test_generated_ids_are_stable():
    task = Task.from_rows({"test": [{"q": "ü", "target": "1"}]}, prompt="{q}")
    assert task.test[0].id == "d6202c4be202ac5f"


def test_canonical_json_of_values_of_data_files():
    import numpy as np

    value = {"d": datetime.date(2024, 1, 2), "n": np.float64(0.5), "a": np.arange(2), "b": b"x"}
    assert canonical_json(value) == canonical_json({"b": b"x", "a": [0, 1], "n": 0.5, "d": "2024-01-02"})
    with pytest.raises(TaskError, match=r"rows, row 1 holds a object; give text"):
        Task.from_rows([{"q": "a", "target": object()}], prompt="{q}")


def test_the_order_of_rows_changes_nothing():
    shuffled_rows = random.Random(0).sample(ROWS, len(ROWS))
    assert (ids(build(shuffled_rows)), build(shuffled_rows).fingerprint) == (ids(build()), build().fingerprint)


def test_splits_are_seeded_and_complete():
    first, second = (build(splits={"train": 0.5, "test": 0.5, "seed": seed}) for seed in (1, 2))
    assert ids(first) != ids(second)
    assert sorted(id for part in ids(first) for id in part) == [row["id"] for row in ROWS]
    assert first.validation == ()


@given(st.integers(3, 500), st.integers(1, 98), st.integers(0, 98))
def test_split_sizes_are_within_one_of_their_share(total, train, validation):
    validation = min(validation, 99 - train)
    shares = {"train": train / 100, "validation": validation / 100, "test": (100 - train - validation) / 100}
    sizes = split_sizes(total, shares)
    assert sum(sizes.values()) == total
    assert all((sizes[name] > 0) == (share > 0) for name, share in shares.items())
    if all(share * total >= 1 for share in shares.values()):
        assert all(abs(sizes[name] - share * total) < 1 for name, share in shares.items())


@pytest.mark.parametrize(
    ("total", "shares", "sizes"),
    [(100, (0.29, 0.35, 0.36), (29, 35, 36)), (10, (0.33, 0.33, 0.34), (3, 3, 4)), (3, (0.9, 0.05, 0.05), (1, 1, 1))],
)
def test_split_sizes_use_the_largest_remainder(total, shares, sizes):
    names = ("train", "validation", "test")
    assert split_sizes(total, dict(zip(names, shares, strict=True))) == dict(zip(names, sizes, strict=True))


def test_repeated_rows_are_dropped_with_a_warning():
    repeated = [{**ROWS[0], "id": "z"}, ROWS[1]]
    with pytest.warns(UserWarning, match="2 of 22 rows repeat another row and are left out"):
        assert build(ROWS + repeated).fingerprint == build().fingerprint


def test_metadata_holds_all_columns():
    assert build().test[0].metadata.keys() == {"id", "text", "team"}


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "Route {text}"},
        {"system": "Be brief."},
        {"reward": "contains"},
        {"rows": [{**ROWS[0], "team": "birch"}, *ROWS[1:]]},
        {"splits": {"train": 0.5, "test": 0.5}},
    ],
)
def test_fingerprint_depends_on_the_task(changes):
    assert build(**changes).fingerprint != build().fingerprint


def test_fingerprint_is_stable_and_ignores_the_name():
    assert build(name="other").fingerprint == build().fingerprint
    assert build().fingerprint[:16] == "7e3cbe6b59712eeb"


def test_description_has_splits_reward_and_example():
    text = describe(build(system="Be brief.", tools=["python"]))
    assert "8 train, 6 validation, 6 test" in text
    assert all(word in text for word in ("exact", "python", "system: Be brief.", "user: Route: message", "'amber'"))
    assert "confined by: limits" in text
    assert "confined" not in describe(build())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": []}, "rows is empty"),
        ({"rows": ["text"]}, r"rows, row 1 must be a dict .*not str; .*to_dict\('records'\)"),
        ({"rows": [{1: "a"}]}, "the column name 1; column names must be text"),
        ({"rows": {"train": ROWS}}, "test at least"),
        ({"rows": {"test": ROWS}, "splits": {"test": 1}}, "no splits"),
        ({"rows": {"tests": ROWS}}, "under train, validation and test"),
        ({"rows": {"test": []}}, r"rows\['test'\] is empty"),
        ({"rows": ROWS[:2]}, "2 rows are too few for the splits train, validation, test"),
        ({"prompt": ""}, "give either prompt, .* or messages"),
        ({"messages": "text"}, "give either prompt, .* or messages"),
        ({"prompt": "Route this."}, r"no \{column\} field"),
        ({"prompt": "{txt}"}, r"prompt uses 'txt', but rows has the columns id, team, text; did you mean 'text'\?"),
        ({"prompt": "{text.upper}"}, r"a field is just a column's name"),
        ({"prompt": "{text[0]}"}, r"a field is just a column's name"),
        ({"prompt": "{text!r}"}, r"a field is just a column's name"),
        ({"prompt": "{text:>10}"}, r"a field is just a column's name"),
        ({"prompt": "{}"}, r"a field is just a column's name"),
        ({"prompt": 'Answer {"a": 1} {text}'}, r"write \{\{ and \}\} for braces"),
        ({"prompt": "{text"}, r"can't be read .* write \{\{ and \}\} for braces"),
        ({"target": "tea"}, r"target uses 'tea', .*did you mean 'team'\?; set target = \"\""),
        ({"id": "ids"}, r"id uses 'ids', .*did you mean 'id'\?"),
        ({"rows": [*ROWS, {"id": "x", "team": "a"}]}, r"rows, row 21 \(id x\) has no 'text', .* as prompt"),
        ({"rows": [*ROWS, {"id": "x", "text": "a"}]}, r"rows, row 21 \(id x\) has no 'team', .* as target"),
        ({"rows": [*ROWS, {"id": "x", "text": "a", "team": ""}]}, r"row 21 \(id x\) has no 'team'"),
        ({"rows": [*ROWS, {"text": "a", "team": "a"}]}, r"rows, row 21 has no 'id'"),
        (
            {"rows": [*ROWS, {**ROWS[3], "text": "new"}]},
            r"row 4 \(id r03\) and rows, row 21 \(id r03\) have the same id",
        ),
        ({"fields": {"text": "bod"}}, "fields reads 'text' from 'bod', but rows has the columns"),
        ({"fields": {"team": "text"}}, "fields would hide the column 'team' of rows"),
        ({"splits": {"train": 0.5, "test": 0.6}}, "splits: train, validation and test must add up to 1, not 1.1"),
        ({"splits": {"train": 1.0}}, r"splits.test: field required"),
        ({"splits": {"train": 1.0, "test": 0.0}}, r"splits.test: input should be greater than 0"),
        ({"splits": {"train": 0.5, "tset": 0.5}}, r"no key 'splits.tset'; did you mean 'test'\?"),
        ({"splits": {"train": "a.jsonl", "test": "b.jsonl"}}, "splits of from_rows are fractions"),
        ({"tools": ["pyhton"]}, "there is no tool 'pyhton'"),
    ],
)
def test_errors_in_a_task_are_one_sentence(changes, sentence):
    with pytest.raises(TaskError, match=sentence) as raised:
        build(**changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [
        ([{"role": "robot", "content": "x"}], r"row 1 \(id \w+\): chat is no list of chat messages: 0.role"),
        ("Hello", "chat is no list of chat messages: Invalid JSON"),
        ([], "must end with a message of the user"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "must end with a message of"),
    ],
)
def test_broken_chat_messages_are_named(chat, sentence):
    with pytest.raises(TaskError, match=sentence):
        Task.from_rows({"test": [{"chat": chat, "target": "a"}]}, messages="chat")


def test_a_second_system_text_raises():
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    with pytest.raises(TaskError, match=r"chat begins with a system message, but the task has a system text too"):
        Task.from_rows({"test": [{"chat": chat, "target": "a"}]}, messages="chat", system="Be brief.")


SPLIT_FILES = '[task]\nprompt = "{text}"\ntarget = "team"\nsplits = { train = "a.jsonl", test = "b.jsonl" }\n'


def test_splits_may_be_files(tmp_path):
    task = Task.read(write(tmp_path, SPLIT_FILES, a=ROWS[:5], b=ROWS[5:]))
    assert [len(part) for part in ids(task)] == [5, 0, 15]


def test_a_row_in_two_splits_raises(tmp_path):
    folder = write(tmp_path, SPLIT_FILES, a=ROWS[:5], b=[ROWS[7], {**ROWS[3], "team": "birch"}])
    with pytest.raises(TaskError, match=r"a.jsonl, row 4 .* in train and b.jsonl, row 2 .* in test ask the same"):
        Task.read(folder)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("[tasks]\n", r"may hold the tables \[task\], \[improve\], \[graph\] and \[weights\], but no 'tasks'"),
        ("[improve]\nepochs = 1", r"task\.toml has no \[task\] table"),
        ("task = 3\n", r"no 'task'"),
        ("[task\n", r"task\.toml is not TOML: .*line 1"),
        ('[task]\nprompt = "{text}"', 'give rows = "FILE", or splits'),
        (SPLIT_FILES + 'rows = "c.jsonl"', "give either rows, or splits with a file each, not both"),
        ('[task]\nrows = "row.jsonl"', r"row\.jsonl is missing; did you mean rows\.jsonl\?"),
        ('[task]\nrows = "rows.jsonl"\npromt = "{text}"', r"there is no key 'promt'; did you mean 'prompt'\?"),
        ('[task]\nrows = "rows.jsonl"\nprompt = 3', r"\[task\]: prompt: input should be a valid string"),
        (
            '[task]\nrows = "rows.jsonl"\nprompt = "{txt}"\ntarget = "team"',
            r"rows\.jsonl has the columns id, team, text",
        ),
    ],
)
def test_errors_in_a_task_file_are_one_sentence(tmp_path, toml, sentence):
    with pytest.raises(TaskError, match=sentence):
        Task.read(write(tmp_path, toml, rows=ROWS))


def test_a_missing_task_file_and_a_file_of_rows(tmp_path):
    write(tmp_path, "[task]", rows=ROWS)
    with pytest.raises(TaskError, match=r"taks\.toml is missing; did you mean task\.toml\?"):
        Task.read(tmp_path / "taks.toml")
    with pytest.raises(TaskError, match=r"rows\.jsonl is no task file; write a task\.toml"):
        Task.read(tmp_path / "rows.jsonl")


def test_target_is_optional():
    assert {e.target for e in build(target=None).test} == {None}


def test_system_text_is_the_first_message():
    for example in build(system="Be {brief}.").test:
        assert [m.role for m in example.messages] == ["system", "user"]
        assert example.messages[0].content == "Be {brief}."


def test_settings_are_the_improve_table(tmp_path):
    assert Task.read(write(tmp_path, SPLIT_FILES, a=ROWS[:5], b=ROWS[5:])).settings == {}
    toml = SPLIT_FILES + "[improve]\nepochs = 2\n"
    assert Task.read(write(tmp_path, toml)).settings == {"epochs": 2}


def test_rewards_and_tools_load_beside_the_task_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def grade(answer, target): return 1.0\ndef twice(n: int) -> int:\n    'Doubles.'\n    return 2 * n\n"
    )
    toml = SPLIT_FILES + 'reward = "mine:grade"\ntools = ["mine:twice"]\n'
    task = Task.read(write(tmp_path, toml, a=ROWS[:5], b=ROWS[5:]))
    assert (task.reward.name, task.tools[0].tool.name, task.tools[0].run(n=2)) == ("grade", "twice", "4")
