"""Model names, the router and its clients, redaction of keys."""

import asyncio
import json
from dataclasses import replace

import pytest

from edgewise.toolkit.errors import ModelError, WrongKey
from edgewise.toolkit.model import client, router
from edgewise.toolkit.model.names import get_server, is_loopback
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.model.redact import redact
from edgewise.toolkit.model.router import Router, connect
from edgewise.toolkit.types import Message, Reply, Request
from tests.support.server import Server

KEY = "sk-proj-abcdefghijklmnop"
HELLO = (Message("user", "hello world"),)
EMBED = Request("m", HELLO, is_embedding=True)


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("openai/gpt-4o", "openai"),
        ("anthropic/claude", "anthropic"),
        ("local/smollm2-135m", "local/smollm2-135m"),
        ("http://127.0.0.1:1/v1#org/name", "http://127.0.0.1:1/v1"),
    ],
)
def test_models_of_one_server_share_a_connection(name, server):
    assert get_server(name) == server


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("http://127.0.0.1:1/v1", "#MODEL"),
        ("torch/gpt2", "no gpt2 here"),
        ("scripted/no_such_module:f", "MODULE:FUNCTION"),
        ("scripted/json:no_such_function", "MODULE:FUNCTION"),
    ],
)
def test_a_wrong_model_name_is_explained(name, sentence):
    with pytest.raises(ModelError, match=sentence):
        connect(name)


def test_openai_without_a_key_is_explained(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(WrongKey, match="OPENAI_API_KEY"):
        connect("openai/gpt-4o")


def shout(request):
    return request.messages[-1].content.upper()


def length(request):
    return [len(request.messages[-1].content)]


def test_a_scripted_model_is_looked_for_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text("def play(request):\n    return 'from here'\n")
    monkeypatch.chdir(tmp_path)
    client = connect("scripted/my_model:play")
    reply = asyncio.run(client.ask(Request("scripted/my_model:play", HELLO)))
    assert reply.message.content == "from here"


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.1.2.3/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://127.example.com/v1", False),
        ("http://localhost.example.com/v1", False),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_only_this_machine_is_loopback(url, here):
    assert is_loopback(url) is here


def test_router_connects_once_per_server(monkeypatch):
    async def main(url):
        router = Router()
        names = [f"{url}#a", f"{url}#b/c", "openai/d", f"scripted/{__name__}:shout"] * 3
        replies = await asyncio.gather(*(router.ask(Request(name, HELLO)) for name in names))
        assert read_vector(await router.ask(replace(EMBED, model=f"scripted/{__name__}:length"))).tolist() == [11]
        opened = len(router._clients)
        await router.aclose()
        return [reply.message.content for reply in replies], opened

    with Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        texts, opened = asyncio.run(main(server.url))
    assert texts == ["hello world", "hello world", "hello world", "HELLO WORLD"] * 3
    assert opened == 4
    assert sorted({body["model"] for body in server.bodies}) == ["a", "b/c", "d"]


class Loaded:
    """A client that counts how many of its kind are open."""

    open = 0

    def __init__(self):
        Loaded.open += 1

    async def ask(self, request):
        return Reply(Message("assistant", str(Loaded.open)))

    async def aclose(self):
        await asyncio.sleep(0.01)
        Loaded.open -= 1


def test_router_unloads_a_released_model_before_loading_another(monkeypatch):
    monkeypatch.setattr(router, "connect", lambda name, is_embedding: Loaded())

    async def main():
        router = Router()
        contents = []
        for name in ("torch/a", "torch/b", "torch/a", "torch/a", "http://there#b"):
            replies = await asyncio.gather(*(router.ask(Request(name, HELLO)) for _ in range(3)))
            contents += {reply.message.content for reply in replies}
            router.release("torch/never-loaded")
            router.release(name)
        await router.ask(Request("torch/c", HELLO))
        await router.aclose()
        return contents

    assert asyncio.run(main()) == ["1", "1", "1", "1", "1"]
    assert Loaded.open == 0


def test_a_key_for_openai_is_not_sent_to_other_servers(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def main(url):
        router = Router()
        await router.ask(Request(f"{url}#m", HELLO))
        await router.aclose()

    with Server() as server:
        asyncio.run(main(server.url))
    assert KEY not in json.dumps(server.headers)


@pytest.mark.parametrize("how", ["attribute", "environment"])
def test_paid_calls_can_be_switched_off(monkeypatch, how):
    if how == "attribute":
        monkeypatch.setattr(client, "ALLOW_PAID_CALLS", False)
    else:
        monkeypatch.setenv("EDGEWISE_OFFLINE", "1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def main(name):
        router = Router()
        try:
            return await router.ask(Request(name, HELLO))
        finally:
            await router.aclose()

    for name in ("openai/gpt-4o", "anthropic/claude", "http://192.0.2.1/v1#m"):
        with pytest.raises(ModelError, match="paid calls are switched off"):
            asyncio.run(main(name))
    with Server() as server:
        assert asyncio.run(main(f"{server.url}#m")).message.content == "hello world"


def test_a_broken_library_is_not_reported_as_missing(monkeypatch):
    def import_module(name):
        raise ImportError("cannot import name 'Cache' from 'transformers'", name="transformers")

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ImportError, match="cannot import name 'Cache'"):
        connect("torch/x")


@pytest.mark.parametrize(
    "text", [f"key {KEY} refused", "Authorization: Bearer abc.def", "from the environment: hunter22"]
)
def test_secrets_are_redacted(text, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "hunter22")
    redacted = redact(text)
    assert "[key]" in redacted
    assert not any(secret in redacted for secret in (KEY, "abc.def", "hunter22"))
