"""Import an object that a user names as "module:name": from a file next to the user's, else from the path."""

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.util.hashing import hash_text


def load_object(reference: str, base: Path | None = None) -> Any:
    """
    Return the object that "module:name" refers to; `name` may have dots.

    `base` is a folder, or a file in it: "rewards:grade" is `grade` in `rewards.py` there, and "a.b:grade" in
    `a/b.py`. Without such a file the module is imported as usual. `sys.path` stays unchanged.
    Raises TaskError if anything is missing or the module can't be imported.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise TaskError(f"{reference!r} must be written as module:function, such as rewards:grade")
    target: Any = _import_module(module, base.parent if base is not None and base.is_file() else base)

    for part in name.split("."):
        if not hasattr(target, part):
            public = [x for x in vars(target) if not x.startswith("_") and callable(getattr(target, x))]
            raise TaskError(f"there is no {part!r} in {reference!r}{did_you_mean(part, sorted(public))}")
        target = getattr(target, part)
    return target


def did_you_mean(name: str, existing: list[str]) -> str:
    """Return the end of a sentence about an unknown name: the closest existing name, else all of them."""
    matches = get_close_matches(name, existing, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; there is {', '.join(existing)}" if existing else ""


def _import_module(name: str, folder: Path | None) -> ModuleType:
    file = folder and folder.joinpath(*name.split(".")).with_suffix(".py").resolve()
    try:
        if folder and file and file.is_file():
            return _import_file(name, file, folder.resolve())
        return importlib.import_module(name)
    except Exception as error:
        # An import that fails inside the module is another problem than a missing module: tell them apart.
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            beside = f"there is no {file}, and " if file else ""
            raise TaskError(f"module {name!r} is missing: {beside}it can't be imported") from error
        raise TaskError(f"module {name!r} can't be imported: {type(error).__name__}: {error}") from error


def _import_file(name: str, file: Path, folder: Path) -> ModuleType:
    # A module name per version of a file: two tasks may each have a rewards.py, and a notebook user edits one.
    unique = f"{name}@{hash_text(f'{file}:{file.stat().st_mtime_ns}')}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, file)
    assert spec and spec.loader
    module = sys.modules[unique] = importlib.util.module_from_spec(spec)

    # While it loads, the module may import its neighbours.
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        sys.path.remove(str(folder))
    return module
