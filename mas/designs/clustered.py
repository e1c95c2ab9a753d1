"""
A graph for each kind of query, and which kind a new query is: the nearest by features.

Kinds are found by spherical k-means (Dhillon and Modha 2001, doi 10.1023/A:1007612920971) from the features alone.

N queries, D features, K kinds.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.graph import Graph
from edgewise.toolkit.errors import GraphError

FORMAT = 1
DIGITS = 5
ROUNDS = 50


class _Kind(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: tuple[float, ...] = Field(min_length=1)
    graph: dict[str, Any]


class _Wire(BaseModel):
    """The design as it is kept; an artefact may put more beside it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = FORMAT
    encoder: str
    kinds: tuple[_Kind, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_length(self) -> "_Wire":
        if len({len(kind.centre) for kind in self.kinds}) > 1:
            raise ValueError("the centres have different lengths")
        return self


@dataclass(frozen=True, slots=True)
class ClusteredDesign:
    """The centre (D,) of each of K kinds, its graph, and the name of the encoder that the features come from."""

    centres: tuple[tuple[float, ...], ...]
    choices: tuple[Graph, ...]
    encoder: str = ""

    @classmethod
    def from_centres(cls, centres: NDArray[np.floating], choices: Sequence[Graph], encoder: str = "") -> "ClusteredDesign":
        """A table from (K, D) centres."""
        rounded = tuple(tuple(round(float(x), DIGITS) for x in centre) for centre in centres)
        return cls(rounded, tuple(choices), encoder)

    @property
    def version(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def graphs(self, queries: Sequence[Query]) -> list[Graph]:
        """
        The graph of the nearest kind, for each query.

        Raises GraphError for queries that come from another encoder.
        """
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
        """Plain data."""
        pairs = zip(self.centres, self.choices, strict=True)
        kinds = [{"centre": list(centre), "graph": graph.to_json()} for centre, graph in pairs]
        return {"kind": "table", "format": FORMAT, "encoder": self.encoder, "kinds": kinds}

    @classmethod
    def from_json(cls, data: Any) -> "ClusteredDesign":
        """Read plain data. Raises GraphError that says what is wrong."""
        try:
            wire = _Wire.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "kinds"
            raise GraphError(f"The table of graphs is not readable: {place}: {first['msg']}.") from error
        if wire.format > FORMAT:
            raise GraphError(
                f"The table has format {wire.format}, this version reads {FORMAT}: upgrade edgewise."
            )
        graphs = tuple(Graph.from_json(kind.graph) for kind in wire.kinds)
        return cls(tuple(kind.centre for kind in wire.kinds), graphs, wire.encoder)


def nearest_centre(centres: NDArray[np.floating], features: NDArray[np.floating]) -> int:
    """The number of the centre whose cosine with (D,) features is highest; of equals the first."""
    return int(np.argmax(np.round(centres @ features.astype(float), 9)))


def cluster_queries(features: NDArray[np.floating], most: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """
    At most `most` kinds among (N, D) features: their centres (K, D) of length 1, and (N,) each query's kind.

    Starts from the first query and then always the one that is farthest from all before it, so it needs no chance.
    """
    rows = features.astype(float)
    centres = rows[_far_apart(rows, most)]
    kinds = np.full(len(rows), -1)
    for _ in range(ROUNDS):
        found = np.array([nearest_centre(centres, row) for row in rows])
        if (found == kinds).all():
            break
        kinds = found
        present = sorted(set(kinds))
        sums = np.array([rows[kinds == kind].sum(0) for kind in present])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres, kinds = sums / np.where(lengths > 0, lengths, 1), np.searchsorted(present, kinds)
    return centres, kinds


def _far_apart(rows: NDArray[np.float64], most: int) -> list[int]:
    """Numbers of at most `most` different rows."""
    chosen = [0]
    while len(chosen) < most:
        closest = np.round(rows @ rows[chosen].T, 9).max(1)
        closest[chosen] = 1  # also where a row has no length
        farthest = int(np.argmin(closest))
        if closest[farthest] >= 1 - 1e-6:
            break
        chosen.append(farthest)
    return chosen
