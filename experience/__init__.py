"""Learning in words: Training-Free GRPO (arXiv 2510.08191) with an experience library in the prompt."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experience.api import aimprove, improve
    from experience.library import Lesson, Library

_WHERE = {
    "improve": "experience.api",
    "aimprove": "experience.api",
    "Library": "experience.library",
    "Lesson": "experience.library",
}
__all__ = ["Lesson", "Library", "aimprove", "improve"]


def __getattr__(name: str) -> Any:
    # Names are resolved when first used: importing the package costs next to nothing.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
