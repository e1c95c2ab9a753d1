"""The report of a finished run: its sections, its independence of a network, and hostile content."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.report import charts, html, run_report
from edgewise.toolkit.report.html import node
from tests.support.run_files import (
    STEP,
    Page,
    make_arm,
    make_difference,
    make_result,
    make_rollout,
    write_page,
    write_run,
)

HOSTILE = '<script>alert("x")</script> & <img src=http://evil.example/x> 日本 \ud800'


@pytest.fixture
def run(tmp_path):
    """Write a run directory and return it."""
    return lambda *args, **files: write_run(tmp_path, *args, **files)


GAIN = make_difference(0.3, 0.19, 0.4, p=0.001)
NO_LESSON = make_result(make_difference(0.0, 0.0, 0.0, better=()), improved=False, lessons=())
LOSS = make_result(make_difference(-0.02, -0.1, 0.05, better=(), worse=("r1",), p=0.6), improved=False)
EVALUATED = make_result(
    make_difference(0.3, 0.19, 0.4, baseline="unchanged"),
    False,
    artifact={"evidence.json": {}},
    names=("unchanged", "r1"),
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            make_result(GAIN),
            "Learning raised the mean reward on 40 held-out rows from 0.200 to 0.500: "
            "+0.300 (95 % interval +0.190 to +0.400, p = 0.0010).",
        ),
        (make_result(make_difference(0.3, -0.1, 0.7)), "p = 0.0100), which chance alone may explain."),
        (make_result(make_difference(0.3, None, None, p=1.0)), "+0.300 (no interval: too few rows, p = 1.0000)."),
        (NO_LESSON, "Nothing worth keeping was found: the model stays as it is, with a mean reward of 0.200"),
        (LOSS, "Nothing worth keeping was found: on 40 held-out rows the mean reward changed by −0.020 (95 %"),
        (EVALUATED, "On 40 held-out rows, r1 against unchanged: +0.300 (95 % interval +0.190 to +0.400"),
    ],
)
def test_summary_sentence(run, content, sentence):
    assert sentence in write_page(run(content)).text


def test_answers_are_those_of_the_measurement(run):
    learning = [make_rollout("r0", "old", "from learning"), make_rollout("r0", "middle", "from learning")]
    page = write_page(
        run(
            make_result(GAIN),
            rollouts=[*learning, make_rollout("r0", "old", "amber"), make_rollout("r0", "new", "birch")],
        )
    )
    assert "from learning" not in page.text
    assert re.search(r"“before”.* amber .*“after”.* birch ", page.text)


def test_arms_of_one_version_share_answers(run):
    content = make_result(
        make_difference(0.3, 0.1, 0.4, better=("r0",), baseline="unchanged"), names=("unchanged", "b")
    )
    content["evidence"]["results"].insert(1, make_arm("a", "old", 0.2, make_difference(0.0, 0.0, 0.0, better=())))
    page = write_page(
        run(content, rollouts=[make_rollout("r0", "old", "amber"), make_rollout("r0", "new", "birch")])
    ).text
    assert re.search(r"“unchanged”.* amber .*“b”.* birch ", page)


def test_an_evaluation_has_no_learning_sections(run):
    page = write_page(run(EVALUATED))
    assert "Compared" in page.text
    assert not {"Lessons", "Learning curve", "Before and after"} & set(page.texts)


def test_unknown_prices_are_not_zero(run):
    page = write_page(run(make_result(GAIN, usd=None), config='model = "http://host/x"\n')).text
    assert "price unknown" in page and "Dollars are unknown" in page and "$" not in page


def test_dollars_of_an_arm_use_the_prices_of_the_run(run):
    page = write_page(run(make_result(GAIN), config='model = "some/model"\n[prices]\n"*" = [1000.0, 100.0]\n'))
    assert "2,000 0 10 $2.00" in page.text


def test_long_lists_and_texts_are_cut(run):
    many = [f"r{i:03d}" for i in range(run_report.ROWS + 7)]
    page = write_page(
        run(
            make_result(make_difference(0.3, 0.1, 0.4, better=many)), rollouts=[make_rollout("r000", "old", "x" * 5000)]
        )
    ).text
    assert "Better: 27" in page and "7 more rows are left out." in page
    assert f"{5000 - run_report.LETTERS:,} more letters" in page
    assert many[run_report.ROWS - 1] in page and many[run_report.ROWS] not in page


def test_hostile_text_is_escaped(run):
    content = make_result(make_difference(0.3, 0.1, 0.4, better=(HOSTILE[:60],)), lessons=(HOSTILE,))
    content["task"] = HOSTILE
    step = {**STEP, "incomplete": HOSTILE, "operations": [{**STEP["operations"][0], "text": HOSTILE}]}
    lines = [make_rollout(HOSTILE[:60], version, HOSTILE, HOSTILE) for version in ("old", "new")]
    page = write_page(run(content, [step], lines, 'model = "<script>"\n'))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "i"})
    assert not [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "onload")]
    assert page.text.count('<script>alert("x")</script>') >= 8 and "日本" in page.text


def test_the_page_loads_nothing(run):
    text = run_report.write_report(run(make_result(GAIN), [STEP])).read_text()
    assert not re.search(r"https?://|@import|url\(|src=|href=", text)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", None, "has no result.json"),
        ("result.json", "{", "result.json is damaged"),
        ("result.json", "[]", "result.json is damaged"),
        ("result.json", '{"seconds": NaN}', r"result.json is damaged \(it holds NaN"),
        ("result.json", '{"task": "x"}', r"result.json is damaged \(improved: Field required"),
        ("result.json", b"\xff\xfe", "result.json is damaged"),
        ("rollouts.jsonl", '{"example": "r0"', "rollouts.jsonl is damaged"),
        ("rollouts.jsonl", "3\n", "rollouts.jsonl is damaged"),
        ("config.toml", "= 3", "config.toml is damaged"),
        ("steps/001/step.json", "{}", "step.json is damaged"),
    ],
)
def test_a_damaged_file_is_named(run, name, content, words):
    path = run(make_result(GAIN), [STEP])
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError, match=words):
        run_report.write_report(path)
    assert not (path / "report.html").exists()


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_and_span_the_range(low, span):
    marks = charts.ticks(low, low + span)
    step = marks[1] - marks[0]
    assert marks == sorted(set(marks)) and 2 <= len(marks) <= 8
    assert marks[0] <= low + step * 1e-6 and marks[-1] >= low + span - step * 1e-6


@given(st.text(st.characters(exclude_characters="\r\0"), max_size=40))
def test_text_survives_the_page(text):
    document = html.page("t", [node("p", node("b", text, title=text), text)]).decode()
    page = Page(document)
    expected = text.encode("utf-8", "replace").decode()
    assert "".join(page.texts).endswith(f"{expected}{expected}\n")
    assert next(attrs for tag, attrs in page.tags if tag == "b")["title"] == expected
