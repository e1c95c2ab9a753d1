"""What `make lock` writes fits pyproject.toml: the ranges there, hashes for all, no address, no torch."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = {"requirements.lock": "local", "requirements-dev.lock": "dev"}


def pins(lock: str) -> dict[str, str]:
    """Name -> version, for the Python and the system that run this."""
    found = {}
    for line in (ROOT / lock).read_text("utf-8").splitlines():
        if re.match("[a-z]", line):
            pin = Requirement(line.rstrip("\\ "))
            if pin.marker is None or pin.marker.evaluate():
                found[pin.name] = str(pin.specifier).removeprefix("==")
    return found


def wanted(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for, with what builds it and the extras that an extra names."""
    found = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
    for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]):
        needed = Requirement(line)
        if needed.name == PROJECT["name"]:
            found += [more for other in sorted(needed.extras) for more in wanted(other)]
        else:
            found.append(needed)
    return found


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_fits_the_ranges_of_pyproject(lock):
    found = pins(lock)
    for needed in wanted(EXTRAS[lock]):
        name = canonicalize_name(needed.name)
        if name != "torch" and (needed.marker is None or needed.marker.evaluate()):
            assert name in found, f"{name}: make lock"
            assert needed.specifier.contains(found[name]), f"{name} {found[name]}: make lock"


@pytest.mark.parametrize("lock", EXTRAS)
def test_lock_has_hashes_and_no_addresses_or_local_builds(lock):
    text = (ROOT / lock).read_text("utf-8")
    assert "/" not in text
    assert not re.search(r"^(torch|triton|nvidia-.*|cuda-.*)==", text, re.M)
    for pin in re.findall(r"^[a-z].*(?:\n .*)*", text, re.M):
        assert "--hash=sha256:" in pin


def test_what_make_improve_installs_is_a_part_of_what_tests_use():
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()
