"""A library for each node of a program, as one value and as a file of an artefact."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgewise.experience.library.library import Library
from edgewise.toolkit.errors import ArtifactError
from edgewise.toolkit.util.hashing import hash_json

FILE = "nodes.json"


@dataclass(frozen=True, slots=True)
class NodeLibraries:
    """A library for each node; nodes without lessons are left out."""

    nodes: Mapping[str, Library] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """A short hash of what the nodes would receive."""
        # Nodes without lessons don't count, so that an empty library is the same as none.
        return hash_json([[name, self.nodes[name].version] for name in sorted(self.nodes) if len(self.nodes[name])])

    def get(self, node: str) -> Library:
        """Return the lessons of a node; an empty library in the system prompt for a node without any."""
        return self.nodes.get(node, Library(place="system"))

    def with_node(self, node: str, library: Library) -> "NodeLibraries":
        """Return the same with another library for one node."""
        return NodeLibraries({**self.nodes, node: library})

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as in nodes.json."""
        return {name: self.nodes[name].to_json() for name in sorted(self.nodes) if len(self.nodes[name])}

    @classmethod
    def from_json(cls, data: Any) -> "NodeLibraries":
        """Read nodes.json. Raises ArtifactError where it is something else."""
        if not isinstance(data, Mapping):
            raise ArtifactError("These are no libraries of nodes: expected an object with a library for each node.")
        return cls({str(name): Library.from_json(library) for name, library in data.items()})
