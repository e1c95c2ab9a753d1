"""The examples run, and the example data is what the README says it is."""

import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edgewise.toolkit.task.task import Task
from tests.support.command import run_command, write_task

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def test_the_python_example_runs_as_it_is():
    script = EXAMPLES / "improve_in_python.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "after   1.000" in done.stdout
    assert done.stdout.endswith("passwords.edge\n")


def test_the_example_of_planner_and_sub_agents_runs_as_it_is():
    script = EXAMPLES / "two_levels.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "after   1.000" in done.stdout
    assert "planner: Hand each sum to a sub-agent.\nsub: Carry the one.\n" in done.stdout
    assert done.stdout.endswith("sums.edge\n")


def test_the_example_that_designs_a_graph_runs_as_it_is():
    script = EXAMPLES / "design_a_graph.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "designed" in done.stdout and "1.000 [1.000, 1.000]" in done.stdout
    assert done.stdout.endswith("mixed.edge\n")


def test_the_teaching_script_runs_on_any_model(tmp_path: Path):
    from tests.support.learner import tiny

    script = EXAMPLES / "grpo_in_one_file.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tiny.save_model(tmp_path)), "2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "trained parameters" in done.stdout
    assert "step  2: mean reward" in done.stdout


@pytest.mark.parametrize(
    ("script", "answers", "stages"),
    [
        (
            "ton.py",
            ["<think>a</think><answer>1</answer>", "<think>\n\n</think><answer>0</answer>"],
            ["before", "after thought dropout", "after GRPO"],
        ),
        ("skywork_mpo.py", ["cat bread Norway.", "cat bread Norway"], ["before", "after MPO", "after MPO and GRPO"]),
    ],
)
def test_scripts_of_several_stages_print_what_each_brought(
    script: str, answers: list[str], stages: list[str], tmp_path: Path, monkeypatch, capsys
):
    known = runpy.run_path(str(EXAMPLES / script))
    model, run = speaking(tmp_path, known["PROMPT"].replace("{word}", "cat"), answers), tmp_path / "run"
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--model", str(model), "--run", str(run)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    said = capsys.readouterr().out
    assert list(figures(said)) == stages
    assert "step 2: mean reward" in said and "0 pairs" not in said
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    again = capsys.readouterr().out
    assert figures(again) == figures(said)
    assert "step 1" not in again, "what is there is not done again"


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ("<think>two of them</think><answer>2</answer>", 2),
        ("<think>\n\n</think><answer>2</answer>", 2),
        ("<think>\n\n</think>\n<answer> 2 </answer>\n", 2),
        ("<think></think><answer>3</answer>", 1),
        ("<answer>2</answer>", 0),
        ("2", 0),
    ],
)
def test_thinking_is_not_what_ton_rewards(answer: str, points: float):
    assert runpy.run_path(str(EXAMPLES / "ton.py"))["graded"](answer, "2") == points


def figures(said: str) -> dict[str, list[str]]:
    """What is printed of each stage."""
    found: dict[str, list[str]] = {}
    for stage, figure in re.findall(r"^(before|after[\w ]+)(.*)", said, re.M):
        found.setdefault(stage, []).append(figure)
    return found


def speaking(folder: Path, prompt: str, answers: list[str]) -> Path:
    """A tiny model that gives each of these answers about equally often."""
    from edgewise.learner.policy.policy import Policy
    from edgewise.learner.update.imitation import Demonstration, imitate
    from edgewise.toolkit.types import Message
    from tests.support.learner import tiny

    policy = Policy.load(str(tiny.save_model(folder / "tiny")), device="cpu", dtype="float32")
    asked = policy.encode([Message("user", prompt)])
    told = [(*policy.tokenizer.encode(x, add_special_tokens=False), 257) for x in answers]
    imitate(policy, policy.create_optimizer(lr=0.01), [Demonstration(asked, x) for x in told], epochs=120, batch_size=2)
    policy.save(folder / "speaking")
    return folder / "speaking"


def reads_amounts(request) -> str:
    """Gives the amount as it stands, and in the wanted form once a lesson asks for it; as distiller, asks for it."""
    if request.schema:
        return '[{"action": "add", "kind": "form", "text": "Answer with a bare number, digits and a point only."}]'
    text = request.messages[-1].content
    found = next(word for word in text.rpartition("note?")[2].split() if word[0].isdigit())
    if "bare number" not in text and (request.sampling.seed or 0) % 3:
        return f"The amount is {found}"
    digits = found.strip(".,").replace(".", "").replace(",", "")
    cents = found.strip(".,")[-3:-2] in {".", ","}
    return f"{int(digits) / 100:.2f}" if cents else f"{int(digits):.2f}"


def test_own_rows_from_csv_with_an_own_reward(tmp_path, capsys):
    run = tmp_path / "run"
    model = ["--model", "scripted/tests.test_examples:reads_amounts"]
    done = run_command(capsys, "improve", EXAMPLES / "invoices", *model, "--run", run)
    assert done.code == 0, done.err
    assert "bare number" in done.out
    lines = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert any("bare number" in line["score"]["feedback"] for line in lines)


def test_the_support_messages_are_many_distinct_and_balanced():
    task = Task.read(EXAMPLES / "support_triage")
    rows = [*task.train, *task.validation, *task.test]
    texts = {row.metadata["text"].casefold() for row in rows}
    assert len(rows) == len(texts) >= 150
    assert len(task.test) >= 60
    teams = Counter(row.target for row in rows)
    assert len(teams) == 6
    assert max(teams.values()) <= 1.5 * min(teams.values())


@pytest.mark.model
def test_a_real_model_from_the_first_call_to_the_report(small_model, tmp_path, capsys):
    """Not whether so small a model learns: whether every part of the road is there."""
    rows = [
        {"text": f"{thing} number {n}", "target": colour}
        for n in range(8)
        for thing, colour in (("brick", "red"), ("leaf", "green"), ("sea", "blue"))
    ]
    settings = {"group_size": 2, "draws": 1, "gate_rows": 4, "force": True, "max_tokens": 6}
    task = {"id": None, "prompt": "Colour of {text}: red, green or blue?", "reward": "contains"}
    file = write_task(tmp_path, rows, {"model": "local/smollm2-135m", **settings}, **task)
    run = tmp_path / "run"
    done = run_command(capsys, "improve", file, "--run", run)
    assert done.code in (0, 1), done.err
    assert (run / "report.html").exists()
    costs = json.loads((run / "result.json").read_text())["costs"]
    assert costs["role"]["rollout"]["calls"] == 2 * len(Task.read(file).train)
    assert costs["total"]["usd"] == 0
    assert "mean@1" in done.out
