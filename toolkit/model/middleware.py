"""
Clients around clients: each adds one thing. `stack` puts them in order, from outside to inside:

    JournalClient → Retry → Adaptive → Budget → Timeout → Router

The budget stands inside the retries, so that every attempt a provider may bill has its own reservation, and
inside the gate, so that nothing is reserved for a call that still waits.
"""

import asyncio
import time
from collections import deque
from typing import Any

from edgewise.toolkit.budget.journal import Journal, compute_key
from edgewise.toolkit.budget.ledger import Ledger
from edgewise.toolkit.errors import DiskFull, NotRecorded, ProviderDown
from edgewise.toolkit.model.client import Client, RequestTimeout, TransientError
from edgewise.toolkit.model.names import get_server
from edgewise.toolkit.types import Message, Reply, Request

OVERLOADED = (429, 503, 529)
"""The provider as a whole is busy, not at odds with one request."""


class Middleware:
    """A client around another; closing it closes the inner one."""

    def __init__(self, inner: Client):
        self.inner = inner

    async def ask(self, request: Request) -> Reply:
        """Pass the request on."""
        return await self.inner.ask(request)

    async def aclose(self) -> None:
        """Close the inner client."""
        await self.inner.aclose()


class Timeout(Middleware):
    """
    Gives up on a call after `seconds`; raises `RequestTimeout`.

    Never on weights in this process: a batch takes as long as it takes, and asking again would only begin anew.
    """

    def __init__(self, inner: Client, seconds: float):
        super().__init__(inner)
        self.seconds = seconds

    async def ask(self, request: Request) -> Reply:
        """Ask, but no longer than allowed."""
        if request.model.startswith("torch/"):
            return await self.inner.ask(request)
        try:
            async with asyncio.timeout(self.seconds):
                return await self.inner.ask(request)
        except TimeoutError:
            raise RequestTimeout(
                f"{request.model}: no answer within {self.seconds:g} seconds.", 408
            ) from None


class AdaptiveLimiter:
    """
    How many calls may be in flight to one server; first come, first served.

    Additive increase, multiplicative decrease (Chiu and Jain 1989, doi 10.1016/0169-7552(89)90019-6).
    Halves when the server is overloaded, once for all calls that were then in flight; grows by one for every
    full round of good calls, up to `most`; lets nobody in during a pause that the server asked for.
    """

    def __init__(self, max_concurrency: int):
        self.most = max_concurrency
        self.limit = float(max_concurrency)
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cut = 0.0
        self._closed_until = 0.0

    async def acquire(self) -> float:
        """Wait for a place; the time of entering, to be given back to `overloaded`."""
        if self._waiting or not self._open():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.release()
                raise
        else:
            self._inside += 1
        return time.monotonic()

    def release(self) -> None:
        """Give the place back."""
        self._inside -= 1
        self._admit()

    def record_success(self) -> None:
        """Creep up."""
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def record_overload(self, entered: float, pause: float | None) -> None:
        """Back off: half as many calls, and none at all for `pause` seconds."""
        now = time.monotonic()
        if entered >= self._cut:
            self.limit = max(1.0, self.limit / 2)
            self._cut = now
        if pause and now + pause > self._closed_until:
            self._closed_until = now + pause
            asyncio.get_running_loop().call_later(pause, self._admit)

    def _open(self) -> bool:
        return self._inside < int(self.limit) and time.monotonic() >= self._closed_until

    def _admit(self) -> None:
        while self._waiting and self._open():
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)


class RateLimit(Middleware):
    """
    A gate per server, with `most` places: as many calls in flight as the server bears.

    None for weights in this process: what is asked at one time is one batch, which is cut as memory allows.
    """

    def __init__(self, inner: Client, max_concurrency: int):
        super().__init__(inner)
        self.most = max_concurrency
        self.limiters: dict[str, AdaptiveLimiter] = {}

    async def ask(self, request: Request) -> Reply:
        """Ask once there is a place."""
        if request.model.startswith("torch/"):
            return await self.inner.ask(request)
        server = get_server(request.model)
        gate = self.limiters.get(server) or self.limiters.setdefault(server, AdaptiveLimiter(self.most))
        entered = await gate.acquire()
        try:
            reply = await self.inner.ask(request)
        except TransientError as error:
            if error.status in OVERLOADED:
                gate.record_overload(entered, error.retry_after)
            raise
        else:
            gate.record_success()
            return reply
        finally:
            gate.release()


class Budget(Middleware):
    """Reserves in the ledger before a call and settles after it."""

    def __init__(self, inner: Client, ledger: Ledger):
        super().__init__(inner)
        self.ledger = ledger

    async def ask(self, request: Request) -> Reply:
        """Ask if the limits allow it. What timed out or was cancelled may be billed: it is booked in full."""
        ticket = await self.ledger.reserve(request)
        try:
            reply = await self.inner.ask(request)
        except (RequestTimeout, asyncio.CancelledError):
            self.ledger.settle(ticket, Reply(Message("assistant", ""), "timeout"))
            raise
        except BaseException:
            self.ledger.release(ticket)
            raise
        self.ledger.settle(ticket, reply)
        return reply


class Retry(Middleware):
    """
    Asks again, up to `attempts` times in all, what was not answered.

    Waits as long as the provider asks for, up to `patience` seconds, or else exponentially longer with
    jitter, up to `longest` seconds. At last a provider that is overloaded or out of reach raises
    `ProviderDown`; where the request itself may be at fault, a reply says so.
    """

    def __init__(
        self,
        inner: Client,
        attempts: int = 8,
        first: float = 0.5,
        longest: float = 30.0,
        patience: float = 300.0,
    ):
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        super().__init__(inner)
        self.patience = patience
        self._jitter = wait_random_exponential(multiplier=first, max=longest)
        attempted = stop_after_attempt(attempts)
        self._retrying = AsyncRetrying(
            stop=lambda state: attempted(state) or (_wish(state) or 0) > patience,
            wait=lambda state: (_wish(state) or 0) + self._jitter(state),
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        )

    async def ask(self, request: Request) -> Reply:
        """Ask until there is an answer or no hope."""
        try:
            # A copy, for the state of a tenacity object is shared by all tasks of a thread.
            return await self._retrying.copy()(self.inner.ask, request)
        except RequestTimeout as error:
            return Reply(Message("assistant", ""), "timeout", error=str(error))
        except TransientError as error:
            if error.status is None or error.status in OVERLOADED:
                raise ProviderDown(f"{error} Everything so far is saved; run again to resume.") from None
            return Reply(Message("assistant", ""), "failed", error=str(error))


def _wish(state: Any) -> float | None:
    """How many seconds the provider asked to wait."""
    error = state.outcome.exception()
    return error.retry_after if isinstance(error, TransientError) else None


class JournalClient:
    """
    Answers from the journal what is recorded there; records everything else before it is returned.

    Identical requests in flight share one call. Without an inner client, or with a journal open for reading
    only, a call that is not recorded raises `NotRecorded` and costs nothing. The journal itself is closed by
    whoever opened it.
    """

    def __init__(self, inner: Client | None, journal: Journal, linger: float = 5.0):
        self.inner = inner
        self.journal = journal
        self.linger = linger
        self._running: dict[str, asyncio.Task[Reply]] = {}

    async def ask(self, request: Request) -> Reply:
        """The recorded reply, or a new one. Cancelling does not stop a call that is already paid for."""
        key = compute_key(request)
        if (reply := self.journal.get(key)) is not None:
            return reply
        if self.inner is None or self.journal.readonly:
            raise NotRecorded(
                f"The journal {self.journal.path} has no reply of {request.model} to this request."
            )
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._record(self.inner, key, request))
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    async def _record(self, inner: Client, key: str, request: Request) -> Reply:
        if self.journal.is_full:
            raise DiskFull(f"The disk of {self.journal.path} is full: make room and run again to resume.")
        reply = await inner.ask(request)
        await self.journal.put(key, request, reply)
        return reply

    def _finished(self, key: str, task: asyncio.Task[Reply]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # read, or asyncio warns when the asker was cancelled and nobody else waits

    async def aclose(self) -> None:
        """Give calls in flight `linger` seconds, so that they are recorded; then close the inner client."""
        if self._running:
            _, late = await asyncio.wait(list(self._running.values()), timeout=self.linger)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self.inner is not None:
            await self.inner.aclose()


def stack_middleware(
    router: Client,
    journal: Journal | None = None,
    ledger: Ledger | None = None,
    *,
    concurrency: int = 64,
    timeout: float = 120.0,
    attempts: int = 8,
) -> Client:
    """
    Everything that a run puts around its router; without a journal or a ledger, less.

    `concurrency` is per server, `timeout` in seconds per attempt.
    """
    client: Client = Timeout(router, timeout)
    if ledger is not None:
        client = Budget(client, ledger)
    client = Retry(RateLimit(client, concurrency), attempts)
    return client if journal is None else JournalClient(client, journal)
