"""Sections of the report about training of weights."""

import json

import pytest

from edgewise.toolkit.errors import ArtifactError
from tests.support.run_files import make_difference, make_result, write_page, write_run

DIFFERENCE = make_difference(0.3, 0.1, 0.5)
ABOUT = {
    "base": "torch/smollm2-135m",
    "lora": 0,
    "name": "dapo",
    "paper": "2503.14476",
    "differs": "clips higher <up>",
    "method": ["select: in_turn", "loss: clipped low=0.2 high=0.28", "penalties: none", "epochs: 1"],
    "trained": "cpu, 2 threads, bfloat16",
    "steps": 3,
    "stopped": "",
}


def make_step(number, kl=0.0, went="", **statistics):
    figures = {"runs": 8, "mean_reward": 0.1 * number, "mixed": 0.5, "length": 40.0, "entropy": 1.5, "kl": kl}
    return {"step": number, "epoch": 1, "statistics": {**figures, **statistics}, "went": went}


@pytest.fixture
def report(tmp_path):
    """Write the run directory of a training and return its report."""

    def write(*steps, **about):
        artifact = {"weights.json": {**ABOUT, **about}}
        path = write_run(tmp_path, make_result(DIFFERENCE, artifact=artifact), steps)
        (path / "weights.json").write_text(json.dumps({**ABOUT, **about}))
        return write_page(path)

    return write


def test_report_has_curves_method_and_rollbacks(report):
    reason = "the mean reward fell from 0.30 to 0.10: learning goes back to step 1"
    page = report(make_step(1, 0.002), make_step(2, 0.004, went=reason), make_step(3, 0.001))
    for part in ("Mean reward per step", "Mean length of replies", "Entropy of replies", "KL of an update"):
        assert part in page.text
    assert f"Step 2: {reason}." in page.text
    assert "dapo, arXiv 2503.14476. Differs from GRPO: clips higher <up>." in page.text
    assert "loss clipped low=0.2 high=0.28" in page.text
    assert "Method dapo, 3 steps on cpu, 2 threads, bfloat16" in page.text
    hollow = [kind for _, kind in page.tags if "hollow" in kind.get("class", "")]
    assert len(hollow) == 5  # one of each curve
    assert "candidate library" not in page.text


def test_one_update_a_batch_has_no_kl(report):
    page = report(make_step(1, 1e-9), make_step(2), stopped="the loss is no number, 3 times")
    assert "No KL" in page.text and "KL of an update" not in page.text
    assert "learning stopped early: the loss is no number, 3 times" in page.text


def test_a_training_without_steps_has_a_report(report):
    assert "Learning curve" in report(steps=0).text


def test_a_damaged_weights_file_is_named(tmp_path):
    path = write_run(tmp_path, make_result(DIFFERENCE, artifact={"weights.json": ABOUT}))
    (path / "weights.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"weights\.json is damaged"):
        write_page(path)
