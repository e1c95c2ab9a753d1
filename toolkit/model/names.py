"""Model names: the server that a name points to, and the name by which that server knows the model."""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from edgewise.toolkit.errors import ModelError


def is_loopback(url: str) -> bool:
    """Return whether the URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Both functions below run for every call of a run with few models, hence the caches.


@lru_cache(maxsize=1024)
def get_server(model: str) -> str:
    """
    Return the server of a model name; models of one server share a connection.

    Raises `ModelError` for a name without a provider.
    """
    kind, slash, name = model.partition("/")
    if model.startswith(("http://", "https://")):
        url, hash_, name = model.partition("#")
        if not (hash_ and name):
            raise ModelError(f"{model} names a server but no model: write {url}#MODEL.")
        return url.rstrip("/")
    if not (slash and name):
        raise ModelError(f"{model!r} has no provider: write PROVIDER/NAME, such as openai/{model}.")
    # In this process each model is a server of its own.
    return model if kind in ("scripted", "local", "torch") else kind


@lru_cache(maxsize=1024)
def get_wire_name(model: str) -> str:
    """Return the name by which a server knows a model: without our prefix."""
    if model.startswith(("http://", "https://")):
        return model.partition("#")[2]
    kind, _, name = model.partition("/")
    return name if kind in ("openai", "local") and name else model
