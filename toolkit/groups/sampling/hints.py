"""
Axis 2, plan: another prompt for rows that are too hard. See `toolkit.groups.sampling.rollout_plan`.

    explored      more rollouts where uncertainty is, solved rows as shots where all failed    XRPO (arXiv 2510.06672)
    scaffolded    hints, more and more of them, where all failed                    Scaf-GRPO (arXiv 2510.19807)
    hinted        hints for rows with less than the usual reward                    DeepVideo-R1 (arXiv 2506.07464)

Hints stand in a row's column "hints": a list, or a mapping of tiers to lists. An update uses each rollout under the
prompt that it was sampled with.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest, sample_in_phases
from edgewise.toolkit.groups.sampling.row_history import FULL_REWARD, Memory, recalls_history
from edgewise.toolkit.types import Example, Group, Plan, Rollout

HINTS_HEADER = "\n\nHints:\n"
Similarity = Callable[[str, str], float]
Window = Annotated[int, Field(ge=1)]


@recalls_history("worked")
def explored(
    request: SamplingRequest, *, phases: int = 3, first: float = 0.5, most: float = 4.0, shots: int = 2
) -> Plan[list[Group]]:
    """
    Sample `group_size` rollouts of each row on average, dealt out in `phases` (`sample_in_phases`).

    The first phase samples a share of `first` of the group size for each row, and no row gets more than `most` times
    the group size. A row that only failed so far gets `shots` solved rows before its question, the most similar by the
    vectors of `embed`, or else by common words. A reconstruction: how many rollouts the paper begins with is not known.
    """
    rows = request.queue[: request.batch_size]

    # Unit vectors of the questions of this step and of all solved ones, by their text.
    vectors: dict[str, Any] = {}
    solved = [example.question for example in request.memory.worked.values()]
    if request.embed is not None and solved:
        questions = [row.messages[-1].content if row.messages else "" for row in rows]
        texts = list(dict.fromkeys([*questions, *solved]))
        vectors = dict(zip(texts, (yield from request.embed(texts)), strict=True))

    def similarity(one: str, other: str) -> float:
        return float(vectors[one] @ vectors[other]) if vectors else word_overlap(one, other)

    def add_shots(example: Example, rollouts: tuple[Rollout, ...]) -> Example:
        if any(map(_is_solved, rollouts)):
            return example
        return add_solved_examples(example, request.memory, shots, similarity)

    # With a group size of one or two, the first phase may be all there is.
    size = request.group_size
    start = max(1, min(size, round(first * size)))
    cap = max(start, round(most * size))
    phases = phases if start < size else 1
    rollouts = yield from sample_in_phases(
        request.sample_rollouts, rows, size * len(rows), start, phases, cap, add_shots
    )
    return [Group(row, members[0].role, members) for row, members in zip(rows, rollouts, strict=True)]


@recalls_history("rescued")
def scaffolded(
    request: SamplingRequest,
    *,
    exempt: float = 0.15,
    window: Window | None = None,
    knowledge: bool = True,
    planning: bool = True,
    solution: bool = True,
    at_once: bool = False,
    first: bool = False,
    full: float = 1.0,
) -> Plan[list[Group]]:
    """
    Sample as `fixed` does; where all rewards are 0, replace a failed rollout by one that hints made succeed.

    Not in the first `exempt` of the run's steps and, with a `window`, not before a plateau: rows that failed altogether
    were no longer solved more often in so many steps than in as many before. Tiers are tried in order, within each 1,
    2, ... of its hints, one rollout each, until one has the reward `full`. `at_once` samples all and takes the lowest,
    as the authors' code does, which also leaves out `planning` and replaces the `first` that failed, not a random one.
    """
    tiers = {"knowledge": knowledge, "planning": planning, "solution": solution}
    waits_for_plateau = window is not None and not has_plateaued(request.memory.rescued, window)
    is_exempt = request.progress < exempt or waits_for_plateau

    def study(example: Example, place: int) -> Plan[Group]:
        group = yield from request.sample_group(example)
        if is_exempt or not group.rewards or any(group.rewards):
            return group
        levels = [hints for tier, is_on in tiers.items() if is_on for hints in list_hint_levels(example, tier)]
        return (yield from rescue_group(request, group, levels, 0 if first else place, at_once, full))

    # Places are drawn for all rows, also for those that need none: one row's outcome changes no other's place.
    places = request.rng.integers(0, request.group_size, request.batch_size).tolist()
    return (yield [study(row, place) for row, place in zip(request.queue, places, strict=False)])


def rescue_group(
    request: SamplingRequest, group: Group, levels: Sequence[list[str]], place: int, at_once: bool, full: float
) -> Plan[Group]:
    """Replace the rollout at `place` by the first that hints made succeed; the group stays as it is without one."""
    # Sample indices go on from those of the group, so that every rollout has a seed of its own.
    attempts = (
        request.sample_rollouts(add_hints(group.example, hints), request.group_size + number, 1)
        for number, hints in enumerate(levels)
    )
    samples = (yield list(attempts)) if at_once else attempts
    for sample in samples:
        (rollout,) = sample if at_once else (yield from sample)
        if _is_solved(rollout, full):
            members = list(group.rollouts)
            members[place % len(members)] = rollout
            return replace(group, rollouts=tuple(members))
    return group


def has_plateaued(rates: Sequence[float], window: int) -> bool:
    """Whether the mean of some `window` rates in a row was no higher than that of the `window` before."""
    # Once it happened it stays true: the rise of the rate that hints then cause must not switch them off.
    means = [float(np.mean(rates[i : i + window])) for i in range(len(rates) - window + 1)]
    return any(later <= before for before, later in zip(means, means[window:], strict=False))


@recalls_history("recent")
def hinted(request: SamplingRequest) -> Plan[list[Group]]:
    """
    Sample as `fixed` does, with hints for rows below the mean reward of the last hundred groups.

    A row gets the first round(difference) + 1 of its "hints", as in notes on the paper; one that was never visited gets
    none. A reconstruction: easy rows stay as they are, as noise in the frames of a video, which the paper adds, has no
    counterpart in text.
    """
    rows, prompts = request.queue[: request.batch_size], []
    for row in rows:
        gap = reward_gap(request.memory, row.id)
        hints = row.metadata.get("hints") or ()
        if isinstance(hints, Mapping):
            hints = [hint for tier in hints.values() for hint in tier]
        prompts.append(add_hints(row, list(hints)[: round(gap) + 1]) if gap > 0 else row)
    groups = yield from request.sample_groups(prompts)
    # The group is that of the row itself, so that statistics do not depend on the hints.
    return [replace(group, example=row) for group, row in zip(groups, rows, strict=True)]


def reward_gap(memory: Memory, example: str) -> float:
    """Return the mean reward of recent groups minus that of an example's latest visit; 0 without a visit."""
    if not (memory.recent and memory.record_of(example).visits):
        return 0.0
    return float(np.mean(memory.recent)) - memory.record_of(example).mean


def list_hint_levels(example: Example, tier: str) -> list[list[str]]:
    """Return the first hint of a tier, the first two, and so on; nothing where the row has none."""
    hints = example.metadata.get("hints") or {}
    if not isinstance(hints, Mapping):
        raise TaskError(
            f"Row {example.id!r}: hints for this method are a mapping of knowledge, planning, solution to lists."
        )
    items: list[str] = list(hints.get(tier) or ())
    return [items[: n + 1] for n in range(len(items))]


def add_hints(example: Example, hints: Sequence[Any]) -> Example:
    """Return the row with hints after its question, unchanged without any."""
    if not hints:
        return example
    text = HINTS_HEADER + "\n".join(f"- {hint}" for hint in hints)
    *before, last = example.messages
    return replace(example, messages=(*before, replace(last, content=last.content + text)))


def word_overlap(one: str, other: str) -> float:
    """Return the Jaccard similarity of the words of two texts."""
    words, others = (frozenset(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(words & others) / max(1, len(words | others))


def add_solved_examples(example: Example, memory: Memory, shots: int, similarity: Similarity = word_overlap) -> Example:
    """Return the row with the `shots` most similar solved ones before its question, unchanged if none is similar."""
    question = example.messages[-1].content if example.messages else ""
    candidates = [
        (-similarity(question, solved.question), id, solved) for id, solved in memory.worked.items() if id != example.id
    ]
    # Ids break ties, so that the choice does not depend on the order in which rows were solved.
    best = sorted(x for x in candidates if x[0] < 0)[:shots]
    if not best:
        return example
    text = "".join(f"Question: {solved.question}\nAnswer: {solved.answer}\n\n" for *_, solved in best)
    *before, last = example.messages
    return replace(example, messages=(*before, replace(last, content=text + last.content)))


def _is_solved(rollout: Rollout, full: float = FULL_REWARD) -> bool:
    return bool(rollout.score and rollout.score.valid and rollout.score.value >= full)
