"""Two libraries of lessons as one value, and as a file of an artefact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.experience.library.library import Library
from edgewise.mas.two_level.delegation import SUB
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.util.hashing import hash_text

FILE = "libraries.json"
"""The file of an artefact: an object with a library by name, "planner" and "sub"."""
TOOLS_FILE = "tools.json"
"""The file with the names of the tools that the sub-agents were measured with."""


@dataclass(frozen=True, slots=True)
class TwoLibraries:
    """Lessons of the planner and lessons of the sub-agents."""

    planner: Library = Library()
    sub: Library = Library()

    def at_level(self, level: str) -> Library:
        """Return the library of a level, "main" or "sub"."""
        return self.sub if level == SUB else self.planner

    @property
    def version(self) -> str:
        """A short hash of everything that a model would receive."""
        return hash_text(f"{self.planner.version} {self.sub.version}", 12)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in libraries.json."""
        return {"planner": self.planner.to_json(), "sub": self.sub.to_json()}

    @classmethod
    def from_json(cls, data: Any) -> "TwoLibraries":
        """Read libraries.json. Raises ArtifactError where it is something else."""
        if not isinstance(data, Mapping) or data.keys() != {"planner", "sub"}:
            raise ArtifactError('These are no two libraries: expected {"planner": ..., "sub": ...}.')
        return cls(Library.from_json(data["planner"]), Library.from_json(data["sub"]))
