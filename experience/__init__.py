"""Learning by experience: Training-Free GRPO (arXiv 2510.08191) with a library of lessons in the prompt."""

from typing import TYPE_CHECKING

from edgewise.toolkit.util.lazy import make_resolver

if TYPE_CHECKING:
    from edgewise.experience.api import aimprove, improve
    from edgewise.experience.library.library import Lesson, Library

_MODULES = {
    "improve": "api",
    "aimprove": "api",
    "Library": "library.library",
    "Lesson": "library.library",
}
__all__ = ["Lesson", "Library", "aimprove", "improve"]

__getattr__ = make_resolver(__name__, _MODULES)
