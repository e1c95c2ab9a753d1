import pytest

from edgewise.mas.credit.failures import FAILURES, classify_failure, count_failures
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


def make_run(roles: str, edges, *answers: str, loops=()) -> GraphRun:
    """A run of agents a, b, c... with these roles; each gives some answers in turn, the last is the exit."""
    names = "abcd"[: len(answers)]
    nodes = tuple(Node(name=n, role=r) for n, r in zip(names, roles.split(), strict=True))
    graph = Graph(nodes, tuple(tuple(e) for e in edges), names[-1], loops)
    outcomes = {n: tuple(NodeOutput(n, "ok", text) for text in s.split()) for n, s in zip(names, answers, strict=True)}
    answer = answers[-1].split()[-1]
    score = Score(VALUES[answer])
    run = Rollout("q", "graph", 0, (Step((), Message("assistant", answer)),), "stop", score)
    return GraphRun(graph, run, outcomes)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (make_run("solver reviser", ["ab"], "wrong", "right"), None),
        (make_run("solver reviser", ["ab"], "right", "wrong"), "incorrect verification"),
        (make_run("solver critic solver", ["ab", "bc", "ac"], "right", "right", "wrong"), "incorrect verification"),
        (make_run("solver solver solver majority", ["ad", "bd", "cd"], "right", "wrong", "wrong", "wrong"), "lost"),
        (make_run("solver solver", ["ab"], "right", "wrong"), "lost"),
        (make_run("solver reviser", ["ab"], "wrong", "nearly"), "slight deviation"),
        (make_run("solver reviser", ["ab"], "nearly", "wrong"), "never found"),
        (make_run("planner solver", ["ab"], "right", "wrong"), "never found"),
    ],
)
def test_failure_class_follows_from_who_was_right(run, expected):
    assert play(classify_failure(run, CATALOGUE, ROW, grade), lambda request: "") == expected


def test_answer_spoiled_in_a_later_round_counts():
    loop = Loop(source="b", target="a", rounds=1)
    run = make_run("solver critic reviser", ["ab", "bc", "ac"], "right wrong", "wrong", "wrong")
    again = GraphRun(Graph(run.graph.nodes, (("a", "b"), ("b", "c")), "c", (loop,)), run.rollout, run.outcomes)
    assert play(classify_failure(again, CATALOGUE, ROW, grade), lambda request: "") == "incorrect verification"


def test_graded_answers_are_not_graded_again():
    graded = []

    def grade_once(example, run):
        graded.append(run.answer)
        return (yield from grade(example, run))

    for answers in (("wrong", "right"), ("right", "wrong"), ("wrong", "wrong")):
        play(
            classify_failure(make_run("solver reviser", ["ab"], *answers), CATALOGUE, ROW, grade_once),
            lambda request: "",
        )
    assert graded == ["right"]


def test_counts_name_every_class():
    assert count_failures(["lost", None, "lost"]) == {failure: 2 * (failure == "lost") for failure in FAILURES}
