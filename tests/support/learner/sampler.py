"""A server that samples from a small model for real, with the routes of vLLM and SGLang that the learner uses."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from aiohttp import web
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from edgewise.learner.policy.policy import Policy
from edgewise.learner.sampling.generate import CompletionRequest, sample


class Sampler:
    """
    Completions by `policy` on loopback: `with Sampler(policy) as server: ... server.url`.

    `ids` says whether it knows `return_token_ids`, `texts` whether it gives the text of each token, `routes` which
    weights it can load; `models` are the names in requests, `loaded` the weights that it has loaded.
    """

    def __init__(self, policy: Policy, *, ids: bool = True, texts: bool = True, routes: tuple[str, ...] = ()):
        self.policy, self.ids, self.texts = policy, ids, texts
        self.routes = {route: getattr(self, f"_{route.rpartition('/')[2]}") for route in routes}
        self.models: list[str] = []
        self.loaded: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self._waiting: list[tuple[CompletionRequest, asyncio.Future[Any]]] = []

    def __enter__(self) -> "Sampler":
        started = threading.Event()

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            app = web.Application()
            app.router.add_post("/v1/completions", self._completions)
            app.router.add_get("/openapi.json", self._describe)
            for route, handler in self.routes.items():
                app.router.add_post(route, handler)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            started.set()
            await self._stop.wait()
            await runner.cleanup()

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),))
        self._thread.start()
        started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _describe(self, _: web.Request) -> web.Response:
        return web.json_response({"paths": {"/v1/completions": {}, **{route: {} for route in self.routes}}})

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.models.append(body["model"])
        if not self.ids and "return_token_ids" in body:
            message = "Unknown parameter: 'return_token_ids' is not supported"
            error = {"message": message, "param": "return_token_ids"}
            return web.json_response({"error": error}, status=400)
        completion = await self._sample_with_others(
            CompletionRequest(
                tuple(body["prompt"]),
                body["max_tokens"],
                body.get("temperature", 1.0),
                body.get("top_p", 1.0),
                body["seed"],
                tuple(body.get("stop", ())),
            )
        )
        logprobs: dict[str, Any] = {"token_logprobs": completion.logprobs}
        if self.texts:
            logprobs["tokens"] = [self.policy.tokenizer.decode([token]) for token in completion.ids]
        choice = {"text": self.policy.decode(completion.ids), "finish_reason": completion.stop, "logprobs": logprobs}
        if self.ids:
            choice["token_ids"] = completion.ids
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(completion.ids)}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": usage})

    async def _sample_with_others(self, request: CompletionRequest) -> Any:
        """Sample a completion, in one batch with other requests of the same moment."""
        own = self._loop.create_future()
        self._waiting.append((request, own))
        if len(self._waiting) == 1:
            await asyncio.sleep(0.01)
            waiting, self._waiting = self._waiting, []
            completions = sample(self.policy, [request for request, _ in waiting])
            for (_, future), completion in zip(waiting, completions, strict=True):
                future.set_result(completion)
        return await own

    def _load_weights(self, path: Path) -> None:
        (weights,) = map(load_file, path.glob("*.safetensors"))
        if self.policy.lora:
            set_peft_model_state_dict(self.policy.model, weights)
        else:
            self.policy.model.load_state_dict(weights, strict=False)  # tied weights are written once

    async def _load_lora_adapter(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not (Path(body["lora_path"]) / "adapter_model.safetensors").exists():
            return web.Response(status=404, text="No adapter found")
        if body["lora_name"] in self.loaded:
            return web.Response(status=400, text="has already been loaded")
        self.loaded.append(body["lora_name"])
        self._load_weights(Path(body["lora_path"]))
        return web.Response(text="Success: LoRA adapter added")

    async def _unload_lora_adapter(self, request: web.Request) -> web.Response:
        self.loaded.remove((await request.json())["lora_name"])
        return web.Response(text="Success: LoRA adapter removed")

    async def _update_weights_from_disk(self, request: web.Request) -> web.Response:
        path = Path((await request.json())["model_path"])
        if "refuse" in str(path):
            return web.json_response({"success": False, "message": "no memory"}, status=400)
        self.loaded.append(path.name)
        self._load_weights(path)
        return web.json_response({"success": True, "message": "Succeeded to update model weights."})
