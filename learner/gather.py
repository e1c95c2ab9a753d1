"""
From finished groups to a batch: the table that axes 3 to 6 read, and the sequences that axes 7 to 9 read.

N rollouts, M steps of them, B = M sequences.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from learner.batch import Batch
from learner.method import Method, credited
from toolkit.groups.table import Table
from toolkit.types import Encoded, Group, Rollout


@dataclass(frozen=True, slots=True)
class Member:
    """A rollout that counts: its group's number, its reward, and what it read and wrote in each of its steps."""

    group: int
    run: Rollout
    reward: float
    steps: tuple[Encoded, ...]

    @property
    def length(self) -> int:
        """Tokens that the policy wrote."""
        return sum(len(step.reply) for step in self.steps)

    @property
    def logp(self) -> float:
        """Mean log-probability of a token under the policy that drew it; 0 where nothing was written."""
        return sum(sum(step.logprobs) for step in self.steps) / max(1, self.length)


COLUMNS: dict[str, Callable[[Member], float]] = {
    "length": lambda member: float(member.length),
    "mean_logp": lambda member: member.logp,
    "finished": lambda member: float(member.run.stop == "stop"),
}
"""Columns of a table, (N,), that are computed where a method reads them."""


def members(groups: Sequence[Group]) -> list[Member]:
    """The rollouts with a valid score and with something written, in order."""
    found = []
    for number, group in enumerate(groups):
        for run in group.members:
            steps = tuple(step.encoded for step in run.steps if step.encoded and step.encoded.reply)
            if run.score and run.score.valid and steps:
                found.append(Member(number, run, run.score.value, steps))
    return found


def table(found: Sequence[Member], method: Method, distances: Sequence[float] | None = None) -> Table:
    """The table of rollouts, with the columns that the method reads; `distances` is the column "kl"."""
    columns = {name: [get(m) for m in found] for name, get in COLUMNS.items() if name in method.needs}
    if distances is not None:
        columns["kl"] = list(distances)
    rollout = [i for i, member in enumerate(found) for _ in member.steps]
    return Table.of([m.group for m in found], [m.reward for m in found], rollout, **columns)


def batch(found: Sequence[Member], method: Method, distances: Sequence[float] | None = None) -> Batch | None:
    """What an update is about; None where nothing is kept."""
    if not found:
        return None
    known = table(found, method, distances)
    kept, credit = credited(method, known)
    rows = np.flatnonzero(kept[known.rollout])
    if not len(rows):
        return None
    steps = [step for member in found for step in member.steps]
    chosen = [steps[i] for i in rows]
    # A column of rollouts is one of sequences, where weights or losses read it.
    of_runs = {name: values[known.rollout[rows]] for name, values in known.columns.items()}
    of_steps = {name: values[rows] for name, values in known.step_columns.items()}
    return Batch.of(
        [step.prompt for step in chosen],
        [step.reply for step in chosen],
        known.step_group[rows].tolist(),
        credit[rows].tolist(),
        reward=known.reward[known.rollout[rows]],
        sampler_logp=[step.logprobs for step in chosen],
        **of_runs,
        **of_steps,
    )
