"""
From finished groups to a batch: the table for axes 3 to 6 of a method, and the sequences for axes 7 to 9.

    groups ─ collect_scored ─▶ scored rollouts ─ assign_credit ─▶ CreditedBatch ─ build_batch ─▶ Batch

N rollouts, M steps of them, B = M sequences. Beside its value, a reward may return these parts of a score:

    step_reward N       reward of step N, from 0, by itself           HRPO; GiGPO and advantage alignment for returns
    partner_reward N    reward of the other player of a game          advantage alignment
    trait               number that tells similar rollouts apart      DaGRPO
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
from edgewise.toolkit.types import Group, Message, Rollout, Step, TokenizedTurn


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """Rollout with a valid score: the number of its group, and its reward."""

    group: int
    rollout: Rollout
    reward: float

    @property
    def parts(self) -> Mapping[str, float]:
        """Named parts of its score."""
        return self.rollout.score.parts if self.rollout.score else {}

    @property
    def turns(self) -> list[Step]:
        """Steps of the rollout that have tokens."""
        return [step for step in self.rollout.steps if step.tokens and step.tokens.completion_ids]

    @property
    def steps(self) -> list[TokenizedTurn]:
        """Tokens of its turns: the sequences that it is trained on."""
        return [turn.tokens for turn in self.turns if turn.tokens]

    @property
    def observations(self) -> list[str]:
        """Text of the last message before each step."""
        return [normalize_text(turn.prompt[-1].content) if turn.prompt else "" for turn in self.turns]

    @property
    def is_offline(self) -> bool:
        """Whether it is an answer that no policy sampled."""
        return self.rollout.version == OFFLINE_VERSION

    @property
    def is_fresh(self) -> bool:
        """Whether the policy sampled it in this step: it is neither offline nor replayed."""
        return not self.is_offline and math.isnan(self.get_mark("stored", math.nan))

    def get_mark(self, name: str, default: float) -> float:
        """Return a mark that a rollout plan set."""
        value = get_mark(self.rollout, name)
        return default if value is None else value

    @property
    def length(self) -> int:
        """Tokens that the policy wrote."""
        return sum(len(step.completion_ids) for step in self.steps)

    @property
    def mean_logp(self) -> float:
        """Mean log-probability of a token under the policy that sampled it; 0 for an offline answer."""
        if self.is_offline:
            return 0.0
        return sum(sum(step.logprobs) for step in self.steps) / max(1, self.length)

    @property
    def final_rewards(self) -> list[float]:
        """The whole reward at the last step, 0 at the others."""
        return [*[0.0] * (len(self.steps) - 1), self.reward]

    @property
    def action_rewards(self) -> list[float]:
        """Rewards that steps earned by themselves: 0 without any, or if all of it is the last step's."""
        rewards = self.get_step_part("step_reward")
        return [0.0] * len(self.steps) if rewards in ([], self.final_rewards) else rewards

    def get_step_part(self, name: str, *, is_required: bool = False) -> list[float]:
        """Return a part of the score for each step, [] if no step has it. Raises RewardError if it is required."""
        if any(key.startswith(f"{name} ") for key in self.parts):
            return [self.parts.get(f"{name} {number}", 0.0) for number in range(len(self.steps))]
        if is_required:
            raise RewardError(
                f'This method reads the part {name!r} of a score for each step ("{name} 0", "{name} 1", ...), and '
                f"that of row {self.rollout.example!r} has none: let the reward return it, as docs/weights.md shows, "
                "or take another method."
            )
        return []


COLUMNS: dict[str, Callable[[ScoredRollout], float]] = {
    "length": lambda scored: float(scored.length),
    "longest": lambda scored: float(max(len(step.completion_ids) for step in scored.steps)),
    "mean_logp": lambda scored: scored.mean_logp,
    "anchor": lambda scored: float(scored.is_offline),
    "share": lambda scored: scored.get_mark("share", 1.0),
    "stored": lambda scored: scored.get_mark("stored", math.nan),
    "trait": lambda scored: math.inf if scored.is_offline else scored.parts.get("trait", scored.mean_logp),
    "choice": lambda scored: float(crc32(normalize_text(scored.rollout.answer).encode())),
}
"""
Columns of rollouts, [N], computed only if a part of the method reads them.

`length` counts the tokens of all replies, `longest` those of the longest one. `share` is the part of a parent's mass
that a delegated rollout has, `stored` the advantage of an earlier step, `trait` a number that tells rollouts apart (a
part of the score, else the mean log-probability), `choice` a number for each answer.
"""
STEP_COLUMNS: dict[str, Callable[[ScoredRollout], Sequence[Any]]] = {
    "state": lambda scored: scored.observations,
    "action": lambda scored: [render_action(turn.completion) for turn in scored.turns],
    "observation": lambda scored: [*scored.observations[1:], None],
    "step_reward": lambda scored: scored.get_step_part("step_reward") or scored.final_rewards,
    "action_reward": lambda scored: scored.action_rewards,
    "partner_reward": lambda scored: scored.get_step_part("partner_reward", is_required=True),
}
"""
Columns of steps, [M]: the observation before a step (`state`), the action, the observation after it, and rewards.

Without rewards of steps in the score, the last step has the whole reward in `step_reward`, of which returns are made.
"""


def collect_scored(groups: Sequence[Group]) -> list[ScoredRollout]:
    """Return the rollouts that have a valid score and at least one token, in order."""
    scored = [
        ScoredRollout(number, rollout, rollout.score.value)
        for number, group in enumerate(groups)
        for rollout in group.rollouts
        if rollout.score and rollout.score.valid
    ]
    return [rollout for rollout in scored if rollout.steps]


def build_table(rollouts: Sequence[ScoredRollout], method: Method, kl: Sequence[float] | None = None) -> Table:
    """Return the table of rollouts with the columns that the method reads; `kl` is the column of that name."""
    # Only what parts declare is computed: some columns need a reward that returns them, and fail without.
    names = method.required_columns
    columns = {name: [get(scored) for scored in rollouts] for name, get in COLUMNS.items() if name in names}
    if kl is not None:
        columns["kl"] = list(kl)

    step_columns = {}
    for name in [name for name in STEP_COLUMNS if name in names]:
        values = [value for scored in rollouts for value in STEP_COLUMNS[name](scored)]
        is_numeric = all(isinstance(value, float) for value in values)
        step_columns[name] = np.empty(len(values), np.float64 if is_numeric else object)
        step_columns[name][:] = values

    rollout_of_step = [i for i, scored in enumerate(rollouts) for _ in scored.steps]
    groups, rewards = [scored.group for scored in rollouts], [scored.reward for scored in rollouts]
    return replace(Table.from_arrays(groups, rewards, rollout_of_step, **columns), step_columns=step_columns)


@dataclass(frozen=True, slots=True)
class CreditedBatch:
    """Rollouts, their table, and the results of axes 3 to 6."""

    rollouts: Sequence[ScoredRollout]
    table: Table
    selection: NDArray[np.bool_]  # [N] which rollouts go into the update
    credit: NDArray[np.float64]  # [M] advantage of each step


def assign_credit(
    rollouts: Sequence[ScoredRollout], method: Method, kl: Sequence[float] | None = None
) -> CreditedBatch:
    """Apply axes 3 to 6 of the method; see `build_table` for `kl`."""
    table = build_table(rollouts, method, kl)
    empty = np.zeros(0, bool), np.zeros(0)
    return CreditedBatch(rollouts, table, *(compute_advantages(method, table) if rollouts else empty))


@run_in_compute_thread
def build_batch(credited: CreditedBatch) -> Batch | None:
    """Return the batch of an update, or None if no rollout is selected."""
    table = credited.table
    # Unselected rollouts stay in the table, where others are compared with them, and leave the batch.
    rows = np.flatnonzero(credited.selection[table.rollout])  # steps, of all M
    if not len(rows):
        return None
    steps = [step for scored in credited.rollouts for step in scored.steps]
    sequences = [steps[i] for i in rows]
    # Weights and losses read columns of sequences: a column of rollouts is repeated for each of its steps.
    rollout_columns = {name: values[table.rollout[rows]] for name, values in table.columns.items()}
    step_columns = {name: x[rows] for name, x in table.step_columns.items() if x.dtype != object}
    return Batch.from_lists(
        [step.prompt_ids for step in sequences],
        [step.completion_ids for step in sequences],
        table.step_group[rows].tolist(),
        credited.credit[rows].tolist(),
        reward=table.reward[table.rollout[rows]],
        rollout=table.rollout[rows],
        sampler_logp=[step.logprobs for step in sequences],
        **rollout_columns,
        **step_columns,
    )


def render_action(message: Message) -> str:
    """Return an action as text, equal for equal actions: the calls of the message, else its content."""
    if not message.tool_calls:
        return normalize_text(message.content)
    calls = []
    for call in message.tool_calls:
        try:
            # Models write the same arguments in another order, or with other spaces.
            arguments = json.dumps(json.loads(call.arguments), sort_keys=True)
        except ValueError:
            arguments = normalize_text(call.arguments)
        calls.append(f"{call.name} {arguments}")
    return " ".join(calls)


def normalize_text(text: str) -> str:
    """Return the text in Unicode normal form C, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())
