"""Functions that a user names in a file as "module:function", looked up beside it and then on the path."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from edgewise.toolkit.errors import TaskError


def load_object(reference: str, base: Path | None = None) -> Any:
    """
    What "module:name" stands for; `name` may have dots.

    `base` is a folder, or a file in it: "rewards:grade" is `grade` in `rewards.py` there, and "a.b:grade" in
    `a/b.py`. Only if there is no such file, the module is imported as usual. `sys.path` is left as it was.
    Raises TaskError if anything is missing or the module cannot be imported.
    """
    place, _, name = reference.partition(":")
    if not place or not name:
        raise TaskError(f"{reference!r} must be written as module:function, such as rewards:grade")
    found: Any = _module(place, _folder(base))
    for part in name.split("."):
        if not hasattr(found, part):
            raise TaskError(f"there is no {part!r} in {reference!r}{did_you_mean(part, _public(found))}")
        found = getattr(found, part)
    return found


def did_you_mean(name: str, existing: list[str]) -> str:
    """The end of a sentence about an unknown name: what is near to it, or all that there is."""
    near = get_close_matches(name, existing, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(existing)}" if existing else ""


def _folder(base: Path | None) -> Path | None:
    return base.parent if base is not None and base.is_file() else base


def _public(thing: Any) -> list[str]:
    return sorted(name for name in vars(thing) if not name.startswith("_") and callable(getattr(thing, name)))


def _module(name: str, folder: Path | None) -> ModuleType:
    file = folder and folder.joinpath(*name.split(".")).with_suffix(".py").resolve()
    try:
        if folder and file and file.is_file():
            return _from_file(name, file, folder.resolve())
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            beside = f"there is no {file}, and " if file else ""
            raise TaskError(f"module {name!r} is missing: {beside}it can't be imported") from error
        raise TaskError(f"module {name!r} can't be imported: {type(error).__name__}: {error}") from error


def _from_file(name: str, file: Path, folder: Path) -> ModuleType:
    # A name of its own for each state of each file: two tasks may have a rewards.py, and one may be edited.
    state = hashlib.sha256(f"{file}:{file.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    unique = f"{name}@{state}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, file)
    assert spec and spec.loader
    module = sys.modules[unique] = importlib.util.module_from_spec(spec)
    try:
        with _on_path(folder):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Lets the module import its neighbours while it is being loaded."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
