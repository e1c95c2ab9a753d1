"""A graph in use: threads that wait and go on, streaming, retention, and behind the endpoint."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.mas.config import GraphConfig
from edgewise.mas.deploy.agent_graph import AgentGraph, GraphAnswer, answerer
from edgewise.mas.designs.clustered import ClusteredDesign
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.designs.query_encoder import encode
from edgewise.mas.graph.graph import Graph, Loop, Node, single
from edgewise.mas.runtime.checkpoint import Retention
from edgewise.mas.runtime.context import GraphLimits
from edgewise.mas.spec import GraphSpec
from edgewise.mas.training.loop import prepare_spec
from edgewise.mas.training.measurement import build_artifact_files
from edgewise.toolkit.errors import ArtifactError, ConfigError, GraphError, LimitReached, ProviderDown, StoreDown
from edgewise.toolkit.model.scripted import ScriptedClient
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.serve.server import application, run_server
from edgewise.toolkit.tools.registry import load_tools
from edgewise.toolkit.types import Message, Reply, Request, Sampling, Tool
from tests.support.mas import sums
from tests.support.plans import play as play_plan
from tests.support.server import Server

CHAIN = Graph(
    (
        Node(name="plan", role="solver", prompt="PLAN"),
        Node(name="draft", role="solver", prompt="DRAFT"),
        Node(name="end", role="solver", prompt="END"),
    ),
    (("plan", "draft"), ("draft", "end")),
    "end",
)


def play(request: Request) -> str | Reply:
    """Says which node it plays, and the first line of what it heard."""
    text = request.messages[-1].content
    prompt = text.partition("# Your part\n\n")[2]
    inputs = text.partition("## ")[2].splitlines()
    if "BREAK" in prompt:
        return Reply(Message("assistant", ""), "refused", error="no")
    return f"{prompt.lower() or 'answer'}({inputs[1] if inputs else text.split()[0]})"


def artifact(graph: Graph = CHAIN, **settings: Any) -> Artifact:
    return Artifact("t", "scripted/x:y", {"graph.json": FixedDesign(graph).to_json()}, settings)


def use(client: ScriptedClient | None = None, graph: Graph = CHAIN, **how: Any) -> AgentGraph:
    return AgentGraph.from_artifact(artifact(graph), client=client or ScriptedClient(play), **how)


def run(work: Callable[[], Any]) -> Any:
    return asyncio.run(work())


def test_a_question_gets_the_answer_and_usage_of_the_exit():
    client = ScriptedClient(play)
    with use(client) as graph:
        result = graph.answer_sync("seven times six")
    assert result.text == "end(draft(plan(seven)))"
    assert list(result.outcomes) == ["plan", "draft", "end"]
    assert result.usage.total > 0
    assert (result.waiting, result.error, len(client.requests)) == ((), "", 3)


def test_a_design_may_choose_a_graph_per_question():
    texts = ["count the letters of a word", "add up these numbers"]
    vectors = play_plan(encode("hashing", texts), lambda request: "")
    table = ClusteredDesign.from_centres(vectors, [single(prompt="COUNT"), single(prompt="ADD")], "hashing")
    bundle = Artifact("t", "scripted/x:y", {"graph.json": table.to_json()})
    with AgentGraph.from_artifact(bundle, client=ScriptedClient(play)) as graph:
        answers = [graph.answer_sync(text).text for text in ("count the letters, a word", "add up numbers")]
    assert answers == ["count(count)", "add(add)"]


def test_a_graph_runs_with_the_settings_of_its_measurement():
    def calls(request: Request) -> str:
        return '<tool>{"name": "python", "arguments": {"code": "print(1)"}}</tool>'

    text = ScriptedClient(calls)
    with AgentGraph.from_artifact(artifact(single("tool-user"), turns=2, calling="text"), client=text) as graph:
        assert "turns" in graph.answer_sync("go").error
    assert [request.tools for request in text.requests] == [(), ()]
    for setting, ended in (({"graph_calls": 2}, "limit"), ({"graph_tokens": 40, "max_tokens": 9}, "limit")):
        with AgentGraph.from_artifact(artifact(**setting), client=ScriptedClient(play)) as graph:
            assert graph.answer_sync("go").outcomes["end"][-1].status == ended
            assert graph.limits.node_seconds == GraphConfig.from_artifact({}).node_seconds
    slow = artifact(single(), node_seconds=0.05)
    with AgentGraph.from_artifact(slow, client=ScriptedClient(lambda _: asyncio.sleep(5, "late"))) as graph:
        assert graph.answer_sync("go").outcomes["solver"][-1].status == "timeout"
    with pytest.raises(ArtifactError, match="turns"):
        AgentGraph.from_artifact(artifact(turns="many"))


def test_stored_settings_are_the_ones_in_use():
    given = {"turns": 3, "calling": "native", "node_seconds": 9.0, "graph_calls": 5, "graph_tokens": 700}
    config = GraphConfig.model_validate(given)
    assert GraphConfig.from_artifact(config.deployment_settings()) == config
    with AgentGraph.from_artifact(artifact(**config.deployment_settings()), client=ScriptedClient(play)) as graph:
        assert (graph.team.turns, graph.team.calling) == (3, "native")
        assert graph.limits == config.graph_limits
        assert graph.team.sampling == config.eval_sampling


def look(key: str) -> str:
    """Look something up."""
    return f"{key} is 42"


def test_tools_of_the_task_are_stored_and_required():
    task = replace(sums.task(5), tools=load_tools([look, "python"]))
    job = play_plan(
        prepare_spec(GraphSpec(task, GraphConfig.model_validate({"search": "fixed", "encoder": "hashing"}))), str
    )
    files = build_artifact_files(job, FixedDesign(single()))
    assert files["graph.json"]["tools"] == ["look", "python"]
    assert build_artifact_files(job, FixedDesign(single("tool-user")))["graph.json"]["tools"] == ["python"]
    assert "tools" not in build_artifact_files(job, FixedDesign(single("planner")))["graph.json"]
    bundle = Artifact("t", "m", files)
    with pytest.raises(ConfigError, match="missing here: look"):
        answerer(bundle, "m", ScriptedClient(play))
    client = ScriptedClient(play)
    with AgentGraph.from_artifact(bundle, client=client, tools=[look]) as graph:
        graph.answer_sync("go")
    assert [tool.name for tool in client.requests[0].tools] == ["look", "python"]
    files["graph.json"]["tools"] = "look"
    with pytest.raises(GraphError, match="list of names"):
        AgentGraph.from_artifact(bundle, client=client, tools=[look])


def test_all_messages_of_a_conversation_are_passed_on():
    client = ScriptedClient(play)
    messages = (Message("user", "first"), Message("assistant", "yes"), Message("user", "then"))
    with use(client, single()) as graph:
        graph.answer_sync(messages)
    assert client.requests[0].messages == messages


def test_outputs_are_streamed_as_nodes_end():
    async def main() -> list[str]:
        async with use() as graph:
            return [outcome.node async for outcome in graph.astream("go")]

    assert run(main) == ["plan", "draft", "end"]


@pytest.mark.parametrize("place", ["", "memory"])
@pytest.mark.parametrize("error", [LimitReached("The limit on calls"), ProviderDown("it is down")])
def test_errors_of_the_client_are_raised(error, place):
    async def main() -> None:
        async with use(ScriptedClient(lambda _: error), checkpointer=place) as graph:
            with pytest.raises(type(error), match=str(error)):
                await graph.answer("go", "t")
            with pytest.raises(type(error), match=str(error)):
                _ = [outcome async for outcome in graph.astream("go", "u")]
            if place:
                with pytest.raises(type(error), match=str(error)):
                    await graph.resume("t")

    run(main)


WIDE = Graph(
    (Node(name="a", role="solver"), Node(name="b", role="solver", prompt="B"), *CHAIN.nodes),
    (*CHAIN.edges, ("a", "end"), ("b", "end")),
    "end",
)


@pytest.mark.parametrize("way", ["answer", "resume", "astream", "abandoned"])
def test_a_cancelled_or_abandoned_run_stops_asking(way):
    answered: list[Request] = []

    async def slow(request: Request) -> str:
        await asyncio.sleep(0 if "PLAN" in request.messages[-1].content else 0.3)
        answered.append(request)
        return "x"

    async def stream(graph: AgentGraph) -> None:
        async for _ in graph.astream("go"):
            if way == "abandoned":
                return

    async def main() -> None:
        waits = {"checkpointer": "memory", "interrupt_before": ("draft",)} if way == "resume" else {}
        async with use(ScriptedClient(slow), WIDE, **waits) as graph:
            if waits:
                await graph.answer("go", "t")
            work = {"answer": graph.answer, "resume": graph.resume}.get(way)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(work("t") if work else stream(graph), 0.1)
            await asyncio.sleep(0.01)
            before = len(answered)
            assert before and len(asyncio.all_tasks()) == 1
            await asyncio.sleep(0.4)
            assert len(answered) == before

    run(main)


@pytest.mark.parametrize(
    ("options", "why"), [({"tools": (Tool("f", "", {}),)}, "tools"), ({"schema": {"type": "object"}}, "JSON")]
)
def test_requests_for_tools_or_json_are_refused(options, why):
    client = ScriptedClient(play)
    reply = run(lambda: answerer(artifact(), "m", client)(Request("g", (Message("user", "x"),), **options)))
    assert (reply.stop, why in reply.error, client.requests) == ("refused", True, [])


def test_the_seed_of_a_request_seeds_the_run():
    client = ScriptedClient(play)
    answer = answerer(artifact(), "m", client)

    def seeds(seed: int | None) -> list[int | None]:
        client.requests.clear()
        run(lambda: answer(Request("g", (Message("user", "x"),), Sampling(seed=seed))))
        return [request.sampling.seed for request in client.requests]

    assert seeds(7) == seeds(7) != seeds(8)
    assert seeds(None) == seeds(None) != seeds(7)


def test_a_failing_exit_says_why():
    with use(graph=single(prompt="BREAK")) as graph:
        result = graph.answer_sync("go")
    assert (result.text, result.error) == ("", "node 'solver' failed: no")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def place(request, tmp_path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").database()
    return f"sqlite:{tmp_path / 'threads.sqlite'}" if request.param == "sqlite" else "memory"


def test_a_run_waits_before_a_node_and_resumes_with_an_edit(place):
    client = ScriptedClient(play)

    async def main() -> None:
        async with use(client, checkpointer=place, interrupt_before=("draft",)) as graph:
            waits = await graph.answer("seven", "t1")
            assert (waits.waiting, waits.text, len(client.requests)) == (("draft",), "", 1)
            with pytest.raises(ConfigError, match="waits"):
                await graph.answer("other", "t1")
            result = await graph.resume("t1", {"plan": "a better plan"})
            assert (result.text, result.waiting) == ("end(draft(a better plan))", ())
            with pytest.raises(ConfigError, match="does not wait"):
                await graph.resume("t1")
            assert (await graph.answer("again", "t1")).waiting == ("draft",)

    run(main)
    assert len(client.requests) == 4


def test_another_process_resumes_a_thread(tmp_path):
    place = f"sqlite:{tmp_path / 'threads.sqlite'}"
    how = {"checkpointer": place, "interrupt_before": ("end",)}
    with use(**how) as graph:
        assert graph.answer_sync("seven", "t").waiting == ("end",)
    client = ScriptedClient(play)
    with use(client, **how) as graph:
        assert graph.resume_sync("t").text == "end(draft(plan(seven)))"
    assert len(client.requests) == 1
    with use(**how) as graph:
        graph.answer_sync("seven", "t")
    with use(graph=single(), checkpointer=place) as other, pytest.raises(GraphError, match="another graph"):
        other.resume_sync("t")


def test_a_resumed_run_keeps_sampling_and_limits(place):
    sampling = Sampling(temperature=0.3, seed=7, stop=("!",))
    limits = GraphLimits(calls=2)

    async def ask(**how: Any) -> tuple[list[Request], GraphAnswer]:
        client = ScriptedClient(play)
        async with use(client, limits=limits, **how) as graph:
            result = await graph.answer("seven", "t", sampling)
            while result.waiting:
                result = await graph.resume("t")
        return client.requests, result

    whole, result = run(ask)
    parts, last = run(lambda: ask(checkpointer=place, interrupt_before=("draft", "end")))
    assert [x.sampling for x in parts] == [x.sampling for x in whole] and len(parts) == 2
    assert last.error == result.error and "limit" in last.error


def test_an_edit_does_not_reset_the_usage_of_its_node():
    client = ScriptedClient(play)
    how = {"checkpointer": "memory", "interrupt_before": ("draft", "end"), "limits": GraphLimits(calls=2)}
    with use(client, **how) as graph:
        graph.answer_sync("seven", "t")
        graph.resume_sync("t", {"plan": "a better plan"})
        result = graph.resume_sync("t")
    assert len(client.requests) == 2 and "limit" in result.error


def test_a_loop_waits_in_every_round():
    loop = Graph(
        (Node(name="w", role="solver", prompt="W"), Node(name="k", role="solver", prompt="K")),
        (("w", "k"),),
        "k",
        (Loop(source="k", target="w", rounds=2),),
    )
    with use(graph=loop, checkpointer="memory", interrupt_before=("k",)) as graph:
        results = [graph.answer_sync("x", "t"), *(graph.resume_sync("t") for _ in range(3))]
    assert [one.waiting for one in results] == [("k",), ("k",), ("k",), ()]
    assert len(results[-1].outcomes["k"]) == 3


def test_a_checkpointer_does_not_change_the_answer():
    with use() as plain, use(checkpointer="memory") as persistent:
        assert plain.answer_sync("seven").text == persistent.answer_sync("seven", "t").text


def test_concurrent_threads_do_not_mix():
    async def main() -> list[str]:
        async with use(checkpointer="memory") as graph:
            result = await asyncio.gather(*(graph.answer(f"q{n} x", f"t{n}") for n in range(20)))
            return [one.text for one in result]

    assert run(main) == [f"end(draft(plan(q{n})))" for n in range(20)]


def test_prune_deletes_old_threads(place):
    async def main() -> tuple[list[str], list[str]]:
        async with use(checkpointer=place, interrupt_before=("end",)) as graph:
            for n in range(4):
                await graph.answer("x", f"t{n}")
            gone = await graph.prune(Retention(threads=2))
            left = [n for n in range(4) if await _known(graph, f"t{n}")]
            return sorted(gone), left

    assert run(main) == (["t0", "t1"], [2, 3])


async def _known(graph: AgentGraph, thread: str) -> bool:
    try:
        return bool((await graph.resume(thread)).text)
    except ConfigError:
        return False


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0, 1e6)),
    st.none() | st.integers(1, 5),
    st.none() | st.floats(0.1, 9),
)
def test_retention_keeps_the_newest_and_none_too_old(touched, threads, days):
    now = 1e6
    gone = Retention(threads, days).select_expired(touched, now)
    remaining = [thread for thread in touched if thread not in gone]
    assert len(gone) == len(set(gone))
    assert threads is None or len(remaining) <= threads
    assert days is None or all(touched[thread] >= now - days * 86_400 for thread in remaining)
    if threads is None and days is None:
        assert not gone
    if remaining and gone and days is None:
        assert min(touched[t] for t in remaining) >= max(touched[t] for t in gone)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"interrupt_before": ("draft",)}, ConfigError),
        ({"checkpointer": "memory", "interrupt_before": ("nobody",)}, GraphError),
        ({"graph": single("nobody")}, GraphError),
        ({"graph": single(tools=("look-up",))}, GraphError),
    ],
)
def test_graphs_that_cannot_run_raise_at_once(how, error):
    with pytest.raises(error):
        use(**how)


@pytest.mark.parametrize(
    ("how", "thread", "sentence"),
    [({"checkpointer": "mongo"}, "t", "no checkpointer 'mongo'"), ({"checkpointer": "memory"}, "", "name of a thread")],
)
def test_wrong_use_raises_a_config_error(how, thread, sentence):
    with use(**how) as graph, pytest.raises(ConfigError, match=sentence):
        graph.answer_sync("x", thread)
    with use(checkpointer="memory") as graph, pytest.raises(ConfigError, match="no thread"):
        graph.resume_sync("unknown")


@pytest.mark.parametrize("file", ["missing/threads.sqlite", "text.sqlite"])
def test_a_broken_file_of_threads_raises_store_down(tmp_path, file):
    (tmp_path / "text.sqlite").write_text("no database" * 100)
    with use(checkpointer=f"sqlite:{tmp_path / file}") as graph, pytest.raises(StoreDown, match=file):
        graph.answer_sync("x", "t")


def test_an_artefact_of_lessons_is_no_graph(tmp_path):
    saved = Artifact("t", "m", {"library.json": {"lessons": []}}).save(tmp_path / "a.edge")
    with pytest.raises(ArtifactError, match="no graph"):
        AgentGraph.load(saved)


def test_the_endpoint_serves_the_graph(tmp_path: Path):
    with Server(lambda body: f"at {body['temperature']}") as model:
        bundle = Artifact("t", f"{model.url}#tiny", {"graph.json": FixedDesign(CHAIN).to_json()}, {"temperature": 0.5})

        async def main() -> Any:
            async with AgentGraph.from_artifact(bundle) as graph:
                await graph.answer("warm up")
                app = application(answerer(bundle, bundle.model, graph.client), name="g")
                async with run_server(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
                    messages: Any = [{"role": "user", "content": "x"}]
                    return await client.chat.completions.create(model="g", messages=messages, temperature=0)

        started = time.monotonic()
        reply = run(main)
        assert time.monotonic() - started < 20
    assert reply.choices[0].message.content == "at 0.0"
    assert reply.usage.prompt_tokens > 0


@pytest.mark.parametrize(("error", "status"), [(LimitReached("no more"), 429), (ProviderDown("down"), 503)])
def test_errors_of_a_served_graph_have_their_own_status(error, status):
    async def main() -> Any:
        app = application(answerer(artifact(), "m", ScriptedClient(lambda _: error)), name="g")
        async with run_server(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as c:
            await c.chat.completions.create(model="g", messages=[{"role": "user", "content": "x"}])

    with pytest.raises(openai.APIStatusError, match=str(error)) as caught:
        run(main)
    assert caught.value.status_code == status
