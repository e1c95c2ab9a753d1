"""
The wheel, installed as a user installs it: one top-level name, and no module of the working folder gets in its way.

The virtual environment finds the dependencies in that of the tests, after its own packages.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import toy
from tests.support.command import CommandResult, write_task

ROOT = Path(__file__).parents[1]
INTRUDER = 'raise ImportError("a module of the user was imported in place of Edgewise")\n'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *map(str, options), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and with another package that is called `mas`."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel)], check=True)

    (packages,) = folder.glob("lib/python*/site-packages")
    # A .pth file comes after the environment's own packages, and the editable install's .pth is not followed.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (packages / "mas").mkdir()
    (packages / "mas" / "__init__.py").write_text(INTRUDER)
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, a scripted model, and modules that are called as parts of Edgewise are."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "toolkit.py").write_text(INTRUDER)
    (folder / "mas").mkdir()
    (folder / "mas" / "__init__.py").write_text(INTRUDER)
    shutil.copy(toy.__file__, folder / "players.py")
    write_task(folder / "my", improve={"model": "scripted/players:play"})
    return folder


def run(installed: Path, workplace: Path, *arguments: str) -> CommandResult:
    """Run a program of the environment in the folder of the user, with no path to this checkout."""
    program = str(installed / "bin" / arguments[0])
    environment = {"PATH": str(installed / "bin"), "HOME": str(workplace)}
    done = subprocess.run(
        [program, *arguments[1:]], capture_output=True, text=True, cwd=workplace, env=environment, timeout=60
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def test_edgewise_is_the_only_top_level_name(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"edgewise"}


def test_wheel_has_every_file_of_the_packages(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("edgewise/")}
    tracked = subprocess.check_output(
        ["git", "ls-files", "toolkit", "experience", "mas", "learner"], cwd=ROOT, text=True
    )
    assert {f"edgewise/{name}" for name in tracked.split() if (ROOT / name).is_file()} <= packed


def test_code_and_data_come_from_the_wheel(installed, workplace):
    probe = (
        "import sys, edgewise\n"
        "[getattr(edgewise, name) for name in ('Task', 'improve', 'design', 'evaluate', 'Graph')]\n"
        "print(*{m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'edgewise' and m.__file__})\n"
        "print(len(edgewise.mas.graph.roles.catalogue()))"
    )
    done = run(installed, workplace, "python", "-c", probe)
    assert done.code == 0, done.err
    files, roles = done.out.splitlines()
    assert len(files.split()) > 20 and int(roles) > 3
    assert all(file.startswith(str(installed)) for file in files.split())


def test_commands_run_beside_modules_of_the_same_names(installed, workplace):
    def edgewise(*arguments: str) -> CommandResult:
        done = run(installed, workplace, "edgewise", *arguments)
        assert done.code == 0, done.err
        return done

    assert edgewise("--version").out.startswith("edgewise 0.")
    assert "24 train" in edgewise("improve", "my/task.toml", "--dry-run").out
    assert "mean" in edgewise("improve", "my/task.toml", "--run", "runs/first").out
    assert "unchanged" in edgewise("evaluate", "my/task.toml", "--artifact", "runs/first").out
    assert "lessons, version" in edgewise("library", "show", "runs/first").out
    assert "grpo" in edgewise("methods").out


def test_module_runs_as_a_program(installed, workplace):
    done = run(installed, workplace, "python", "-m", "edgewise", "--version")
    assert (done.code, done.out.split()[0]) == (0, "edgewise")
