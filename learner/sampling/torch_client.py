"""
Weights in this process as a model client: `torch/NAME` works wherever a model is named.

Requests of the same moment are one batch, in the order of rows and samples. Requests that arrive while a batch is
computed are the next one. There is no HTTP.

    event loop        ask ─▶ _pending ─▶ _work: waits for a quiet moment ──────▶ sets the futures
    compute thread                          answer: one batch at a time, see `learner.hardware.compute_thread`
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

QUIET_SECONDS = 0.005
"""A batch begins after so long without a new request."""
MAX_BATCH = 1024
"""Requests in one batch."""


@dataclass(slots=True, eq=False)
class _PendingCall:
    request: Request
    reply: asyncio.Future[Reply]

    @property
    def rank(self) -> tuple[str, int, str]:
        """Its place in a batch, which does not depend on the time at which it came."""
        return self.request.payer.example, self.request.sample, repr(self.request.messages)


class TorchClient:
    """Client that answers by a policy; implements `toolkit.model.client.Client`."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self._pending: list[_PendingCall] = []
        self._worker: asyncio.Task[None] | None = None
        self._batch: Future[list[Reply]] | None = None
        # Set by the event loop, read by the compute thread between two tokens.
        self._closed = threading.Event()

    @classmethod
    def load(cls, name: str) -> "TorchClient":
        """Load the model after "torch/" in a model's name. Blocks; raises what `Policy.load` raises."""
        check(name)
        return cls(run_in_compute_thread(Policy.load)(name))

    async def ask(self, request: Request) -> Reply:
        """Answer one request, in a batch with others. If it is cancelled before its batch begins, it costs nothing."""
        call = _PendingCall(request, asyncio.get_running_loop().create_future())
        self._pending.append(call)
        # One worker at a time: it takes all calls that come while it works.
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await call.reply

    async def aclose(self) -> None:
        """Stop at the next token, and wait until the compute thread no longer holds the weights."""
        self._closed.set()
        if self._worker:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        if self._batch:
            await asyncio.to_thread(wait, [self._batch])

    async def _work(self) -> None:
        while self._pending:
            # Agents that run side by side ask one after the other within a moment; to wait for all of them gives one
            # batch in place of many. The wait ends once nobody has come.
            count = -1
            while count < len(self._pending) < MAX_BATCH:
                count = len(self._pending)
                await asyncio.sleep(QUIET_SECONDS)
            live = sorted((call for call in self._pending if not call.reply.done()), key=lambda call: call.rank)
            batch, self._pending = live[:MAX_BATCH], live[MAX_BATCH:]

            requests = [call.request for call in batch]
            # An attribute, because `aclose` waits until the compute thread has let go of the weights.
            self._batch = submit_to_compute_thread(answer, self.policy, requests, self._check_closed)
            try:
                replies: list[Reply | Exception] = [*await asyncio.wrap_future(self._batch)]
            except Exception as error:
                replies = [error] * len(batch)
            except BaseException:
                # This task is cancelled: nobody would answer the others.
                for call in (*batch, *self._pending):
                    call.reply.cancel()
                raise
            for call, reply in zip(batch, replies, strict=True):
                if call.reply.done():  # cancelled meanwhile
                    continue
                if isinstance(reply, Exception):
                    call.reply.set_exception(reply)
                else:
                    call.reply.set_result(reply)

    def _check_closed(self) -> None:
        if self._closed.is_set():
            raise Interrupted("Stopped.")


def check(name: str) -> None:
    """Check the part of a model's name after "torch/" without loading it. Raises `ModelError`."""
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
