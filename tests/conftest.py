"""What all tests share: a clean environment without paid calls, the small embedded model, and PostgreSQL."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from edgewise.toolkit.model.embedded.server import LocalServer, serve_model
from tests.support.postgres import postgres as postgres

FOREIGN = ("OPENAI_", "ANTHROPIC_", "AZURE_", "GEMINI_", "EDGEWISE_", "LITELLM_")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no setting of whoever runs the tests; nothing but loopback and scripted models answers."""
    for key in [key for key in os.environ if key.startswith(FOREIGN)]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("EDGEWISE_OFFLINE", "1")


@pytest.fixture(scope="session")
def small_model() -> Iterator[LocalServer]:
    """local/smollm2-135m, served on loopback; fetched into the user's cache if it is not there (98 MB)."""
    with closing(serve_model("smollm2-135m")) as server:
        yield server
