"""
Reserve and settle: what model calls may cost, and what they did cost.

Before a call its upper bound is reserved; afterwards what it really used is booked. So no number of calls at
once can go over a limit, as long as the provider stays within `max_tokens`. Money is counted in whole
pico-dollars: sums are exact in any order.
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
from edgewise.toolkit.types import BilledTo, Reply, Request, LocalCalls, Usage

PICO = 10**12
"""Pico-dollars in a dollar."""

# What chat templates add around the text: a default system prompt or date, marks around each message, the
# instructions for tools. Generous, for a reservation is only held while the call runs.
_PER_REQUEST, _PER_MESSAGE, _PER_TOOL, _FOR_TOOLS = 128, 16, 32, 512

Key = tuple[str, int, str, str]
_AXES = ("role", "step", "example", "model")


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of a run, over all its restarts; None means no limit. `minutes` is wall time."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "tokens", "calls", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(
                    f"The limit {name}={value} must be a number above zero; leave it out for none."
                )


@dataclass(frozen=True, slots=True)
class Amount:
    """Calls, tokens and pico-dollars; `pico` is 0 where the price is unknown."""

    calls: int = 0
    tokens: int = 0
    pico: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.calls + other.calls, self.tokens + other.tokens, self.pico + other.pico)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.calls - other.calls, self.tokens - other.tokens, self.pico - other.pico)


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """
    What was booked: calls, tokens, money.

    `unpriced` counts calls of models without a known price, `estimated` those whose usage the provider did
    not report, booked at their upper bound. `pico` is the known part of the cost.
    """

    calls: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    pico: int = 0
    unpriced: int = 0
    estimated: int = 0

    def __add__(self, other: "UsageTotals") -> "UsageTotals":
        return UsageTotals(
            self.calls + other.calls,
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.pico + other.pico,
            self.unpriced + other.unpriced,
            self.estimated + other.estimated,
        )

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output

    @property
    def usd(self) -> float | None:
        """Dollars; None means unknown, because the price of a model is."""
        return None if self.unpriced else self.pico / PICO


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation, to be settled or released exactly once."""

    request: Request
    amount: Amount


def bound_input_tokens(request: Request) -> int:
    """
    An upper bound on prompt tokens.

    A token is at least one byte of UTF-8, so the bytes of all text bound the tokens; templates add a few.
    """
    texts = sum(_bytes(m.content) + _PER_MESSAGE for m in request.messages)
    calls = (c for m in request.messages for c in m.tool_calls)
    called = sum(_bytes(c.name) + _bytes(c.arguments) + _bytes(c.id) + _PER_TOOL for c in calls)
    tools = sum(
        _bytes(t.name) + _bytes(t.description) + len(json.dumps(t.parameters)) + _PER_TOOL
        for t in request.tools
    )
    schema = len(json.dumps(request.schema)) if request.schema is not None else 0
    return _PER_REQUEST + texts + called + (_FOR_TOOLS + tools if request.tools else 0) + schema


def cost(usage: Usage, price: Price) -> int:
    """Pico-dollars for `usage`, exactly; a fraction of a pico-dollar in a price is rounded up."""
    cached = min(usage.cached, usage.input)
    for_cached = price.input if price.cached is None else price.cached
    return (
        (usage.input - cached) * _pico_per_token(price.input)
        + cached * _pico_per_token(for_cached)
        + usage.output * _pico_per_token(price.output)
    )


class Ledger:
    """
    The one owner of calls, tokens and money of a run.

    `prices` overrides known prices (see `toolkit.budget.prices`). `elapsed` is the run's wall time in seconds before
    this start; `clock` tells seconds. One ledger serves one event loop.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        prices: Mapping[str, Price] | None = None,
        *,
        elapsed: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limits = limits
        self._prices = dict(prices or {})
        self._clock = clock
        self._start = clock() - elapsed
        self._known: dict[str, Price | None] = {}
        self._books: dict[Key, UsageTotals] = {}
        self.shared = UsageTotals()
        self._sampled: dict[tuple[BilledTo, str], LocalCalls] = {}
        self._spent = Amount()
        self._reserved = Amount()
        self._waiting: deque[tuple[asyncio.Future[None], Amount]] = deque()
        self._most = Amount(
            limits.calls or 0,
            limits.tokens or 0,
            int((Decimal(str(limits.usd or 0)) * PICO).to_integral_value(ROUND_FLOOR)),
        )
        self._reached = ""

    # ---- before and after a call -----------------------------------------------------------------

    async def reserve(self, request: Request) -> Reservation:
        """
        Set aside the most that `request` can use; waits its turn while only calls in flight stand in the way.

        Raises `LimitReached` once a call would not fit even with nothing in flight, and for every call after
        that; `UnknownPrice` for a dollar limit without a price; `ConfigError` for a limit on tokens or
        dollars and a request without `max_tokens`.
        """
        amount = self.bound_usage(request)
        if self._reached or self._waiting or not self._take(amount):
            if self._reached:
                raise self._limit_reached()
            await self._wait(amount)
        return Reservation(request, amount)

    def settle(self, ticket: Reservation, reply: Reply) -> None:
        """Book what the call used, and give back the rest."""
        self._reserved -= ticket.amount
        self._book(ticket.request, reply)
        self._wake()

    def release(self, ticket: Reservation) -> None:
        """Give back all: the provider did not answer, so it bills nothing."""
        self._reserved -= ticket.amount
        self._wake()

    def check_room(self, requests: Iterable[Request]) -> None:
        """Raise `LimitReached` where calls that a model in this process is about to answer would not fit."""
        amount = sum(map(self.bound_usage, requests), self._spent + self._reserved)
        self._reached = self._reached or self._too_much(amount)
        if self._reached:
            raise self._limit_reached()

    def add_local_calls(self, sampled: LocalCalls) -> None:
        """Book calls that a model in this process answered; no journal has them."""
        self._add(sampled.payer, sampled.model, sampled.calls, sampled.usage, False)
        # Without the row: a long run has many.
        payer = replace(sampled.payer, example="")
        old = self._sampled.get((payer, sampled.model), replace(sampled, payer=payer, calls=0, usage=Usage()))
        self._sampled[payer, sampled.model] = replace(
            old, calls=old.calls + sampled.calls, usage=old.usage + sampled.usage
        )

    def local_calls_json(self) -> dict[str, Any]:
        """What was added, and the wall time so far, as plain data; `restore_local_calls` of another ledger takes it."""
        return {"elapsed": self.elapsed, "sampled": [asdict(each) for each in self._sampled.values()]}

    def restore_local_calls(self, data: Mapping[str, Any]) -> None:
        """Book what an earlier start of this run sampled, and the time that it took."""
        self._start = min(self._start, self._clock() - data["elapsed"])
        for each in data["sampled"]:
            payer, usage = BilledTo(**each["payer"]), Usage(**each["usage"])
            self.add_local_calls(LocalCalls(payer, each["model"], each["calls"], usage))

    def bound_usage(self, request: Request) -> Amount:
        """The most that a call can use, in what is limited; see `reserve` for errors."""
        if self.limits.tokens is None and self.limits.usd is None:
            return Amount(1)
        price = self.price(request.model)
        if self.limits.usd is not None and price is None:
            raise UnknownPrice(
                f"The price of {request.model} is unknown, so a limit in dollars can't be kept: give"
                " --price INPUT,OUTPUT in dollars per million tokens, or limit tokens or calls instead."
            )
        longest = _longest(request)
        if longest is None:
            if self.limits.tokens is None and price is not None and not (price.input or price.output):
                return Amount(1)
            raise ConfigError(
                "A limit on tokens or dollars needs max_tokens, or one call could use it all up."
            )
        usage = Usage(input=bound_input_tokens(request), output=longest)
        return Amount(1, usage.total, cost(usage, _dearest(price)) if price else 0)

    def price(self, model: str) -> Price | None:
        """The price of a model; None means unknown."""
        if model not in self._known:
            self._known[model] = find_price(model, self._prices)
        return self._known[model]

    # ---- reports ---------------------------------------------------------------------------------

    @property
    def total(self) -> UsageTotals:
        """Everything booked so far, before restarts too."""
        return sum(self._books.values(), UsageTotals())

    def add_shared(self, calls: int, usage: Usage) -> None:
        """Note calls that were not made, since another run of a group had made the same: nobody paid for these."""
        self.shared += UsageTotals(calls, usage.input, usage.cached, usage.output)

    @property
    def elapsed(self) -> float:
        """Wall time of the run in seconds, before restarts too."""
        return self._clock() - self._start

    def tabulate(self, *by: str) -> dict[tuple[str | int, ...], UsageTotals]:
        """Books summed by any of "role", "step", "example", "model", sorted by them."""
        columns = [_AXES.index(axis) for axis in by]
        rows: dict[tuple[str | int, ...], UsageTotals] = {}
        for key, book in self._books.items():
            group = tuple(key[c] for c in columns)
            rows[group] = rows.get(group, UsageTotals()) + book
        return dict(sorted(rows.items()))

    def restore(self, entries: Iterable[JournalEntry]) -> None:
        """Book what earlier starts of this run paid for, as the journal has it: limits span restarts."""
        for entry in entries:
            self._book(entry.request, entry.reply)

    # ---- inside ----------------------------------------------------------------------------------

    def _book(self, request: Request, reply: Reply) -> None:
        usage, estimated = _used(request, reply)
        self._add(request.payer, request.model, 1, usage, estimated)

    def _add(self, payer: BilledTo, model: str, calls: int, usage: Usage, estimated: bool) -> None:
        price = self.price(model)
        pico = cost(usage, price) if price else 0
        key = (payer.role, payer.step, payer.example, model)
        unpriced = calls if price is None else 0
        book = UsageTotals(calls, usage.input, usage.cached, usage.output, pico, unpriced, int(estimated))
        self._books[key] = self._books[key] + book if key in self._books else book
        self._spent += Amount(calls, usage.total, pico)

    def _take(self, amount: Amount) -> bool:
        """Reserve if there is room; notes if there would be none even with nothing in flight."""
        self._reached = self._reached or self._too_much(self._spent + amount)
        if self._reached or self._too_much(self._spent + self._reserved + amount):
            return False
        self._reserved += amount
        return True

    def _too_much(self, amount: Amount) -> str:
        """Which limit does not allow `amount` in all, or ""."""
        limits, most = self.limits, self._most
        if limits.calls is not None and amount.calls > most.calls:
            return f"calls ({limits.calls})"
        if limits.tokens is not None and amount.tokens > most.tokens:
            return f"tokens ({limits.tokens})"
        if limits.usd is not None and amount.pico > most.pico:
            return f"dollars ({limits.usd})"
        if limits.minutes is not None and self.elapsed >= limits.minutes * 60:
            return f"minutes ({limits.minutes})"
        return ""

    def _limit_reached(self) -> LimitReached:
        return LimitReached(
            f"The limit on {self._reached} does not allow another call: {self._spent.calls} calls,"
            f" {self._spent.tokens} tokens and {_dollars(self.total)} are used. All is saved; run again with"
            " a higher limit to go on."
        )

    async def _wait(self, amount: Amount) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, amount))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._reserved -= amount
            self._wake()
            raise

    def _wake(self) -> None:
        """Serve those who wait, first come first served; all of them fail once a limit is reached."""
        while self._waiting:
            turn, amount = self._waiting[0]
            if not turn.done():
                if self._take(amount):
                    turn.set_result(None)
                elif self._reached:
                    turn.set_exception(self._limit_reached())
                else:
                    return
            self._waiting.popleft()


def _used(request: Request, reply: Reply) -> tuple[Usage, bool]:
    """
    Tokens of a call, and whether they are estimated.

    A provider bills nothing for what it refused or broke off with an error. It may bill what timed out, and
    what it answered without saying how much that was: both count as the most they can be.
    """
    if reply.usage is not None:
        return reply.usage, False
    if reply.stop in ("refused", "failed"):
        return Usage(), False
    longest = _longest(request)
    said = sum(_bytes(c.name) + _bytes(c.arguments) + _PER_TOOL for c in reply.message.tool_calls)
    output = longest if longest is not None else _bytes(reply.message.content) + said
    return Usage(input=bound_input_tokens(request), output=output), True


def _longest(request: Request) -> int | None:
    """The most output tokens of a request; a vector has none."""
    return 0 if request.is_embedding else request.sampling.max_tokens


def _dearest(price: Price) -> Price:
    """For a bound: the provider may or may not find the input in its cache."""
    return Price(max(price.input, price.cached or 0), price.output)


def _pico_per_token(dollars_per_million: float) -> int:
    return int((Decimal(str(dollars_per_million)) * (PICO // 1_000_000)).to_integral_value(ROUND_CEILING))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _dollars(book: UsageTotals) -> str:
    return "an unknown number of dollars" if book.usd is None else f"${book.usd:.6f}"
