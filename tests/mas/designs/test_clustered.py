"""A graph for each kind of query: kinds are found, new queries get the nearest, and files are checked."""

import json
from dataclasses import replace

import numpy as np
import pytest

from edgewise.mas.designs.clustered import ClusteredDesign, cluster_queries
from edgewise.mas.designs.interface import Query
from edgewise.mas.graph.graph import single
from edgewise.mas.search.load_design import read_design
from edgewise.toolkit.errors import GraphError
from tests.support.mas.planted import query

GRAPHS = (single("solver"), single("programmer"))
TABLE = ClusteredDesign.from_centres(np.eye(8)[:2], GRAPHS, "hashing")


def test_distinct_clusters_are_found_deterministically() -> None:
    features = np.stack([query(n).features for n in range(30)])
    centres, kinds = cluster_queries(features, 3)
    assert centres.shape == (3, 8) and np.allclose(np.linalg.norm(centres, axis=1), 1)
    assert all(len(set(kinds[k::3])) == 1 for k in range(3)) and len(set(kinds)) == 3
    again = cluster_queries(features, 3)
    assert np.array_equal(again[0], centres) and np.array_equal(again[1], kinds)


@pytest.mark.parametrize("most", [1, 2, 8, 100])
def test_clusters_are_bounded_by_maximum_and_queries(most: int) -> None:
    same = np.repeat(np.stack([query(n).features for n in range(3)]), 4, axis=0)
    centres, kinds = cluster_queries(same, most)
    assert len(centres) == min(most, 3) and set(kinds) == set(range(min(most, 3)))


def test_a_query_without_features_does_not_disturb_others() -> None:
    features = np.stack([np.zeros(8, np.float32), *(query(n).features for n in range(9))])
    _, kinds = cluster_queries(features, 4)
    assert len({*kinds[1::3]}) == len({*kinds[2::3]}) == len({*kinds[3::3]}) == 1


def test_each_query_gets_the_graph_of_its_nearest_cluster() -> None:
    queries = [query(n) for n in (0, 1, 3, 4)]
    assert TABLE.graphs(queries) == [*GRAPHS, *GRAPHS]
    assert [TABLE.graphs([q])[0] for q in queries] == TABLE.graphs(queries)


def test_a_design_round_trips_through_json() -> None:
    table = ClusteredDesign.from_centres(np.stack([query(n).features for n in (0, 1)]), GRAPHS, "minilm")
    back = read_design(json.loads(json.dumps({**table.to_json(), "examples": []})))
    assert back == table and back.version == table.version
    assert replace(table, choices=GRAPHS[::-1]).version != table.version


def test_queries_of_another_encoder_are_refused() -> None:
    with pytest.raises(GraphError, match=r"wants queries of 8 features \(encoder hashing\).* have 3"):
        TABLE.graphs([Query("q", "text", np.ones(3, np.float32))])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kinds": []}, "kinds"),
        ({"kinds": "x"}, "kinds"),
        ({"encoder": None}, "encoder"),
        ({"format": 99}, "upgrade"),
        ({"kinds": [{"centre": [1.0], "graph": {}}]}, "nodes"),
        ({"kinds": [*TABLE.to_json()["kinds"], {"centre": [1.0], "graph": {}}]}, "different lengths"),
    ],
)
def test_a_damaged_design_raises_with_its_place(change, reason) -> None:
    with pytest.raises(GraphError, match=reason):
        read_design(TABLE.to_json() | change)
