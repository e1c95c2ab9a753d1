"""An exported module runs without Edgewise and does what the graph does here."""

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.mas.commands.export import command
from edgewise.mas.deploy.export import export
from edgewise.mas.deploy.exported import graph as exported_graph
from edgewise.mas.deploy.exported import model as exported_model
from edgewise.mas.designs.fixed import FixedDesign
from edgewise.mas.graph.graph import Graph, Loop, Node, single
from edgewise.mas.graph.roles import CATALOGUE, Role
from edgewise.mas.runtime.graph_run import GraphRun, run_graph
from edgewise.mas.runtime.node import Team
from edgewise.mas.runtime.node_text import normalize_answer
from edgewise.toolkit.errors import EdgewiseError, GraphError
from edgewise.toolkit.model.client import OpenAIClient
from edgewise.toolkit.run.artifact import Artifact
from edgewise.toolkit.run.driver import drive
from edgewise.toolkit.tools.python_tool import python_tool
from edgewise.toolkit.types import Example, Message, Sampling
from tests.support.server import Body, Fault, Server

BAD, GOOD = "```python\nprint(1 / 0)\n```", "First this:\n```python\nprint(6 * 7)\n```"
ROLES = {
    **CATALOGUE,
    "breaks": Role(name="breaks", does="fails", prompt="BREAK"),
    "checks": Role(name="checks", does="checks", prompt="CHECK it, say VERDICT", gives="verdict", hears=1),
    "lists": Role(name="lists", does="lists", prompt='LIST "parts"', gives="parts"),
}


def node(name: str, role: str, **different: Any) -> Node:
    return Node(name=name, role=role, **different)


THREE = (node("a", "solver", prompt="SAY 7"), node("b", "reasoner", weight=3), node("c", "solver"))
GRAPHS = {
    "single": single(),
    "lessons": single(lessons=('be "kind"', "and brief")),
    "chain": Graph((node("p", "lists"), node("s", "solver")), (("p", "s"),), "s"),
    "program": single("programmer"),
    "tools": single("tool-user"),
    "majority": Graph((*THREE, node("v", "majority")), (("a", "v"), ("b", "v"), ("c", "v")), "v"),
    "weighted": Graph((*THREE, node("v", "weighted")), (("a", "v"), ("b", "v"), ("c", "v")), "v"),
    "code-vote": Graph(
        (
            node("a", "solver", prompt=f"SAY {BAD}"),
            node("b", "solver", prompt=f"SAY {GOOD}"),
            node("c", "drafter", prompt=f"SAY {GOOD}"),
            node("v", "majority"),
        ),
        (("a", "v"), ("b", "v"), ("c", "v")),
        "v",
    ),
    "weighted-loop": Graph(
        (node("a", "solver"), node("v", "weighted"), node("k", "checks", prompt="VERDICT", weight=5)),
        (("a", "v"), ("v", "k")),
        "k",
        (Loop(source="k", target="v", rounds=1),),
    ),
    "unequal": Graph(
        (node("a", "solver"), node("b", "solver", prompt="SAY b"), node("answer", "solver"), node("z", "judge")),
        (("a", "b"), ("b", "answer"), ("answer", "z"), ("a", "z")),
        "z",
    ),
    "failing": Graph((node("x", "breaks"), node("y", "solver"), node("z", "solver")), (("x", "z"), ("y", "z")), "z"),
    "all-fail": single("breaks"),
    "loop": Graph(
        (node("w", "solver", prompt="WRITE"), node("k", "checks"), node("o", "solver"), node("s", "solver")),
        (("w", "k"), ("k", "s"), ("o", "s")),
        "s",
        (Loop(source="k", target="w", rounds=3),),
    ),
    "bounded": Graph(
        (node("w", "solver"), node("k", "checks", prompt="NEVER, VERDICT")),
        (("w", "k"),),
        "k",
        (Loop(source="k", target="w", rounds=2),),
    ),
}


def part(body: Body) -> str:
    """What the node is told, behind the task."""
    return body["messages"][0]["content"].partition("# Your part\n\n")[2]


def answer(body: Body) -> str | dict[str, Any]:
    """A model whose reply depends on nothing but what it is asked."""
    instruction, last = part(body), body["messages"][-1]
    if "Python program" in instruction:
        return GOOD if "did not work" in last["content"] else BAD
    if body.get("tools") and last["role"] != "tool":
        call = {"name": "python", "arguments": json.dumps({"code": "print(6 * 7)"})}
        return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    if last["role"] == "tool":
        return f"the tool said {last['content'].strip()}"
    if "RESULT:" in instruction:
        return "thinking\nRESULT: 42"
    if "LIST" in instruction:
        return "1. one\n2. two"
    if "CHECK" in instruction:
        return "VERDICT: ACCEPT" if "better" in last["content"] else "VERDICT: REVISE: do better"
    if "WRITE" in instruction and "REVISE" in last["content"]:
        return "a better text"
    if "NEVER" in instruction:
        return "VERDICT: REVISE"
    return instruction[4:] if instruction.startswith("SAY") else f"answer to {len(last['content'])} signs"


def faults(body: Body) -> Fault | None:
    return Fault(400, "I am broken") if part(body) == "BREAK" else None


ALONE = """
import asyncio, importlib.util, json, sys
from langgraph.checkpoint.memory import InMemorySaver

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "edgewise":
            raise ImportError(f"{name} is Edgewise")

sys.meta_path.insert(0, Forbidden())
answers = {}
for folder in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("graph", f"{folder}/graph.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answers[folder.rpartition("/")[2]] = asyncio.run(module.ask("What is six by seven?"))

async def twice():
    # The last module, two times on one thread, as a LangGraph server runs it.
    app = module.builder.compile(checkpointer=InMemorySaver())
    asked = {"messages": [{"role": "user", "content": "What is six by seven?"}]}
    config = {"configurable": {"thread_id": "t"}}
    return [await app.ainvoke(asked, config) for _ in range(2)]

first, second = asyncio.run(twice())
assert first == second, (first, second)
assert len(second["said"]["k"]) == 3
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def both(exported) -> tuple[dict[str, str], dict[str, GraphRun], Server, Server]:
    """Every graph as a module on its own, and run here: answers, and the servers that were asked."""
    with Server(answer, faults=faults) as theirs, Server(answer, faults=faults) as ours:
        for name, graph in GRAPHS.items():
            export(graph, ROLES, exported / name, model=f"{theirs.url}#{name}", node_seconds=20)
        export(GRAPHS["bounded"], ROLES, exported / "twice", model=f"{theirs.url}#twice")
        folders = [str(exported / name) for name in (*GRAPHS, "twice")]
        result = subprocess.run(
            [sys.executable, "-I", "-W", "error", "-c", ALONE, *folders], capture_output=True, text=True, env={}
        )
        assert result.returncode == 0, result.stderr
        here = {name: asyncio.run(_here(graph, name, ours.url)) for name, graph in GRAPHS.items()}
    return json.loads(result.stdout), here, theirs, ours


async def _here(graph: Graph, name: str, url: str) -> GraphRun:
    client = OpenAIClient(url, "none")
    example = Example("e", (Message("user", "What is six by seven?"),))
    team = Team(ROLES, f"{url}#{name}", tools={"python": python_tool()})
    try:
        return await drive(run_graph(graph, team, example, sample=0, seed=1), client)
    finally:
        await client.aclose()


def prompts(server: Server, model: str) -> Counter[str]:
    """What was asked in the name of a model, without the calls of tools."""
    bodies = [body for body in server.bodies if body["model"] == model]
    texts = (json.dumps([m for m in b["messages"] if m["role"] in ("system", "user")]) for b in bodies)
    return Counter(re.sub(r"/[^ ]*/main.py", "main.py", text) for text in texts)


@pytest.mark.parametrize("name", GRAPHS)
def test_an_exported_module_answers_like_its_graph(both, name):
    answers, here, theirs, ours = both
    assert answers[name] == here[name].rollout.answer
    assert prompts(theirs, name) == prompts(ours, name)
    assert sum(prompts(ours, name).values()) >= 1


def test_the_source_of_exported_modules_is_a_graph_of_one_agent(monkeypatch):
    with Server(answer) as server:
        monkeypatch.setattr(exported_model, "BASE_URL", server.url)
        assert asyncio.run(exported_graph.ask("six by seven")) == "answer to 12 signs"


def test_programs_tools_votes_and_loops_give_answers(both):
    answers, *_ = both
    assert answers["program"] == "42"
    assert answers["tools"] == "the tool said 42"
    assert answers["weighted"] == "42"
    assert answers["code-vote"] == GOOD
    assert answers["failing"]
    assert answers["all-fail"] == ""


def test_an_exported_module_passes_ruff_and_describes_itself(both, exported):
    checked = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120"]
    rules = ["--select", "E,F,I,UP,B,SIM,C4", *[str(exported / name / "graph.py") for name in GRAPHS]]
    result = subprocess.run([*checked, *rules], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    text = (exported / "loop" / "graph.py").read_text()
    assert "k -> w up to 3 times" in text
    assert "run_python" not in text
    assert "does NOT protect" in (exported / "program" / "graph.py").read_text()
    assert json.loads((exported / "loop" / "langgraph.json").read_text())["graphs"] == {"agent": "./graph.py:graph"}
    assert len((exported / "loop" / "README.md").read_text().splitlines()) <= 12


WORDS = st.text(st.sampled_from("a A1.*`'\"\t\n "), max_size=12)
LINES = st.lists(WORDS | st.sampled_from(["```", "```python", "print(1)", "42"]), max_size=6).map("\n".join)


@given(LINES)
def test_an_exported_module_normalizes_answers_alike(exported, both, text):
    assert load_module(exported / "majority").normalize_answer(text) == normalize_answer(text)


@cache
def load_module(folder: Path) -> Any:
    spec = spec_from_file_location("exported_graph", folder / "graph.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_export_has_the_roles_and_settings_of_its_artefact(tmp_path):
    role = {"name": "own", "does": "something", "prompt": "MINE"}
    files = {"graph.json": FixedDesign(single("own")).to_json(), "roles.json": {"own": role}}
    settings = {"temperature": 0.25, "max_tokens": 99}
    saved = Artifact("t", "openai/gpt-4o-mini", files, settings).save(tmp_path / "a.edge")
    result = command(str(saved), tmp_path / "out")
    module = load_module(tmp_path / "out")
    assert module.NODES["own"]["instruction"] == "MINE"
    assert module.SAMPLING == {"temperature": 0.25, "max_tokens": 99}
    assert module.DEFAULT_MODEL == "gpt-4o-mini"
    assert result.to_json()["graph"] == single("own").version
    assert result.lines()[0].startswith(str(tmp_path / "out"))


def test_of_a_policy_the_most_used_graph_is_exported(tmp_path):
    graphs = [single(), single("reasoner"), single("reasoner")]
    data = {"kind": "policy", "examples": [{"query": str(i), "graph": g.to_json()} for i, g in enumerate(graphs)]}
    (tmp_path / "graph.json").write_text(json.dumps(data))
    result = command(str(tmp_path / "graph.json"), tmp_path / "out")
    assert result.graph == single("reasoner")
    assert "2 graphs for 3 queries; this one was used for 2" in result.lines()[1]


def test_own_tools_are_left_to_connect(tmp_path):
    names = ("web-search", "web_search", "3d", "x²", 'a "b"\\')
    result = export(single(tools=names), CATALOGUE, tmp_path)
    assert result.unconnected == names
    assert [name in line for name, line in zip(names[:4], result.lines()[-5:-1], strict=True)] == [True] * 4
    module = load_module(tmp_path)
    assert list(module.TOOLS) == list(names)
    functions = [function for _, function in module.TOOLS.values()]
    assert len(set(functions)) == len(names)
    for name, function in zip(names, functions, strict=True):
        with pytest.raises(NotImplementedError, match=re.escape(f"the tool {name} is not connected")):
            asyncio.run(function())


def test_tools_of_the_task_and_limits_are_exported(tmp_path):
    data = {**FixedDesign(single("own")).to_json(), "tools": ["look", "python"]}
    role = {"name": "own", "does": "something", "tools": ["*"], "turns": 8}
    files = {"graph.json": data, "roles.json": {"own": role}}
    saved = Artifact("t", "m", files, {"turns": 3, "node_seconds": 7.5}).save(tmp_path / "a.edge")
    result = command(f"{saved}@{single('own').version[:4]}", tmp_path / "out")
    assert result.unconnected == ("look",)
    module = load_module(tmp_path / "out")
    assert module.NODES["own"] == {"kind": "tools", "inputs": [], "tools": ["look", "python"], "turns": 3}
    assert module.NODE_SECONDS == 7.5


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [((node("a", "nobody"),), "no role 'nobody'"), ((node("a", "solver", model="http://x/v1#m"),), "several")],
)
def test_graphs_that_cannot_be_exported_raise(tmp_path, nodes, sentence):
    with pytest.raises(GraphError, match=sentence):
        export(Graph(nodes, (), "a"), CATALOGUE, tmp_path, model="openai/gpt-4o-mini")


@pytest.mark.parametrize(
    ("content", "kind"), [("{}", GraphError), ("[", GraphError), ('{"kind": "policy"}', GraphError)]
)
def test_a_broken_source_raises(tmp_path, content, kind):
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(kind):
        command(str(tmp_path / "graph.json"), tmp_path / "out")
    with pytest.raises(EdgewiseError):
        command(str(tmp_path / "nothing.edge"), tmp_path / "out")


def test_an_export_has_the_sampling(tmp_path):
    how = Sampling(temperature=0.2, max_tokens=64, stop=("END",))
    export(single(), CATALOGUE, tmp_path, sampling=how)
    assert load_module(tmp_path).SAMPLING == {"temperature": 0.2, "max_tokens": 64, "stop": ["END"]}
