"""A program of the user's own learns lessons for its nodes, and stays as it is."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from edgewise.experience.library.library import Library, make_lesson
from edgewise.mas.adopt.answerer import build_answerer
from edgewise.mas.adopt.api import adopt
from edgewise.mas.adopt.gateway import UNNAMED, Gateway, ProgramRun, node_of, route_request
from edgewise.mas.adopt.loop import split_by_node
from edgewise.mas.adopt.node_libraries import NodeLibraries
from edgewise.mas.adopt.programs import AsyncProgram, ProcessPool
from edgewise.toolkit.budget.ledger import Limits
from edgewise.toolkit.errors import AllFailed, ArtifactError, ConfigError, LimitReached
from edgewise.toolkit.model.client import OpenAIClient
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import Driver
from edgewise.toolkit.serve.server import application, find_answerer, run_server
from edgewise.toolkit.task.task import Task
from edgewise.toolkit.types import Example, Group, Message, Request, Rollout, Sampling, Score
from tests.support.server import Body, Server

ROOT = Path(__file__).parents[3]
FIND, WRITE = "You find the number.", "You write it."
TASK = Task.from_rows([{"q": f"it is {n}", "target": f"<{n}>"} for n in range(40)], prompt="{q}", name="numbers")


def body(system: str, text: str) -> Body:
    asked = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"model": "mine", "messages": asked, "temperature": 0.5}


async def program(question: str, url: str) -> str:
    """Two nodes, each a plain call."""
    async with aiohttp.ClientSession() as session:
        text = question
        for system in (FIND, WRITE):
            async with session.post(f"{url}/chat/completions", json=body(system, text)) as reply:
                reply.raise_for_status()
                text = (await reply.json())["choices"][0]["message"]["content"]
        return text


async def by_openai(question: str, url: str) -> str:
    """The same with the openai package."""
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        text = question
        for system in (FIND, WRITE):
            reply: Any = await client.chat.completions.create(**body(system, text))
            text = reply.choices[0].message.content
        return text


async def broken(question: str, url: str) -> str:
    raise ZeroDivisionError("my own bug")


def model(body: Body) -> str:
    """Finds; writes with brackets by chance, or always once told; as distiller it tells the writer to."""
    text = "\n".join(m["content"] for m in body["messages"])
    if "response_format" in body:
        told = '{"action": "add", "id": null, "kind": "form", "text": "Put it in brackets."}'
        return f'{{"operations": [{told if WRITE in text or "brackets" in text else ""}]}}'
    number = text.split()[-1]
    if FIND in text:
        return number
    return f"<{body['messages'][-1]['content']}>" if "brackets" in text or body["seed"] % 4 == 0 else number


def learn(server: Server, run: Path, program: Any = program, **how: Any) -> Any:
    settings = {"epochs": 1, "batch_size": 16, "group_size": 3, "max_tokens": 50, "attempts": 1, **how}
    return adopt(TASK, program, model=f"{server.url}#tiny", run=run, **settings)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> tuple[Any, int]:
    """What a whole run came to, and how many calls the server saw."""
    os.environ["EDGEWISE_OFFLINE"] = "1"
    with Server(model) as server:
        return learn(server, tmp_path_factory.mktemp("adopt") / "run"), len(server.bodies)


def test_the_node_that_lost_learns_and_the_gain_is_measured(learnt):
    result, calls = learnt
    assert result.improved
    libraries = NodeLibraries.from_json(result.artifact.files["nodes.json"])
    assert {node: [x.text for x in library.lessons] for node, library in libraries.nodes.items()} == {
        WRITE: ["Put it in brackets."]
    }
    assert result.evidence.results[1].mean.estimate == 1
    assert result.costs["total"]["calls"] == calls
    assert (result.path / "report.html").exists()


def test_a_limit_ends_it_and_going_on_pays_nothing_twice(learnt, tmp_path):
    once, calls = learnt
    with Server(model) as server:
        with pytest.raises(LimitReached):
            learn(server, tmp_path / "run", limits=Limits(calls=60))
        assert len(server.bodies) <= 60
        again = learn(server, tmp_path / "run")
        assert len(server.bodies) == calls
    assert again.artifact.files["nodes.json"] == once.artifact.files["nodes.json"]
    assert again.costs["total"]["calls"] == calls


def test_a_program_that_always_breaks_is_said(tmp_path):
    with Server(model) as server, pytest.raises(AllFailed, match="my own bug"):
        learn(server, tmp_path / "run", broken)


def row(text: str) -> Example:
    return Example(text, (Message("user", text),))


def trial(text: str, **libraries: Library) -> ProgramRun:
    return ProgramRun(row(text), libraries, "v", 0, 7, "rollout", 1)


def gateway(server: Server, program: Any, seconds: float = 20.0) -> tuple[Gateway, OpenAIClient]:
    client = OpenAIClient(server.url, "none")
    return Gateway(program, Driver(client).run, f"{server.url}#tiny", 50, seconds), client


def together(server: Server, program: Any, trials: list[ProgramRun], seconds: float = 20.0) -> list[Rollout]:
    async def main() -> list[Rollout]:
        made, client = gateway(server, program, seconds)
        async with made.open():
            found = await asyncio.gather(*map(made.run, trials))
        await client.aclose()
        return list(found)

    return asyncio.run(main())


def test_runs_at_the_same_time_are_never_mixed():
    with Server(model, latency=0.02) as server:
        found = together(server, AsyncProgram(by_openai, 12), [trial(f"it is {n}") for n in range(24)])
        assert server.most_at_once > 2
    for n, run in enumerate(found):
        assert run.answer.strip("<>") == str(n)
        assert [call.role for call in run.steps[0].subrollouts] == [FIND, WRITE]
        assert [len(call.steps) for call in run.steps[0].subrollouts] == [1, 1]
        assert run.steps[0].subrollouts[0].steps[0].prompt[-1].content == f"it is {n}"


def test_lessons_reach_only_their_node():
    library = Library((make_lesson("Put it in brackets."),))
    with Server(model) as server:
        (run,) = together(server, AsyncProgram(program), [trial("it is 5", **{WRITE: library})])
        find, write = server.bodies
    assert run.answer == "<5>"
    assert find["messages"] == [{"role": "system", "content": FIND}, {"role": "user", "content": "it is 5"}]
    assert write["messages"][0]["content"].startswith(WRITE) and "brackets" in write["messages"][0]["content"]
    assert write["messages"][1] == {"role": "user", "content": "5"}
    assert (write["model"], write["temperature"]) == ("mine", 0.5)
    assert run.steps[0].subrollouts[1].steps[0].prompt[0].content == WRITE


def hangs(question: str) -> str:
    time.sleep(60)
    return question


def dies(question: str) -> str:
    os._exit(3)


async def fine_async(question: str) -> str:
    return await program(question, os.environ["OPENAI_BASE_URL"])


@pytest.mark.parametrize(
    ("target", "stop", "said", "seconds"),
    [
        ("hangs", "timeout", "longer than", 2),
        ("dies", "failed", "process ended", 60),
        ("nothing", "failed", "nothing", 60),
    ],
)
def test_a_program_that_hangs_or_dies_is_a_failed_run(target, stop, said, seconds):
    with Server(model) as server:
        processes = ProcessPool(f"tests.mas.adopt.test_adopt:{target}", 1)
        (run,) = together(server, processes, [trial("it is 5")], seconds)
    assert (run.stop, said in run.error) == (stop, True)


def says_who(question: str) -> str:
    return str(os.getpid())


def gone(process: int) -> None:
    """End a process of ours, and wait until it has."""
    os.kill(process, signal.SIGKILL)
    while process in {child.pid for child in multiprocessing.active_children()}:
        time.sleep(0.01)


def test_a_process_that_died_between_two_runs_is_replaced():
    async def main(server: Server) -> list[Rollout]:
        made, client = gateway(server, ProcessPool("tests.mas.adopt.test_adopt:says_who", 1))
        async with made.open():
            first = await made.run(trial("it is 5"))
            gone(int(first.answer))
            found = [first, await made.run(trial("it is 6")), await made.run(trial("it is 7"))]
        await client.aclose()
        return found

    with Server(model) as server:
        first, second, third = asyncio.run(main(server))
    assert [run.error for run in (first, second, third)] == ["", "", ""]
    assert first.answer != second.answer == third.answer


def test_ended_process_is_replaced_for_the_next_run():
    with Server(model) as server:
        found = together(
            server, ProcessPool("tests.mas.adopt.test_adopt:dies", 1), [trial("it is 5"), trial("it is 6")]
        )
    assert ["process ended" in run.error for run in found] == [True, True]
    assert not multiprocessing.active_children()


def test_programs_in_processes_are_kept_apart_too():
    with Server(model) as server:
        processes = ProcessPool("tests.mas.adopt.test_adopt:fine_async", 2)
        found = together(server, processes, [trial(f"it is {n}") for n in range(8)])
    assert [run.answer.strip("<>") for run in found] == [str(n) for n in range(8)]


def test_groups_by_node_have_the_reward_of_the_whole_run():
    def run(sample: int, reward: float) -> Rollout:
        with Server(model) as server:
            (found,) = together(server, AsyncProgram(program), [trial("it is 5")])
        return Rollout("e", "program", sample, found.steps, "stop", Score(reward))

    group = Group(row("it is 5"), "program", (run(0, 1.0), run(1, 0.0), Rollout("e", "program", 2, (), "failed")))
    parts = split_by_node(group)
    assert [(part.role, part.rewards) for part in parts] == [(FIND, (1.0, 0.0)), (WRITE, (1.0, 0.0))]
    assert parts[0].example.messages[0].content == FIND
    assert split_by_node(Group(group.example, "program", group.rollouts[:1])) == []


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        ((Message("system", "\n You plan.\nToday is Monday."), Message("user", "x")), "You plan."),
        ((Message("user", "x"),), UNNAMED),
        ((Message("system", "  "),), UNNAMED),
        ((Message("system", "a" * 100),), "a" * 60),
    ],
)
def test_a_node_is_known_by_the_first_line_it_is_told(messages, name):
    assert node_of(Request("m", messages)) == name


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("openai/gpt-4o", "openai/mine"),
        ("http://h/v1#x", "http://h/v1#mine"),
        ("scripted/a:b", "scripted/a:b"),
        ("local/smollm2-135m", "local/smollm2-135m"),
    ],
)
def test_the_program_names_the_model_of_the_server(server, expected):
    asked = route_request(Request("mine", (), Sampling()), server, 9)
    assert (asked.model, asked.sampling.max_tokens) == (expected, 9)
    assert route_request(Request("mine", (), Sampling(max_tokens=5)), server, 9).sampling.max_tokens == 5


async def served(artifact: Artifact, server: Server) -> str:
    """What the program answers through an artefact."""
    client = OpenAIClient(server.url, "none")
    try:
        answer = find_answerer(artifact)(artifact, f"{server.url}#m", client)
        async with run_server(application(answer, name="x")) as url:
            return await program("it is 8", f"{url}/v1")
    finally:
        await client.aclose()


def test_served_the_unchanged_program_has_its_lessons():
    libraries = NodeLibraries({WRITE: Library((make_lesson("Put it in brackets."),))})
    artifact = Artifact("t", "m", {"nodes.json": libraries.to_json()})
    assert find_answerer(artifact) is build_answerer
    with Server(lambda body: model({"seed": 1, **body})) as server:
        assert asyncio.run(served(artifact, server)) == "<8>"


def by_verb(request: Request) -> str:
    """Another way to tell the nodes apart."""
    return "writer" if "write" in request.messages[0].content else "finder"


@pytest.mark.parametrize("which", [by_verb, "tests.mas.adopt.test_adopt:by_verb"])
def test_served_nodes_are_named_by_a_user_function(tmp_path, which):
    with Server(lambda body: model({"seed": 1, **body})) as server:
        found = learn(server, tmp_path / "run", node_of=which)
        saved = found.artifact.save(tmp_path / "a.edge")
        assert list(found.artifact.files["nodes.json"]) == ["writer"]
        assert asyncio.run(served(Artifact.load(saved), server)) == "<8>"


@pytest.mark.parametrize("which", [lambda request: "a", Library().__repr__])
def test_node_function_that_cannot_be_imported_is_refused(tmp_path, which):
    with Server(model) as server, pytest.raises(ConfigError, match="module:function"):
        learn(server, tmp_path / "run", node_of=which)
    assert not server.bodies


def test_node_libraries_round_trip_without_empty_ones():
    some = NodeLibraries({"a": Library((make_lesson("x y"),)), "b": Library()})
    assert NodeLibraries.from_json(some.to_json()).version == some.version
    assert NodeLibraries({"b": Library()}).version == NodeLibraries().version
    with pytest.raises(ArtifactError):
        NodeLibraries.from_json([])


def test_the_example_runs_as_it_is():
    script = ROOT / "examples" / "your_langgraph.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "after   1.000" in done.stdout
    assert "You write the total of some amounts. ['Write EUR behind the total.']" in done.stdout
    assert "You list" not in done.stdout
