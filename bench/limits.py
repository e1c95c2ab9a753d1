"""
Whether limits hold: 200 calls at once against limits on calls, tokens and dollars.

A server answers after a moment with as many tokens as `max_tokens` allows or fewer; what it counted is
compared with the limit. Overshoot must be exactly 0, and the ledger must agree with the server to the token.
"""

import asyncio
import sys
from fractions import Fraction
from typing import Any

from common import quick, report

from edgewise.toolkit.budget.ledger import Ledger, Limits
from edgewise.toolkit.budget.prices import Price
from edgewise.toolkit.errors import LimitReached
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.router import Router
from edgewise.toolkit.types import Message, Request, Sampling
from tests.support.server import Server

CONCURRENCY = 200
MOST = 12
PRICE = Price(input=0.15, output=0.6, cached=0.075)


def words(body: dict[str, Any]) -> str:
    number = int(body["messages"][-1]["content"].split()[-1])
    return " ".join(["word"] * (number % (MOST + 1)))


def used(server: Server) -> dict[str, Fraction]:
    """What the server would bill: calls, tokens, dollars."""
    asked = sum(len(body["messages"][-1]["content"].split()) for body in server.bodies)
    said = sum(len(words(body).split()) for body in server.bodies)
    dollars = (asked * Fraction("0.15") + said * Fraction("0.6")) / 10**6
    return {"calls": Fraction(len(server.bodies)), "tokens": Fraction(asked + said), "usd": dollars}


async def push(url: str, ledger: Ledger, calls: int) -> int:
    """Ask until the limit stops it; how many calls were refused."""
    model = f"{url}#m"
    client = stack_middleware(Router(), ledger=ledger, concurrency=CONCURRENCY)

    async def one(number: int) -> int:
        request = Request(model, (Message("user", f"what team is order {number}"),), Sampling(max_tokens=MOST))
        try:
            await client.ask(request)
        except LimitReached:
            return 1
        return 0

    try:
        return sum(await asyncio.gather(*(one(number) for number in range(calls))))
    finally:
        await client.aclose()


def case(limits: Limits, calls: int) -> dict[str, Any]:
    with Server(words, latency=0.01) as server:
        ledger = Ledger(limits, {f"{server.url}#m": PRICE})
        refused = asyncio.run(push(server.url, ledger, calls))
        billed = used(server)
    booked = ledger.total
    exact = (booked.calls, booked.tokens, Fraction(booked.pico, 10**12)) == tuple(billed.values())
    name, limit = next((n, Fraction(str(v))) for n in billed if (v := getattr(limits, n)) is not None)
    overshoot = max(Fraction(0), billed[name] - limit)
    return {
        "limit": float(limit),
        "used": float(billed[name]),
        "overshoot": float(overshoot),
        "refused": refused,
        "ledger_is_exact": exact,
    }


def main() -> int:
    calls = 1000 if quick() else 3000
    limits = {
        "calls": Limits(calls=calls // 2),
        "tokens": Limits(tokens=calls * 5),
        "usd": Limits(usd=calls * 0.0000015),
    }
    figures = {name: case(limit, calls) for name, limit in limits.items()}
    holds = all(f["overshoot"] == 0 and f["ledger_is_exact"] and f["refused"] for f in figures.values())
    return report("limits", figures, "overshoot 0 in calls, tokens and dollars at 200 calls at once", holds)


if __name__ == "__main__":
    sys.exit(main())
