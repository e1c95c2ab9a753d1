"""Names of a package that are resolved when first used, so that importing it costs next to nothing."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def make_resolver(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package: `where` says which module of it holds a name."""

    def resolve(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{where[name]}"), name)

    return resolve
