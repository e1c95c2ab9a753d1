"""The endpoint, asked by the openai package over a real socket."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import openai
import pytest

from edgewise.experience.library.library import Library, make_lesson
from edgewise.toolkit.errors import ArtifactError, ConfigError, LimitReached, ModelError, ProviderDown
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.serve.server import application, find_answerer, route_by_key, run_server
from edgewise.toolkit.types import Message, Reply, Request, Tool, ToolCall, Usage
from tests.support.command import start_command
from tests.support.server import Server


class Seen:
    """An answer that keeps what it was asked."""

    def __init__(self, reply: Reply | Exception):
        self.reply = reply
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Reply:
        self.requests.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def said(text: str, **more: Any) -> Reply:
    return Reply(Message("assistant", text), usage=Usage(7, 2, 3), **more)


def call(app: Any, asks: Any, key: str = "any", path: str = "/v1") -> Any:
    """Run the app on a free port and `asks(client)` against it."""

    async def main() -> Any:
        async with (
            run_server(app) as url,
            openai.AsyncOpenAI(base_url=url + path, api_key=key, max_retries=0) as client,
        ):
            return await asks(client)

    return asyncio.run(main())


def chat(**body: Any) -> Any:
    asked = {"model": "x", "messages": [{"role": "user", "content": "hello"}], **body}
    return lambda client: client.chat.completions.create(**asked)


def test_request_and_reply_arrive_complete():
    answer = Seen(said("hi"))
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "7", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "7", "content": "done"},
    ]
    schema = {"type": "json_schema", "json_schema": {"name": "r", "schema": {"type": "object"}}}
    tools = [{"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}}]
    body = {"temperature": 0.5, "max_completion_tokens": 9, "seed": 3, "stop": "END", "tools": tools}
    reply = call(application(answer, name="mine"), chat(messages=messages, response_format=schema, **body))
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("hi", "stop")
    assert (reply.model, reply.usage.total_tokens, reply.usage.prompt_tokens_details.cached_tokens) == ("mine", 10, 2)
    (request,) = answer.requests
    assert request.messages == (
        Message("system", "be brief"),
        Message("user", "one two"),
        Message("assistant", "", (ToolCall("7", "f", "{}"),)),
        Message("tool", "done", tool_call_id="7"),
    )
    assert (request.sampling.temperature, request.sampling.max_tokens, request.sampling.stop) == (0.5, 9, ("END",))
    assert request.schema == {"type": "object"}
    assert request.tools[0].name == "f"


def test_streamed_reply_adds_up_to_the_whole():
    reply = Reply(Message("assistant", "so be it", (ToolCall("1", "f", '{"a": 1}'),)), "tools", Usage(7, 0, 3))

    async def asks(client: Any) -> list[Any]:
        stream = await chat(stream=True, stream_options={"include_usage": True})(client)
        return [chunk async for chunk in stream]

    chunks = call(application(Seen(reply), name="mine"), asks)
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in deltas) == "so be it"
    assert [c.function.name for choice in deltas for c in choice.delta.tool_calls or ()] == ["f"]
    assert deltas[-1].finish_reason == "tool_calls"
    assert chunks[-1].usage.total_tokens == 10


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (Reply(Message("assistant", ""), "refused", error="too long"), 400, "invalid_request_error"),
        (Reply(Message("assistant", ""), "timeout", error="late"), 504, "timeout"),
        (Reply(Message("assistant", ""), "failed", error="broken"), 502, "upstream_error"),
        (LimitReached("The limit on calls"), 429, "insufficient_quota"),
        (ProviderDown("it is down"), 503, "upstream_error"),
        (ModelError("no such"), 502, "upstream_error"),
        (ZeroDivisionError("secret detail"), 500, "server_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failure_is_a_status_and_no_empty_reply(failure, status, kind, stream):
    with pytest.raises(openai.APIStatusError) as caught:
        call(application(Seen(failure), name="mine"), chat(stream=stream))
    assert (caught.value.status_code, caught.value.code) == (status, kind)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"n": 2},
        {"temperature": -1},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"logprobs": True},
        {"reasoning_effort": "low"},
    ],
)
def test_unsupported_request_is_refused_before_any_call(body):
    answer = Seen(said("hi"))
    with pytest.raises(openai.BadRequestError, match=next(iter(body))):
        call(application(answer, name="mine"), chat(**body))
    assert not answer.requests


TOOL: Any = {"type": "function", "function": {"name": "f", "description": None}}


@pytest.mark.parametrize(
    ("body", "schema", "tools"),
    [
        ({"response_format": {"type": "json_object"}}, {"type": "object"}, 0),
        ({"response_format": {"type": "text"}}, None, 0),
        ({"tools": [TOOL]}, None, 1),
        ({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}, None, 1),
        ({"tools": [TOOL], "tool_choice": "none"}, None, 0),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None, 1),
        ({"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "me"}, None, 0),
    ],
)
def test_supported_parameters_are_passed_on(body, schema, tools):
    answer = Seen(said("hi"))
    call(application(answer, name="mine"), chat(**body))
    assert answer.requests[0].schema == schema
    parameters = {"type": "object", "properties": {}}
    assert answer.requests[0].tools == (Tool("f", "", parameters),) * tools


def test_missing_token_is_refused_everywhere_but_health():
    answer = Seen(said("hi"))
    with pytest.raises(openai.AuthenticationError):
        call(application(answer, name="mine", token="s3cret"), chat())
    with pytest.raises(openai.AuthenticationError):
        call(application(answer, name="mine", token="s3cret"), lambda client: client.models.list())
    assert not answer.requests
    assert call(application(answer, name="mine", token="s3cret"), chat(), key="s3cret").choices


def test_models_health_and_keys_have_their_routes():
    app = route_by_key({"": Seen(said("plain")), "a": Seen(said("of a"))}.get, name="mine")
    listed = call(app, lambda client: client.models.list())
    assert [model.id for model in listed.data] == ["mine"]
    assert call(app, chat(), path="/run/a/v1").choices[0].message.content == "of a"
    with pytest.raises(openai.NotFoundError):
        call(app, chat(), path="/run/b/v1")
    health = call(app, lambda client: client.get("/health", cast_to=object), path="")
    assert health == {"status": "ok"}


def test_shutdown_waits_for_running_requests():
    running_now, most = 0, 0

    async def answer(request: Request) -> Reply:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.2)
        running_now -= 1
        return said(request.messages[-1].content)

    async def main() -> list[str]:
        async with run_server(application(answer, name="mine")) as url:
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
            asked = [
                asyncio.create_task(chat(messages=[{"role": "user", "content": str(n)}])(client)) for n in range(20)
            ]
            while most < 20:
                await asyncio.sleep(0.01)
        replies = await asyncio.gather(*asked)
        await client.close()
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(main()) == [str(n) for n in range(20)]
    assert most == 20


def test_port_in_use_is_named():
    async def main() -> None:
        app = application(Seen(said("")), name="x")
        async with run_server(app) as url, run_server(app, port=int(url.rpartition(":")[2])):
            pass

    with pytest.raises(ConfigError, match="choose another --port"):
        asyncio.run(main())


def words(folder: Path, model: str, **settings: Any) -> Path:
    library = Library((make_lesson("Answer in French."),))
    return Artifact("t", model, {"library.json": library.to_json()}, settings).save(folder / "french.edge")


def listening(process: subprocess.Popen[str]) -> str:
    """The URL that the command prints."""
    assert process.stderr
    line = process.stderr.readline()
    return next(word for word in line.split() if word.startswith("http://127")).rstrip(";")


def test_serve_answers_with_lessons_within_its_limits(tmp_path):
    with Server(lambda body: "oui") as model:
        path = words(tmp_path, f"{model.url}#tiny", temperature=0.2, max_tokens=50)
        process = start_command("serve", path, "--port", "0", "--calls", "2", "--token", "s3cret")
        with process:
            url = listening(process)
            with openai.OpenAI(base_url=url, api_key="s3cret", max_retries=2) as client:
                reply = client.chat.completions.create(
                    model="any", messages=[{"role": "user", "content": "Yes?"}], max_tokens=20
                )
                client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Again?"}])
                with pytest.raises(openai.RateLimitError, match="limit on calls"):
                    client.chat.completions.create(model="any", messages=[{"role": "user", "content": "More?"}])
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
        assert (process.returncode, reply.choices[0].message.content, reply.model) == (0, "oui", "french")
        first, second = model.bodies
    assert "2 calls" in err
    assert "Answer in French." in first["messages"][0]["content"]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("tiny", 0.2, 20)
    assert second["max_tokens"] == 50


@pytest.mark.parametrize("name", ["v1.5", "v1.5.edge"])
def test_served_model_has_the_name_of_its_artefact(tmp_path, name):
    library = Library((make_lesson("Answer in French."),))
    path = Artifact("t", "scripted/x:y", {"library.json": library.to_json()}).save(tmp_path / name)
    with start_command("serve", path, "--port", "0") as process:
        try:
            with urlopen(f"{listening(process)}/models", timeout=20) as reply:
                listed = json.load(reply)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert [model["id"] for model in listed["data"]] == ["v1.5"]


def test_served_prompt_has_only_relevant_lessons(tmp_path):
    texts = [
        f"When {word} appears, say {word} twice and nothing else at all." for word in ("herring", "copper", "violin")
    ]
    library = Library(tuple(make_lesson(text) for text in texts))
    artifact = Artifact("t", "m", {"library.json": library.to_json()}, {"prompt_tokens": 45})

    async def main() -> Request:
        answer = Seen(said("x"))
        client = type("Client", (), {"ask": lambda self, request: answer(request)})()
        await find_answerer(artifact)(artifact, "m", client)(Request("any", (Message("user", "a violin sounds"),)))
        return answer.requests[0]

    prompt = asyncio.run(main()).messages[-1].content
    assert "violin" in prompt and "herring" not in prompt


def test_artefact_without_content_to_serve_is_refused(tmp_path, capsys):
    with pytest.raises(ArtifactError, match="nothing to serve"):
        find_answerer(Artifact("t", "m", {"evidence.json": {}}))


def test_importing_the_server_loads_no_web_framework():
    modules = "edgewise.toolkit.cli.app, edgewise.toolkit.serve.server"
    probe = f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.check_output([sys.executable, "-c", probe], env={**os.environ, "PYTHONPATH": "."})
    heavy = {"starlette", "uvicorn", "edgewise.mas", "edgewise.experience"}
    assert not heavy & set(json.loads(output))
