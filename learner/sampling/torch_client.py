"""
Weights in this process as a client: `torch/NAME` answers wherever a model is asked.

Whatever is asked in the same moment is drawn as one batch, in the order of rows and samples; what comes while a batch
is computed is the next one. Models compute in `learner.hardware.compute_thread`; there is no HTTP.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

from edgewise.learner.hardware.compute_thread import run_in_compute_thread, submit_to_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.respond import answer
from edgewise.toolkit.errors import Interrupted, UnknownModel
from edgewise.toolkit.model.embedded.catalogue import MODELS
from edgewise.toolkit.types import Reply, Request

MOMENT = 0.005
"""Seconds without a new request after which a batch begins."""
LARGEST = 1024
"""Requests in one batch."""


@dataclass(slots=True, eq=False)
class _Asked:
    request: Request
    reply: asyncio.Future[Reply]

    @property
    def place(self) -> tuple[str, int, str]:
        """Where it stands in a batch, whenever it came."""
        return self.request.payer.example, self.request.sample, repr(self.request.messages)


class TorchClient:
    """Answers by a policy; see `toolkit.model.client.Client`."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self._asked: list[_Asked] = []
        self._working: asyncio.Task[None] | None = None
        self._batch: Future[list[Reply]] | None = None
        self._closed = threading.Event()

    @classmethod
    def load(cls, name: str) -> "TorchClient":
        """The client of what follows "torch/" in a model's name. Blocks; raises what `Policy.load` raises."""
        check(name)
        return cls(run_in_compute_thread(Policy.load)(name))

    async def ask(self, request: Request) -> Reply:
        """Answer one request, with others. One that is cancelled before its batch begins costs nothing."""
        asked = _Asked(request, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await asked.reply

    async def aclose(self) -> None:
        """Stop at the next token; the weights are let go of."""
        self._closed.set()
        if self._working:
            self._working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._working
        if self._batch:
            await asyncio.to_thread(wait, [self._batch])

    async def _work(self) -> None:
        while self._asked:
            await self._moment()
            live = sorted((a for a in self._asked if not a.reply.done()), key=lambda a: a.place)
            batch, self._asked = live[:LARGEST], live[LARGEST:]
            try:
                await self._answer(batch)
            except BaseException:
                for asked in (*batch, *self._asked):
                    asked.reply.cancel()
                raise

    async def _moment(self) -> None:
        """Wait until nobody else asks."""
        count = -1
        while count < len(self._asked) < LARGEST:
            count = len(self._asked)
            await asyncio.sleep(MOMENT)

    async def _answer(self, batch: list[_Asked]) -> None:
        requests = [asked.request for asked in batch]
        self._batch = submit_to_compute_thread(answer, self.policy, requests, self._watch)
        try:
            replies = await asyncio.wrap_future(self._batch)
        except Exception as error:
            for asked in batch:
                if not asked.reply.done():
                    asked.reply.set_exception(error)
            return
        for asked, reply in zip(batch, replies, strict=True):
            if not asked.reply.done():
                asked.reply.set_result(reply)

    def _watch(self) -> None:
        if self._closed.is_set():
            raise Interrupted("Stopped.")


def check(name: str) -> None:
    """Whatever can be known of what follows "torch/" without loading it. Raises `ModelError`."""
    path = Path(name).expanduser()
    if name.removeprefix("local/") in MODELS or path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return
    if path.exists():
        raise UnknownModel(f"{name} is neither the directory of a model nor a .gguf file.")
    if name.count("/") != 1 or name.startswith((".", "~", "/")) or path.suffix == ".gguf":
        raise UnknownModel(
            f"There is no {name} here: a torch/ model is a directory, a .gguf file, OWNER/NAME of the Hugging Face "
            f"hub, or one of {', '.join(MODELS)}."
        )
