import pytest

from edgewise.mas.credit.failures import FAILURES, count_failures, classify_failure
from edgewise.mas.graph.graph import Graph, Loop, Node
from edgewise.mas.graph.roles import CATALOGUE
from edgewise.mas.runtime.graph_run import GraphRun
from edgewise.mas.runtime.node import NodeOutput
from edgewise.toolkit.types import Example, Message, Rollout, Score, Step
from tests.support.plans import play

ROW = Example("q", (Message("user", "?"),), target="right")
VALUES = {"right": 1.0, "nearly": 0.5, "wrong": 0.0}


def grade(example, run):
    return Score(VALUES[run.answer])
    yield


def ran(roles: str, edges, *said: str, loops=()) -> GraphRun:
    """A run of agents a, b, c... with these roles; each said some words in turn, the last is the exit."""
    names = "abcd"[: len(said)]
    nodes = tuple(Node(name=n, role=r) for n, r in zip(names, roles.split(), strict=True))
    graph = Graph(nodes, tuple(tuple(e) for e in edges), names[-1], loops)
    outcomes = {
        n: tuple(NodeOutput(n, "ok", text) for text in s.split()) for n, s in zip(names, said, strict=True)
    }
    answer = said[-1].split()[-1]
    score = Score(VALUES[answer])
    run = Rollout("q", "graph", 0, (Step((), Message("assistant", answer)),), "stop", score)
    return GraphRun(graph, run, outcomes)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (ran("solver reviser", ["ab"], "wrong", "right"), None),
        (ran("solver reviser", ["ab"], "right", "wrong"), "incorrect verification"),
        (
            ran("solver critic solver", ["ab", "bc", "ac"], "right", "right", "wrong"),
            "incorrect verification",
        ),
        (
            ran("solver solver solver majority", ["ad", "bd", "cd"], "right", "wrong", "wrong", "wrong"),
            "lost",
        ),
        (ran("solver solver", ["ab"], "right", "wrong"), "lost"),
        (ran("solver reviser", ["ab"], "wrong", "nearly"), "slight deviation"),
        (ran("solver reviser", ["ab"], "nearly", "wrong"), "never found"),
        (ran("planner solver", ["ab"], "right", "wrong"), "never found"),
    ],
)
def test_a_wrong_answer_is_told_by_who_was_right(run, expected):
    assert play(classify_failure(run, CATALOGUE, ROW, grade), lambda request: "") == expected


def test_an_answer_that_a_later_round_spoiled_counts():
    loop = Loop(source="b", target="a", rounds=1)
    run = ran("solver critic reviser", ["ab", "bc", "ac"], "right wrong", "wrong", "wrong")
    again = GraphRun(
        Graph(run.graph.nodes, (("a", "b"), ("b", "c")), "c", (loop,)), run.rollout, run.outcomes
    )
    assert play(classify_failure(again, CATALOGUE, ROW, grade), lambda request: "") == "incorrect verification"


def test_what_was_graded_is_not_graded_again():
    asked = []

    def once(example, run):
        asked.append(run.answer)
        return (yield from grade(example, run))

    for said in (("wrong", "right"), ("right", "wrong"), ("wrong", "wrong")):
        play(classify_failure(ran("solver reviser", ["ab"], *said), CATALOGUE, ROW, once), lambda request: "")
    assert asked == ["right"]


def test_counts_name_every_class():
    assert count_failures(["lost", None, "lost"]) == {each: 2 * (each == "lost") for each in FAILURES}
