import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.tools.python_tool import MAX_OUTPUT, detect_protection, run_python
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.tools.tool import make_tool

HAS_NAMESPACES = "processes" in detect_protection()
needs_namespaces = pytest.mark.skipif(not HAS_NAMESPACES, reason="this kernel gives no namespaces")
needs_landlock = pytest.mark.skipif("files" not in detect_protection(), reason="this kernel has no Landlock")


def weakened(code, timeout=5.0):
    """As on a kernel that gives neither namespaces nor Landlock."""
    return run_python(code, timeout=timeout, namespaces=False, landlock=False)


RUNNERS = [pytest.param(run_python, id="as-here"), pytest.param(weakened, id="weakened")]


def gone(marker):
    """Whether no process has `marker` in its command line any more."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in entry.read_bytes():
                return False
        except OSError:
            continue
    return True


def test_a_program_reads_prints_and_ends():
    outcome = run_python("print(input() + '!')\nraise SystemExit(3)", stdin="héllo")
    assert (outcome.stdout, outcome.stderr, outcome.exit_code, outcome.timed_out) == ("héllo!\n", "", 3, False)


def test_exceptions_are_on_stderr_and_signals_in_the_exit_code():
    assert "ZeroDivisionError" in run_python("1 / 0").stderr
    assert run_python("import os; os.kill(os.getpid(), 9)").exit_code == 137


@pytest.mark.parametrize("run", RUNNERS)
def test_a_loop_without_end_is_stopped_in_time(run):
    start = time.monotonic()
    outcome = run("while True: pass", timeout=0.5)
    assert outcome.timed_out and outcome.exit_code != 0
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("ending", ["time.sleep(60)", "pass"], ids=["timeout", "own-end"])
def test_no_descendant_outlives_the_program(run, ending):
    marker = f"hidden-{os.urandom(8).hex()}"
    code = f"""
import os, subprocess, sys, time
child = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child, "{marker}"], start_new_session=True)
time.sleep(0.3)
{ending}
"""
    run(code, timeout=1.0)
    assert gone(marker)


def test_a_program_leaves_no_zombie_and_no_folder():
    outcome = run_python("import os; print(os.getcwd()); open('left', 'w').write('x'); os.mkdir('d', 0)")
    assert not Path(outcome.stdout.strip()).exists()
    with contextlib.suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


@needs_namespaces
def test_a_fork_bomb_is_contained():
    start = time.monotonic()
    outcome = run_python(
        "import os, signal\ncount = 0\n"
        "try:\n    while True:\n        if os.fork() == 0:\n            signal.pause()\n        count += 1\n"
        "except BlockingIOError:\n    print(count)",
        timeout=5,
    )
    assert 0 < int(outcome.stdout) < 40
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("run", RUNNERS)
def test_a_memory_hog_is_stopped(run):
    assert "MemoryError" in run("hog = bytearray(2 ** 30)").stderr


@pytest.mark.parametrize("run", RUNNERS)
def test_a_big_file_is_refused(run):
    outcome = run("open('big', 'wb').write(b'0' * (17 * 2**20))")
    assert "File too large" in outcome.stderr


def test_output_without_end_is_cut():
    outcome = run_python("while True: print('x' * 10_000)", timeout=5)
    assert len(outcome.stdout) < MAX_OUTPUT + 100 and "bytes left out" in outcome.stdout


@pytest.mark.parametrize("run", RUNNERS)
def test_there_is_no_network(run):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nprint('connected')"
        outcome = run(code)
    assert outcome.stdout == "" and ("unreachable" in outcome.stderr or "no network" in outcome.stderr)


@pytest.mark.parametrize("run", RUNNERS)
def test_keys_in_the_environment_are_hidden(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in run("import os; print(dict(os.environ))").stdout


@needs_landlock
def test_parent_environment_and_user_files_are_unreachable(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("sk-secret")
    for attempt in (f"open('/proc/{os.getpid()}/environ').read()", f"open({str(secret)!r}).read()"):
        outcome = run_python(f"print({attempt})")
        assert outcome.stdout == "" and "Permission" in outcome.stderr
    assert "PermissionError" in run_python(f"open({str(secret)!r}, 'w')").stderr
    assert secret.read_text() == "sk-secret"


@needs_namespaces
def test_processes_outside_cannot_be_signalled():
    outcome = run_python(f"import os; os.kill({os.getpid()}, 0)")
    assert "ProcessLookupError" in outcome.stderr


def test_modules_of_the_project_cannot_be_imported():
    assert "ModuleNotFoundError" in run_python("import toolkit_of_nobody").stderr
    assert run_python("import sys; print('' in sys.path, '.' in sys.path)").stdout == "False False\n"


def test_the_layers_say_what_protected_this_run():
    assert run_python("").layers == detect_protection()
    assert weakened("").layers == ("limits", "network guard")


def call(function, **arguments):
    result = function.run(**arguments)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def test_the_python_tool_returns_what_is_printed():
    (python,) = load_tools(["python"])
    assert python.tool.name == "python" and python.tool.parameters["required"] == ["code"]
    assert call(python, code="print(6 * 7)") == "42"
    assert call(python, code="x = 1") == "(nothing was printed)"
    assert "ZeroDivisionError" in call(python, code="1 / 0")
    assert "exit code 3" in call(python, code="raise SystemExit(3)")


def look_up(name: str, count: int = 1) -> list[str]:
    """Find a thing."""
    return [name] * count


async def look_up_slowly(name: str, count: int = 1) -> list[str]:
    """Find a thing."""
    return look_up(name, count)


@pytest.mark.parametrize("function", [look_up, look_up_slowly])
def test_a_typed_function_becomes_a_tool(function):
    made = make_tool(function)
    assert (made.tool.name, made.tool.description) == (function.__name__, "Find a thing.")
    assert made.tool.parameters["properties"]["count"] == {"default": 1, "title": "Count", "type": "integer"}
    assert made.tool.parameters["required"] == ["name"]
    assert json.loads(call(made, name="a", count="2")) == ["a", "a"]
    assert "error: wrong arguments: count" in call(made, name="a", count="many")
    assert "error: wrong arguments: name" in call(made)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_tool_exception_is_reported_to_the_model(is_async):
    def fails(x: int) -> str:
        raise LookupError("gone")

    async def fails_slowly(x: int) -> str:
        raise LookupError("gone")

    assert call(make_tool(fails_slowly if is_async else fails), x=1) == "error: LookupError: gone"


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (["pyton"], "no tool 'pyton'"),
        (["nowhere:f"], "is missing"),
        ([look_up, look_up], "two tools have the name 'look_up'"),
        ([lambda *words: ""], "can't be a tool"),
    ],
)
def test_a_wrong_tool_is_refused(specs, says):
    with pytest.raises(TaskError, match=says):
        load_tools(specs)


def test_a_tool_is_found_beside_the_task_file(tmp_path):
    (tmp_path / "own.py").write_text("def shout(text: str) -> str:\n    return text.upper()\n")
    (shout,) = load_tools(["own:shout"], tmp_path)
    assert call(shout, text="a") == "A"
