"""Imports point down only, heavy libraries are imported where they belong, and importing stays fast."""

import ast
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.laws import floors

ROOT = Path(__file__).parents[2]
BELOW = {
    "toolkit": set(),
    "experience": {"toolkit"},
    "learner": {"toolkit"},
    "mas": {"toolkit", "experience", "learner"},
}
CLIENTS = ("toolkit/model/client.py", "toolkit/model/litellm_client.py", "toolkit/model/router.py")
SERVER = "toolkit/serve/server.py"
TORCH = ("learner/", "mas/search/policy/", "mas/designs/query_encoder.py")
# Library -> the files and folders that may import it.
HOMES = {
    "torch": TORCH,
    "transformers": TORCH,
    "langgraph": ("mas/runtime/", "mas/deploy/"),
    "starlette": (SERVER,),
    "uvicorn": (SERVER,),
    # Nowhere: openai 3 no longer brings it.
    "httpx": (),
    "aiohttp": (*CLIENTS, SERVER),
    "requests": (*CLIENTS, SERVER),
    # The source of exported modules, which ask OpenAI without Edgewise.
    "openai": (*CLIENTS, "mas/deploy/exported/"),
    "litellm": CLIENTS,
    "xllamacpp": ("toolkit/model/embedded/server.py",),
    "urllib.request": ("toolkit/model/embedded/", "learner/sampling/inference_server.py"),
    "sqlalchemy": ("experience/store/",),
    "statsmodels": ("experience/effects/", "learner/comparison/results.py"),
    "pandas": ("experience/effects/",),
    "gepa": ("experience/proposers/gepa.py",),
    "http": (*CLIENTS, SERVER),
}
SLOW = tuple("litellm torch langgraph openai scipy pyarrow datasets rich sqlalchemy statsmodels pandas gepa".split())
FILES = sorted(path for package in BELOW for path in (ROOT / package).rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Dotted names of all modules that a source imports, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, library: str) -> bool:
    return name == library or name.startswith(f"{library}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down_and_libraries_stay_at_home(path: Path) -> None:
    here = path.relative_to(ROOT).as_posix()
    package = here.split("/")[0]
    names = set(imported(path.read_text("utf-8")))
    own = {name.removeprefix("edgewise.") for name in names if name.startswith("edgewise.")}
    up = {name for name in own if name.split(".")[0] in BELOW.keys() - BELOW[package] - {package}}
    astray = {
        name
        for name in names
        for library, homes in HOMES.items()
        if within(name, library) and not here.startswith(homes)
    }
    assert not up, f"{here} imports from a package above or beside it"
    assert not astray, f"{here} imports a library that belongs elsewhere"


def test_the_law_sees_imports_inside_functions() -> None:
    source = "def f():\n    import torch.nn\n    from urllib import request\n    from edgewise.mas import graph"
    assert {"torch.nn", "urllib.request", "edgewise.mas.graph"} <= set(imported(source))


def test_rooms_import_lower_floors_only() -> None:
    assert not floors.arrows_up()


def test_files_import_each_other_without_a_circle() -> None:
    assert not floors.circles()


def test_private_names_stay_in_their_file() -> None:
    assert not floors.private_imports()


def test_no_room_shadows_a_name_of_its_parent() -> None:
    assert {"improve", "compare", "Task"} <= floors.offered_names()[""]
    assert not floors.shadowed_names()


def test_every_room_has_a_floor() -> None:
    rooms = {floors.room(module) for module in floors.files()}
    assert rooms == {(package, room) for package, table in floors.FLOORS.items() for room in table}


PROBE = """
import json, sys, time
start = time.perf_counter()
import edgewise, edgewise.toolkit, edgewise.experience
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def test_importing_is_fast_and_leaves_heavy_libraries_alone() -> None:
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", PROBE], cwd=ROOT)) for _ in range(5)]
    assert not set(runs[0][1]) & set(SLOW)
    # The least disturbed of them: a busy machine can only add to the time.
    assert min(seconds for seconds, _ in runs) < 0.5
    assert statistics.median(seconds for seconds, _ in runs) < 2.0
