"""The command line: what each command prints where, its exit code, and how it helps."""

import json
import re
import subprocess
import time

import pytest

from edgewise import Artifact
from edgewise.toolkit.cli.progress import show_progress
from edgewise.toolkit.tracking.events import ReplyReceived, RolloutFinished, RunClosed, StageStarted
from edgewise.toolkit.types import Message, Reply, Rollout, Score, Step
from tests.support import toy
from tests.support.command import SCRIPTED, run_command, start_command, wait_for_command, write_task
from tests.support.server import Server

LIBRARY = ("show", "log", "diff", "rollback", "merge", "lock", "import", "export")
COMMANDS = (
    *("improve", "evaluate", "report", "methods", "models list", "models pull"),
    *(f"library {name}" for name in LIBRARY),
    *(f"graph {name}" for name in ("show", "diff", "roles", "export")),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A task file and the directory of a finished run on it, by a process of its own; what that printed."""
    folder = tmp_path_factory.mktemp("cli")
    task = write_task(folder / "task")
    done = wait_for_command(start_command("improve", task, "--run", folder / "run"))
    return task, folder / "run", done


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Runs without --run stay in the test's folder."""
    monkeypatch.chdir(tmp_path)


def asked_nothing(request):
    raise AssertionError("a dry run asks no model")


def always_red(request) -> str:
    return "red"


# ---- improve ---------------------------------------------------------------------------------------------


def test_improve_prints_results_to_stdout_progress_to_stderr(finished):
    _, run, done = finished
    assert done.code == 0
    for part in ("before", "after", "95 % interval", "lessons:", "[G0]", "learning: ", "measuring: "):
        assert part in done.out
    assert f"artefact: {run}/artifact" in done.out
    assert f"report:   {run}/report.html" in done.out
    for part in ("up to about", f"run directory: {run}", "step 1", "measuring on"):
        assert part in done.err
        assert part not in done.out
    assert "\x1b" not in done.err and "\r" not in done.err
    assert not done.error_lines


def test_json_is_one_object_on_stdout(finished, capsys):
    task, run, _ = finished
    done = run_command(capsys, "improve", task, "--run", run, "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["improved"] is True
    assert result["run"] == str(run)
    assert result == json.loads((run / "result.json").read_text())
    json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_run_without_directory_gets_a_named_one(tmp_path, capsys):
    done = run_command(capsys, "improve", write_task(tmp_path), "--model", SCRIPTED)
    (run,) = (tmp_path / "runs").iterdir()
    assert done.code == 0
    assert f"run directory: runs/{run.name}" in done.err
    assert re.fullmatch(r"colours-\d{8}-\d{6}", run.name)


def test_no_improvement_exits_1_with_the_unchanged_start(tmp_path, capsys):
    model = "scripted/tests.toolkit.cli.test_app:always_red"
    done = run_command(capsys, "improve", write_task(tmp_path), "--model", model, "--run", "run")
    assert (done.code, done.error_lines) == (1, [])
    assert "0 lessons: nothing beat the unchanged model" in done.out
    assert Artifact.load(tmp_path / "run").library["lessons"] == []


def test_dry_run_calls_no_model_and_prints_the_forecast(tmp_path, capsys):
    task = write_task(tmp_path)
    arguments = ("improve", task, "--model", "scripted/tests.toolkit.cli.test_app:asked_nothing", "--dry-run")
    done = run_command(capsys, *arguments)
    assert (done.code, done.err) == (0, "")
    for part in ("24 train", "18 test", "exact", "Which colour", r"up to about [\d,]+ calls", r"about [\d,]+ tokens"):
        assert re.search(part, done.out)
    for part in (
        r"\$0\.00",
        "minute",
        r"smallest gain that is likely to show: \+0\.\d\d at the gate, \+0\.\d\d on the test rows",
    ):
        assert re.search(part, done.out)
    plan = json.loads(run_command(capsys, *arguments, "--json").out)
    assert plan["rows"] == {"train": 24, "validation": 18, "test": 18}
    assert plan["calls"]["rollouts"] == 24 * 5
    assert {"tokens", "dollars", "minutes", "gain"} <= plan.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "task.toml"]


def test_forecast_is_an_upper_bound_of_calls(finished, capsys):
    task, run, _ = finished
    plan = json.loads(run_command(capsys, "improve", task, "--dry-run", "--json").out)
    costs = json.loads((run / "result.json").read_text())["costs"]
    assert costs["total"]["calls"] <= sum(plan["calls"].values())


@pytest.mark.parametrize(
    ("options", "dollars"),
    [
        (("--model", "http://127.0.0.1:9/v1#x"), None),
        (("--model", "http://127.0.0.1:9/v1#x", "--price", "1,2"), "more"),
        (("--distiller", "http://127.0.0.1:9/v1#x"), None),
        (("--distiller", "http://127.0.0.1:9/v1#x", "--price", "1,2"), "more"),
        ((), 0.0),
    ],
)
def test_forecast_has_dollars_of_both_models(options, dollars, tmp_path, capsys):
    done = run_command(capsys, "improve", write_task(tmp_path), *options, "--dry-run", "--json")
    found = json.loads(done.out)["dollars"]
    assert found > 0 if dollars == "more" else found == dollars


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_dollar_limit_needs_a_price_before_any_call(dry, tmp_path, capsys):
    with Server(toy.serve) as server:
        arguments = ("improve", write_task(tmp_path), "--model", f"{server.url}#x", "--usd", "1", *dry)
        done = run_command(capsys, *arguments)
        assert done.code == 2
        assert "give --price INPUT,OUTPUT" in done.error_lines[0]
        assert not server.bodies


def test_set_and_options_win_over_the_task_file(tmp_path, capsys):
    task = write_task(tmp_path, improve={"seed": 5, "group_size": 4})
    plan = run_command(capsys, "improve", task, "--set", "group_size=2", "--set", "epochs=3", "--dry-run", "--json")
    assert json.loads(plan.out)["calls"]["rollouts"] == 24 * 3 * 2


def test_limit_exits_3_and_names_the_run_to_resume(tmp_path, capsys):
    task = write_task(tmp_path)
    done = run_command(capsys, "improve", task, "--calls", 100)
    (run,) = (tmp_path / "runs").iterdir()
    assert (done.code, done.out) == (3, "")
    assert done.error_lines[0].endswith(f"resume with --run runs/{run.name}")
    assert run_command(capsys, "improve", task, "--run", f"runs/{run.name}").code == 0


def test_replay_needs_no_model(finished, tmp_path, capsys):
    task, run, done = finished
    again = run_command(capsys, "improve", task, "--replay", run / "journal.sqlite", "--run", "again")
    assert again.code == 0
    assert again.out.split("learning:")[0] == done.out.split("learning:")[0]


# ---- the other commands ------------------------------------------------------------------------------------


def test_evaluate_compares_artefacts_on_the_same_rows(finished, tmp_path, capsys):
    task, run, _ = finished
    Artifact.load(run).save(tmp_path / "copy.edge")
    arms = ("--artifact", run, "--artifact", tmp_path / "copy.edge")
    done = run_command(capsys, "evaluate", task, *arms, "--samples", 2, "--run", "both")
    assert done.code == 0
    head, unchanged, first, second = (re.split(r"\s{2,}", line) for line in done.out.splitlines()[:4])
    assert [unchanged[0], first[0], second[0]] == ["unchanged", "run", "copy"]
    assert head[1:4] == ["mean@2", "pass@1", "pass@2"]
    assert first[1:] == second[1:]
    assert float(first[1].split()[0]) > float(unchanged[1].split()[0])


def test_evaluate_json_is_one_object(finished, capsys):
    task, run, _ = finished
    done = run_command(capsys, "evaluate", task, "--artifact", run, "--json")
    assert [arm["name"] for arm in json.loads(done.out)["evidence"]["results"]] == ["unchanged", "run"]


def test_evaluate_refuses_the_directory_of_a_learning_run(finished, capsys):
    task, run, _ = finished
    before = (run / "artifact/manifest.json").read_bytes()
    done = run_command(capsys, "evaluate", task, "--artifact", run, "--run", run)
    assert done.code == 2
    assert "holds a run of edgewise improve; give another --run" in done.error_lines[0]
    assert (run / "artifact/manifest.json").read_bytes() == before


def test_library_show_reads_runs_artefacts_and_files(finished, tmp_path, capsys):
    _, run, _ = finished
    packed = Artifact.load(run).save(tmp_path / "a.edge")
    shown = [run_command(capsys, "library", "show", path) for path in (run, packed, run / "artifact/library.json")]
    assert {done.code for done in shown} == {0}
    # Only a run knows how many steps ago a lesson was born.
    assert len({re.sub(r"content +[\d-]+ ", "", done.out) for done in shown}) == 1
    assert re.search(r"G0 .*content +\d+ +\d+ .*(red|green|blue)", shown[0].out)
    data = json.loads(run_command(capsys, "library", "show", run, "--json").out)
    assert len(data["lessons"]) == shown[0].out.count("\n") - 2


@pytest.mark.parametrize("model", ["local/llama", "gpt-4o-mini", "scripted/no_such:thing", "openai/gpt-4o"])
def test_impossible_model_is_refused_before_any_write(model, tmp_path, capsys):
    file, run = write_task(tmp_path / "task"), tmp_path / "run"
    for more in (["--dry-run"], ["--run", run]):
        done = run_command(capsys, "improve", file, "--model", model, *more)
        assert done.code == 2
        assert len(done.error_lines) == 1
    assert not run.exists()


def test_run_replays_from_its_directory(finished, tmp_path, capsys):
    file, run, _ = finished
    done = run_command(capsys, "improve", file, "--replay", run, "--run", tmp_path / "again")
    assert done.code == 0
    again, first = (path / "artifact" / "library.json" for path in (tmp_path / "again", run))
    assert again.read_bytes() == first.read_bytes()


def test_evaluate_keeps_to_its_limits(finished, tmp_path, capsys):
    file, run, _ = finished
    done = run_command(capsys, "evaluate", file, "--artifact", run, "--calls", 5, "--run", tmp_path / "e")
    assert done.code == 3
    assert "5 calls" in done.err


def test_library_export_is_flat_and_show_reads_it(finished, tmp_path, capsys):
    _, run, _ = finished
    flat = tmp_path / "experiences.json"
    flat.write_text(run_command(capsys, "library", "export", run).out)
    lessons = json.loads((run / "artifact" / "library.json").read_text())["lessons"]
    assert json.loads(flat.read_text()) == {f"G{n}": x["text"] for n, x in enumerate(lessons)}
    assert lessons[0]["text"] in run_command(capsys, "library", "show", flat).out


def test_models_list_names_the_embedded_models(capsys):
    listed = run_command(capsys, "models", "list").out
    data = json.loads(run_command(capsys, "models", "list", "--json").out)
    assert {"local/qwen2.5-coder-1.5b", "local/smollm2-135m"} == {model["name"] for model in data}
    assert all(model["name"] in listed and model["licence"] in listed for model in data)


def test_report_is_rewritten_and_its_path_printed(finished, capsys):
    _, run, _ = finished
    (run / "report.html").unlink()
    done = run_command(capsys, "report", run)
    assert (done.code, done.out) == (0, f"{run}/report.html\n")
    assert (run / "report.html").stat().st_size


# ---- usage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command, capsys):
    done = run_command(capsys, *command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: edgewise {command}" in done.out
    assert "--help" in done.out


def test_help_of_improve_explains_exit_codes_and_options(capsys):
    text = run_command(capsys, "improve", "--help").out
    for part in ("Exit codes", "0 improved", "1 nothing", "2 bad input", "3 a limit", "130 interrupted"):
        assert part in text
    options = re.findall(r"^│ +(--[\w-]+)(.*)$", text, re.MULTILINE)
    assert {"--usd", "--tokens", "--calls", "--minutes", "--run", "--set", "--dry-run"} <= {o for o, _ in options}
    for option, rest in options:
        assert len(re.sub(r"<\w+>|[\W_]", "", rest)) > 5, f"{option} is not explained"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("improve",), "Missing argument"),
        (("improve", "t", "--modle", "x"), "No such option: --modle .*--model"),
        (("improve", "t", "--calls", "many"), "Invalid value for '--calls'"),
        (("evaluate", "t"), "Missing option '--artifact'"),
        (("bogus",), "No such command 'bogus'"),
        (("improve", "t", "--by", "magic"), "--by takes experience, graph, weights, not 'magic'"),
        (("improve", "t", "--by", "weights"), "t is missing"),
        (("models", "pull", "nothing"), "no embedded model 'nothing'; there are qwen2.5-coder-1.5b"),
        (("library", "show", "nowhere"), "There is no artefact at nowhere"),
        (("report", "nowhere"), "nowhere"),
    ],
)
def test_wrong_usage_exits_2_with_one_sentence(arguments, sentence, capsys):
    done = run_command(capsys, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert re.match(f"edgewise: .*{sentence}", done.err)


def test_bare_command_shows_its_help(capsys):
    assert "improve" in run_command(capsys).out
    assert "show" in run_command(capsys, "library").out


def test_version_is_printed(capsys):
    done = run_command(capsys, "--version")
    assert (done.code, done.out.split()[0].rstrip(",")) == (0, "edgewise")


def test_closed_pipe_is_no_error(finished):
    _, run, _ = finished
    process = start_command("library", "show", run)
    assert process.stdout and process.stderr
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""


def broken_model(request):
    raise ZeroDivisionError("in my own function")


def test_bug_exits_70_with_a_traceback(tmp_path, capsys):
    task = write_task(tmp_path)
    done = run_command(capsys, "improve", task, "--model", "scripted/tests.toolkit.cli.test_app:broken_model")
    assert done.code == 70
    assert "in my own function" in done.err and "Traceback" in done.err
    assert len(done.error_lines) == 1


def test_warnings_are_one_line_each(tmp_path, capsys, recwarn):
    rows = toy.rows()
    task = write_task(tmp_path, [*rows, {**rows[0], "id": "again"}])
    done = wait_for_command(start_command("improve", task, "--dry-run"))
    assert done.code == 0
    assert re.fullmatch(r"warning: .*1 of 61 rows repeat another row and are left out\n", done.err)


def test_help_loads_no_heavy_library():
    probe = (
        "import sys; from edgewise.toolkit.cli.app import main\n"
        "try: main(['improve', '--help'])\n"
        "except SystemExit: print(sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    process = start_command()  # the environment of a command
    wait_for_command(process)
    args = [process.args[0], "-c", probe]  # type: ignore[index]
    done = subprocess.run(args, capture_output=True, text=True, cwd=toy.__file__.rsplit("/tests/", 1)[0])
    loaded = set(eval(done.stderr))
    assert not loaded & {"litellm", "openai", "torch", "langgraph", "scipy", "pyarrow", "numpy"}


# ---- progress ----------------------------------------------------------------------------------------------


class Terminal:
    """A stream that says it is a terminal, and what it would show at last."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    @property
    def shown(self) -> list[str]:
        return [re.split(r"\r\x1b\[K", line)[-1] for line in self.text.split("\n")]


def test_progress_clock_continues_after_an_hour(monkeypatch):
    terminal = Terminal()
    on_event = show_progress(terminal)  # type: ignore[arg-type]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3665)
    on_event(StageStarted("measuring"))
    assert "61:05 measuring" in terminal.text


def test_terminal_has_one_live_line_that_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    on_event = show_progress(terminal)  # type: ignore[arg-type]
    step = Step((), Message("assistant", "x"))
    on_event(StageStarted("measuring on a great many held-out rows"))
    on_event(RolloutFinished(Rollout("r", "solver", 0, (step,), "stop", Score(1.0))))
    on_event(ReplyReceived(Reply(Message("assistant", "x"))))
    live = terminal.shown[-1]
    assert "measuring" in live and len(live) < 40
    on_event(RunClosed())
    assert terminal.shown[-1] == ""
