"""Client for every provider that litellm knows."""

import importlib
import os
from functools import lru_cache
from typing import Any

from edgewise.toolkit.errors import ModelError, UnknownModel
from edgewise.toolkit.model.client import RemoteClient
from edgewise.toolkit.model.names import is_loopback
from edgewise.toolkit.model.redact import redact

_NO_PROVIDER = "LLM Provider NOT provided"
"""Text of litellm's error for a model without a known provider."""


class LiteLLMClient(RemoteClient):
    """Every other provider, through litellm, with its own retries and caches off."""

    def __init__(self, api_base: str | None = None, api_key: str | None = None):
        super().__init__(api_base or "litellm", api_key, is_free=bool(api_base) and is_loopback(api_base))
        self._options = {k: v for k, v in (("api_base", api_base), ("api_key", api_key)) if v}
        self._known_models: set[str] = set()

    def get_model_name(self, model: str) -> str:
        """Return the name as it is: litellm takes PROVIDER/NAME. Raises UnknownModel for a provider it lacks."""
        if model not in self._known_models:
            litellm = import_litellm()
            try:
                litellm.get_llm_provider(model)
            except Exception as error:
                # litellm raises one class for everything that fails there: only its text tells errors apart.
                if _NO_PROVIDER in str(error):
                    raise UnknownModel(f"{model}: no such provider; a model is named PROVIDER/NAME.") from None
                reason = " ".join(redact(str(error), self._key).split())[:500]
                raise ModelError(
                    f"{model}: litellm failed when asked for the provider: {type(error).__name__}: {reason}"
                ) from error
            self._known_models.add(model)
        return model

    async def send(self, body: dict[str, Any], is_embedding: bool) -> Any:
        """Send a body through litellm and return the provider's JSON."""
        options = {**self._options, "num_retries": 0, "max_retries": 0, "caching": False, "drop_params": True}
        if is_embedding:
            answer = await import_litellm().aembedding(**body, **options)
        else:
            # litellm hands calls with tools to its MCP gateway, which needs packages that it does not install.
            answer = await import_litellm().acompletion(**body, **options, _skip_mcp_handler=True)
        return answer.model_dump()

    async def aclose(self) -> None:
        """Close litellm's HTTP clients."""
        close = getattr(import_litellm(), "close_litellm_async_clients", None) if self._known_models else None
        if close:
            await close()


@lru_cache(maxsize=1)
def import_litellm() -> Any:
    """Import litellm with its telemetry, caches and downloads off. Raises ModelError where it isn't installed."""
    # Read at import: without it litellm downloads its price list.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise  # litellm is installed and broken: to install it again would not help
        raise ModelError("This provider needs litellm: pip install litellm.") from None
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.cache = None
    return litellm
