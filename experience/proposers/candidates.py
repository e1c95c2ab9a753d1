"""Candidate libraries that could follow the current one, made from a step's proposals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from edgewise.experience.distil import distiller, pooling
from edgewise.experience.library.library import Kind, Library
from edgewise.experience.library.operations import Operation, OperationOutcome, apply, record_removal
from edgewise.experience.spec import ExperienceSpec, LessonSpec
from edgewise.toolkit.types import Plan
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Candidates:
    """
    Libraries by the name of the way they were made, the best guess first, and the outcomes of its operations.

    `incomplete` says why there is no batch update; "" where there is one.
    """

    libraries: Mapping[str, Library] = field(default_factory=dict)
    outcomes: tuple[OperationOutcome, ...] = ()
    incomplete: str = ""


def propose_candidates(
    spec: ExperienceSpec, library: Library, proposals: Sequence[Operation], step: int
) -> Plan[Candidates]:
    """Make the candidates of a step's proposals; none without proposals."""
    if not proposals:
        return Candidates()

    # One lesson per right answer, in several draws.
    if spec.is_pooled:
        seed = derive_seed(spec.config.seed, step)
        draws = yield from pooling.join_proposals(spec.distiller, library, proposals, spec.config.draws, seed)
        results = [apply_within_caps(spec, library, draw, step) for draw in draws]
        libraries = {f"draw {number}": candidate for number, (candidate, _) in enumerate(results, 1)}
        return Candidates(libraries, results[0][1])

    # The distiller's update of the library, and the proposals as they are.
    # These are the fallback too, where the update can't be read.
    joined, outcomes = apply_within_caps(spec, library, proposals, step)
    as_proposed = {"as proposed": joined} if spec.is_gated else {}
    try:
        final = yield from distiller.update_library(spec.distiller, library, proposals)
    except distiller.UnreadableReply as error:
        return Candidates(as_proposed, outcomes, str(error))
    updated, outcomes = apply_within_caps(spec, library, final, step)

    # Lessons about form may help where those about content mislead, and the other way round. Locked ones stay.
    kinds = {
        f"{kind} only": updated.with_lessons(x for x in updated.lessons if x.kind == kind or x.locked)
        for kind in get_args(Kind)
    }
    return Candidates({"updated": updated, **as_proposed, **kinds}, outcomes)


def apply_within_caps(
    spec: LessonSpec, library: Library, operations: Sequence[Operation], step: int
) -> tuple[Library, tuple[OperationOutcome, ...]]:
    """Return the library after operations, within its caps, and all outcomes: a lesson over a cap is one too."""
    caps = spec.config.lessons, spec.config.library_tokens
    # The caps come last: a deletion of the same batch may make room for an addition.
    changed, outcomes = apply(library, operations, born=step, words=spec.config.words, guard=spec.guard)
    capped = changed.fit_budget(*caps)
    removals = [record_removal(lesson, *caps) for lesson in changed.lessons if lesson not in capped.lessons]
    return capped, (*outcomes, *removals)
