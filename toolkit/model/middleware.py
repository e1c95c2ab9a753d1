"""
Client middleware: each wrapper adds one behaviour. `stack_middleware` puts them around the router:

    JournalClient → Retry → RateLimit → Budget → Timeout → Router
    └ outermost                                            └ innermost

The journal is outermost, so that a recorded reply costs no attempt and no reservation. The budget stands inside the
retries, since a provider may bill every attempt, and inside the rate limit, so that a call that still waits reserves
nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from typing import Any

from edgewise.toolkit.budget.journal import Journal, compute_key
from edgewise.toolkit.budget.ledger import Ledger, Reservation
from edgewise.toolkit.errors import DiskFull, NotRecorded, ProviderDown
from edgewise.toolkit.model.client import Client, RequestTimeout, TransientError
from edgewise.toolkit.model.names import get_server
from edgewise.toolkit.types import Message, Reply, Request

OVERLOADED = (429, 503, 529)
"""The provider as a whole is busy, whatever the request."""

PATIENCE = 300.0
"""Longest wait in seconds that a provider may ask for; after a longer one the run stops, and can be resumed."""


class Middleware:
    """Base of clients around another client; each has its own `ask`."""

    def __init__(self, inner: Client):
        self.inner = inner

    async def aclose(self) -> None:
        """Close the inner client."""
        await self.inner.aclose()


class Timeout(Middleware):
    """Limit the time of a call to `seconds`; raise `RequestTimeout` after it."""

    def __init__(self, inner: Client, seconds: float):
        super().__init__(inner)
        self.seconds = seconds

    async def ask(self, request: Request) -> Reply:
        """Send the request, and wait no longer than allowed."""
        # Weights in this process have no timeout: a batch takes as long as it takes, and a retry would start anew.
        if request.model.startswith("torch/"):
            return await self.inner.ask(request)
        try:
            async with asyncio.timeout(self.seconds):
                return await self.inner.ask(request)
        except TimeoutError:
            raise RequestTimeout(f"{request.model}: no answer within {self.seconds:g} seconds.", 408) from None


class AdaptiveLimiter:
    """
    Limit on the calls in flight to one server; first come, first served.

    Additive increase, multiplicative decrease (Chiu and Jain 1989, doi 10.1016/0169-7552(89)90019-6): the limit
    halves when the server is overloaded, and grows by one for every full round of successful calls, up to
    `max_concurrency`. During a pause that the server asks for, no call starts.
    """

    def __init__(self, max_concurrency: int):
        self.max_concurrency = max_concurrency
        self.limit = float(max_concurrency)
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._last_decrease = 0.0
        self._paused_until = 0.0

    async def acquire(self) -> float:
        """Wait for a place; return the time at which the call starts, for `record_overload`."""
        if self._queue or not self._has_place():
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                # The place may have come in the same tick as the cancellation: pass it on.
                if turn.done() and not turn.cancelled():
                    self.release()
                raise
        else:
            self._in_flight += 1
        return time.monotonic()

    def release(self) -> None:
        """Free a place."""
        self._in_flight -= 1
        self._start_waiting()

    def record_success(self) -> None:
        """Raise the limit by 1/limit, so by one in a round of as many calls as are allowed."""
        self.limit = min(self.max_concurrency, self.limit + 1 / self.limit)

    def record_overload(self, start: float, pause: float | None) -> None:
        """Halve the limit, and start no call for `pause` seconds; `start` is when the failed call started."""
        now = time.monotonic()
        # Once for all calls that were in flight: they met the same overload.
        if start >= self._last_decrease:
            self.limit = max(1.0, self.limit / 2)
            self._last_decrease = now
        if pause and now + pause > self._paused_until:
            self._paused_until = now + pause
            asyncio.get_running_loop().call_later(pause, self._start_waiting)

    def _has_place(self) -> bool:
        return self._in_flight < int(self.limit) and time.monotonic() >= self._paused_until

    def _start_waiting(self) -> None:
        while self._queue and self._has_place():
            turn = self._queue.popleft()
            if not turn.done():  # cancelled
                self._in_flight += 1
                turn.set_result(None)


class RateLimit(Middleware):
    """One `AdaptiveLimiter` per server: as many calls in flight as the server bears, at most `max_concurrency`."""

    def __init__(self, inner: Client, max_concurrency: int):
        super().__init__(inner)
        self.max_concurrency = max_concurrency
        self.limiters: dict[str, AdaptiveLimiter] = {}

    async def ask(self, request: Request) -> Reply:
        """Send the request once there is a place."""
        # Weights in this process have no limit: concurrent requests form one batch, which is cut to fit the memory.
        if request.model.startswith("torch/"):
            return await self.inner.ask(request)
        server = get_server(request.model)
        limiter = self.limiters.setdefault(server, AdaptiveLimiter(self.max_concurrency))
        start = await limiter.acquire()
        try:
            reply = await self.inner.ask(request)
        except TransientError as error:
            if error.status in OVERLOADED:
                limiter.record_overload(start, error.retry_after)
            raise
        else:
            limiter.record_success()
            return reply
        finally:
            limiter.release()


class Budget(Middleware):
    """Reserve in the ledger before a call and settle after it."""

    def __init__(self, inner: Client, ledger: Ledger):
        super().__init__(inner)
        self.ledger = ledger

    async def ask(self, request: Request) -> Reply:
        """Send the request if the limits allow it."""
        reservation = await self.ledger.reserve(request)
        return await settle_call(self.ledger, reservation, self.inner.ask(request))


async def settle_call(ledger: Ledger, reservation: Reservation, call: Awaitable[Reply]) -> Reply:
    """Await a call and settle its reservation."""
    try:
        reply = await call
    except (RequestTimeout, asyncio.CancelledError):
        # The provider may go on and bill the call: book it in full.
        ledger.settle(reservation, Reply(Message("assistant", ""), "timeout"))
        raise
    except BaseException:
        ledger.release(reservation)
        raise
    ledger.settle(reservation, reply)
    return reply


class Retry(Middleware):
    """
    Retry transient errors, up to `attempts` attempts in all.

    The wait is what the provider asks for, up to `PATIENCE`, plus exponential backoff with jitter, from `first` up to
    `longest` seconds. In the end an overloaded or unreachable provider raises `ProviderDown`; where the request itself
    may be at fault, the reply says so.
    """

    def __init__(self, inner: Client, attempts: int = 8, first: float = 0.5, longest: float = 30.0):
        # Here, since tenacity is slow to import and a replay needs no retries.
        import tenacity

        super().__init__(inner)
        jitter = tenacity.wait_random_exponential(multiplier=first, max=longest)
        stop = tenacity.stop_after_attempt(attempts)
        self._retrying = tenacity.AsyncRetrying(
            stop=lambda state: stop(state) or _get_retry_after(state) > PATIENCE,
            wait=lambda state: _get_retry_after(state) + jitter(state),
            retry=tenacity.retry_if_exception_type(TransientError),
            reraise=True,
        )

    async def ask(self, request: Request) -> Reply:
        """Send the request until there is an answer or no hope."""
        try:
            # A copy, since all tasks of a thread share the state of a tenacity object.
            return await self._retrying.copy()(self.inner.ask, request)
        except RequestTimeout as error:
            return Reply(Message("assistant", ""), "timeout", error=str(error))
        except TransientError as error:
            if error.status is None or error.status in OVERLOADED:
                raise ProviderDown(f"{error} Everything so far is saved; run again to resume.") from None
            return Reply(Message("assistant", ""), "failed", error=str(error))


def _get_retry_after(state: Any) -> float:
    """Return the seconds that the provider asks to wait, 0 if it does not."""
    error = state.outcome.exception()
    return (isinstance(error, TransientError) and error.retry_after) or 0.0


class JournalClient:
    """
    Answer from the journal what is recorded there; record everything else before it is returned.

    Identical requests in flight share one call. Without an inner client, or with a journal open for reading only, a
    call that is not recorded raises `NotRecorded` and costs nothing. `linger` is how many seconds `aclose` gives to
    calls in flight. Whoever opened the journal closes it.
    """

    def __init__(self, inner: Client | None, journal: Journal, linger: float = 5.0):
        self.inner = inner
        self.journal = journal
        self.linger = linger
        self._in_flight: dict[str, asyncio.Task[Reply]] = {}

    async def ask(self, request: Request) -> Reply:
        """Return the recorded reply, or a new one."""
        key = compute_key(request)
        if (reply := self.journal.get(key)) is not None:
            return reply
        if self.inner is None or self.journal.readonly:
            raise NotRecorded(f"The journal {self.journal.path} has no reply of {request.model} to this request.")
        inner = self.inner

        async def send_and_record() -> Reply:
            if self.journal.is_full:
                raise DiskFull(f"The disk of {self.journal.path} is full: make room and run again to resume.")
            reply = await inner.ask(request)
            await self.journal.put(key, request, reply)
            return reply

        def forget(task: asyncio.Task[Reply]) -> None:
            del self._in_flight[key]
            if not task.cancelled():
                task.exception()  # marks it as retrieved: asyncio warns of errors that no caller waits for

        task = self._in_flight.get(key)
        if task is None:
            task = self._in_flight[key] = asyncio.create_task(send_and_record())
            task.add_done_callback(forget)
        # Shielded: a cancelled caller must not lose a call that is already paid for.
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait up to `linger` seconds for calls in flight, so that they are recorded; then close the inner client."""
        if self._in_flight:
            _, late = await asyncio.wait(list(self._in_flight.values()), timeout=self.linger)
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
    Return the router with all middleware of a run around it; without a journal or a ledger, with less.

    `concurrency` is per server, `timeout` in seconds per attempt.
    """
    client: Client = Timeout(router, timeout)
    if ledger is not None:
        client = Budget(client, ledger)
    client = Retry(RateLimit(client, concurrency), attempts)
    return client if journal is None else JournalClient(client, journal)
