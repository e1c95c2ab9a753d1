"""
How a graph came to a wrong answer, as far as it can be measured: who in it was right, and what became of that.

MasHost's analysis (arXiv 2506.08507) has two classes, Incorrect Verification and Slight Deviation, and says of neither
how it is told. Here every agent that gives an answer is graded by the task's own reward, which reconstructs both.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, get_args

from edgewise.mas.graph.graph import Graph
from edgewise.mas.graph.roles import Role, Roles
from edgewise.mas.runtime.graph_run import GraphRun
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.types import Example, Message, Plan, Rollout, Score, Step

Failure = Literal["incorrect verification", "lost", "slight deviation", "never found"]
"""
"incorrect verification": an agent was right, and between it and the exit another one checked or rewrote what it heard.
"lost": an agent was right and was outvoted, or went unheard. "slight deviation": none was right, and the answer was
graded at least `NEARLY`. "never found": none was right.
"""

FAILURES: tuple[Failure, ...] = get_args(Failure)
PASS, NEARLY = 1.0, 0.5

Grade = Callable[[Example, Rollout], Plan[Score]]


def classify_failure(run: GraphRun, roles: Roles, example: Example, grade: Grade) -> Plan[Failure | None]:
    """
    Why the answer of a graph run is wrong; None where it is right.

    The run is graded; `grade`, the task's reward with its judge, is asked once for each other answer in a wrong one,
    those of all rounds of a loop included. Of several classes the first counts.
    """
    final = valid_reward(run.rollout) or 0.0
    if final >= PASS:
        return None
    answers = {
        name: {x.answer for x in outcomes if x.has_text}
        for name, outcomes in run.outcomes.items()
        if roles[run.graph[name].role].answers
    }
    texts = sorted(set().union(*answers.values()) - {run.rollout.answer})
    scores: list[Score] = yield [grade(example, _as_run(run.rollout, text)) for text in texts]
    values = {text: score.value if score.valid else 0.0 for text, score in zip(texts, scores, strict=True)}
    right = [name for name, said in answers.items() if any(values.get(text, final) >= PASS for text in said)]
    if any(_verified(run.graph, name, roles) for name in right):
        return "incorrect verification"
    if right:
        return "lost"
    return "slight deviation" if final >= NEARLY else "never found"


def count_failures(found: Iterable[Failure | None]) -> dict[Failure, int]:
    """How often each class came up, all of them named."""
    counts = Counter(found)
    return {each: counts[each] for each in FAILURES}


def checks_others(role: Role) -> bool:
    """Whether a role checks or rewrites what it hears: it gives a verdict, or an answer made of what others said."""
    return role.gives == "verdict" or (role.answers and not role.votes and role.hears > 0)


def _verified(graph: Graph, name: str, roles: Roles) -> bool:
    """Whether one that checks stands behind a node, the exit included."""
    todo, seen = list(graph.successors[name]), set[str]()
    while todo:
        each = todo.pop()
        if checks_others(roles[graph[each].role]):
            return True
        todo += [later for later in graph.successors[each] if later not in seen]
        seen.add(each)
    return False


def _as_run(run: Rollout, text: str) -> Rollout:
    """The run as if it had given another answer."""
    return replace(run, steps=(Step((), Message("assistant", text)),), stop="stop", error="", score=None)
