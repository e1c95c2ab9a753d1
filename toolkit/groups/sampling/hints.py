"""
Axis 2, plan: rows that are asked otherwise where they are too hard. See `toolkit.groups.sampling.rollout_plan`.

    explored      where uncertainty is; behind solved rows where all failed    XRPO (arXiv 2510.06672)
    scaffolded    hints, more and more of them, where all failed               Scaf-GRPO (arXiv 2510.19807)
    hinted        hints for rows that are harder than others were              DeepVideo-R1 (arXiv 2506.07464)

Hints are what a row says under "hints": a list, or a mapping of tiers to lists. A rollout is learned from under the
prompt that it was drawn with.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from edgewise.toolkit.errors import TaskError
from edgewise.toolkit.groups.sampling.rollout_plan import SamplingRequest, phased
from edgewise.toolkit.groups.sampling.row_history import Memory, recalls
from edgewise.toolkit.types import Example, Group, Plan, Rollout

HEAD = "\n\nHints:\n"
Likeness = Callable[[str, str], float]
Window = Annotated[int, Field(ge=1)]


@recalls("worked")
def explored(
    asked: SamplingRequest, *, phases: int = 3, first: float = 0.5, most: float = 4.0, shots: int = 2
) -> Plan[list[Group]]:
    """
    `size` rollouts of each row on average, dealt out in `phases`; see `toolkit.groups.sampling.rollout_plan.phased`.

    The first phase draws a share of `first` of `size` of each row, and none gets more than `most` times `size`. A row
    that only failed so far is asked with `shots` solved rows before it, most like it by the vectors of `embed`, or else
    by common words. A reconstruction: how many rollouts the paper begins with is not known.
    """
    rows = asked.queue[: asked.wanted]
    likeness = yield from _likeness(asked, rows)

    def dress(example: Example, runs: tuple[Rollout, ...]) -> Example:
        return example if _any_right(runs) else with_solved(example, asked.memory, shots, likeness)

    start = max(1, min(asked.size, round(first * asked.size)))
    cap = max(start, round(most * asked.size))
    found = yield from phased(
        asked.draw, rows, asked.size * len(rows), start, phases if start < asked.size else 1, cap, dress
    )
    return [Group(row, runs[0].role, runs) for row, runs in zip(rows, found, strict=True)]


@recalls("rescued")
def scaffolded(
    asked: SamplingRequest,
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
    As `fixed`, but where all rewards are 0, a rollout that hints made succeed takes the place of one that failed.

    Not in the first `exempt` of the run's steps and, with a `window`, not before a plateau: rows that failed altogether
    were no longer solved more often in so many steps than in as many before. Tiers are tried in order, within each 1,
    2, ... of its hints, one rollout each, until one has the reward `full`; `at_once` draws all and takes the lowest, as
    the code does, which also leaves out `planning` and replaces the `first` that failed in place of a random one.
    """
    tiers = {"knowledge": knowledge, "planning": planning, "solution": solution}
    waits = asked.done < exempt or (window is not None and not plateau(asked.memory.rescued, window))

    def study(example: Example, place: int) -> Plan[Group]:
        group = yield from asked.group(example)
        if waits or not group.rewards or any(group.rewards):
            return group
        levels = [hints for tier, on in tiers.items() if on for hints in ladder(example, tier)]
        found = yield from (_all if at_once else _climbed)(asked, example, levels, full)
        return _with(group, 0 if first else place, found)

    places = asked.rng.integers(0, asked.size, asked.wanted).tolist()
    return (yield [study(row, place) for row, place in zip(asked.queue, places, strict=False)])


def plateau(rates: Sequence[float], window: int) -> bool:
    """Whether the mean of some `window` of them in a row was no higher than that of the `window` before."""
    means = [float(np.mean(rates[i : i + window])) for i in range(len(rates) - window + 1)]
    return any(later <= before for before, later in zip(means, means[window:], strict=False))


@recalls("recent")
def hinted(asked: SamplingRequest) -> Plan[list[Group]]:
    """
    As `fixed`, but rows that had less than the mean reward of the last hundred groups are asked with hints.

    round(difference) + 1 of the row's "hints", as in notes on the paper; a row that was never visited gets none. A
    reconstruction: easy rows stay as they are, as noise in the frames of a video, which the paper adds, has no
    counterpart in text.
    """

    def dressed(example: Example) -> Example:
        lack = lacking(asked.memory, example.id)
        return with_hints(example, _listed(example)[: round(lack) + 1]) if lack > 0 else example

    rows = asked.queue[: asked.wanted]
    groups = yield [asked.group(dressed(row)) for row in rows]
    return [replace(group, example=row) for group, row in zip(groups, rows, strict=True)]


def lacking(memory: Memory, example: str) -> float:
    """How much less than the mean of recent groups an example had at its latest visit; 0 if there was none."""
    if not (memory.recent and memory.of(example).visits):
        return 0.0
    return float(np.mean(memory.recent)) - memory.of(example).mean


def ladder(example: Example, tier: str) -> list[list[str]]:
    """The first hint of a tier, the first two, and so on; nothing where the row has none."""
    hints = example.metadata.get("hints") or {}
    if not isinstance(hints, Mapping):
        raise TaskError(
            f"Row {example.id!r}: hints for this method are a mapping of knowledge, planning, solution to lists."
        )
    items: list[str] = list(hints.get(tier) or ())
    return [items[: n + 1] for n in range(len(items))]


def with_hints(example: Example, hints: Sequence[Any]) -> Example:
    """The row with hints behind its question; as it is without any."""
    return (
        _extended(example, HEAD + "\n".join(f"- {hint}" for hint in hints), behind=True) if hints else example
    )


def _likeness(asked: SamplingRequest, rows: Sequence[Example]) -> Plan[Likeness]:
    """The cosine of the vectors of two questions, of these rows or of solved ones; without `embed`, common words."""
    solved = [each.question for each in asked.memory.worked.values()]
    if asked.embed is None or not solved:
        return in_common
    texts = list(dict.fromkeys([*map(_question, rows), *solved]))
    vectors = dict(zip(texts, (yield from asked.embed(texts)), strict=True))
    return lambda one, other: float(vectors[one] @ vectors[other])


def in_common(one: str, other: str) -> float:
    """The share of words that two texts have in common, of all that either has."""
    words, others = (frozenset(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(words & others) / max(1, len(words | others))


def with_solved(example: Example, memory: Memory, shots: int, likeness: Likeness = in_common) -> Example:
    """The row behind the `shots` solved ones that are most like it; as it is where none is at all."""
    asked = _question(example)
    known = [
        (likeness(asked, each.question), id, each) for id, each in memory.worked.items() if id != example.id
    ]
    best = sorted((-near, id, each) for near, id, each in known if near > 0)[:shots]
    text = "".join(f"Question: {each.question}\nAnswer: {each.answer}\n\n" for *_, each in best)
    return _extended(example, text, behind=False) if best else example


def _with(group: Group, place: int, run: Rollout | None) -> Group:
    """The group with a rollout in place of one of its own; as it is without one."""
    if run is None:
        return group
    members = list(group.members)
    members[place % len(members)] = run
    return replace(group, members=tuple(members))


def _climbed(
    asked: SamplingRequest, example: Example, levels: Sequence[list[str]], full: float
) -> Plan[Rollout | None]:
    for number, hints in enumerate(levels):
        (run,) = yield from asked.draw(with_hints(example, hints), asked.size + number, 1)
        if _any_right((run,), full):
            return run
    return None


def _all(
    asked: SamplingRequest, example: Example, levels: Sequence[list[str]], full: float
) -> Plan[Rollout | None]:
    drawn = yield [
        asked.draw(with_hints(example, hints), asked.size + number, 1) for number, hints in enumerate(levels)
    ]
    return next((run for (run,) in drawn if _any_right((run,), full)), None)


def _any_right(runs: Sequence[Rollout], full: float = 1.0) -> bool:
    return any(run.score and run.score.valid and run.score.value >= full for run in runs)


def _listed(example: Example) -> list[Any]:
    hints = example.metadata.get("hints") or ()
    return [hint for tier in hints.values() for hint in tier] if isinstance(hints, Mapping) else list(hints)


def _extended(example: Example, text: str, *, behind: bool) -> Example:
    *before, last = example.messages
    content = last.content + text if behind else text + last.content
    return replace(example, messages=(*before, replace(last, content=content)))


def _question(example: Example) -> str:
    return example.messages[-1].content if example.messages else ""
