"""From a step's proposals to the libraries that could follow the current one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from edgewise.experience.distil import distiller, pooling
from edgewise.experience.distil.distiller import UnreadableReply
from edgewise.experience.library import operations as ops
from edgewise.experience.library.library import Kind, Library
from edgewise.experience.spec import ExperienceSpec
from edgewise.toolkit.types import Plan
from edgewise.toolkit.util.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Candidates:
    """Libraries that could follow the current one, the best guess first; what became of its operations."""

    libraries: Mapping[str, Library] = field(default_factory=dict)
    outcomes: tuple[ops.OperationOutcome, ...] = ()
    incomplete: str = ""


def propose_candidates(
    job: ExperienceSpec, library: Library, proposals: Sequence[ops.Operation], step: int
) -> Plan[Candidates]:
    """The candidates that a step's proposals make."""
    if not proposals:
        return Candidates()
    make = _joined if job.is_pooled else _updated
    return (yield from make(job, library, proposals, step))


def _updated(
    job: ExperienceSpec, library: Library, proposals: Sequence[ops.Operation], step: int
) -> Plan[Candidates]:
    """The distiller's update of the library, and the proposals taken as they stand."""
    joined, outcomes = apply_within_caps(job, library, proposals, step)
    as_proposed = {"as proposed": joined} if job.is_gated else {}
    try:
        final = yield from distiller.update_library(job.distiller, library, proposals)
    except UnreadableReply as error:
        return Candidates(as_proposed, outcomes, str(error))
    updated, outcomes = apply_within_caps(job, library, final, step)
    # Lessons about form may help where those about content mislead, and the other way round.
    kinds = {f"{kind} only": _only(updated, kind) for kind in get_args(Kind)}
    return Candidates({"updated": updated, **as_proposed, **kinds}, outcomes)


def _only(library: Library, kind: Kind) -> Library:
    """The library with one kind of lesson, and with those that are locked."""
    return library.with_lessons(x for x in library.lessons if x.kind == kind or x.locked)


def _joined(
    job: ExperienceSpec, library: Library, proposals: Sequence[ops.Operation], step: int
) -> Plan[Candidates]:
    """Several draws of one lesson per right answer; the outcomes are those of the first."""
    seed = derive_seed(job.config.seed, step)
    each = yield from pooling.join_proposals(job.distiller, library, proposals, job.config.draws, seed)
    found = [apply_within_caps(job, library, final, step) for final in each]
    libraries = {f"draw {number}": after for number, (after, _) in enumerate(found, 1)}
    return Candidates(libraries, found[0][1])


def apply_within_caps(
    job: ExperienceSpec, library: Library, operations: Sequence[ops.Operation], step: int
) -> tuple[Library, tuple[ops.OperationOutcome, ...]]:
    """The library after operations, within its caps; what the caps cost is an outcome too."""
    config = job.config
    after, outcomes = ops.apply(library, operations, born=step, words=config.words, guard=job.guard)
    kept = after.fit_budget(config.lessons, config.library_tokens)
    gone = [x for x in after.lessons if x not in kept.lessons]
    return kept, (
        *outcomes,
        *(ops.record_removal(lesson, config.lessons, config.library_tokens) for lesson in gone),
    )
