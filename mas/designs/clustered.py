"""
A design with one graph for each cluster of queries; a new query belongs to the nearest centre by its features.

Clusters are found by spherical k-means (Dhillon and Modha 2001, doi 10.1023/A:1007612920971) from the features alone:
for vectors of length 1 the nearest centre is the one with the largest dot product.

N queries, D features, K clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import GraphError
from edgewise.toolkit.util.hashing import hash_json
from edgewise.toolkit.util.validation import describe_error

FORMAT = 1
DIGITS = 5
"""Decimal places of centres, so that a design has the same version after it was written and read."""
ROUNDS = 50


class StoredCluster(BaseModel):
    """A cluster in graph.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: tuple[float, ...] = Field(min_length=1)
    graph: dict[str, Any]


class StoredClusters(BaseModel):
    """The design in graph.json; an artefact may put more beside it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = FORMAT
    encoder: str
    kinds: tuple[StoredCluster, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def check_lengths(self) -> "StoredClusters":
        """Raise ValueError for centres of different lengths."""
        if len({len(cluster.centre) for cluster in self.kinds}) > 1:
            raise ValueError("the centres have different lengths")
        return self


@dataclass(frozen=True, slots=True)
class ClusteredDesign:
    """The centre of each of K clusters, its graph, and the name of the encoder that the features come from."""

    centres: tuple[tuple[float, ...], ...]  # [K, D]
    choices: tuple[Graph, ...]
    encoder: str = ""

    @classmethod
    def from_centres(
        cls, centres: NDArray[np.floating], choices: Sequence[Graph], encoder: str = ""
    ) -> "ClusteredDesign":
        """Return a design from (K, D) centres."""
        rounded = tuple(tuple(round(float(x), DIGITS) for x in centre) for centre in centres)
        return cls(rounded, tuple(choices), encoder)

    @property
    def version(self) -> str:
        """A hash of centres, graphs and encoder."""
        return hash_json(self.to_json())

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """Return the graph of the nearest cluster of each query. Raises GraphError for features of another encoder."""
        # Features of another encoder would be compared without an error if their length happened to fit.
        centres = np.array(self.centres)
        for query in queries:
            if query.features.shape != centres.shape[1:]:
                raise GraphError(
                    f"The design wants queries of {centres.shape[1]} features"
                    + (f" (encoder {self.encoder})" if self.encoder else "")
                    + f", and these have {query.features.size}: encode them as it was made."
                )
        return [self.choices[nearest_centre(centres, query.features)] for query in queries]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        pairs = zip(self.centres, self.choices, strict=True)
        kinds = [{"centre": list(centre), "graph": graph.to_json()} for centre, graph in pairs]
        return {"kind": "table", "format": FORMAT, "encoder": self.encoder, "kinds": kinds}

    @classmethod
    def from_json(cls, data: Any) -> "ClusteredDesign":
        """Read plain data. Raises GraphError that says what is wrong."""
        try:
            stored = StoredClusters.model_validate(data)
        except ValidationError as error:
            raise GraphError(f"The table of graphs is not readable: {describe_error(error, 'kinds')}.") from error
        if stored.format > FORMAT:
            raise GraphError(f"The table has format {stored.format}, this version reads {FORMAT}: upgrade edgewise.")
        # Graphs check themselves, and raise GraphError too.
        graphs = tuple(Graph.from_json(cluster.graph) for cluster in stored.kinds)
        return cls(tuple(cluster.centre for cluster in stored.kinds), graphs, stored.encoder)


def nearest_centre(centres: NDArray[np.floating], features: NDArray[np.floating]) -> int:
    """Return the number of the centre with the highest dot product with (D,) features; among equals the first."""
    # Rounded, or the last bit of a sum, which differs between machines, would decide between equals.
    return int(np.argmax(np.round(centres @ features.astype(float), 9)))


def cluster_queries(features: NDArray[np.floating], max_clusters: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """
    Cluster (N, D) features; return the centres (K, D), of length 1, and the cluster of each query (N,).

    There is no randomness: the first centre is the first query, each further one the query that is farthest from all
    before it (farthest-first traversal).
    """
    rows = features.astype(float)
    seeds = [0]
    while len(seeds) < max_clusters:
        closest = np.round(rows @ rows[seeds].T, 9).max(1)  # [N], cosine with the nearest seed
        closest[seeds] = 1  # also a row without length, whose cosine with itself is 0
        farthest = int(np.argmin(closest))
        if closest[farthest] >= 1 - 1e-6:
            break  # all rows are equal to a seed
        seeds.append(farthest)

    centres = rows[seeds]
    clusters = np.full(len(rows), -1)
    for _ in range(ROUNDS):
        nearest = np.array([nearest_centre(centres, row) for row in rows])
        if (nearest == clusters).all():
            break
        # A centre that no query belongs to any more is dropped, and the others are numbered anew.
        present = sorted(set(nearest))
        sums = np.array([rows[nearest == cluster].sum(0) for cluster in present])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = sums / np.where(lengths > 0, lengths, 1)
        clusters = np.searchsorted(present, nearest)
    return centres, clusters
