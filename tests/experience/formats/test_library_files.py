"""Libraries in files: what other systems write, what we write, and files that mean harm."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.experience.formats.library_files import KINDS, MAX_LESSONS, read, render
from edgewise.experience.library.library import PLACES, Effect, Lesson, Library, make_lesson
from edgewise.toolkit.errors import LibraryError

# As the reference writes it: sections, then a line an entry.
PLAYBOOK = """\
## STRATEGIES & INSIGHTS
[shr-00001] helpful=3 harmful=1 :: Refunds over 100 go to amber.
[shr-00002] helpful=0 harmful=4 :: Never ask twice;
  ask once, politely.

## COMMON MISTAKES TO AVOID
- [err-00003] :: Do not guess the amount.

## OTHERS"""

SKILLBOOK = {
    "schema_version": "2",
    "skills": {
        "context-1": {
            "id": "context-1",
            "section": "context",
            "issue": "Late parcels.",
            "insight": "They go to cedar",
            "helpful_count": 2,
            "harmful_count": 0,
            "active": True,
        },
        "context-2": {"issue": "gone", "active": False},
    },
    "sections": {"context": ["context-1", "context-2"]},
}
BULLETS = {"bullets": {"a-1": {"id": "a-1", "section": "a", "content": "Late parcels: They go to cedar", "helpful": 1}}}

PROMPT = """\
You route messages of customers
to a team.

# Rules
Follow these rules:
1. Refunds go to birch.
2. Late parcels
   go to cedar.

```python
route(message)
```
"""
RULES = ["You route messages of customers to a team.", "Refunds go to birch.", "Late parcels go to cedar."]
GEPA = {
    "candidates": [{"instructions": "Old."}, {"instructions": PROMPT}, {"instructions": "Older."}],
    "parents": [[None], [0], [0]],
    "val_aggregate_scores": [0.1, 0.5, None],
    "num_full_val_evals": 3,
}
DSPY = {
    "generate.predict": {
        "traces": [],
        "train": [],
        "demos": [{"question": "q", "answer": "a"}],
        "signature": {"instructions": PROMPT, "fields": [{"prefix": "Question:", "description": "q"}]},
        "lm": None,
    },
    "other": {"signature": {"instructions": "Given the fields `a`, produce the fields `b`.", "fields": []}},
    "metadata": {"dependency_versions": {"python": "3.11"}},
}
SKILL = f"---\nname: triage\ndescription: Routing.\n---\n{PROMPT}"


@pytest.mark.parametrize(
    ("text", "format", "lessons"),
    [
        (
            PLAYBOOK,
            "a playbook of ACE",
            ["Refunds over 100 go to amber.", "Never ask twice; ask once, politely.", "Do not guess the amount."],
        ),
        (json.dumps(SKILLBOOK), "a skillbook of ace-framework", ["Late parcels: They go to cedar"]),
        (json.dumps(BULLETS), "a skillbook of ace-framework", ["Late parcels: They go to cedar"]),
        (json.dumps({"instructions": PROMPT}), "a candidate of GEPA", RULES),
        (json.dumps(GEPA), "a result of GEPA", RULES),
        (
            json.dumps({**GEPA, "best_candidate": PLAYBOOK.splitlines()[1]}),
            "a result of GEPA",
            ["Refunds over 100 go to amber."],
        ),
        (json.dumps({"candidates": ["Old.", "New."], "best_idx": 1}), "a result of GEPA", ["New."]),
        (json.dumps(DSPY), "a program of DSPy", RULES),
        (
            json.dumps({"G0": "Refunds go to birch", "G1": "b"}),
            "experiences of youtu-agent",
            ["Refunds go to birch", "b"],
        ),
        (json.dumps(["One lesson", {"content": "another"}]), "a list of texts", ["One lesson", "another"]),
        (SKILL, "the skill triage", RULES),
        (SKILL.replace("\n", "\r\n"), "the skill triage", RULES),
        (
            "First lesson\n\nsecond lesson\n  goes on\n* third\n[G3]. fourth",
            "plain text",
            ["First lesson", "second lesson goes on", "third", "fourth"],
        ),
    ],
)
def test_format_is_detected_by_content(text, format, lessons):
    result = read(text)
    assert result.source_format == format
    assert [x.text for x in result.library.lessons] == lessons
    assert result.library.lessons == tuple(map(make_lesson, lessons))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (PLAYBOOK, "names of sections left out: 3"),
        (PLAYBOOK, "lessons counted more often harmful than helpful, worth measuring: 1"),
        (json.dumps(SKILLBOOK), "entries left out that are marked as deleted: 1"),
        (json.dumps(GEPA), "candidates, of which the best was taken: 3"),
        (json.dumps(DSPY), "demonstrations left out: 1"),
        (json.dumps(DSPY), "predictors left out that have only their default instructions: 1"),
        (SKILL, "blocks of code left out: 1"),
        (SKILL, "headings left out: 1"),
        ("same\nsame", "texts left out that repeat another: 1"),
        ("a\u200bb\x1b[31m", "lessons that had hidden or control characters taken out: 1"),
        ('["\\ud800 a", " "]', "empty lessons left out: 1"),
        ("word " * 200, "sentences longer than 60 words, cut: 1"),
        ("Words of a sentence. " * 40, "texts longer than 60 words, split at the ends of sentences: 1"),
        ("\n".join(f"lesson {n}" for n in range(MAX_LESSONS + 7)), "lessons left out after the first 5,000: 7"),
    ],
)
def test_omissions_and_changes_are_noted(text, note):
    result = read(text)
    assert note in result.notes
    assert len(result.library) <= MAX_LESSONS


@given(st.lists(st.text(string.ascii_letters + " .!?\n-#[]`:\x00\u202e字。", max_size=900), max_size=4).map("\n".join))
def test_lessons_are_short_and_have_no_hidden_characters(text):
    try:
        result = read(text)
    except LibraryError:
        return
    for x in result.library.lessons:
        assert 0 < len(x.text.split()) <= 60 and len(x.text) <= 60 * 12
        assert x.text.replace("字", "").replace("。", "").isprintable()
    assert len({x.id for x in result.library.lessons}) == len(result.library)


def test_own_format_keeps_long_lessons():
    x = Lesson("ab12", "word " * 99 + "end", "form", 3, ("r1",), ("u",), True, True, Effect(0.1, -0.1, 0.3, 5, 6))
    library = Library((x,), "split", True)
    assert read(render(library, "json")).library == library


# ---- hostile files ---------------------------------------------------------------------------------------

OWN = {"place": "before", "labelled": False, "lessons": [{"id": "a", "text": "x"}]}
TWICE = {"lessons": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}
WRONG = {"estimate": 1, "low": 2, "high": 1, "uses": 1, "unused": 1}
HOSTILE = {
    "too large": (b"a" * 5_000_001, "larger than 5 MB"),
    "too many": (b"a\n" * 150_000, "more than 100,000 texts"),
    "binary": (b"\x7fELF\x00\x00", "binary file"),
    "a pickle": (b"\x80\x04\x95\x00\x00", "binary file"),
    "UTF-16": ("a lesson".encode("utf-16"), "binary file"),
    "not UTF-8": (b"caf\xe9 lessons", "not UTF-8 text"),
    "nested arrays": (b"[" * 200_000, "nested too deep"),
    "nested objects": (b'{"a":' * 200_000, "nested too deep"),
    "broken JSON": (b'{"G0": "a", ', "begins like JSON but is none"),
    "huge number": (b'{"G0": ' + b"9" * 5_000 + b"}", "begins like JSON but is none"),
    "NaN": (b'{"lessons": [], "place": NaN}', "NaN is no JSON"),
    "key twice": (b'{"G0": "a", "G0": "b"}', "'G0' stands twice"),
    "id twice": (json.dumps(TWICE).encode(), "same id"),
    "id with escapes": (b'{"lessons": [{"id": "a\\u001b[2J", "text": "x"}]}', "is no id"),
    "no object": (b'{"lessons": 5}', "lessons: Input should be"),
    "wrong kind": (b'{"lessons": [{"id": "a", "text": "x", "kind": "evil"}]}', "kind: Input should be"),
    "wrong place": (json.dumps({**OWN, "place": "root"}).encode(), "place: Input should be"),
    "no text": (b'{"lessons": [{"id": "a"}]}', "text: Field required"),
    "bad interval": (
        json.dumps({"lessons": [{"id": "a", "text": "x", "effect": WRONG}]}).encode(),
        "no number with an interval",
    ),
    "number for text": (b'{"G0": 5}', "G0 is not a text"),
    "unknown object": (b'{"a": {"b": 1}}', "no library in a format that is known"),
    "list of lists": (b"[[1]]", "Entry 1 is a list"),
    "skill without text": (b'{"skills": {"s": {"helpful": 1}}}', "Entry s has no text"),
    "skill of the wrong type": (b'{"skills": {"s": {"content": [1]}}}', "is a list, not a text"),
    "scores too few": (b'{"candidates": [{"a": "b"}, {"a": "c"}], "scores": [1]}', "not as many scores"),
    "scores of the wrong type": (b'{"candidates": [{"a": "b"}], "scores": ["x"]}', "A score is a text"),
    "candidates without scores": (b'{"candidates": [{"a": "b"}, {"a": "c"}]}', "which candidate is best"),
    "candidates of the wrong type": (b'{"candidates": 5}', "no list of candidates"),
    "candidate of the wrong type": (b'{"candidates": [5]}', "is a number, not an object"),
    "instructions of the wrong type": (b'{"p": {"signature": {"instructions": {}}}}', "is an object, not a text"),
    "manifest": (b'{"format": 1, "files": {}, "parents": []}', "manifest of an artefact"),
    "no end": (b"---\nname: x\nlessons", "has no end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_raises_one_sentence_with_its_path(name, tmp_path):
    content, sentence = HOSTILE[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(LibraryError) as error:
        read(path)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


@pytest.mark.parametrize("name", ["nowhere", ".", "a\0b"])
def test_missing_file_raises(name, tmp_path):
    with pytest.raises(LibraryError, match="no file"):
        read(tmp_path / name)


YAML = """---
name: !!python/object/apply:os.system ["touch owned"]
a: &a [x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
c: [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]
description: {{ a: [
---
- A lesson
"""


def test_front_matter_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [x.text for x in read(YAML).library.lessons] == ["A lesson"]
    assert not (tmp_path / "owned").exists()


def test_endless_device_raises():
    with pytest.raises(LibraryError, match="no file"):
        read(Path("/dev/zero"))


# ---- writing ---------------------------------------------------------------------------------------------

words = st.lists(st.text(string.ascii_letters + string.digits + "'éß", min_size=1, max_size=9), min_size=1, max_size=12)
texts = words.map(lambda result: " ".join(result) + ".")
libraries = st.builds(
    lambda result, place, labelled: Library(tuple(make_lesson(t, k) for t, k in result), place, labelled),
    st.lists(st.tuples(texts, st.sampled_from(["content", "form"])), max_size=5, unique_by=lambda x: x[0]),
    st.sampled_from(PLACES),
    st.booleans(),
)


@settings(deadline=None)
@given(libraries, st.sampled_from(KINDS))
def test_rendered_library_is_read_back(library, kind):
    again = read(render(library, kind)).library
    if kind == "json":
        assert again == library
    else:
        assert {x.id for x in again.lessons} == {x.id for x in library.lessons}
    if kind == "youtu":
        assert [x.id for x in again.lessons] == [x.id for x in library.lessons]


@given(libraries)
def test_prompt_format_is_what_the_model_sees(library):
    from edgewise.toolkit.types import Message

    prompt = "\n\n".join(m.content for m in library.insert_lessons((Message("user", "?"),)))
    assert render(library, "prompt") in prompt.replace("\n\n?\n\n", "\n\n")


@pytest.mark.parametrize(
    ("raw_name", "name"), [("Team: triage!", "team-triage"), ("", "edgewise-lessons"), ("x" * 99, "x" * 64)]
)
def test_skill_has_a_valid_head(raw_name, name):
    head = render(Library((make_lesson("Refunds go to birch"),)), "skill", raw_name).split("---")[1]
    fields = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert json.loads(fields["name"]) == name
    assert 0 < len(json.loads(fields["description"])) <= 1024


def test_unknown_kind_raises():
    with pytest.raises(LibraryError, match="prompt, skill, youtu, json, not as 'xml'"):
        render(Library(), "xml")
