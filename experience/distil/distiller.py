"""
From finished groups to operations on the library, as plans.

Three stages (arXiv 2510.08191, section 2): `summarise` each run, `compare` the runs of a group (sees the
library), `update` the library for a batch. `direct` is the ablation without rollouts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgewise.experience.distil import prompts
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import OperationError, Operation, parse
from edgewise.toolkit.rollout.episode import is_episode
from edgewise.toolkit.types import BilledTo, Example, Group, Message, Plan, Reply, Request, Rollout, Sampling

Summaries = Literal["always", "auto"]
SHORT = 60
LONGEST = 24_000


@dataclass(frozen=True, slots=True)
class Distiller:
    """
    The model that writes lessons, and what it may see and say.

    `truth`: whether it sees the reference answer and the rewards; without, both are redacted everywhere.
    `operations`: the most that one group may propose. `words`: the longest a lesson may be. `summaries`: "auto"
    shows a run of one turn and at most `SHORT` words as it stands. `attempts`: tries at a readable reply.
    `comparing`: what it is told before it compares, with the places {operations} and {words}.
    """

    model: str
    sampling: Sampling = Sampling(temperature=0.0)
    truth: bool = True
    operations: int = 2
    words: int = 32
    summaries: Summaries = "auto"
    attempts: int = 3
    comparing: str = prompts.COMPARE


class Unreadable(ValueError):
    """The distiller's reply could not be read after all tries."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    What was made of one group: the summaries of its runs, in order, and the operations it proposes.

    `over_limit` are those that it proposed beyond the number allowed; they go no further.
    """

    summaries: tuple[str, ...] = ()
    proposals: tuple[Operation, ...] = ()
    over_limit: tuple[Operation, ...] = ()


def study(distiller: Distiller, group: Group, library: Library) -> Plan[Comparison]:
    """Summarise the runs of a group at once, then compare them. Raises Unreadable."""
    runs = [run for run in group.rollouts if run.steps and not run.failed]
    summaries = yield [summarise(distiller, group.example, run) for run in runs]
    return (yield from compared(distiller, group.example, runs, summaries, library))


def compared(
    distiller: Distiller,
    example: Example,
    runs: Sequence[Rollout],
    summaries: Sequence[str],
    library: Library,
) -> Plan[Comparison]:
    """Compare runs that were summarised; operations know where they are from. Raises Unreadable."""
    proposed = yield from compare(distiller, example, runs, summaries, library)
    origin = {"sources": (example.id,), "rollouts": tuple(run.id for run in runs)}
    named = tuple(op.model_copy(update=origin) for op in proposed)
    most = distiller.operations
    return Comparison(tuple(summaries), named[:most], named[most:])


def summarise(distiller: Distiller, example: Example, run: Rollout) -> Plan[str]:
    """What one run did, in a few sentences; a short run of one turn is its own summary."""
    if distiller.summaries == "auto" and len(run.steps) == 1 and len(run.answer.split()) <= SHORT:
        return trajectory(run) if is_episode(run) else run.answer
    user = "\n\n".join([_task(example), f"# Attempt\n{trajectory(run)}", *_verdict(distiller, example, run)])
    reply = yield _request(distiller, example.id, prompts.SUMMARY.format(words=150), user)
    return reply.message.content or f"(no summary: {reply.error or reply.stop})"


def compare(
    distiller: Distiller,
    example: Example,
    runs: Sequence[Rollout],
    summaries: Sequence[str],
    library: Library,
) -> Plan[tuple[Operation, ...]]:
    """The group's semantic advantage: why winners won and losers lost, as operations. Raises Unreadable."""
    system = (
        distiller.comparing.format(operations=distiller.operations, words=distiller.words) + prompts.ACTIONS
    )
    attempts = [
        f"## Attempt {number}{_mark(distiller, run)}\n{summary}"
        for number, (run, summary) in enumerate(zip(runs, summaries, strict=True), 1)
    ]
    user = [_lessons(library), _task(example), "# Attempts", *attempts, *_reference(distiller, example)]
    return (yield from _operations(distiller, example.id, system, "\n\n".join(user)))


def update(
    distiller: Distiller, library: Library, proposals: Sequence[Operation]
) -> Plan[tuple[Operation, ...]]:
    """
    One round for the whole batch: proposals and library in, final operations out.

    No call is made without proposals. Sources are carried over to the operations they ended in, by id or wording; a
    new lesson whose origin the model did not keep apart has all sources of the batch. Raises Unreadable.
    """
    if not proposals:
        return ()
    listed = [f"{number}. {_proposal(op)}" for number, op in enumerate(proposals, 1)]
    user = "\n\n".join([_lessons(library), "# Proposed operations", "\n".join(listed)])
    system = prompts.UPDATE.format(words=distiller.words) + prompts.ACTIONS
    final = yield from _operations(distiller, "", system, user)
    return tuple(op.model_copy(update=_origins(op, proposals)) for op in final)


def direct(
    distiller: Distiller, examples: Iterable[Example], library: Library
) -> Plan[tuple[Operation, ...]]:
    """The ablation "experiences written directly": lessons from the tasks alone, without any rollout."""
    shown = list(examples)
    system = prompts.DIRECT.format(operations=distiller.operations * len(shown), words=distiller.words)
    user = "\n\n".join([_lessons(library), *(_task(example) for example in shown)])
    return (yield from _operations(distiller, "", system + prompts.ACTIONS, user))


def trajectory(run: Rollout) -> str:
    """A run as text: what was said, which tools were called, what they answered, or what an environment showed."""
    played = is_episode(run)
    turns = [f"[environment] {run.steps[0].prompt[-1].content}"] if played else []
    for before, step in zip((None, *run.steps), run.steps, strict=False):
        if before is not None:
            heard = step.prompt[-1:] if played else step.prompt[len(before.prompt) + 1 :]
            turns += [
                f"[{'environment' if played else 'tool result'}] {message.content}" for message in heard
            ]
        turns.append(f"[assistant] {step.completion.content}".rstrip())
        turns += [f"[tool call] {call.name}({call.arguments})" for call in step.completion.tool_calls]
    return _clipped("\n".join(turns))


def _clipped(text: str) -> str:
    """The text with its middle left out where it is very long: the ends say what was asked and concluded."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def _operations(distiller: Distiller, example: str, system: str, user: str) -> Plan[tuple[Operation, ...]]:
    """Ask for operations; an unreadable reply is answered with what is wrong, a few times."""
    messages = (Message("system", system), Message("user", user))
    problem = ""
    for number in range(distiller.attempts):
        request = replace(_request(distiller, example, system, user), messages=messages, sample=number)
        reply: Reply = yield replace(request, schema=prompts.OPERATIONS)
        try:
            return parse(reply.message.content)
        except OperationError as error:
            problem = reply.error or str(error)
            complaint = Message("user", prompts.UNREADABLE.format(problem=problem))
            messages = (*messages[:2], reply.message, complaint)
    raise Unreadable(f"no operations after {distiller.attempts} tries: {problem}")


def _request(distiller: Distiller, example: str, system: str, user: str) -> Request:
    messages = (Message("system", system), Message("user", user))
    payer = BilledTo("distiller", example=example)
    return Request(distiller.model, messages, distiller.sampling, payer=payer)


def _task(example: Example) -> str:
    return "# Task\n" + "\n".join(message.content for message in example.messages)


def _lessons(library: Library) -> str:
    lines = [f"[{label}]. ({x.kind}) {x.text}" for label, x in library.labels().items()]
    return "# Current lessons\n" + ("\n".join(lines) or "(none yet)")


def _mark(distiller: Distiller, run: Rollout) -> str:
    if not distiller.truth or run.score is None:
        return ""
    feedback = f"; {run.score.feedback}" if run.score.feedback else ""
    return f" (reward {run.score.value:g}{feedback})"


def _reference(distiller: Distiller, example: Example) -> list[str]:
    if not distiller.truth or example.target is None:
        return []
    return [f"# Reference answer\n{example.target}"]


def _verdict(distiller: Distiller, example: Example, run: Rollout) -> list[str]:
    mark = _mark(distiller, run)
    return [f"# Grade\n{mark.strip(' ()')}", *_reference(distiller, example)] if mark else []


def _proposal(op: Operation) -> str:
    target = f" {op.id}" if op.id else ""
    return f"{op.action}{target} ({op.kind or 'content'}): {op.text}".rstrip(": ")


def origins(proposals: Iterable[Operation]) -> dict[str, tuple[str, ...]]:
    """The examples and runs that proposals came from, together."""
    found = list(proposals)
    return {
        "sources": tuple(sorted({source for op in found for source in op.sources})),
        "rollouts": tuple(sorted({run for op in found for run in op.rollouts})),
    }


def _origins(op: Operation, proposals: Sequence[Operation]) -> dict[str, tuple[str, ...]]:
    related = [p for p in proposals if p.id == op.id and (op.id or p.text == op.text)]
    return origins(related) if related else {**origins(proposals), "rollouts": ()}
