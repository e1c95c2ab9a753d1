"""Client for every provider that litellm knows."""

import importlib
import os
from functools import lru_cache
from typing import Any

from edgewise.toolkit.errors import ModelError, UnknownModel
from edgewise.toolkit.model.client import _Remote
from edgewise.toolkit.model.names import is_loopback
from edgewise.toolkit.model.redact import redact

_NO_PROVIDER = "LLM Provider NOT provided"
"""How litellm says that it knows no provider for a model."""


class LiteLLMClient(_Remote):
    """Every other provider, through litellm, with its own retries and caches off."""

    def __init__(self, api_base: str | None = None, api_key: str | None = None):
        super().__init__(api_base or "litellm", api_key, free=bool(api_base) and is_loopback(api_base))
        self._fixed = {k: v for k, v in (("api_base", api_base), ("api_key", api_key)) if v}
        self._known: set[str] = set()

    def _name(self, model: str) -> str:
        if model not in self._known:
            litellm = _litellm()
            try:
                litellm.get_llm_provider(model)
            except Exception as error:
                # litellm raises one class for everything that went wrong there: only its text tells them apart.
                if _NO_PROVIDER in str(error):
                    raise UnknownModel(
                        f"{model}: no such provider; a model is named PROVIDER/NAME."
                    ) from None
                reason = " ".join(redact(str(error), self._key).split())[:500]
                raise ModelError(
                    f"{model}: litellm failed when asked for the provider: {type(error).__name__}: {reason}"
                ) from error
            self._known.add(model)
        return model

    async def _send(self, body: dict[str, Any], embeds: bool) -> Any:
        off = {"num_retries": 0, "max_retries": 0, "caching": False}
        if embeds:
            answer = await _litellm().aembedding(**body, **self._fixed, **off, drop_params=True)
        else:
            # litellm hands calls with tools to its MCP gateway, which needs packages that it does not install.
            off["_skip_mcp_handler"] = True
            answer = await _litellm().acompletion(**body, **self._fixed, **off, drop_params=True)
        return answer.model_dump()

    async def aclose(self) -> None:
        """Close the HTTP clients that litellm keeps."""
        if not self._known:
            return
        close = getattr(_litellm(), "close_litellm_async_clients", None)
        if close:
            await close()


@lru_cache(maxsize=1)
def _litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise  # litellm is there and broken: installing it once more is no help
        raise ModelError("This provider needs litellm: pip install litellm.") from None
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.cache = None
    return litellm
