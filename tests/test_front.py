"""`import edgewise`: fast, complete, and the same to people and to type checkers."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgewise

ROOT = Path(__file__).parents[1]


def probe(code: str) -> Any:
    """Return what a fresh process prints as JSON."""
    return json.loads(subprocess.check_output([sys.executable, "-c", f"import json, sys\n{code}"], cwd=ROOT))


def test_import_is_fast_and_loads_no_library():
    code = (
        "import time; start = time.perf_counter(); import edgewise\n"
        "print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))"
    )
    runs = [probe(code) for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.1
    assert not {"numpy", "pydantic", "torch", "openai"} & set(runs[0][1])


@pytest.mark.parametrize("name", edgewise.__all__)
def test_every_name_resolves_and_is_listed(name):
    assert getattr(edgewise, name) is not None
    assert name in dir(edgewise)


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse((ROOT / "edgewise/__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.name: str(node.module).removeprefix("edgewise.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == {name: module for module, names in edgewise._MODULES.items() for name in names.split()}
    assert set(declared) == set(edgewise.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        getattr(edgewise, "optimise")  # noqa: B009


def test_openmp_is_set_before_torch_loads():
    code = (
        "import os; os.environ.pop('OMP_WAIT_POLICY', None); import edgewise; edgewise.train\n"
        "print(json.dumps([os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules]))"
    )
    assert probe(code) == ["passive", True]
