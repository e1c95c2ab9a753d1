import asyncio
import base64
import json
import logging
import struct
from dataclasses import replace
from importlib.util import find_spec

import openai
import pytest

from edgewise.toolkit.errors import ModelError, ProviderDown, UnknownModel, WrongKey
from edgewise.toolkit.model import client, router
from edgewise.toolkit.model.client import OpenAIClient, RequestTimeout, TransientError
from edgewise.toolkit.model.litellm_client import LiteLLMClient, import_litellm
from edgewise.toolkit.model.names import get_server, is_loopback
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.model.redact import redact
from edgewise.toolkit.model.router import Router, connect
from edgewise.toolkit.types import Message, Reply, Request, Sampling, Tool, ToolCall, Usage
from tests.support.server import Fault, Server, echo, in_order, letters

KEY = "sk-proj-abcdefghijklmnop"
HELLO = (Message("user", "hello world"),)
EMBED = Request("m", HELLO, is_embedding=True)


def ask(server, request=None, client=None, **options):
    request = request or Request("m", HELLO, Sampling(**options))

    async def main():
        chosen = client(server.url) if client else OpenAIClient(server.url, KEY)
        try:
            return await chosen.ask(request)
        finally:
            await chosen.aclose()

    return asyncio.run(main())


def through_litellm(url):
    return LiteLLMClient(api_base=url, api_key=KEY)


needs_litellm = pytest.mark.skipif(not find_spec("litellm"), reason="litellm does not go with openai 3 yet")
BOTH = pytest.mark.parametrize(
    ("client", "model"),
    [
        pytest.param(None, "m", id="openai"),
        pytest.param(through_litellm, "hosted_vllm/m", id="litellm", marks=needs_litellm),
    ],
)


@BOTH
def test_a_reply_carries_text_usage_and_latency(client, model):
    with Server(latency=0.05, cached=1) as server:
        reply = ask(server, Request(model, HELLO), client)
    assert reply.message == Message("assistant", "hello world")
    assert (reply.stop, reply.usage) == ("stop", Usage(input=2, cached=1, output=2))
    assert 0.05 <= reply.latency < 20


def test_usage_that_is_not_reported_is_none():
    with Server(usage=False) as server:
        assert ask(server).usage is None


def test_only_what_is_set_is_sent():
    with Server() as server:
        ask(server)
        ask(server, temperature=0.0, top_p=0.9, max_tokens=7, seed=0, stop=("\n",))
    plain, full = server.bodies
    assert set(plain) == {"model", "messages"}
    assert {k: full[k] for k in full if k not in plain} == {
        "temperature": 0.0, "top_p": 0.9, "max_tokens": 7, "seed": 0, "stop": ["\n"]
    }  # fmt: skip


@BOTH
def test_tool_calls_go_both_ways(client, model):
    called = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    tool = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
    call = ToolCall("c0", "look", '{"at": 0}')
    history = (*HELLO, Message("assistant", "", (call,)), Message("tool", "nothing there", tool_call_id="c0"))
    with Server(lambda body: {"role": "assistant", "content": None, "tool_calls": [called]}) as server:
        reply = ask(server, Request(model, history, tools=(tool,)), client)
    assert reply.stop == "tools"
    assert reply.message == Message("assistant", "", (ToolCall("c1", "look", '{"at": 1}'),))
    (body,) = server.bodies
    assert body["tools"][0]["function"] == {
        "name": "look",
        "description": "Looks.",
        "parameters": tool.parameters,
    }
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 0}'}
    assert body["messages"][2] == {"role": "tool", "content": "nothing there", "tool_call_id": "c0"}


@pytest.mark.parametrize("closed", [True, False])
def test_a_schema_is_strict_only_if_all_objects_are_closed(closed):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    schema |= {"additionalProperties": False} if closed else {}
    with Server() as server:
        ask(server, Request("m", HELLO, schema=schema))
    response_format = server.bodies[0]["response_format"]
    assert response_format == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": schema, "strict": closed},
    }


def test_lone_surrogates_are_replaced():
    with Server(lambda body: {"role": "assistant", "content": "so \ud83d é"}) as server:
        reply = ask(server)
        again = ask(server, Request("m", (Message("user", "\ud83d"),)))
    assert reply.message.content == "so ? é"
    assert again.stop == "refused"


@pytest.mark.parametrize(
    ("message", "stop"),
    [
        ({"content": "cut", "finish_reason": "length"}, "length"),
        ({"content": "", "finish_reason": "content_filter"}, "refused"),
        ({"content": None, "refusal": "I can't help"}, "refused"),
        ({"content": [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]}, "stop"),
    ],
)
def test_stop_reasons(message, stop):
    with Server(lambda body: {"role": "assistant", **message}, usage=False) as server:
        reply = ask(server)
    assert (reply.stop, reply.failed, bool(reply.error)) == (stop, stop == "refused", stop == "refused")


@BOTH
@pytest.mark.parametrize(
    ("status", "error"),
    [(401, WrongKey), (403, WrongKey), (404, UnknownModel), (429, TransientError), (500, TransientError)],
)
def test_provider_errors_are_translated_without_secrets(client, model, status, error):
    fault = Fault(status, f"Incorrect API key {KEY}")
    with Server(faults=in_order(fault)) as server, pytest.raises(error) as caught:
        ask(server, Request(model, HELLO), client)
    assert len(server.bodies) == 1
    assert KEY not in str(caught.value)
    assert model in str(caught.value)
    assert caught.value.__suppress_context__
    if error is TransientError:
        assert caught.value.status == status


@BOTH
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_a_reply(client, model, status):
    with Server(faults=in_order(Fault(status, f"prompt too long, key {KEY}"))) as server:
        reply = ask(server, Request(model, HELLO), client)
    assert (reply.stop, reply.message.content, reply.usage) == ("refused", "", None)
    assert "prompt too long" in reply.error
    assert KEY not in reply.error


@BOTH
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after-ms": "250"}, 0.25),
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_the_wait_that_a_provider_asks_for_is_passed_on(client, model, headers, seconds):
    with (
        Server(faults=in_order(Fault(429, headers=headers))) as server,
        pytest.raises(TransientError) as caught,
    ):
        ask(server, Request(model, HELLO), client)
    assert (caught.value.status, caught.value.retry_after) == (429, seconds)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, "You exceeded your current quota", code="insufficient_quota"),
        Fault(402, "Insufficient credits"),
    ],
)
def test_an_empty_account_is_not_retried(fault):
    with Server(faults=in_order(fault)) as server, pytest.raises(ProviderDown, match="account"):
        ask(server)


def test_a_dropped_connection_and_a_closed_port_are_transient():
    with Server(faults=in_order(Fault(None))) as server, pytest.raises(TransientError) as caught:
        ask(server)
    assert caught.value.status is None
    with pytest.raises(TransientError, match="can't be reached"):
        ask(server)


def test_a_connect_timeout_is_unreachable_and_no_timeout():
    class ConnectTimeout(Exception):
        """Named as in httpx and httpx2, of which only one is installed."""

    error = openai.APITimeoutError(request=None)  # type: ignore[arg-type]
    error.__cause__ = ConnectTimeout("timed out")
    client = OpenAIClient("http://127.0.0.1/v1", KEY)
    with pytest.raises(TransientError, match="can't be reached") as caught:
        client.translate_error(Request("m", HELLO), error, 0.0)
    assert caught.value.status is None


def test_no_answer_in_time_is_a_timeout():
    with Server(latency=0.5) as server, pytest.raises(RequestTimeout):
        ask(server, client=lambda url: OpenAIClient(url, KEY, timeout=0.1))


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}']
)
def test_a_malformed_response_is_transient(answer):
    with Server(lambda body: answer) as server, pytest.raises(TransientError):
        ask(server)


@pytest.mark.parametrize(
    ("fault", "sent", "missing"),
    [
        (Fault(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens"),
         {"max_completion_tokens": 9}, "max_tokens"),
        (Fault(400, "Unsupported value: 'temperature' does not support 0.5.", param="temperature"),
         {"max_tokens": 9}, "temperature"),
        (Fault(400, "seed: Extra inputs are not permitted"), {"max_tokens": 9}, "seed"),
        (Fault(400, "This model does not support json_schema"), {"max_tokens": 9}, "response_format"),
    ],
)  # fmt: skip
def test_a_refused_parameter_is_changed_for_all_later_calls(fault, sent, missing, caplog):
    request = Request("m", HELLO, Sampling(temperature=0.5, max_tokens=9, seed=1), schema={"type": "object"})

    async def main(url):
        client = OpenAIClient(url, KEY)
        replies = [await client.ask(request), await client.ask(request)]
        await client.aclose()
        return replies

    with Server(faults=in_order(fault)) as server, caplog.at_level(logging.WARNING, "edgewise"):
        replies = asyncio.run(main(server.url))
    assert [reply.stop for reply in replies] == ["stop", "stop"]
    assert len(server.bodies) == 3
    for body in server.bodies[1:]:
        assert missing not in body
        assert sent.items() <= body.items()
    assert [record.name for record in caplog.records].count("edgewise") == 1


def test_concurrent_calls_learn_a_quirk_and_warn_once(caplog):
    def refuses(body):
        return Fault(400, "Use 'max_completion_tokens', not 'max_tokens'") if "max_tokens" in body else None

    async def main(url):
        client = OpenAIClient(url, KEY)
        request = Request("m", HELLO, Sampling(max_tokens=5))
        replies = await asyncio.gather(*(client.ask(request) for _ in range(20)))
        await client.aclose()
        return {reply.stop for reply in replies}

    with Server(faults=refuses) as server, caplog.at_level(logging.WARNING, "edgewise"):
        assert asyncio.run(main(server.url)) == {"stop"}
    assert [record.name for record in caplog.records].count("edgewise") == 1


def test_a_server_that_refuses_both_parameter_names_is_a_refusal():
    message = "Use 'max_completion_tokens' instead of 'max_tokens', or the other way round"
    with Server(faults=lambda body: Fault(400, message)) as server:
        assert ask(server, max_tokens=5).stop == "refused"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000; unsupported",
        "Invalid 'temperature': above maximum",
        "unknown problem with the prompt",
    ],
)
def test_a_wrong_parameter_value_is_a_refusal(message):
    with Server(faults=lambda body: Fault(400, message)) as server:
        reply = ask(server, temperature=9.0, max_tokens=100000)
    assert reply.stop == "refused"
    assert len(server.bodies) == 1


@BOTH
def test_a_vector_comes_back_with_input_tokens_only(client, model):
    with Server() as server:
        reply = ask(server, replace(EMBED, model=model), client)
    assert read_vector(reply).tolist() == letters({"input": "hello world"})
    assert (reply.stop, reply.usage) == ("stop", Usage(input=2))
    (body,) = server.bodies
    assert (body["model"], echo(body)) == ("m", "hello world")


def test_a_vector_may_come_in_base64_and_with_a_total_only():
    coded = base64.b64encode(struct.pack("<3f", 1, -2.5, 0)).decode()
    answer = {"data": [{"embedding": coded}], "usage": {"total_tokens": 7}}
    with Server(embedding=lambda body: json.dumps(answer).encode()) as server:
        reply = ask(server, EMBED)
    assert read_vector(reply).tolist() == [1, -2.5, 0]
    assert reply.usage == Usage(input=7)


def test_a_vector_without_usage_has_none():
    with Server(usage=False) as server:
        assert ask(server, EMBED).usage is None


@pytest.mark.parametrize(
    "embedding", [[], None, [None], ["x"], [[1.0]], "", "not base64!", "AAA=", float("nan"), [1e400]]
)
def test_a_response_without_a_vector_is_transient(embedding):
    answer = json.dumps({"data": [{"embedding": embedding}]}).encode()
    with Server(embedding=lambda body: answer) as server, pytest.raises(TransientError):
        ask(server, EMBED)


@BOTH
@pytest.mark.parametrize(("status", "error"), [(401, WrongKey), (404, UnknownModel), (500, TransientError)])
def test_errors_of_embeddings_are_ours_too(client, model, status, error):
    with Server(faults=in_order(Fault(status, f"no, {KEY}"))) as server, pytest.raises(error) as caught:
        ask(server, replace(EMBED, model=model), client)
    assert KEY not in str(caught.value)


def test_a_text_too_large_for_llama_cpp_is_a_refusal():
    fault = Fault(500, "input (5001 tokens) is too large to process. increase the physical batch size")
    with Server(faults=in_order(fault)) as server:
        assert ask(server, EMBED).stop == "refused"


def test_a_chat_is_no_vector():
    with Server() as server, pytest.raises(ModelError, match="is it an embedding model"):
        read_vector(ask(server))


@needs_litellm
def test_a_provider_without_embeddings_refuses():
    client = LiteLLMClient(api_base="http://127.0.0.1:9", api_key=KEY)
    reply = asyncio.run(client.ask(replace(EMBED, model="anthropic/claude")))
    assert reply.stop == "refused"


def test_200_calls_are_in_flight_at_once():
    async def main(url):
        client = OpenAIClient(url, KEY)
        await asyncio.gather(*(client.ask(Request("m", HELLO)) for _ in range(200)))
        await client.aclose()

    with Server(latency=1.5) as server:
        asyncio.run(main(server.url))
    assert server.most_at_once == 200


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
        assert read_vector(
            await router.ask(replace(EMBED, model=f"scripted/{__name__}:length"))
        ).tolist() == [11]
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
    "broken",
    [UserWarning("a field is deprecated"), ImportError("no module named boto9"), KeyError("api_base")],
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
