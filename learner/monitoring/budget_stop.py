"""When a run should stop learning, so that what its limits leave still pays for measuring what it learnt."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from edgewise.learner.forecast import forecast
from edgewise.learner.spec import WeightsSpec
from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.tracking.events import Event, GroupsFinished, RunOpened
from edgewise.toolkit.types import Request

CLEARLY = 1.25
"""How many times the usual number of calls a step has that sampled anew: rollouts of worlds differ in length."""


@dataclass(slots=True)
class BudgetStop:
    """
    Asked before each step of a run, and receives the run's events.

    A step is taken to use what the dearest one so far did, a call of the measurement what calls did on average. Where
    that is too little, the run ends at its limit without a measurement, as any run does.
    """

    spec: WeightsSpec
    _ledger: Ledger | None = None
    _before: Mapping[str, float] = field(default_factory=dict)
    _step: dict[str, float] = field(default_factory=dict)
    _rollouts: int = 0
    _replies: int = 0

    def on_event(self, event: Event) -> None:
        """Find the run's ledger, and how many replies a rollout has."""
        if isinstance(event, RunOpened):
            self._ledger = event.ledger
        elif isinstance(event, GroupsFinished):
            runs = [run for group in event.groups for run in group.rollouts]
            self._rollouts += len(runs)
            self._replies += sum(len(run.steps) for run in runs)

    @property
    def _long(self) -> float:
        """Replies of a rollout: one, but in worlds and with tools."""
        return max(1.0, self._replies / max(1, self._rollouts))

    def __call__(self) -> str:
        """Why learning should stop; "" if it should not."""
        if self._ledger is None:
            return ""
        used = _used(self._ledger)
        scale = self._stepped(used)
        for name, most in asdict(self._ledger.limits).items():
            needed = scale * self._step[name] + self._measuring(name, used)
            if most is not None and used[name] + needed > most:
                return f"the run's limit of {most:,g} {name} leaves no more than measuring takes"
        return ""

    def _stepped(self, used: Mapping[str, float]) -> float:
        """Note down what the last step used; how much dearer than the dearest so far another may be."""
        config = self.spec.config
        usual = config.batch_size * config.group_size * (self._long + self.spec.task.reward.asks)
        first = {} if self._before else {"calls": usual}
        for name, amount in used.items():
            grown = first.get(name, amount - self._before.get(name, amount))
            self._step[name] = max(self._step.get(name, 0.0), grown)
        self._before = used
        # Where rewards do not differ, a method that samples anew may do so as often as it is let.
        anew = self._step["calls"] > CLEARLY * usual
        return max(1.0, usual * config.refills / self._step["calls"]) if anew else 1.0

    def _measuring(self, name: str, used: Mapping[str, float]) -> float:
        """What measuring will take of a limit, before and after."""
        plan, config = forecast(self.spec), self.spec.config
        calls = (plan.least - config.group_size) * (self._long + self.spec.task.reward.asks)
        expected = calls * used[name] / used["calls"] if used["calls"] else 0.0
        if name != "tokens" or self._ledger is None:
            return calls if name == "calls" else expected
        # Half is over when the other half is asked, which must fit with the most that each of its calls may use.
        rows = (Request(config.model, row.messages, config.eval_sampling) for row in self.spec.task.test)
        return expected / 2 + config.samples * sum(self._ledger.bound_usage(row).tokens for row in rows)


def _used(ledger: Ledger) -> dict[str, float]:
    total = ledger.total
    return {
        "calls": total.calls,
        "tokens": total.tokens,
        "usd": total.usd or 0.0,
        "minutes": ledger.elapsed / 60,
    }
