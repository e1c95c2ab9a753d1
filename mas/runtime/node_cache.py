"""What the runs of one group share: a node that does the same on the same query is run once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from edgewise.mas.runtime.node import NodeOutput
from edgewise.mas.runtime.node_limits import Meter

Ran = tuple[NodeOutput, Meter]
"""What came of a node, and its calls."""


class Shared:
    """
    Outcomes of a group's nodes by what was asked of them, those under way included.

    A node that runs equals another in its role, model, prompt, lessons, sampling, seed, query and in what it hears,
    so what comes out is the same with and without sharing. Which of two equal nodes is the one that runs depends on
    which is ready first.
    """

    def __init__(self) -> None:
        self._done: dict[Hashable, Ran] = {}
        self._running: dict[Hashable, asyncio.Future[None]] = {}

    async def once(self, key: Hashable, run: Callable[[], Awaitable[Ran]]) -> tuple[Ran, bool]:
        """
        What `run` gives, and whether it was taken from another.

        Where a limit of its own run stopped it, its time was over (which another may have started later), or it
        raises, the next one runs for itself.
        """
        while key in self._running:
            await asyncio.shield(self._running[key])
        if key in self._done:
            return self._done[key], True
        running = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            ran = await run()
            outcome, meter = ran
            if not meter.stopped and outcome.ended != "timeout":
                self._done[key] = ran
            return ran, False
        finally:
            del self._running[key]
            running.set_result(None)
