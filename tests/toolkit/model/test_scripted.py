import asyncio

import pytest

from edgewise.toolkit.model.openai_format import read_vector
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.types import Message, Reply, Request, Sampling, ToolCall, Usage


def ask(function, content="one two three", **sampling):
    request = Request("scripted/a:b", (Message("user", content),), Sampling(**sampling))
    return asyncio.run(ScriptedClient(function).ask(request))


def test_a_text_becomes_a_reply_with_usage_in_words():
    reply = ask(lambda request: "four words are here")
    assert reply.message == Message("assistant", "four words are here")
    assert (reply.stop, reply.usage) == ("stop", Usage(input=3, output=4))


def test_an_async_function_is_awaited():
    async def slow(request):
        await asyncio.sleep(0)
        return request.messages[0].content

    assert ask(slow).message.content == "one two three"


def test_a_message_with_tool_calls_stops_for_tools():
    call = ToolCall("1", "look", '{"a": 1}')
    assert ask(lambda request: Message("assistant", "", (call,))).stop == "tools"


def test_a_list_of_numbers_is_a_vector_and_no_output():
    request = Request("scripted/a:b", (Message("user", "one two"),), is_embedding=True)
    reply = asyncio.run(ScriptedClient(lambda request: [0.5, -2]).ask(request))
    assert read_vector(reply).tolist() == [0.5, -2]
    assert (reply.stop, reply.usage) == ("stop", Usage(input=2))


@pytest.mark.parametrize("numbers", [[], [float("inf")], [[1.0]]])
def test_what_is_no_vector_is_not_taken_for_one(numbers):
    with pytest.raises(ValueError, match="finite"):
        ask(lambda request: numbers)


def test_a_whole_reply_is_passed_on_as_it_is():
    reply = Reply(Message("assistant", "x"), usage=None, latency=3.0)
    assert ask(lambda request: reply) is reply


def test_max_tokens_cuts_the_text_as_a_provider_would():
    reply = ask(lambda request: "one  two\nthree four", max_tokens=3)
    assert (reply.message.content, reply.stop, reply.usage) == ("one  two\nthree", "length", Usage(3, 0, 3))


@pytest.mark.parametrize("how", ["returned", "raised"])
def test_an_exception_is_raised(how):
    def function(request):
        if how == "raised":
            raise OSError("broken")
        return OSError("broken")

    with pytest.raises(OSError, match="broken"):
        ask(function)


def test_requests_are_recorded_in_order():
    client = ScriptedClient(lambda request: "ok")

    async def main():
        for sample in range(3):
            await client.ask(Request("scripted/a:b", (), sample=sample))
        await client.aclose()

    asyncio.run(main())
    assert [request.sample for request in client.requests] == [0, 1, 2]
