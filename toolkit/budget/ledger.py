"""
Ledger of a run: reserve the upper bound of a call before it, settle what it really used afterwards.

Since every call in flight holds a reservation, no number of concurrent calls can exceed a limit, as long as the
provider stays within `max_tokens`. Money is counted in whole pico-dollars: sums are exact in any order.
"""

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from edgewise.toolkit.budget.journal_codec import JournalEntry
from edgewise.toolkit.budget.prices import Price, find_price
from edgewise.toolkit.errors import ConfigError, LimitReached, UnknownPrice
from edgewise.toolkit.types import BilledTo, LocalCalls, Reply, Request, Usage

PICO = 10**12
"""Pico-dollars in a dollar: a price per million tokens with six decimals is a whole number of them per token."""

# Tokens that chat templates add around the text: a default system prompt or date, marks around each message, the
# instructions for tools. Generous, since a reservation is only held while the call runs.
_PER_REQUEST, _PER_MESSAGE, _PER_TOOL, _FOR_TOOLS = 128, 16, 32, 512

Account = tuple[str, int, str, str]
_AXES = ("role", "step", "example", "model")  # the parts of an Account


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of a run, over all its restarts; None means no limit. `minutes` is wall-clock time."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "tokens", "calls", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"The limit {name}={value} must be a number above zero; leave it out for none.")


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """
    Booked or reserved calls, tokens and money.

    `unpriced` counts calls of models without a known price. `estimated` counts calls whose usage the provider did
    not report: they are booked at their upper bound. `pico` is the known part of the cost.
    """

    calls: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    pico: int = 0
    unpriced: int = 0
    estimated: int = 0

    def __add__(self, other: "UsageTotals") -> "UsageTotals":
        return UsageTotals(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def __sub__(self, other: "UsageTotals") -> "UsageTotals":
        return UsageTotals(*(getattr(self, name) - getattr(other, name) for name in self.__slots__))

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output

    @property
    def usd(self) -> float | None:
        """Dollars, None if the price of any model is unknown."""
        return None if self.unpriced else self.pico / PICO


Reservation = tuple[Request, UsageTotals]
"""A call and the amount set aside for it; it must be settled or released exactly once."""


def bound_input_tokens(request: Request) -> int:
    """
    Return an upper bound on prompt tokens.

    A token is at least one byte of UTF-8, so the bytes of all text bound the tokens; templates add a few.
    """
    texts = sum(_count_bytes(m.content) + _PER_MESSAGE for m in request.messages)
    calls = sum(
        _count_bytes(call.name) + _count_bytes(call.arguments) + _count_bytes(call.id) + _PER_TOOL
        for message in request.messages
        for call in message.tool_calls
    )
    tools = sum(
        _count_bytes(t.name) + _count_bytes(t.description) + len(json.dumps(t.parameters)) + _PER_TOOL
        for t in request.tools
    )
    schema = len(json.dumps(request.schema)) if request.schema is not None else 0
    return _PER_REQUEST + texts + calls + (_FOR_TOOLS + tools if request.tools else 0) + schema


def cost(usage: Usage, price: Price) -> int:
    """Return the exact pico-dollars of `usage`; prices are rounded up to whole pico-dollars per token."""
    cached = min(usage.cached, usage.input)
    cached_price = price.input if price.cached is None else price.cached
    return (
        (usage.input - cached) * _pico_per_token(price.input)
        + cached * _pico_per_token(cached_price)
        + usage.output * _pico_per_token(price.output)
    )


class Ledger:
    """
    Calls, tokens and money of a run.

    `prices` overrides known prices (see `toolkit.budget.prices`). `elapsed` is the run's wall time in seconds before
    this start; `clock` returns seconds. A ledger belongs to one event loop.
    """

    # Every method but `reserve` runs without an await, so the event loop never sees a half-booked call, and the
    # ledger needs no lock.

    def __init__(
        self,
        limits: Limits = Limits(),
        prices: Mapping[str, Price] | None = None,
        *,
        elapsed: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limits = limits
        self.total = UsageTotals()  # everything booked so far, earlier starts included
        self.shared = UsageTotals()
        self._prices = dict(prices or {})
        self._known_prices: dict[str, Price | None] = {}
        self._clock = clock
        self._start = clock() - elapsed
        self._max_pico = int((Decimal(str(limits.usd or 0)) * PICO).to_integral_value(ROUND_FLOOR))

        self._accounts: dict[Account, UsageTotals] = {}
        self._local_calls: dict[tuple[BilledTo, str], LocalCalls] = {}
        self._reserved = UsageTotals()
        self._queue: deque[tuple[asyncio.Future[None], UsageTotals]] = deque()
        self._exceeded = ""  # the limit that was reached, once and for all

    # ---- before and after a call -----------------------------------------------------------------

    async def reserve(self, request: Request) -> Reservation:
        """
        Set aside the most that `request` can use; wait while only calls in flight stand in the way.

        Raises `LimitReached` once a call would not fit even with nothing in flight, and for every call after
        that; `UnknownPrice` for a dollar limit without a price; `ConfigError` for a limit on tokens or
        dollars and a request without `max_tokens`.
        """
        amount = self.bound_usage(request)
        # First come, first served: a small call must not overtake a large one, or that one may wait for ever.
        if not self._queue and self._take(amount):
            return request, amount
        if self._exceeded:
            raise self._limit_reached()

        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, amount))
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same tick as the cancellation: then the amount is reserved already.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._reserved -= amount
            self._serve_queue()
            raise
        return request, amount

    def settle(self, reservation: Reservation, reply: Reply) -> None:
        """Book what the call used, and free the rest of its reservation."""
        request, amount = reservation
        self._reserved -= amount
        self._book_reply(request, reply)
        self._serve_queue()

    def release(self, reservation: Reservation) -> None:
        """Free a whole reservation: the provider did not answer, so it bills nothing."""
        self._reserved -= reservation[1]
        self._serve_queue()

    def bound_usage(self, request: Request) -> UsageTotals:
        """Return the most that a call can use, in units that are limited; see `reserve` for errors."""
        if self.limits.tokens is None and self.limits.usd is None:
            return UsageTotals(1)
        price = self.price(request.model)
        if self.limits.usd is not None and price is None:
            raise UnknownPrice(
                f"The price of {request.model} is unknown, so a limit in dollars can't be kept: give"
                " --price INPUT,OUTPUT in dollars per million tokens, or limit tokens or calls instead."
            )
        max_output = _max_output_tokens(request)
        if max_output is None:
            # A limit in dollars needs no bound on tokens that are free.
            if self.limits.tokens is None and price is not None and not (price.input or price.output):
                return UsageTotals(1)
            raise ConfigError("A limit on tokens or dollars needs max_tokens, or one call could use it all up.")
        usage, pico = Usage(input=bound_input_tokens(request), output=max_output), 0
        if price is not None:
            # Whether the provider has the input in its cache is unknown: take the higher of the two prices.
            pico = cost(usage, Price(max(price.input, price.cached or 0), price.output))
        return UsageTotals(1, usage.input, usage.cached, usage.output, pico)

    def price(self, model: str) -> Price | None:
        """Return the price of a model, None if it is unknown."""
        if model not in self._known_prices:
            self._known_prices[model] = find_price(model, self._prices)
        return self._known_prices[model]

    # ---- calls without a reservation -------------------------------------------------------------

    def check_room(self, requests: Iterable[Request]) -> None:
        """Raise `LimitReached` if calls that a model in this process is about to answer would not fit."""
        amount = sum(map(self.bound_usage, requests), self.total + self._reserved)
        self._exceeded = self._exceeded or self._find_exceeded(amount)
        if self._exceeded:
            raise self._limit_reached()

    def add_local_calls(self, calls: LocalCalls) -> None:
        """Book calls that a model in this process answered; no journal has them."""
        self._book(calls.payer, calls.model, calls.calls, calls.usage)
        # Sums without the row: a long run has many rows, and they are written at every checkpoint.
        payer = replace(calls.payer, example="")
        old = self._local_calls.get((payer, calls.model), LocalCalls(payer, calls.model, 0, Usage()))
        self._local_calls[payer, calls.model] = replace(
            old, calls=old.calls + calls.calls, usage=old.usage + calls.usage
        )

    def local_calls_json(self) -> dict[str, Any]:
        """Return local calls and the wall time so far as plain data, for `restore_local_calls`."""
        return {"elapsed": self.elapsed, "sampled": [asdict(calls) for calls in self._local_calls.values()]}

    def restore_local_calls(self, data: Mapping[str, Any]) -> None:
        """Book the local calls of an earlier start of this run, and the time that it took."""
        self._start = min(self._start, self._clock() - data["elapsed"])
        for row in data["sampled"]:
            payer, usage = BilledTo(**row["payer"]), Usage(**row["usage"])
            self.add_local_calls(LocalCalls(payer, row["model"], row["calls"], usage))

    def restore(self, entries: Iterable[JournalEntry]) -> None:
        """Book the recorded calls of earlier starts of this run: limits span restarts."""
        for entry in entries:
            self._book_reply(entry.request, entry.reply)

    def add_shared(self, calls: int, usage: Usage) -> None:
        """Count calls that were not made, since another run of a group had made the same; they cost nothing."""
        self.shared += UsageTotals(calls, usage.input, usage.cached, usage.output)

    # ---- reports ---------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Wall time of the run in seconds, earlier starts included."""
        return self._clock() - self._start

    def tabulate(self, *by: str) -> dict[tuple[str | int, ...], UsageTotals]:
        """Return totals grouped and sorted by any of "role", "step", "example", "model"."""
        columns = [_AXES.index(axis) for axis in by]
        rows: dict[tuple[str | int, ...], UsageTotals] = {}
        for account, totals in self._accounts.items():
            group = tuple(account[c] for c in columns)
            rows[group] = rows.get(group, UsageTotals()) + totals
        return dict(sorted(rows.items()))

    # ---- booking ---------------------------------------------------------------------------------

    def _book_reply(self, request: Request, reply: Reply) -> None:
        if reply.usage is not None:
            return self._book(request.payer, request.model, 1, reply.usage)
        # A provider bills nothing for a call that it refused or ended with an error.
        if reply.stop in ("refused", "failed"):
            return self._book(request.payer, request.model, 1, Usage())

        # It may bill a call that timed out, or an answer without usage: both count as the most they can be.
        output = _max_output_tokens(request)
        if output is None:
            message = reply.message
            output = _count_bytes(message.content) + sum(
                _count_bytes(c.name) + _count_bytes(c.arguments) + _PER_TOOL for c in message.tool_calls
            )
        usage = Usage(input=bound_input_tokens(request), output=output)
        self._book(request.payer, request.model, 1, usage, is_estimate=True)

    def _book(self, payer: BilledTo, model: str, calls: int, usage: Usage, is_estimate: bool = False) -> None:
        price = self.price(model)
        pico = cost(usage, price) if price else 0
        unpriced = calls if price is None else 0
        totals = UsageTotals(calls, usage.input, usage.cached, usage.output, pico, unpriced, int(is_estimate))
        account = (payer.role, payer.step, payer.example, model)
        self._accounts[account] = self._accounts.get(account, UsageTotals()) + totals
        self.total += totals

    def _take(self, amount: UsageTotals) -> bool:
        """Reserve an amount if there is room; remember the limit if there would be none even with nothing in flight."""
        self._exceeded = self._exceeded or self._find_exceeded(self.total + amount)
        if self._exceeded or self._find_exceeded(self.total + self._reserved + amount):
            return False
        self._reserved += amount
        return True

    def _find_exceeded(self, amount: UsageTotals) -> str:
        """Return the limit that a total of `amount` exceeds, or ""."""
        limits = self.limits
        for unit, limit, used, room in (
            ("calls", limits.calls, amount.calls, limits.calls or 0),
            ("tokens", limits.tokens, amount.tokens, limits.tokens or 0),
            ("dollars", limits.usd, amount.pico, self._max_pico),
        ):
            if limit is not None and used > room:
                return f"{unit} ({limit})"
        if limits.minutes is not None and self.elapsed >= limits.minutes * 60:
            return f"minutes ({limits.minutes})"
        return ""

    def _limit_reached(self) -> LimitReached:
        total, usd = self.total, self.total.usd
        dollars = "an unknown number of dollars" if usd is None else f"${usd:.6f}"
        return LimitReached(
            f"The limit on {self._exceeded} does not allow another call: {total.calls} calls,"
            f" {total.tokens} tokens and {dollars} are used. All is saved; run again with"
            " a higher limit to go on."
        )

    def _serve_queue(self) -> None:
        """Let calls in that wait, first come, first served; all of them fail once a limit is reached."""
        while self._queue:
            turn, amount = self._queue[0]
            if not turn.done():
                if self._take(amount):
                    turn.set_result(None)
                elif self._exceeded:
                    turn.set_exception(self._limit_reached())
                else:
                    return
            self._queue.popleft()


def _max_output_tokens(request: Request) -> int | None:
    """Return the most output tokens of a request, None if it has no bound; a vector has no tokens."""
    return 0 if request.is_embedding else request.sampling.max_tokens


def _pico_per_token(dollars_per_million: float) -> int:
    return int((Decimal(str(dollars_per_million)) * (PICO // 1_000_000)).to_integral_value(ROUND_CEILING))


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
