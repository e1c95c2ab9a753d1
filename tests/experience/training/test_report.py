"""Sections of the report about lessons."""

import pytest

from edgewise.toolkit.errors import ArtifactError
from tests.support.run_files import STEP, make_difference, make_result, make_rollout, write_page, write_run

GAIN = make_difference(0.3, 0.19, 0.4, p=0.001)
UNCHANGED = make_result(make_difference(0.0, 0.0, 0.0, better=()), improved=False, lessons=())


def test_report_has_lessons_curve_and_operations(tmp_path):
    rollouts = [
        make_rollout("r0", "old", "amber"),
        make_rollout("r0", "new", "birch"),
        make_rollout("other", "new", "unseen"),
    ]
    path = write_run(tmp_path, make_result(GAIN), [STEP], rollouts, 'model = "local/x"\nseed = 7\n')
    page = write_page(path)
    for words in (
        "G0 Be brief form 1 2",
        "1 applied, 1 joined, 1 rejected; kept “updated” (+0.100 on 8 validation rows, p 0.004)",
        "there is no lesson 'G9'",
        "1 of 1 groups gave no lesson: all rewards are equal",
        "r0 : 0 → 1 Which team?",
        "Answer of “before”, reward 1; expected birch amber",
        "Answer of “after”, reward 1; expected birch birch",
        "rollout 4 4,000 10 20 $0.5000",
        "seed 7",
    ):
        assert words in page.text
    assert "unseen" not in page.text
    titles = [svg_title for tag, svg_title in zip(page.tags, page.tags[1:], strict=False) if tag[0] == "svg"]
    assert len(titles) == 4


def test_a_library_without_lessons_is_reported(tmp_path):
    path = write_run(tmp_path, UNCHANGED, [{**STEP, "operations": [], "gate": None}])
    assert "No lesson was kept." in write_page(path).text


def test_harmful_lessons_have_their_latest_figure(tmp_path):
    lesson = {"text": "Guess.", "kind": "form", "born": 1, "sources": []}
    removals = [{"lesson": lesson, "reason": f"costs {n}", "kept": True} for n in (1, 2)]
    steps = [{**STEP, "step": n, "dropped": [removal]} for n, removal in enumerate(removals, 1)]
    page = write_page(write_run(tmp_path, make_result(GAIN), steps))
    assert "Harmful, but locked: “Guess.” costs 2." in page.text and "costs 1" not in page.text


def test_a_damaged_library_is_named(tmp_path):
    path = write_run(tmp_path, make_result(GAIN, artifact={"library.json": {"lessons": [{"id": "a"}]}}))
    with pytest.raises(ArtifactError, match=r"result\.json is damaged"):
        write_page(path)
