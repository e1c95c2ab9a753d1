"""
Rollouts by a policy in this process: plans that run in lockstep, so that their requests become batches.

Three plans, of which B also asks a judge (another model):

    round       1                2               3              4
    plan A      policy ┐         (waits)         policy ┐       done
    plan B      policy ┼ batch   judge           policy ┼ batch ...
    plan C      policy ┘         done                   ┘

A plan runs until it wants something. Requests to the policy are collected until every plan waits; everything else goes
to the driver first. So a batch depends on the replies before it, never on the time at which they arrive.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.toolkit.run.driver import plan_request
from edgewise.toolkit.tracking.events import CallsPlanned, CallsSampled, Event, ReplyReceived
from edgewise.toolkit.types import BilledTo, BlockingCall, LocalCalls, Plan, Reply, Request, T, Usage

Answer = Callable[[Sequence[Request]], Sequence[Reply]]


@dataclass(slots=True)
class _Task:
    """
    A plan under way, in the tree that yielded lists of plans make.

    A parent waits for `missing` children. Each child writes its result to its `index` in the parent's `results`.
    """

    plan: Plan[Any]
    parent: "_Task | None" = None
    index: int = 0
    results: list[Any] = field(default_factory=list)
    missing: int = 0

    def start_children(self, plans: Sequence[Plan[Any]]) -> list[tuple["_Task", Any]]:
        """Return tasks for these plans, ready to run; without any, this task itself goes on with an empty list."""
        self.results, self.missing = [None] * len(plans), len(plans)
        return [(_Task(plan, self, i), None) for i, plan in enumerate(plans)] or [(self, [])]


def run_lockstep(plans: Sequence[Plan[T]], model: str, answer: Answer) -> Plan[list[T]]:
    """Run plans together and return their results; `answer` receives all requests to `model` of a round at once."""
    root = _Task(iter(()))  # type: ignore[arg-type]
    # Tasks that can go on, each with the value that its plan receives.
    ready = deque(root.start_children(plans) if plans else ())
    local: list[tuple[_Task, Request]] = []  # requests to the policy, until every plan waits
    while ready or local:
        others: list[tuple[_Task, Any]] = []
        while ready:
            task, value = ready.popleft()
            try:
                item = task.plan.send(value)
            except StopIteration as end:
                parent = task.parent
                assert parent is not None
                parent.results[task.index] = end.value
                parent.missing -= 1
                if not parent.missing and parent is not root:
                    ready.append((parent, parent.results))
                continue
            match item:
                case Request(model=name) if name == model:
                    local.append((task, item))
                case list():
                    ready.extend(task.start_children(item))
                case Event():
                    # The same task goes on at once, so that its events stay together, as if it ran alone.
                    ready.appendleft((task, (yield item)))
                case _:
                    others.append((task, item))

        if others:
            # All at once, such as the calls of a judge. What they lead to may still join the batch that is pending.
            values = yield [plan_request(item) for _, item in others]
            ready.extend((task, value) for (task, _), value in zip(others, values, strict=True))
        elif local:
            # The limits must allow the batch before it is computed, and the ledger adds it afterwards.
            requests = [request for _, request in local]
            yield CallsPlanned(requests)
            replies: Sequence[Reply] = yield BlockingCall(answer, (requests,))
            for reply in replies:
                yield ReplyReceived(reply)
            yield CallsSampled(sum_usage(requests, replies))
            ready.extend((task, reply) for (task, _), reply in zip(local, replies, strict=True))
            local = []
    return root.results


def sum_usage(requests: Sequence[Request], replies: Sequence[Reply]) -> list[LocalCalls]:
    """Return the calls and the tokens of a batch by payer and model."""
    usages: dict[tuple[BilledTo, str], list[Usage]] = defaultdict(list)
    for request, reply in zip(requests, replies, strict=True):
        usages[request.payer, request.model].append(reply.usage or Usage())
    return [LocalCalls(*key, len(calls), sum(calls, Usage())) for key, calls in usages.items()]
