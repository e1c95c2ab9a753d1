"""
Classes of wrong answers of a graph: which agents were right, and what happened to their answers.

MasHost's analysis (arXiv 2506.08507) has two classes, Incorrect Verification and Slight Deviation, and does not say
how they are told apart. Here the task's own reward grades every agent that gives an answer, which reconstructs both.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, get_args

from edgewise.mas.graph.graph import find_reachable
from edgewise.mas.graph.roles import Roles
from edgewise.mas.runtime.graph_run import GraphRun
from edgewise.toolkit.evaluation.comparison import valid_reward
from edgewise.toolkit.types import Example, Message, Plan, Rollout, Score, Step

# "incorrect verification": an agent was right, and one between it and the exit checks or rewrites what it receives.
# "lost": an agent was right and was outvoted, or its answer was not used. "slight deviation": none was right, and the
# answer was graded at least `NEARLY`. "never found": none was right.
Failure = Literal["incorrect verification", "lost", "slight deviation", "never found"]

FAILURES: tuple[Failure, ...] = get_args(Failure)
PASS, NEARLY = 1.0, 0.5

Grade = Callable[[Example, Rollout], Plan[Score]]


def classify_failure(run: GraphRun, roles: Roles, example: Example, grade: Grade) -> Plan[Failure | None]:
    """
    Return why the answer of a graded graph run is wrong; None where it is right.

    `grade`, the task's reward with its judge, is called once for each other answer in a wrong run, those of all
    rounds of a loop included. Of several classes the first counts.
    """
    final = valid_reward(run.rollout) or 0.0
    if final >= PASS:
        return None

    # Grade each different answer as if the run had ended with it.
    answers = {
        name: {output.answer for output in outputs if output.has_text}
        for name, outputs in run.outcomes.items()
        if roles[run.graph[name].role].answers
    }
    texts = sorted(set().union(*answers.values()) - {run.rollout.answer})
    rollout = replace(run.rollout, stop="stop", error="", score=None)
    scores: list[Score] = yield [
        grade(example, replace(rollout, steps=(Step((), Message("assistant", text)),))) for text in texts
    ]
    values = {text: score.value if score.valid else 0.0 for text, score in zip(texts, scores, strict=True)}

    # An agent is right if any of its answers passes; the final answer has its grade already.
    right = [name for name, own in answers.items() if any(values.get(text, final) >= PASS for text in own)]
    if not right:
        return "slight deviation" if final >= NEARLY else "never found"
    # Whether an agent downstream of a right one, the exit included, checks or rewrites what it receives: it gives a
    # verdict, or an answer that it makes of other answers.
    names = {x for name in right for x in find_reachable(run.graph.successors, name) - {name}}
    for role in (roles[run.graph[name].role] for name in names):
        if role.gives == "verdict" or (role.answers and not role.votes and role.hears > 0):
            return "incorrect verification"
    return "lost"


def count_failures(failures: Iterable[Failure | None]) -> dict[Failure, int]:
    """Return how often each class occurred, all of them named."""
    counts = Counter(failures)
    return {failure: counts[failure] for failure in FAILURES}
