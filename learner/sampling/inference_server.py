"""
An OpenAI-compatible server (vLLM, SGLang) that samples in the place of this process.

It is asked for completions of token ids, so that prompts are exactly what the learner encodes; vLLM gives the ids of
its replies too (`return_token_ids`). Its numbers are not quite ours, as its kernels round otherwise and its weights may
be older: `mismatch` says by how much, and `truncated` are the weights that correct for it. A server that loads weights
from a disk which both see is given those of each step: adapters by vLLM (`POST /v1/load_lora_adapter`, which needs
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1), all weights by SGLang (`POST /update_weights_from_disk`).

At another temperature than 1 a server must give log-probabilities of what it draws from: vLLM does so with
`--logprobs-mode processed_logprobs`.
"""

import asyncio
import contextlib
import functools
import json
import math
import os
import secrets
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.respond import MAX_TOKENS, seed_for, until
from edgewise.toolkit.errors import EdgewiseError, ModelError
from edgewise.toolkit.model.client import OpenAIClient
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.openai_format import MalformedResponse, Quirks, decode_completion, build_refusal
from edgewise.toolkit.types import TokenizedTurn, Message, Reply, Request

LOAD_ADAPTER, UNLOAD_ADAPTER = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
LOAD_WEIGHTS = "/update_weights_from_disk"
PATIENCE = 600.0
"""Seconds that a server may take to load weights."""


class Server:
    """
    What samples behind a URL that ends in `/v1`; `model` is the server's name for it.

    `policy` is what is trained: its tokenizer encodes prompts. Weights are pushed through `folder`, which the server
    must be able to read under the same path; a temporary one by default.
    """

    def __init__(
        self,
        url: str,
        model: str,
        policy: Policy,
        *,
        folder: Path | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        attempts: int = 8,
    ):
        self.url, self.model, self.policy = url.rstrip("/"), model, policy
        self.folder, self.concurrency, self.timeout, self.attempts = folder, concurrency, timeout, attempts
        self._pushed, self._own = 0, secrets.token_hex(4)
        self._adapter = ""
        self._offered: frozenset[str] | None = None

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """
        A reply to each request, asked all at once. Blocks; raises what `toolkit.model.middleware.stack` raises.

        `encoded` holds the server's ids and log-probabilities. Where it gives no ids its text is tokenised again, and
        all log-probabilities are nan unless its tokens turn out to be the same.
        """
        return asyncio.run(self._answer(requests))

    async def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        key = os.environ.get("EDGEWISE_API_KEY", "none")
        asked = f"{self.url}#{self._adapter or self.model}"
        inner = _Completions(self.url, key, self.policy)
        client = stack_middleware(inner, concurrency=self.concurrency, timeout=self.timeout, attempts=self.attempts)
        try:
            replies = await asyncio.gather(*(client.ask(replace(each, model=asked)) for each in requests))
        finally:
            await client.aclose()
        return [replace(r, model=each.model) for r, each in zip(replies, requests, strict=True)]

    # ---- weights ---------------------------------------------------------------------------------------

    def push(self, policy: Policy) -> bool:
        """
        Let the server load the weights as they are now, through the disk; False where it offers no way to.

        Raises ModelError where it offers one and refuses.
        """
        route = LOAD_ADAPTER if policy.lora else LOAD_WEIGHTS
        if route not in self.offered:
            return False
        self._pushed += 1
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="edgewise-"))
        place = self.folder / f"{self._pushed:06d}"
        run_in_compute_thread(policy.save)(place)
        if policy.lora:
            self._load_adapter(place)
        else:
            self._post(LOAD_WEIGHTS, {"model_path": str(place)})
        # The one before it may be what answers a call that is still under way.
        shutil.rmtree(self.folder / f"{self._pushed - 2:06d}", ignore_errors=True)
        return True

    def close(self) -> None:
        """Delete the weights that were written for the server, which has loaded them, and let go of an adapter."""
        if self._adapter:
            with contextlib.suppress(EdgewiseError):  # a server that is gone has let go of it
                self._unload(self._adapter)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def offered(self) -> frozenset[str]:
        """The routes of the server, as its own description lists them."""
        if self._offered is None:
            described = self._call("GET", "/openapi.json", None)
            self._offered = frozenset(described.get("paths", {}) if isinstance(described, dict) else {})
        return self._offered

    def _load_adapter(self, place: Path) -> None:
        """Under a new name, as a server may keep what it computed under an old one, or what another run gave it."""
        old, self._adapter = self._adapter, f"{self.model}-edgewise-{self._own}-{self._pushed}"
        self._post(LOAD_ADAPTER, {"lora_name": self._adapter, "lora_path": str(place)})
        if old:
            self._unload(old)

    def _unload(self, name: str) -> None:
        if UNLOAD_ADAPTER in self.offered:
            self._post(UNLOAD_ADAPTER, {"lora_name": name})

    def _post(self, route: str, body: dict[str, Any]) -> None:
        said = self._call("POST", route, body)
        if isinstance(said, dict) and said.get("success") is False:
            raise ModelError(
                f"{self._root}{route} did not take the weights: {said.get('message', 'it says not why')}."
            )

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")

    def _call(self, method: str, route: str, body: dict[str, Any] | None) -> Any:
        """What the server answers, parsed if it is JSON; None where it does not know the route."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("EDGEWISE_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(self._root + route, data, headers, method=method)
        try:
            with urllib.request.urlopen(call, timeout=PATIENCE) as reply:
                text = reply.read().decode()
        except urllib.error.HTTPError as error:
            if method == "GET" and error.code in (404, 405, 501):
                return None
            said = error.read().decode(errors="replace").strip()[:300]
            raise ModelError(f"{self._root}{route} answers {error.code}: {said or error.reason}") from None
        except OSError as error:
            raise ModelError(f"{self._root}{route} can't be reached: {error}.") from None
        try:
            return json.loads(text)
        except ValueError:
            return text


class _Completions(OpenAIClient):
    """Completions of token ids; a request's messages are encoded by the policy."""

    path = "/completions"

    def __init__(self, url: str, key: str, policy: Policy):
        super().__init__(url, key)
        self.policy = policy
        self.encode = functools.cache(policy.encode)

    async def ask(self, request: Request) -> Reply:
        """Answer one request; tools and prompts that fill the context are refused here."""
        prompt = self.encode(request.messages)
        if request.tools:
            return build_refusal(f"{request.model} takes no tools: they are described to it in words.")
        if len(prompt) >= self.policy.context_length:
            return build_refusal(
                f"The prompt has {len(prompt)} tokens, and the model reads {self.policy.context_length} at most."
            )
        return await super().ask(request)

    def build_body(self, request: Request, quirks: Quirks) -> dict[str, Any]:
        body = super().build_body(request, {})
        del body["messages"]
        prompt = self.encode(request.messages)
        room = self.policy.context_length - len(prompt)
        more = {
            "prompt": list(prompt),
            "max_tokens": min(room, request.sampling.max_tokens or MAX_TOKENS),
            "seed": seed_for(request),
            "logprobs": 1,
            "return_token_ids": True,
        }
        return {name: value for name, value in {**body, **more}.items() if name not in quirks}

    def read_reply(self, request: Request, data: Any, latency: float) -> Reply:
        try:
            choice = data["choices"][0]
            chat = {**data, "choices": [{**choice, "message": {"content": choice["text"]}}]}
            found = _encoded(self.policy, self.encode(request.messages), request, choice)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise MalformedResponse(f"no completion: {error!r}") from None
        reply = decode_completion(chat, latency)
        message = Message("assistant", until(reply.message.content, request.sampling.stop))
        return replace(reply, message=message, tokens=found)


def _encoded(policy: Policy, prompt: tuple[int, ...], request: Request, choice: dict[str, Any]) -> TokenizedTurn:
    """Ids and log-probabilities as the server says them, or as well as they can be known."""
    told = choice.get("logprobs") or {}
    values, ids = told.get("token_logprobs"), choice.get("token_ids")
    if ids is None:
        ids = _again(policy, request, choice)
        written = [policy.tokenizer.decode([token]) for token in ids]
        if written != told.get("tokens"):
            values = None
    if values is None or len(values) != len(ids):
        values = [math.nan] * len(ids)
    return TokenizedTurn(prompt, tuple(ids), tuple(map(float, values)))


def _again(policy: Policy, request: Request, choice: dict[str, Any]) -> list[int]:
    """The text tokenised again, with the token that ends a reply where it ended by itself."""
    ids = policy.tokenizer.encode(choice["text"], add_special_tokens=False)
    by_itself = choice.get("finish_reason") == "stop" and not request.sampling.stop
    if by_itself and policy.stop_ids and not (ids and ids[-1] in policy.stop_ids):
        usual = policy.tokenizer.eos_token_id
        ids.append(usual if usual in policy.stop_ids else min(policy.stop_ids))
    return ids


# ---- what the difference is, and what undoes it ------------------------------------------------------------
