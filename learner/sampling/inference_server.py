"""
Sampling by an OpenAI-compatible server (vLLM, SGLang) in place of this process.

The server receives completions of token ids, so that prompts are exactly what the learner encodes. vLLM returns the ids
of completions, too (`return_token_ids`). Its log-probabilities differ a little from ours, because its kernels round
otherwise and its weights may be older: `UpdateStats.mismatch` measures it, and
`gradient_step.truncated_importance_weights` corrects it.

A server that can load weights from a shared disk gets those of each step:

    vLLM      adapters       POST /v1/load_lora_adapter (needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)
    SGLang    all weights    POST /update_weights_from_disk

At a temperature other than 1 the server must return log-probabilities of the distribution that it samples from: vLLM
does so with `--logprobs-mode processed_logprobs`.
"""

import asyncio
import contextlib
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
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from edgewise.learner.hardware.compute_thread import run_in_compute_thread
from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.respond import MAX_TOKENS, cut_at_stop, derive_request_seed, explain_refusal
from edgewise.toolkit.errors import EdgewiseError, ModelError
from edgewise.toolkit.model.client import OpenAIClient
from edgewise.toolkit.model.middleware import stack_middleware
from edgewise.toolkit.model.openai_format import MalformedResponse, Quirks, build_refusal, decode_completion
from edgewise.toolkit.types import Message, Reply, Request, TokenizedTurn

LOAD_ADAPTER, UNLOAD_ADAPTER = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
LOAD_WEIGHTS = "/update_weights_from_disk"
LOAD_TIMEOUT = 600.0
"""Seconds that a server may take to load weights."""


class InferenceServer:
    """
    Server behind a URL that ends in `/v1`; `model` is the server's name for the model.

    `policy` is the model in training: its tokenizer encodes prompts. Weights are pushed through `folder`, which the
    server must read under the same path; by default a temporary directory.
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
        self.url, self.model, self.policy, self.folder = url.rstrip("/"), model, policy, folder
        self._limits = {"concurrency": concurrency, "timeout": timeout, "attempts": attempts}
        self._push_count, self._own_id = 0, secrets.token_hex(4)
        self._adapter = ""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """
        Send all requests at once and return their replies. Blocks; raises what `stack_middleware` raises.

        `Reply.tokens` holds the server's ids and log-probabilities. If the server returns no ids, its text is tokenized
        again; then all log-probabilities are NaN, unless the tokens turn out to be the same.
        """

        async def send_all() -> list[Reply]:
            # A new client for each batch: each `asyncio.run` has its own event loop, and connections belong to a loop.
            inner = _CompletionsClient(self.url, os.environ.get("EDGEWISE_API_KEY", "none"), self.policy)
            client = stack_middleware(inner, **self._limits)
            model = f"{self.url}#{self._adapter or self.model}"
            try:
                return await asyncio.gather(*(client.ask(replace(request, model=model)) for request in requests))
            finally:
                await client.aclose()

        replies = asyncio.run(send_all())
        return [replace(reply, model=request.model) for reply, request in zip(replies, requests, strict=True)]

    # ---- weights ---------------------------------------------------------------------------------------

    def push_weights(self, policy: Policy) -> bool:
        """
        Let the server load the current weights from the disk; return False if it offers no way to do so.

        Raises ModelError if it offers one and refuses.
        """
        if (LOAD_ADAPTER if policy.lora else LOAD_WEIGHTS) not in self.routes:
            return False
        self._push_count += 1
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="edgewise-"))
        weights = self.folder / f"{self._push_count:06d}"
        # Nothing else may change the weights meanwhile.
        run_in_compute_thread(policy.save)(weights)
        if policy.lora:
            # Each under a new name: a server may cache by name, and another run may use this server, too.
            old, self._adapter = self._adapter, f"{self.model}-edgewise-{self._own_id}-{self._push_count}"
            self._call("POST", LOAD_ADAPTER, {"lora_name": self._adapter, "lora_path": str(weights)})
            self._unload(old)
        else:
            self._call("POST", LOAD_WEIGHTS, {"model_path": str(weights)})
        # The previous weights may still answer a call that is under way.
        shutil.rmtree(self.folder / f"{self._push_count - 2:06d}", ignore_errors=True)
        return True

    def close(self) -> None:
        """Unload the adapter, and delete the weights that were written for the server."""
        with contextlib.suppress(EdgewiseError):  # a server that has ended holds no adapter
            self._unload(self._adapter)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def routes(self) -> frozenset[str]:
        """Routes that the server's own description lists."""
        description = self._call("GET", "/openapi.json")
        return frozenset(description.get("paths", {}) if isinstance(description, dict) else {})

    def _unload(self, adapter: str) -> None:
        if adapter and UNLOAD_ADAPTER in self.routes:
            self._call("POST", UNLOAD_ADAPTER, {"lora_name": adapter})

    def _call(self, method: str, route: str, body: dict[str, Any] | None = None) -> Any:
        """Return the response, parsed if it is JSON; None if the server doesn't know a GET route. Raises ModelError."""
        url = self.url.removesuffix("/v1") + route
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("EDGEWISE_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LOAD_TIMEOUT) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            if method == "GET" and error.code in (404, 405, 501):
                return None
            text = error.read().decode(errors="replace").strip()[:300]
            raise ModelError(f"{url} answers {error.code}: {text or error.reason}") from None
        except OSError as error:
            raise ModelError(f"{url} can't be reached: {error}.") from None

        try:
            content = json.loads(text)
        except ValueError:
            return text
        # SGLang may report a failure with status 200.
        if isinstance(content, dict) and content.get("success") is False:
            raise ModelError(f"{url} did not take the weights: {content.get('message', 'it says not why')}.")
        return content


class _CompletionsClient(OpenAIClient):
    """Client for completions of token ids; the policy encodes a request's messages."""

    path = "/completions"

    def __init__(self, url: str, key: str, policy: Policy):
        super().__init__(url, key)
        self.policy, self.encode = policy, cache(policy.encode)

    async def ask(self, request: Request) -> Reply:
        """Answer one request; refuse tools and prompts that fill the context."""
        if reason := explain_refusal(self.policy, request, self.encode(request.messages)):
            return build_refusal(reason)
        return await super().ask(request)

    def build_body(self, request: Request, quirks: Quirks) -> dict[str, Any]:
        """Return the body of a completion, without the parameters that the server refuses (`quirks`)."""
        body = super().build_body(request, {})
        del body["messages"]
        prompt = self.encode(request.messages)
        # The seed makes replies repeatable where the server honours it.
        body |= {
            "prompt": list(prompt),
            "max_tokens": min(self.policy.context_length - len(prompt), request.sampling.max_tokens or MAX_TOKENS),
            "seed": derive_request_seed(request),
            "logprobs": 1,
            "return_token_ids": True,
        }
        return {name: value for name, value in body.items() if name not in quirks}

    def read_reply(self, request: Request, data: Any, latency: float) -> Reply:
        """Read a reply with its tokens. Raises MalformedResponse."""
        try:
            choice = data["choices"][0]
            # In the shape of a chat completion, so that one decoder reads usage, stop reason and errors.
            chat = {**data, "choices": [{**choice, "message": {"content": choice["text"]}}]}
            tokens = self._read_tokens(request, choice)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise MalformedResponse(f"no completion: {error!r}") from None
        reply = decode_completion(chat, latency)
        message = Message("assistant", cut_at_stop(reply.message.content, request.sampling.stop))
        return replace(reply, message=message, tokens=tokens)

    def _read_tokens(self, request: Request, choice: dict[str, Any]) -> TokenizedTurn:
        """Return the server's ids and log-probabilities, or ids of its text, with NaN unless the tokens agree."""
        policy, logprobs = self.policy, choice.get("logprobs") or {}
        values, ids = logprobs.get("token_logprobs"), choice.get("token_ids")
        if ids is None:
            ids = policy.tokenizer.encode(choice["text"], add_special_tokens=False)
            # The text lacks the stop token of a completion that ended by itself.
            is_complete = choice.get("finish_reason") == "stop" and not request.sampling.stop
            if is_complete and policy.stop_ids and not (ids and ids[-1] in policy.stop_ids):
                end = policy.tokenizer.eos_token_id
                ids.append(end if end in policy.stop_ids else min(policy.stop_ids))
            if [policy.tokenizer.decode([token]) for token in ids] != logprobs.get("tokens"):
                values = None
        if values is None or len(values) != len(ids):
            values = [math.nan] * len(ids)
        return TokenizedTurn(self.encode(request.messages), tuple(ids), tuple(map(float, values)))
