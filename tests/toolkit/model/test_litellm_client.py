"""Providers behind litellm; its errors. What it shares with other clients is in `test_client`."""

import asyncio
from dataclasses import replace
from importlib.util import find_spec

import pytest

from edgewise.toolkit.errors import ModelError, UnknownModel
from edgewise.toolkit.model.client import TransientError
from edgewise.toolkit.model.litellm_client import LiteLLMClient, import_litellm
from edgewise.toolkit.types import Message, Request

KEY = "sk-proj-abcdefghijklmnop"
HELLO = (Message("user", "hello world"),)
EMBED = Request("m", HELLO, is_embedding=True)
needs_litellm = pytest.mark.skipif(not find_spec("litellm"), reason="litellm does not go with openai 3 yet")


@needs_litellm
def test_a_provider_without_embeddings_refuses():
    client = LiteLLMClient(api_base="http://127.0.0.1:9", api_key=KEY)
    reply = asyncio.run(client.ask(replace(EMBED, model="anthropic/claude")))
    assert reply.stop == "refused"


@needs_litellm
@pytest.mark.parametrize("model", ["hosted_vllm/m", "mistral/m"])
def test_an_unreachable_server_behind_litellm_is_transient(model):
    client = LiteLLMClient(api_base="http://127.0.0.1:9/v1", api_key=KEY)
    with pytest.raises(TransientError) as away:
        asyncio.run(client.ask(Request(model, HELLO)))
    assert away.value.status is None


@needs_litellm
def test_an_unknown_provider_is_explained():
    client = LiteLLMClient(api_base="http://127.0.0.1:1")
    with pytest.raises(UnknownModel, match="PROVIDER/NAME"):
        asyncio.run(client.ask(Request("nobody/m", HELLO)))


@needs_litellm
@pytest.mark.parametrize(
    "broken", [UserWarning("a field is deprecated"), ImportError("no module named boto9"), KeyError("api_base")]
)
def test_other_litellm_errors_are_not_an_unknown_provider(broken, monkeypatch):
    import litellm

    def wrapped(model):
        try:
            raise broken
        except Exception as error:  # as litellm does with whatever is raised there
            text = f"GetLLMProvider Exception - {error}\n\noriginal model: {model}"
            raise litellm.BadRequestError(text, model, "") from None

    def bare(model):
        raise broken

    for fails in (wrapped, bare):
        monkeypatch.setattr(litellm, "get_llm_provider", fails)
        with pytest.raises(ModelError, match=str(broken).strip("'")) as caught:
            asyncio.run(LiteLLMClient(api_base="http://127.0.0.1:1").ask(Request("mistral/m", HELLO)))
        assert type(caught.value) is ModelError
        assert caught.value.__cause__


@pytest.mark.parametrize("missing, sentence", [("litellm", "pip install litellm"), ("boto9", "boto9")])
def test_litellm_is_missed_only_where_it_is_missing(missing, sentence, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("importlib.import_module", import_module)
    import_litellm.cache_clear()
    with pytest.raises(ModelError if missing == "litellm" else ModuleNotFoundError, match=sentence):
        asyncio.run(LiteLLMClient(api_base="http://127.0.0.1:1").ask(Request("mistral/m", HELLO)))
