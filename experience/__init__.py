"""Learning in words: Training-Free GRPO (arXiv 2510.08191) with an experience library in the prompt."""

from typing import TYPE_CHECKING

from edgewise.toolkit.util.lazy import resolver

if TYPE_CHECKING:
    from experience.api import aimprove, improve
    from experience.library import Lesson, Library

_WHERE = {
    "improve": "api",
    "aimprove": "api",
    "Library": "library",
    "Lesson": "library",
}
__all__ = ["Lesson", "Library", "aimprove", "improve"]

__getattr__ = resolver(__name__, _WHERE)
