"""The libraries of a program's nodes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgewise.experience.library.library import Library
from edgewise.toolkit.errors import ArtifactError

FILE = "nodes.json"


@dataclass(frozen=True, slots=True)
class NodeLibraries:
    """A library for each node; nodes without lessons are left out."""

    nodes: Mapping[str, Library] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """A hash of what the nodes would see."""
        versions = [[name, self.nodes[name].version] for name in sorted(self.nodes) if len(self.nodes[name])]
        return hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:12]

    def of(self, node: str) -> Library:
        """The lessons of a node."""
        return self.nodes.get(node, Library(place="system"))

    def with_node(self, node: str, library: Library) -> "NodeLibraries":
        """The same with another library for one node."""
        return NodeLibraries({**self.nodes, node: library})

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in nodes.json."""
        return {name: self.nodes[name].to_json() for name in sorted(self.nodes) if len(self.nodes[name])}

    @classmethod
    def from_json(cls, data: Any) -> "NodeLibraries":
        """Read nodes.json. Raises ArtifactError."""
        if not isinstance(data, Mapping):
            raise ArtifactError(
                "These are no libraries of nodes: expected an object with a library for each node."
            )
        return cls({str(name): Library.from_json(library) for name, library in data.items()})
