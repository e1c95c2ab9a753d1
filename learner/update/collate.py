"""
From finished groups to a batch: the table that axes 3 to 6 read, and the sequences that axes 7 to 9 read.

N rollouts, M steps of them, B = M sequences. Beside its value, a reward may say of a rollout as parts of its score:

    step_reward N       what step N, from 0, earned by itself         HRPO; GiGPO and advantage alignment for returns
    partner_reward N    what the other player of a game earned then   advantage alignment
    trait               what tells a rollout from those like it       DaGRPO
"""

import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.methods.batch import Batch
from edgewise.learner.methods.method import Method, compute_advantages
from edgewise.toolkit.errors import RewardError
from edgewise.toolkit.groups.sampling.rollout_plan import OFFLINE_VERSION, get_mark
from edgewise.toolkit.groups.table import Table
from edgewise.toolkit.types import TokenizedTurn, Group, Message, Rollout, Step


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A rollout that counts: its group's number, its reward, and what it read and wrote in each of its steps."""

    group: int
    run: Rollout
    reward: float
    steps: tuple[TokenizedTurn, ...]

    @property
    def parts(self) -> Mapping[str, float]:
        """Named parts of its score."""
        return self.run.score.parts if self.run.score else {}

    @property
    def given(self) -> bool:
        """Whether it is an answer that nobody drew."""
        return self.run.version == OFFLINE_VERSION

    @property
    def fresh(self) -> bool:
        """Whether the policy drew it in this step: it is neither given nor replayed."""
        return not self.given and math.isnan(self.mark("stored", math.nan))

    def mark(self, name: str, usual: float) -> float:
        """What a plan marked it with, else `usual`."""
        found = get_mark(self.run, name)
        return usual if found is None else found

    @property
    def length(self) -> int:
        """Tokens that the policy wrote."""
        return sum(len(step.completion_ids) for step in self.steps)

    @property
    def logp(self) -> float:
        """Mean log-probability of a token under the policy that drew it; 0 where nothing was written or drawn."""
        return 0.0 if self.given else sum(sum(step.logprobs) for step in self.steps) / max(1, self.length)


COLUMNS: dict[str, Callable[[ScoredRollout], float]] = {
    "length": lambda member: float(member.length),
    "longest": lambda member: float(max(len(step.completion_ids) for step in member.steps)),
    "mean_logp": lambda member: member.logp,
    "anchor": lambda member: float(member.given),
    "share": lambda member: member.mark("share", 1.0),
    "stored": lambda member: member.mark("stored", math.nan),
    "trait": lambda member: math.inf if member.given else member.parts.get("trait", member.logp),
    "choice": lambda member: float(crc32(spelt(member.run.answer).encode())),
}
"""
Columns of a table, (N,), that are computed where a method reads them.

`length` counts the tokens of all replies, `longest` those of the longest one. `share` is the part of a parent's mass
that a delegated run has, `stored` the advantage of an earlier step, `trait` what tells runs apart (a part of the score
by that name, else the mean log-probability), `choice` a number for each answer.
"""
STEP_COLUMNS: dict[str, Callable[[ScoredRollout], Sequence[Any]]] = {
    "state": lambda member: [_shown(step) for step in _encoded(member.run)],
    "action": lambda member: [action(step.completion) for step in _encoded(member.run)],
    "observation": lambda member: [*(_shown(step) for step in _encoded(member.run)[1:]), None],
    "step_reward": lambda member: _by_step(member, "step_reward") or _at_the_end(member),
    "action_reward": lambda member: _own(member),
    "partner_reward": lambda member: _by_step(member, "partner_reward") or _missing(member, "partner_reward"),
}
"""
Columns of a table, (M,), as above: what an agent was shown last before a step, what it did, what it was shown then.

Rewards of steps are parts of the score. Without any, `step_reward`, of which returns are made, is all of the reward at
the last step, `action_reward`, what a step did by itself, is 0, as where all of it is said to be the last step's, and
`partner_reward` can't be had.
"""


def members(groups: Sequence[Group]) -> list[ScoredRollout]:
    """The rollouts with a valid score and with something written, in order."""
    found = []
    for number, group in enumerate(groups):
        for run in group.rollouts:
            steps = tuple(step.tokens for step in run.steps if step.tokens and step.tokens.completion_ids)
            if run.score and run.score.valid and steps:
                found.append(ScoredRollout(number, run, run.score.value, steps))
    return found


def table(found: Sequence[ScoredRollout], method: Method, distances: Sequence[float] | None = None) -> Table:
    """The table of rollouts, with the columns that the method reads; `distances` is the column "kl"."""
    columns = {name: [get(m) for m in found] for name, get in COLUMNS.items() if name in method.required_columns}
    if distances is not None:
        columns["kl"] = list(distances)
    rollout = [i for i, member in enumerate(found) for _ in member.steps]
    of_steps = {
        name: _column([value for member in found for value in get(member)])
        for name, get in STEP_COLUMNS.items()
        if name in method.required_columns
    }
    made = Table.from_arrays([m.group for m in found], [m.reward for m in found], rollout, **columns)
    return replace(made, step_columns=of_steps)


@dataclass(frozen=True, slots=True)
class CreditedBatch:
    """Rollouts, their table, which of them go into the update (N,), and what each of their steps gets (M,)."""

    members: Sequence[ScoredRollout]
    table: Table
    kept: NDArray[np.bool_]
    credit: NDArray[np.float64]


def judged(
    found: Sequence[ScoredRollout], method: Method, distances: Sequence[float] | None = None
) -> CreditedBatch:
    """What axes 3 to 6 say of rollouts; see `table` for `distances`."""
    known = table(found, method, distances)
    nothing = np.zeros(0, bool), np.zeros(0)
    return CreditedBatch(found, known, *(compute_advantages(method, known) if found else nothing))


@run_in_compute_thread
def batch(what: CreditedBatch) -> Batch | None:
    """What an update is about; None where nothing is kept."""
    known, credit = what.table, what.credit
    rows = np.flatnonzero(what.kept[known.rollout])
    if not len(rows):
        return None
    steps = [step for member in what.members for step in member.steps]
    chosen = [steps[i] for i in rows]
    # A column of rollouts is one of sequences, where weights or losses read it.
    of_runs = {name: values[known.rollout[rows]] for name, values in known.columns.items()}
    of_steps = {n: values[rows] for n, values in known.step_columns.items() if values.dtype != object}
    return Batch.from_lists(
        [step.prompt_ids for step in chosen],
        [step.completion_ids for step in chosen],
        known.step_group[rows].tolist(),
        credit[rows].tolist(),
        reward=known.reward[known.rollout[rows]],
        rollout=known.rollout[rows],
        sampler_logp=[step.logprobs for step in chosen],
        **of_runs,
        **of_steps,
    )


def action(said: Message) -> str:
    """What a message does, spelt so that equal actions are equal texts: its calls, else its words."""
    if not said.tool_calls:
        return spelt(said.content)
    return " ".join(f"{call.name} {_sorted(call.arguments)}" for call in said.tool_calls)


def spelt(text: str) -> str:
    """The text in normal form, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _sorted(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return spelt(arguments)


def _encoded(run: Rollout) -> list[Step]:
    """The steps that are sequences."""
    return [step for step in run.steps if step.tokens and step.tokens.completion_ids]


def _shown(step: Step) -> str:
    return spelt(step.prompt[-1].content) if step.prompt else ""


def _by_step(member: ScoredRollout, name: str) -> list[float]:
    """What the score says of each step; empty where it says nothing of any."""
    if not any(key.startswith(f"{name} ") for key in member.parts):
        return []
    return [member.parts.get(f"{name} {number}", 0.0) for number in range(len(member.steps))]


def _at_the_end(member: ScoredRollout) -> list[float]:
    return [*[0.0] * (len(member.steps) - 1), member.reward]


def _own(member: ScoredRollout) -> list[float]:
    """Zeros where the score says nothing of steps, or no more than its reward, at the end."""
    found = _by_step(member, "step_reward")
    return found if found and found != _at_the_end(member) else [0.0] * len(member.steps)


def _missing(member: ScoredRollout, name: str) -> list[float]:
    raise RewardError(
        f'This method reads the part {name!r} of a score for each step ("{name} 0", "{name} 1", ...), and that of '
        f"row {member.run.example!r} has none: let the reward return it, as docs/weights.md shows, or take another "
        "method."
    )


def _column(values: Sequence[Any]) -> np.ndarray:
    """(M,) of numbers, or of whatever they are."""
    if all(isinstance(value, float) for value in values):
        return np.asarray(values, np.float64)
    found = np.empty(len(values), object)
    found[:] = values
    return found
