"""
Distil finished groups of rollouts into operations on the library, by a language model.

Three stages (Training-Free GRPO, arXiv 2510.08191, section 2): summarise each rollout, compare the rollouts of a
group, which sees the library, and update the library once for a batch. `distil_tasks` is the ablation without rollouts.
All functions are plans (see `toolkit.types.Plan`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgewise.experience.distil import prompts
from edgewise.experience.library.library import Library
from edgewise.experience.library.operations import Operation, OperationError, parse
from edgewise.toolkit.rollout.episode import is_episode
from edgewise.toolkit.types import BilledTo, Example, Group, Message, Plan, Reply, Request, Rollout, Sampling

Summaries = Literal["always", "auto"]
Operations = tuple[Operation, ...]
MAX_VERBATIM_WORDS = 60
MAX_TRAJECTORY_CHARS = 24_000
SUMMARY_WORDS = 150


@dataclass(frozen=True, slots=True)
class Distiller:
    """
    The model that writes lessons, and its limits.

    `truth`: whether it sees the reference answer and the rewards; without, both are redacted everywhere.
    `operations`: the most that one group may propose. `words`: the longest a lesson may be. `summaries`: "auto"
    shows a rollout of one turn and at most `MAX_VERBATIM_WORDS` as it stands. `attempts`: tries at a readable reply.
    `compare_prompt`: system prompt of the comparison, with the places {operations} and {words}.
    """

    model: str
    sampling: Sampling = Sampling(temperature=0.0)
    truth: bool = True
    operations: int = 2
    words: int = 32
    summaries: Summaries = "auto"
    attempts: int = 3
    compare_prompt: str = prompts.COMPARE

    def request(self, example: str, *messages: Message, **fields: Any) -> Request:
        """Return a request to the model, charged to the distiller; `example` is "" for a whole batch."""
        payer = BilledTo("distiller", example=example)
        return Request(self.model, messages, self.sampling, payer=payer, **fields)


class UnreadableReply(ValueError):
    """The distiller's reply could not be read after all tries."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    The comparison of one group: the summaries of its rollouts, in order, and the operations it proposes.

    `over_limit` are operations beyond the number allowed; they are recorded and go no further.
    """

    summaries: tuple[str, ...] = ()
    proposals: Operations = ()
    over_limit: Operations = ()


# ---- the three stages --------------------------------------------------------------------------------------


def distil_group(distiller: Distiller, group: Group, library: Library) -> Plan[Comparison]:
    """Summarise the rollouts of a group concurrently, then compare them. Raises UnreadableReply."""
    # A failed rollout shows what the provider did, not what the model should do.
    rollouts = [rollout for rollout in group.rollouts if rollout.steps and not rollout.failed]
    summaries = yield [summarise_rollout(distiller, group.example, rollout) for rollout in rollouts]
    return (yield from compare_summaries(distiller, group.example, rollouts, summaries, library))


def summarise_rollout(distiller: Distiller, example: Example, rollout: Rollout) -> Plan[str]:
    """Summarise one rollout in a few sentences; a short one of one turn is its own summary."""
    is_short = len(rollout.steps) == 1 and len(rollout.answer.split()) <= MAX_VERBATIM_WORDS
    if distiller.summaries == "auto" and is_short:
        return render_trajectory(rollout) if is_episode(rollout) else rollout.answer

    parts = [_render_task(example), f"# Attempt\n{render_trajectory(rollout)}"]
    if grade := _render_grade(distiller, rollout):
        parts += [f"# Grade\n{grade.strip(' ()')}", *_render_reference(distiller, example)]
    system = prompts.SUMMARY.format(words=SUMMARY_WORDS)
    user = "\n\n".join(parts)
    reply: Reply = yield distiller.request(example.id, Message("system", system), Message("user", user))
    # A missing summary is said in its place: the comparison still sees the grade of this attempt.
    return reply.message.content or f"(no summary: {reply.error or reply.stop})"


def compare_summaries(
    distiller: Distiller, example: Example, rollouts: Sequence[Rollout], summaries: Sequence[str], library: Library
) -> Plan[Comparison]:
    """
    Estimate the group's semantic advantage: why winners won and losers lost, as operations on the library.

    Each operation names the example and the rollouts that it comes from. Raises UnreadableReply.
    """
    system = distiller.compare_prompt.format(operations=distiller.operations, words=distiller.words)
    parts = [_render_lessons(library), _render_task(example), "# Attempts"]
    for number, (rollout, summary) in enumerate(zip(rollouts, summaries, strict=True), 1):
        parts.append(f"## Attempt {number}{_render_grade(distiller, rollout)}\n{summary}")
    parts += _render_reference(distiller, example)
    operations = yield from _request_operations(distiller, example.id, system, parts)

    # Models exceed the number that they are told; the first ones count.
    origin = {"sources": (example.id,), "rollouts": tuple(rollout.id for rollout in rollouts)}
    proposals = tuple(op.model_copy(update=origin) for op in operations)
    most = distiller.operations
    return Comparison(tuple(summaries), proposals[:most], proposals[most:])


def update_library(distiller: Distiller, library: Library, proposals: Sequence[Operation]) -> Plan[Operations]:
    """
    Fuse a batch's proposals into the final operations, in one call; none is made without proposals.

    Sources are carried over to the operations they ended in, by id or wording; a new lesson whose origin the model did
    not keep apart has all sources of the batch, and no rollouts. Raises UnreadableReply.
    """
    if not proposals:
        return ()
    lines = []
    for number, op in enumerate(proposals, 1):
        target = f" {op.id}" if op.id else ""
        lines.append(f"{number}. " + f"{op.action}{target} ({op.kind or 'content'}): {op.text}".rstrip(": "))
    parts = [_render_lessons(library), "# Proposed operations", "\n".join(lines)]
    system = prompts.UPDATE.format(words=distiller.words)
    final = yield from _request_operations(distiller, "", system, parts)

    # The reply does not say which proposals it fused: the same lesson, or the same wording of a new one, is related.
    operations = []
    for op in final:
        related = [p for p in proposals if p.id == op.id and (op.id or p.text == op.text)]
        origins = merge_origins(related) if related else {**merge_origins(proposals), "rollouts": ()}
        operations.append(op.model_copy(update=origins))
    return tuple(operations)


def distil_tasks(distiller: Distiller, examples: Iterable[Example], library: Library) -> Plan[Operations]:
    """Write lessons from the tasks alone, without rollouts: the ablation "experiences written directly"."""
    tasks = [_render_task(example) for example in examples]
    system = prompts.DIRECT.format(operations=distiller.operations * len(tasks), words=distiller.words)
    return (yield from _request_operations(distiller, "", system, [_render_lessons(library), *tasks]))


def merge_origins(proposals: Iterable[Operation]) -> dict[str, tuple[str, ...]]:
    """Return the union of the examples and of the rollouts that proposals came from, as fields of an operation."""
    operations = list(proposals)
    return {
        "sources": tuple(sorted({source for op in operations for source in op.sources})),
        "rollouts": tuple(sorted({rollout for op in operations for rollout in op.rollouts})),
    }


def _request_operations(distiller: Distiller, example: str, system: str, parts: Sequence[str]) -> Plan[Operations]:
    """Request operations; answer an unreadable reply with the problem, up to `attempts` times."""
    prompt = (Message("system", system + prompts.ACTIONS), Message("user", "\n\n".join(parts)))
    messages, problem = prompt, ""
    for attempt in range(distiller.attempts):
        # `sample` makes each try a draw of its own, also for the journal.
        reply: Reply = yield distiller.request(example, *messages, sample=attempt, schema=prompts.OPERATIONS)
        try:
            return parse(reply.message.content)
        except OperationError as error:
            # Only the last failure is shown, so that the prompt does not grow with each try.
            problem = reply.error or str(error)
            complaint = Message("user", prompts.UNREADABLE.format(problem=problem))
            messages = (*prompt, reply.message, complaint)
    raise UnreadableReply(f"no operations after {distiller.attempts} tries: {problem}")


# ---- parts of prompts --------------------------------------------------------------------------------------


def render_trajectory(rollout: Rollout) -> str:
    """Return a rollout as text: turns, tool calls, their results, and observations of an environment."""
    has_world = is_episode(rollout)
    source = "environment" if has_world else "tool result"
    turns = [f"[environment] {rollout.steps[0].prompt[-1].content}"] if has_world else []
    for before, step in zip((None, *rollout.steps), rollout.steps, strict=False):
        if before is not None:
            # A prompt of an episode ends with the new observation. With tools it is the one before, the completion,
            # and the new results.
            new = step.prompt[-1:] if has_world else step.prompt[len(before.prompt) + 1 :]
            turns += [f"[{source}] {message.content}" for message in new]
        turns.append(f"[assistant] {step.completion.content}".rstrip())
        turns += [f"[tool call] {call.name}({call.arguments})" for call in step.completion.tool_calls]
    text = "\n".join(turns)
    if len(text) <= MAX_TRAJECTORY_CHARS:
        return text

    # Cut out the middle: the ends say what the problem was and what was concluded.
    half = MAX_TRAJECTORY_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def _render_task(example: Example) -> str:
    return "# Task\n" + "\n".join(message.content for message in example.messages)


def _render_lessons(library: Library) -> str:
    lines = [f"[{label}]. ({x.kind}) {x.text}" for label, x in library.labels().items()]
    return "# Current lessons\n" + ("\n".join(lines) or "(none yet)")


def _render_grade(distiller: Distiller, rollout: Rollout) -> str:
    if not distiller.truth or rollout.score is None:
        return ""
    feedback = f"; {rollout.score.feedback}" if rollout.score.feedback else ""
    return f" (reward {rollout.score.value:g}{feedback})"


def _render_reference(distiller: Distiller, example: Example) -> list[str]:
    if not distiller.truth or example.target is None:
        return []
    return [f"# Reference answer\n{example.target}"]
