"""
An engine in several processes: the first leads, the others do what it does.

Only the leader knows of tasks, journals and run directories. Whatever it does with the engine that all must do
together it tells the others first: load, answer, update, restore.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.batch import Batch
from learner.config import WeightsConfig
from learner.engine import Engine
from learner.method import Method
from learner.ranks import Ranks
from learner.update import Updated
from toolkit.types import Reply, Request

STOP = "stop"


class Crew(Engine):
    """The engine of process 0. Use it as a context manager, or the others wait for ever."""

    def __init__(self, config: WeightsConfig, method: Method, ranks: Ranks):
        ranks.told((config, method))
        super().__init__(config, method, ranks)

    def answer(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Each process answers its share."""
        self.ranks.told(("answer", (requests,), {}))
        return _answer(self, requests)

    def update(self, batch: Batch, number: int, *, slowed: float = 1.0) -> Updated:
        """Each process takes its share of the slices."""
        self.ranks.told(("update", (batch, number), {"slowed": slowed}))
        return super().update(batch, number, slowed=slowed)

    def restore(self, path: Path) -> dict[str, Any]:
        """All go to the same checkpoint."""
        self.ranks.told(("restore", (path,), {}))
        return super().restore(path)

    def reload(self) -> None:
        """All begin anew."""
        self.ranks.told(("reload", (), {}))
        super().reload()

    def close(self) -> None:
        """Let the others end."""
        self.ranks.told((STOP, (), {}))


def follow(ranks: Ranks) -> None:
    """What every process but the first does: what the leader says, until it says stop."""
    config, method = ranks.told(None)
    engine = Engine(config, method, ranks)
    while True:
        name, given, named = ranks.told(None)
        match name:
            case "stop":
                return
            case "answer":
                _answer(engine, *given)
            case _:
                getattr(engine, name)(*given, **named)


def _answer(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """Replies to all requests: those with the same messages are answered by one process, which encodes them once."""
    places: dict[Any, list[int]] = {}
    for i, request in enumerate(requests):
        places.setdefault(request.messages, []).append(i)
    mine = [i for group in engine.ranks.share(list(places.values())) for i in group]
    found = Engine.answer(engine, [requests[i] for i in mine]) if mine else []
    replies: dict[int, Reply] = {}
    for part in engine.ranks.gathered(list(zip(mine, found, strict=True))):
        replies |= dict(part)
    return [replies[i] for i in range(len(requests))]
