"""Clients of remote servers: requests, replies, errors, quirks and embeddings."""

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
from edgewise.toolkit.model.client import OpenAIClient, RequestTimeout, TransientError
from edgewise.toolkit.model.litellm_client import LiteLLMClient
from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.types import Message, Request, Sampling, Tool, ToolCall, Usage
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
    assert body["tools"][0]["function"] == {"name": "look", "description": "Looks.", "parameters": tool.parameters}
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
    with Server(faults=in_order(Fault(429, headers=headers))) as server, pytest.raises(TransientError) as caught:
        ask(server, Request(model, HELLO), client)
    assert (caught.value.status, caught.value.retry_after) == (429, seconds)


@pytest.mark.parametrize(
    "fault",
    [Fault(429, "You exceeded your current quota", code="insufficient_quota"), Fault(402, "Insufficient credits")],
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


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
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


def test_200_calls_are_in_flight_at_once():
    async def main(url):
        client = OpenAIClient(url, KEY)
        await asyncio.gather(*(client.ask(Request("m", HELLO)) for _ in range(200)))
        await client.aclose()

    with Server(latency=1.5) as server:
        asyncio.run(main(server.url))
    assert server.most_at_once == 200
