"""
How much the stack around a model costs: calls per second against a bare loop over `AsyncOpenAI`.

An instant server in another process answers; 200 calls are in flight. The three ways are timed in turn,
several times, and the ratio is taken within each round.
"""

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from common import instant_server, quick, report

from edgewise.toolkit.budget.journal import Journal
from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.model.client import Client
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.types import Message, Request, Sampling

CONCURRENCY = 200
PROMPT = "Route this message to a team: I was charged twice for order {}."
numbers = itertools.count()

Ask = Callable[[int], Awaitable[object]]


async def calls_per_second(ask: Ask, calls: int) -> float:
    prompts = iter([next(numbers) for _ in range(calls)])

    async def worker() -> None:
        for number in prompts:
            await ask(number)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return calls / (time.perf_counter() - start)


async def bare(url: str, calls: int) -> float:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(number: int) -> object:
            messages = [{"role": "user", "content": PROMPT.format(number)}]
            return await client.chat.completions.create(model="instant", messages=messages, max_tokens=8)  # type: ignore[arg-type]

        return await calls_per_second(ask, calls)


async def stacked(url: str, calls: int, journal: Journal | None) -> float:
    ledger = Ledger(Limits(calls=10**9, tokens=10**12))
    client: Client = stack_middleware(Router(), journal, ledger, concurrency=CONCURRENCY)

    async def ask(number: int) -> object:
        message = Message("user", PROMPT.format(number))
        return await client.ask(Request(f"{url}#instant", (message,), Sampling(max_tokens=8)))

    try:
        return await calls_per_second(ask, calls)
    finally:
        await client.aclose()


async def measure(url: str, calls: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"bare": [], "journal_on": [], "journal_off": []}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.sqlite") as journal:
            rates = {
                "bare": await bare(url, calls),
                "journal_on": await stacked(url, calls, journal),
                "journal_off": await stacked(url, calls, None),
            }
        if number:  # the first round warms up
            for name, rate in rates.items():
                times[name].append(rate)
            print({name: round(rate) for name, rate in rates.items()}, flush=True)
    return times


def main() -> int:
    calls, rounds = (1000, 3) if quick() else (5000, 5)
    with instant_server() as url:
        times = asyncio.run(measure(url, calls, rounds))
    on, off = (
        statistics.median(ours / bare for ours, bare in zip(times[name], times["bare"], strict=True))
        for name in ("journal_on", "journal_off")
    )
    figures = {name: round(statistics.median(rates)) for name, rates in times.items()}
    figures |= {"ratio_journal_on": round(on, 3), "ratio_journal_off": round(off, 3), "calls": calls}
    bar = "calls per second against a bare AsyncOpenAI loop: journal on >= 0.7, off >= 0.9"
    return report("client", figures, bar, on >= 0.7 and off >= 0.9)


if __name__ == "__main__":
    sys.exit(main())
