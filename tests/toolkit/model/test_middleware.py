import asyncio
import logging
import threading
import time
from collections import Counter

import pytest

from edgewise.toolkit.budget.journal import Journal
from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.errors import DiskFull, LimitReached, NotRecorded, ProviderDown, UnknownModel
from edgewise.toolkit.model.client import RequestTimeout, TransientError
from edgewise.toolkit.model.middleware import Budget, JournalClient, RateLimit, Retry, Timeout, stack_middleware
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.types import BilledTo, Message, Reply, Request, Sampling, Usage
from tests.support.server import Fault, Server, in_order

MODEL = "scripted/a:b"


def make_request(content="hello", model=MODEL, **rest):
    return Request(model, (Message("user", content),), Sampling(max_tokens=10), **rest)


def run(client, *requests):
    """All requests at once; replies or exceptions in order."""

    async def main():
        try:
            return await asyncio.gather(*map(client.ask, requests), return_exceptions=True)
        finally:
            await client.aclose()

    return asyncio.run(main())


def failing_client(*errors):
    """A model that fails with these, one call each, and answers "ok" from then on."""
    left = iter(errors)
    return ScriptedClient(lambda request: next(left, "ok"))


async def answer_slowly(request):
    await asyncio.sleep(0.02)
    return "ok"


# ---- time-out ------------------------------------------------------------------------------------


def test_a_slow_call_times_out_and_a_quick_one_does_not():
    async def answer(request):
        await asyncio.sleep(10 if request.messages[0].content == "slow" else 0)
        return "ok"

    late, quick = run(Timeout(ScriptedClient(answer), 0.05), make_request("slow"), make_request("quick"))
    assert isinstance(late, RequestTimeout)
    assert quick.message.content == "ok"


# ---- gate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 7])
def test_rate_limit_bounds_concurrency_and_keeps_order(most):
    now, peak, order = 0, 0, []

    async def answer(request):
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        order.append(request.sample)
        await asyncio.sleep(0)
        now -= 1
        return "ok"

    run(RateLimit(ScriptedClient(answer), most), *(make_request(sample=n) for n in range(50)))
    assert peak == most
    assert order == list(range(50))


def test_overload_halves_the_limit_and_success_raises_it():
    async def main():
        busy = True

        async def answer(request):
            await asyncio.sleep(0.001)
            return TransientError("busy", 429) if busy else "ok"

        client = RateLimit(ScriptedClient(answer), 16)
        await asyncio.gather(*(client.ask(make_request()) for _ in range(16)), return_exceptions=True)
        halved = client.limiters[MODEL].limit
        busy = False
        await asyncio.gather(*(client.ask(make_request()) for _ in range(9)))
        grown = client.limiters[MODEL].limit
        await asyncio.gather(*(client.ask(make_request()) for _ in range(500)))
        return halved, grown, client.limiters[MODEL].limit

    halved, grown, most = asyncio.run(main())
    assert halved == 8
    assert 8.9 < grown < 10
    assert most == 16


def test_a_retry_after_pauses_all_calls_to_the_server():
    starts = []

    def answer(request):
        starts.append(time.monotonic())
        return TransientError("busy", 429, 0.2) if len(starts) == 1 else "ok"

    run(RateLimit(ScriptedClient(answer), 1), *(make_request(sample=n) for n in range(5)))
    assert starts[1] - starts[0] >= 0.19


def test_an_error_of_one_request_does_not_slow_the_others():
    client = RateLimit(failing_client(TransientError("broken", 500), UnknownModel("who?")), 8)
    run(client, make_request(), make_request())
    assert client.limiters[MODEL].limit == 8


def test_a_call_cancelled_while_it_waits_takes_no_place():
    async def main():
        client = RateLimit(ScriptedClient(answer_slowly), 1)
        tasks = [asyncio.create_task(client.ask(make_request(sample=n))) for n in range(5)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await asyncio.wait_for(client.ask(make_request()), 1)

    assert asyncio.run(main()).message.content == "ok"


# ---- retry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [TransientError("", s) for s in (408, 409, 429, 500, 503, None)] + [RequestTimeout("", 408)]
)
def test_transient_errors_are_retried(error):
    client = failing_client(error, error)
    (reply,) = run(Retry(client, first=0.001), make_request())
    assert reply.message.content == "ok"
    assert len(client.requests) == 3


@pytest.mark.parametrize(
    ("error", "stop"),
    [
        (TransientError("boom", 500), "failed"),
        (RequestTimeout("late", 408), "timeout"),
        (TransientError("", 409), "failed"),
    ],
)
def test_a_request_that_may_be_at_fault_fails_alone(error, stop):
    client = failing_client(*[error] * 9)
    (reply,) = run(Retry(client, attempts=3, first=0.001), make_request())
    assert (reply.stop, reply.error, reply.usage) == (stop, str(error), None)
    assert len(client.requests) == 3


@pytest.mark.parametrize("status", [None, 429, 503, 529])
def test_a_provider_that_is_down_stops_the_run_with_a_sentence(status):
    (error,) = run(
        Retry(failing_client(*[TransientError("m is busy.", status)] * 9), attempts=3, first=0.001), make_request()
    )
    assert isinstance(error, ProviderDown)
    assert "run again to resume" in str(error)


def test_permanent_errors_are_not_retried():
    client = failing_client(UnknownModel("who?"))
    (error,) = run(Retry(client, first=0.001), make_request())
    assert isinstance(error, UnknownModel)
    assert len(client.requests) == 1


def test_retry_waits_as_long_as_the_server_says():
    start = time.monotonic()
    run(Retry(failing_client(TransientError("", 429, 0.2)), first=0.001), make_request())
    assert 0.2 <= time.monotonic() - start < 2
    (error,) = run(Retry(failing_client(TransientError("", 429, 3600)), first=0.001), make_request())
    assert isinstance(error, ProviderDown)


def test_retries_of_many_calls_at_once_do_not_mix():
    seen = Counter()

    async def answer(request):
        seen[request.sample] += 1
        await asyncio.sleep(0.001)
        return TransientError("", 500) if seen[request.sample] <= request.sample % 4 else str(request.sample)

    replies = run(
        Retry(ScriptedClient(answer), first=0.001, longest=0.01), *(make_request(sample=n) for n in range(100))
    )
    assert [reply.message.content for reply in replies] == [str(n) for n in range(100)]
    assert all(seen[n] == n % 4 + 1 for n in range(100))


# ---- budget --------------------------------------------------------------------------------------


def test_budget_books_answered_calls_on_their_payer():
    ledger = Ledger()
    client = Budget(failing_client(TransientError("", 429), UnknownModel("")), ledger)
    run(client, *(make_request(payer=BilledTo("judge", 2, "x")) for _ in range(3)))
    assert ledger.tabulate("role", "step", "example").keys() == {("judge", 2, "x")}
    assert ledger.total.calls == 1


def test_a_timed_out_attempt_is_booked_in_full():
    ledger = Ledger(Limits(calls=2))
    replies = run(Retry(Budget(failing_client(*[RequestTimeout("")] * 5), ledger), first=0.001), make_request())
    assert isinstance(replies[0], LimitReached)
    assert (ledger.total.calls, ledger.total.estimated) == (2, 2)


@pytest.mark.parametrize("limits", [Limits(calls=50), Limits(tokens=20000)])
def test_limits_hold_under_200_calls_at_once_with_faults(limits):
    with Server(latency=0.005, faults=in_order(*[Fault(500), None, Fault(429)] * 5)) as server:
        ledger = Ledger(limits)
        client = stack_middleware(Router(), ledger=ledger, concurrency=200)
        replies = run(client, *(make_request(f"number {n}", f"{server.url}#m") for n in range(200)))
    answered = [reply for reply in replies if isinstance(reply, Reply)]
    assert len(answered) == ledger.total.calls == len(server.bodies) - 10
    assert ledger.total.tokens == sum(reply.usage.total for reply in answered)
    assert ledger.total.calls <= (limits.calls or 200)


# ---- journal -------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal.sqlite", ballast=0) as journal:
        yield journal


def test_a_recorded_call_is_never_asked_or_booked_again(tmp_path):
    requests = [make_request(sample=n) for n in range(20)]
    totals, models = [], []
    for _ in range(2):
        model, ledger = ScriptedClient(lambda request: f"answer {request.sample}"), Ledger()
        with Journal(tmp_path / "j") as journal:
            replies = run(stack_middleware(model, journal, ledger), *requests)
        totals.append(ledger.total.calls)
        models.append(len(model.requests))
        assert [reply.message.content for reply in replies] == [f"answer {n}" for n in range(20)]
    assert totals == models == [20, 0]


def test_identical_requests_in_flight_share_one_call(journal):
    model = ScriptedClient(answer_slowly)
    replies = run(JournalClient(model, journal), *[make_request()] * 50, make_request(sample=1))
    assert len(model.requests) == 2
    assert len(set(map(id, replies[:50]))) == 1


def test_an_error_is_not_recorded_and_reaches_all_callers(journal):
    async def answer(request):
        await asyncio.sleep(0)
        return UnknownModel("who?")

    errors = run(JournalClient(ScriptedClient(answer), journal), make_request(), make_request())
    assert [type(error) for error in errors] == [UnknownModel] * 2
    assert len(journal) == 0


def test_a_reply_is_on_disk_before_it_is_returned(tmp_path):
    async def main():
        with Journal(tmp_path / "j") as journal:
            await JournalClient(ScriptedClient(lambda request: "ok"), journal).ask(make_request())
            with Journal(tmp_path / "j", readonly=True) as reader:
                return len(reader)

    assert asyncio.run(main()) == 1


def test_a_cancelled_caller_does_not_lose_a_paid_reply(journal):
    async def main():
        client = JournalClient(ScriptedClient(answer_slowly), journal)
        first = asyncio.create_task(client.ask(make_request()))
        second = asyncio.create_task(client.ask(make_request()))
        await asyncio.sleep(0.001)
        first.cancel()
        reply = await second
        third = asyncio.create_task(client.ask(make_request(sample=1)))
        await asyncio.sleep(0.001)
        third.cancel()
        await client.aclose()
        return first.cancelled(), reply.message.content

    assert asyncio.run(main()) == (True, "ok")
    assert len(journal) == 2


def test_closing_does_not_wait_for_a_call_that_never_ends(journal, caplog):
    async def main():
        client = JournalClient(ScriptedClient(lambda request: asyncio.sleep(60, "ok")), journal, linger=0.05)
        task = asyncio.create_task(client.ask(make_request()))
        await asyncio.sleep(0.001)
        await client.aclose()
        return await asyncio.gather(task, return_exceptions=True)

    start = time.monotonic()
    with caplog.at_level(logging.ERROR):
        assert isinstance(asyncio.run(main())[0], asyncio.CancelledError)
    assert time.monotonic() - start < 5
    assert not any("never retrieved" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("readonly", [True, False])
def test_a_replay_has_recorded_calls_only_and_asks_no_model(tmp_path, readonly):
    model = ScriptedClient(lambda request: "ok")
    with Journal(tmp_path / "j") as journal:
        run(JournalClient(model, journal), make_request())
    with Journal(tmp_path / "j", readonly=readonly) as journal:
        client = stack_middleware(model, journal) if readonly else JournalClient(None, journal)
        known, unknown = run(client, make_request(), make_request("never sent"))
    assert known.message.content == "ok"
    assert isinstance(unknown, NotRecorded)
    assert len(model.requests) == 1


# ---- all of them ---------------------------------------------------------------------------------


def test_the_stack_survives_faults_of_a_real_server(tmp_path):
    """Refusals, errors and a dropped connection; every question is answered and paid for exactly once."""
    faults = in_order(*[Fault(429, headers={"Retry-After": "0.1"}), Fault(500), None, Fault(None), Fault(503)] * 3)
    with Server(latency=0.01, faults=faults) as server, Journal(tmp_path / "j") as journal:
        ledger = Ledger(Limits(calls=100))
        client = stack_middleware(Router(), journal, ledger, concurrency=32)
        replies = run(client, *(make_request(f"number {n}", f"{server.url}#m") for n in range(100)))
        assert [reply.message.content for reply in replies] == [f"number {n}" for n in range(100)]
        assert ledger.total.calls == len(journal) == 100
        restored = Ledger()
        restored.restore(journal)
    assert restored.total == ledger.total
    assert len(server.bodies) == 112
    assert server.most_at_once <= 32


def test_replies_keep_their_usage_and_latency_through_the_stack(tmp_path):
    with Server(latency=0.02) as server, Journal(tmp_path / "j") as journal:
        (reply,) = run(stack_middleware(Router(), journal), make_request("two words", f"{server.url}#m"))
        (entry,) = journal
    assert entry.reply == reply
    assert reply.usage == Usage(2, 0, 2)
    assert reply.latency >= 0.02


def test_no_thread_is_left_behind(tmp_path):
    before = threading.active_count()
    with Journal(tmp_path / "j") as journal:
        run(stack_middleware(ScriptedClient(lambda request: "ok"), journal), make_request())
    assert threading.active_count() == before


def test_nothing_is_paid_for_once_the_disk_is_full(journal, monkeypatch):
    monkeypatch.setattr(Journal, "is_full", property(lambda self: True))
    model = ScriptedClient(lambda request: "ok")
    (error,) = run(JournalClient(model, journal), make_request())
    assert isinstance(error, DiskFull)
    assert not model.requests
