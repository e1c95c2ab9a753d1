import asyncio
import json
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.toolkit.budget.journal import JournalEntry
from edgewise.toolkit.budget.ledger import PICO, Ledger, Limits, bound_input_tokens, cost
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import ConfigError, LimitReached, UnknownPrice
from edgewise.toolkit.types import BilledTo, Message, Reply, Request, Sampling, Tool, Usage

PRICE = Price(input=0.15, output=0.6, cached=0.075)
MODEL = "openai/x"


def request(content="hello", max_tokens: int | None = 10, model=MODEL, **rest):
    return Request(model, (Message("user", content),), Sampling(max_tokens=max_tokens), **rest)


def reply(input=5, output=10, cached=0, **rest):
    return Reply(Message("assistant", "ok"), usage=Usage(input, cached, output), **rest)


def entry(request, reply):
    return JournalEntry("key", request, reply, 0.0)


async def spend(ledger, calls, seed=0):
    """`calls` calls at once of random length; how many the ledger refused."""
    rng = random.Random(seed)

    async def one(number):
        try:
            reservation = await ledger.reserve(request(f"question {number}"))
        except LimitReached:
            return 1
        await asyncio.sleep(rng.random() / 100)
        ledger.settle(reservation, reply(input=rng.randint(1, 30), output=rng.randint(0, 10)))
        return 0

    return sum(await asyncio.gather(*(one(number) for number in range(calls))))


@pytest.mark.parametrize(
    ("limits", "used"),
    [
        (Limits(calls=120), lambda book: book.calls / 120),
        (Limits(tokens=3000), lambda book: book.tokens / 3000),
        (Limits(usd=0.0005), lambda book: Fraction(book.pico, PICO) / Fraction("0.0005")),
    ],
)
def test_no_limit_is_overshot_by_200_calls_at_once(limits, used):
    ledger = Ledger(limits, {MODEL: PRICE})
    refused = asyncio.run(spend(ledger, 200))
    assert refused > 0
    assert 0.8 < used(ledger.total) <= 1


def test_a_vector_is_reserved_and_booked_as_input_alone():
    call = request("hello", max_tokens=None, is_embedding=True)
    ledger = Ledger(Limits(tokens=2 * bound_input_tokens(call), usd=1.0), {MODEL: Price(input=1, output=999)})

    async def main():
        first, second = [await ledger.reserve(call) for _ in range(2)]
        ledger.settle(first, Reply(Message("assistant", "AACAPw=="), usage=Usage(input=3)))
        ledger.settle(second, Reply(Message("assistant", "AACAPw==" * 100)))

    asyncio.run(main())
    book = ledger.total
    assert (book.calls, book.input, book.output, book.estimated) == (2, 3 + bound_input_tokens(call), 0, 1)
    assert book.usd == pytest.approx(book.input / 1e6)


def test_calls_wait_while_reservations_do_not_fit_at_once():
    ledger = Ledger(Limits(tokens=200 * 40 + 200), {MODEL: PRICE})
    assert asyncio.run(spend(ledger, 200)) == 0


def test_a_call_limit_is_used_up_exactly():
    ledger = Ledger(Limits(calls=57))
    assert asyncio.run(spend(ledger, 200)) == 143
    assert ledger.total.calls == 57


def test_waiting_calls_are_served_in_order():
    async def main():
        ledger, order = Ledger(Limits(tokens=bound_input_tokens(request()) + 10)), []

        async def one(number):
            reservation = await ledger.reserve(request())
            order.append(number)
            await asyncio.sleep(0)
            ledger.release(reservation)

        await asyncio.gather(*(one(number) for number in range(20)))
        return order

    assert asyncio.run(main()) == list(range(20))


def test_no_call_starts_after_a_limit_was_reached():
    async def main():
        ledger = Ledger(Limits(tokens=1000))
        with pytest.raises(LimitReached, match="tokens"):
            await ledger.reserve(request(max_tokens=5000))
        with pytest.raises(LimitReached, match="tokens"):
            await ledger.reserve(request(max_tokens=1))

    asyncio.run(main())


@pytest.mark.parametrize("granted", [False, True])
def test_a_cancelled_wait_leaves_no_reservation_behind(granted):
    async def main():
        ledger = Ledger(Limits(calls=1))
        reservation = await ledger.reserve(request())
        waiting = asyncio.create_task(ledger.reserve(request()))
        await asyncio.sleep(0)
        if granted:
            ledger.release(reservation)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not granted:
            ledger.release(reservation)
        await asyncio.wait_for(ledger.reserve(request()), 1)

    asyncio.run(main())


def test_minutes_count_from_before_a_restart():
    now = 100.0
    ledger = Ledger(Limits(minutes=2), elapsed=100, clock=lambda: now)

    async def main():
        nonlocal now
        ledger.settle(await ledger.reserve(request()), reply())
        now += 20
        with pytest.raises(LimitReached, match="minutes"):
            await ledger.reserve(request())

    asyncio.run(main())


def test_calls_of_an_earlier_start_count():
    ledger = Ledger(Limits(calls=2))
    ledger.restore([entry(request(), reply()), entry(request(), reply())])
    with pytest.raises(LimitReached):
        asyncio.run(ledger.reserve(request()))


@pytest.mark.parametrize("limits", [Limits(tokens=1000), Limits(usd=1)])
def test_a_limit_on_tokens_or_dollars_needs_max_tokens(limits):
    with pytest.raises(ConfigError, match="max_tokens"):
        asyncio.run(Ledger(limits, {MODEL: PRICE}).reserve(request(max_tokens=None)))


def test_a_free_model_needs_no_max_tokens_under_a_dollar_limit():
    call = request(max_tokens=None, model="local/m")
    assert asyncio.run(Ledger(Limits(usd=0.01)).reserve(call))


def test_a_dollar_limit_without_a_price_names_the_option():
    with pytest.raises(UnknownPrice, match="--price INPUT,OUTPUT"):
        asyncio.run(Ledger(Limits(usd=1)).reserve(request(model="http://h/v1#m")))


@pytest.mark.parametrize("name", ["usd", "tokens", "calls", "minutes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_no_positive_number_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})


def test_money_is_exact_and_unknown_money_is_not_zero():
    ledger = Ledger(prices={MODEL: PRICE})
    ledger.restore([entry(request(), reply(input=1000, cached=400, output=7))] * 3)
    exact = 3 * (600 * Fraction("0.15") + 400 * Fraction("0.075") + 7 * Fraction("0.6")) / 10**6
    assert Fraction(ledger.total.pico, PICO) == exact
    ledger.restore([entry(request(model="http://h/v1#m"), reply())])
    assert ledger.total.usd is None
    assert ledger.tabulate("model")[(MODEL,)].usd == float(exact)


def test_the_table_sums_by_any_axis_and_every_sum_is_the_total():
    ledger = Ledger(prices={MODEL: PRICE})
    payers = [BilledTo(role, step, example) for role in ("rollout", "judge") for step in (0, 1) for example in "ab"]
    ledger.restore([entry(request(payer=payer), reply(output=n)) for n, payer in enumerate(payers)])
    assert list(ledger.tabulate("role", "step")) == [("judge", 0), ("judge", 1), ("rollout", 0), ("rollout", 1)]
    for axes in ((), ("role",), ("example", "step"), ("model",)):
        assert sum(book.output for book in ledger.tabulate(*axes).values()) == ledger.total.output == 28


@pytest.mark.parametrize(
    ("stop", "booked", "estimated"),
    [("stop", True, 1), ("timeout", True, 1), ("refused", False, 0), ("failed", False, 0)],
)
def test_missing_usage_counts_as_the_bound_unless_refused(stop, booked, estimated):
    ledger = Ledger()
    ledger.restore([entry(request(), Reply(Message("assistant", "ok"), stop, None))])
    assert ledger.total.tokens == (bound_input_tokens(request()) + 10 if booked else 0)
    assert (ledger.total.calls, ledger.total.estimated) == (1, estimated)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20), st.randoms())
def test_sums_do_not_depend_on_order(pairs, rng):
    def total(order):
        ledger = Ledger(prices={MODEL: Price(0.1, 0.2)})
        ledger.restore([entry(request(), reply(i, o)) for i, o in order])
        return ledger.total

    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert total(pairs) == total(shuffled)


@given(st.text(max_size=200), st.text(max_size=50))
def test_the_bound_on_input_is_at_least_every_byte_of_text(content, description):
    tool = Tool("look", description, {"type": "object", "description": description})
    call = Request(MODEL, (Message("user", content), Message("assistant", content)), tools=(tool,))
    text = 2 * content + description + json.dumps(tool.parameters)
    assert bound_input_tokens(call) >= len(text.encode("utf-8", "surrogatepass"))


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.decimals("0", "100", places=6))
def test_cost_is_tokens_times_price(input, output, price):
    assert cost(Usage(input, 0, output), Price(float(price), float(price))) == (input + output) * int(price * 10**6)
