"""
The parts that an exported module is put together from; one is written out only where the graph needs it.

Plain Python that does what `mas.runtime.node` and `mas.runtime.schedule` do, with nothing but LangGraph and the openai package.
"""

STATE = '''

class Said(TypedDict):
    """
    What came of a node: `text` is what others hear, "" for nothing, and `answer` is its answer alone.

    `accepts` is its verdict, None where it gives none; `error` says what went wrong, "" for nothing.
    """

    node: str
    text: str
    answer: str
    accepts: bool | None
    error: str


def together(old: dict[str, list[Said]], new: dict[str, list[Said]]) -> dict[str, list[Said]]:
    """Nodes that run at the same time write here without losing each other's word; a node in a loop adds to its own."""
    return {**old, **{name: [*old.get(name, []), *said] for name, said in new.items()}}


class State(TypedDict):
    """`messages` is what you ask, `answer` what you get, `said` what each node said, a list with an item per round."""

    messages: list[dict[str, Any]]
    said: NotRequired[Annotated[dict[str, list[Said]], together]]
    answer: NotRequired[str]


Node = Callable[[State], Awaitable[dict[str, Any]]]


def standing(state: State, name: str) -> Said | None:
    """What a node said last, if it said anything: a later round that failed does not unsay it."""
    said = state.get("said", {}).get(name, [])
    return next((one for one in reversed(said) if one["text"]), None)


def heard(state: State, names: list[str], source: str) -> list[Said]:
    """The word of the nodes that a node hears, and of the one that sent it back, if one did."""
    words = (standing(state, name) for name in [*names, source])
    return [said for said in words if said]


def safe(name: str, work: Callable[[State], Awaitable[dict[str, Any]]]) -> Node:
    """
    A node that never raises: a failure or a timeout is its outcome, and the nodes after it go on without its word.

    Not add_node(error_handler=..., timeout=...): a node that failed there never counts as done for those that wait for
    several nodes.
    """

    async def node(state: State) -> dict[str, Any]:
        said = Said(node=name, text="", answer="", accepts=None, error="")
        try:
            async with asyncio.timeout(NODE_SECONDS):
                said.update(await work(state))
        except TimeoutError:
            said["error"] = f"stopped after {NODE_SECONDS:g} seconds"
        except Exception as problem:
            said["error"] = f"{type(problem).__name__}: {problem}"
        said["answer"] = said["answer"] or said["text"]
        return {"said": {name: [said]}}

    return node


# ---- asking a model -------------------------------------------------------------------------------

# One for each event loop, as connections can't be shared between loops.
CLIENTS: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncOpenAI] = WeakKeyDictionary()


async def complete(messages: list[dict[str, Any]], model: str, **options: Any) -> Any:
    """One call: the message that the model says. The openai package asks again where a server is busy."""
    loop = asyncio.get_running_loop()
    client = CLIENTS.get(loop) or CLIENTS.setdefault(loop, AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY))
    options = {key: value for key, value in {**SAMPLING, **options}.items() if value is not None}
    reply = await client.chat.completions.create(model=model or MODEL, messages=messages, **options)
    return reply.choices[0].message


def prompt(state: State, words: list[Said], lessons: Sequence[str], told: str) -> list[dict[str, Any]]:
    """The messages of a call: the task, and behind it what the node hears, its lessons, and what it is told."""
    found = "\\n\\n".join(f"## {said['node']}\\n{cut(said['text'])}" for said in words)
    parts = {HEARD: found, LESSONS: "\\n".join(f"- {lesson}" for lesson in lessons)}
    parts[PART] = told or (FORM if words else "")
    *before, last = state["messages"]
    content = "\\n\\n".join([last["content"], *(f"# {head}\\n\\n{text}" for head, text in parts.items() if text)])
    return [*before, {**last, "content": content}]


def cut(text: str, most: int = SHOWN_SIGNS) -> str:
    """What others are shown of a text: its two ends, where it is very long."""
    return text if len(text) <= most else f"{text[: most // 2]}\\n[...]\\n{text[-(most // 2) :]}"
'''

CHECKED = '''

VERDICT = re.compile(VERDICT_PATTERN)
RESULT = re.compile(RESULT_PATTERN)
LISTED = re.compile(LISTED_PATTERN)


def checked(reply: str | None, gives: str) -> dict[str, Any]:
    """What a reply says, and what is wrong with it; one that is not as it should be is still heard."""
    text = (reply or "").strip()
    if not text:
        return {"error": "the reply is empty"}
    if gives == "verdict":
        found = VERDICT.findall(text)
        accepts = found[-1].lower() == "accept" if found else None
        return {"text": text, "accepts": accepts, "error": "" if found else "there is no line VERDICT:"}
    if gives == "result":
        parts = RESULT.split(text)
        answer = parts[-1].strip() if len(parts) > 1 else ""
        return {"text": text, "answer": answer, "error": "" if answer else "there is no line RESULT:"}
    if gives == "parts" and not LISTED.search(text):
        return {"text": text, "error": "there is no list"}
    return {"text": text}
'''

ASKED = '''

def asked(
    name: str,
    *,
    hears: list[str],
    told: str = "",
    lessons: Sequence[str] = (),
    gives: str = "answer",
    back: str = "",
    model: str = "",
    **options: Any,
) -> Node:
    """A node that asks a model. `gives` is what its reply must be, `back` the node that may send it back."""

    async def work(state: State) -> dict[str, Any]:
        said = await complete(prompt(state, heard(state, hears, back), lessons, told), model, **options)
        return checked(said.content, gives)

    return safe(name, work)
'''

ASKED_WITH_TOOLS = '''

# ---- asking a model that has tools -----------------------------------------------------------------


def with_tools(
    name: str,
    *,
    hears: list[str],
    tools: list[str],
    turns: int,
    told: str = "",
    lessons: Sequence[str] = (),
    gives: str = "answer",
    back: str = "",
    model: str = "",
    **options: Any,
) -> Node:
    """A node that asks a model and runs the tools that it calls, for at most `turns` calls of the model."""
    described = [{"type": "function", "function": TOOLS[tool][0]} for tool in tools]

    async def work(state: State) -> dict[str, Any]:
        messages = prompt(state, heard(state, hears, back), lessons, told)
        said = await complete(messages, model, tools=described, **options)
        for _ in range(turns - 1):
            if not said.tool_calls:
                break
            calls = [call.model_dump() for call in said.tool_calls]
            messages.append({"role": "assistant", "content": said.content, "tool_calls": calls})
            results = await asyncio.gather(*(use(call, tools) for call in said.tool_calls))
            messages.extend(results)
            said = await complete(messages, model, tools=described, **options)
        if said.tool_calls:
            return {"error": "its turns were used up by calls of tools"}
        return checked(said.content, gives)

    return safe(name, work)


async def use(call: Any, tools: list[str]) -> dict[str, Any]:
    """Run one tool call; whatever goes wrong is told to the model, which may mend it."""
    try:
        if call.function.name not in tools:
            raise ValueError(f"there is no tool {call.function.name!r}; there is {', '.join(tools)}")
        text = await TOOLS[call.function.name][1](**json.loads(call.function.arguments or "{}"))
    except Exception as problem:
        text = f"error: {problem}"
    return {"role": "tool", "tool_call_id": call.id, "content": text}
'''

PYTHON = '''

# ---- running Python that a model wrote -------------------------------------------------------------

PROGRAM_SECONDS = SECONDS_OF_A_PROGRAM

# A program runs in a process of its own, in an empty folder and an empty environment (so it sees no API key), with
# limits on memory, processor time and the size of files, and it is killed with all its children after PROGRAM_SECONDS.
# That protects from programs that hang, fork, or eat the machine. It does NOT protect from one that reads your files or
# uses the network: where you do not trust what your users ask, run this module in a container without either.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
os.execv(sys.executable, [sys.executable, "-I", "main.py"])
"""


async def run_python(code: str) -> tuple[str, str]:
    """What a program printed, and what was wrong with it ("" for nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(Path(folder, "main.py").write_text, code, "utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", LIMITED),
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "LANG": "C.UTF-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PROGRAM_SECONDS):
                out, err = await process.communicate()
        except TimeoutError:
            return "", f"it was stopped after {PROGRAM_SECONDS:g} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    printed = out.decode("utf-8", "replace").strip()
    if process.returncode:
        problem = err.decode("utf-8", "replace").strip()[-1000:]
        return printed, problem or f"it ended with exit code {process.returncode}"
    return printed, ""
'''

BLOCKS = """

BLOCK = re.compile(BLOCK_PATTERN)


SOURCE_OF_CODE_IN"""

PROGRAM = '''

PROBLEM = PROBLEM_TEXT
NO_PROGRAM = NO_PROGRAM_TEXT


def programmed(
    name: str,
    *,
    hears: list[str],
    turns: int,
    told: str = "",
    lessons: Sequence[str] = (),
    back: str = "",
    model: str = "",
    **options: Any,
) -> Node:
    """A node whose word is what its model's program prints; a program that fails goes back, while there are turns."""

    async def work(state: State) -> dict[str, Any]:
        messages = prompt(state, heard(state, hears, back), lessons, told)
        problem = ""
        for _ in range(turns):
            reply = (await complete(messages, model, **options)).content or ""
            printed, problem = await executed(reply)
            if not problem:
                return {"text": printed}
            messages.append({"role": "assistant", "content": reply})
            messages.append({"role": "user", "content": PROBLEM.format(problem=problem)})
        return {"error": problem}

    return safe(name, work)


async def executed(reply: str) -> tuple[str, str]:
    """Run the last block of Python in a reply, else its last block."""
    if not BLOCK.search(reply):
        return "", NO_PROGRAM
    printed, problem = await run_python(extract_code(reply))
    return ("", problem) if problem else (printed, "" if printed else "it printed nothing")
'''

PYTHON_TOOL = '''

async def python(code: str) -> str:
    """The tool "python"."""
    return "\\n".join(filter(None, await run_python(code))) or "(nothing was printed)"
'''

STUB = '''

async def {function}(**arguments: Any) -> str:
    """A tool that was not exported: connect yours here."""
    raise NotImplementedError({sentence})
'''

VOTED = '''

# ---- votes: no model is asked ----------------------------------------------------------------------


SOURCE_OF_SAME

def voted(name: str, *, hears: list[str], back: str = "", weights: dict[str, float] | None = None) -> Node:
    """A node that says the answer with the most votes; of equals the one that was heard first."""

    async def work(state: State) -> dict[str, Any]:
        words = heard(state, hears, back)
        count: dict[str, float] = {}
        for said in words:
            vote = (weights or {}).get(said["node"], 1.0)
            count[same(said["answer"])] = count.get(same(said["answer"]), 0.0) + vote
        if not count:
            return {"error": "no answer was heard"}
        best = max(count, key=lambda answer: count[answer])
        return {"text": next(said["answer"] for said in words if same(said["answer"]) == best)}

    return safe(name, work)
'''

LOOPS = '''

def again(source: str, rounds: int) -> Callable[[State], bool]:
    """Whether the loop from a node goes round once more: its verdict does not accept, and there are rounds left."""

    def decide(state: State) -> bool:
        said = state.get("said", {}).get(source, [])
        return len(said) <= rounds and not said[-1]["accepts"]

    return decide


async def done(state: State) -> dict[str, Any]:
    """What follows a loop waits for this, as its last node may run several times."""
    return {}
'''

ENDS = '''

async def begin(state: State) -> dict[str, Any]:
    """A thread that is asked again starts anew."""
    return {"said": Overwrite({})}


async def answer(state: State) -> dict[str, Any]:
    """The answer is that of the exit."""
    said = standing(state, EXIT)
    return {"answer": said["answer"] if said else ""}
'''

MAIN = '''

async def ask(question: str) -> str:
    """The answer to one question."""
    return (await graph.ainvoke({"messages": [{"role": "user", "content": question}]}))["answer"]


if __name__ == "__main__":
    import sys

    print(asyncio.run(ask(" ".join(sys.argv[1:]) or sys.stdin.read())))
'''

README = """\
# An agent graph as a LangGraph module

`graph.py` is plain Python on LangGraph and the `openai` package; Edgewise is not needed to run it.

    pip install -r requirements.txt
    export OPENAI_API_KEY=...          # OPENAI_BASE_URL for another server, MODEL for another model ({model})
    python graph.py "your question"

From Python: `from graph import ask, graph`. With the LangGraph CLI: put the variables above into `.env`, then
`langgraph dev` (`langgraph.json` names the graph `agent`). Graph version {version}: {shape}.
{notes}"""
