"""
Early stop of a run, so that its limits still allow the evaluation of what was learnt.

    0 ────────────────── used ───────── next step ────────── evaluation ────────── limit
                           │   scale x dearest step so far      │ fits?
                           └────────────── checked before each step, for each limit

Estimates are meant to be too high: a run that stops a step early has a result, a run that reaches its limit in the
evaluation has none.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from edgewise.learner.forecast import forecast
from edgewise.learner.spec import WeightsSpec
from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.tracking.events import Event, GroupsFinished, RunOpened
from edgewise.toolkit.types import Request

REFILL_FACTOR = 1.25
"""Calls of a step, in multiples of the usual number, that mean it was refilled: episodes differ in length."""


@dataclass(slots=True)
class BudgetStop:
    """Observer of a run, called before each step."""

    spec: WeightsSpec
    _ledger: Ledger | None = None
    _previous: Mapping[str, float] = field(default_factory=dict)  # used at the last check
    _dearest: dict[str, float] = field(default_factory=dict)  # most that a step used, by limit
    _rollouts: int = 0
    _replies: int = 0

    def on_event(self, event: Event) -> None:
        """Receive the run's ledger, and count replies."""
        if isinstance(event, RunOpened):
            self._ledger = event.ledger
        elif isinstance(event, GroupsFinished):
            rollouts = [rollout for group in event.groups for rollout in group.rollouts]
            self._rollouts += len(rollouts)
            self._replies += sum(len(rollout.steps) for rollout in rollouts)

    def __call__(self) -> str:
        """Return why learning should stop before the next step; "" if it should not."""
        ledger = self._ledger
        if ledger is None:
            return ""
        config, total = self.spec.config, ledger.total
        minutes, usd = ledger.elapsed / 60, total.usd or 0.0
        used = {"calls": total.calls, "tokens": total.tokens, "usd": usd, "minutes": minutes}
        # A rollout has one reply, but more with tools or in an environment; a judge may grade it.
        calls_per_rollout = max(1.0, self._replies / max(1, self._rollouts)) + self.spec.task.reward.asks
        usual_calls = config.batch_size * config.group_size * calls_per_rollout

        # The last step. Before the first one only its calls are known.
        for name, amount in used.items():
            cost = amount - self._previous.get(name, amount)
            if not self._previous and name == "calls":
                cost = usual_calls
            self._dearest[name] = max(self._dearest.get(name, 0.0), cost)
        self._previous = used

        # A method that refills its batch may sample up to `refills` times as much as usual.
        scale = 1.0
        if self._dearest["calls"] > REFILL_FACTOR * usual_calls:
            scale = max(1.0, usual_calls * config.refills / self._dearest["calls"])

        # `least` are the calls of one group and of the evaluation, before and after. A call of it uses what calls used
        # on average so far.
        eval_calls = (forecast(self.spec).least - config.group_size) * calls_per_rollout
        for name, limit in asdict(ledger.limits).items():
            if limit is None:
                continue
            evaluation = eval_calls * used[name] / used["calls"] if used["calls"] else 0.0
            if name == "calls":
                evaluation = eval_calls
            elif name == "tokens":
                # The ledger reserves the most that a call may use while it is under way. One arm is over when the
                # calls of the other begin, all at once.
                rows = [Request(config.model, row.messages, config.eval_sampling) for row in self.spec.task.test]
                evaluation = evaluation / 2 + config.samples * sum(ledger.bound_usage(row).tokens for row in rows)
            if used[name] + scale * self._dearest[name] + evaluation > limit:
                return f"the run's limit of {limit:,g} {name} leaves no more than measuring takes"
        return ""
