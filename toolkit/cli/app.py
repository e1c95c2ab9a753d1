"""The command line: parsing and wiring only. What a command needs is imported when it runs."""

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from edgewise.toolkit.errors import ConfigError, EdgewiseError, Interrupted
from edgewise.toolkit.registry import COMMANDS, WAYS, resolve

LEARNER = ("torch", "transformers", "tokenizers", "safetensors", "peft")
"""Packages of the extra `learner`."""
BUG = 70
# What typer raises for wrong usage. It brings a click of its own, and exports only this one of its errors.
Usage: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Improve a language model from rows, a reward and a budget.",
    epilog="Start with: edgewise improve examples/support_triage --dry-run",
)
library = typer.Typer(no_args_is_help=True, help="The experience library as data.")
graph = typer.Typer(no_args_is_help=True, help="Agent graphs as data.")
models = typer.Typer(no_args_is_help=True, help="The embedded models.")
app.add_typer(library, name="library")
app.add_typer(graph, name="graph")
app.add_typer(models, name="models")

Usd = Annotated[float | None, typer.Option(help="hard limit in dollars")]
Tokens = Annotated[int | None, typer.Option(help="hard limit in tokens")]
Calls = Annotated[int | None, typer.Option(help="hard limit in calls")]
Minutes = Annotated[float | None, typer.Option(help="hard limit in minutes")]
TaskPath = Annotated[Path, typer.Argument(help="a task.toml, or a directory that holds one")]
Force = Annotated[bool, typer.Option("--force", help="go on where rows or limits can't show any gain")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the plan and load no model")]
Json = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="any setting, such as epochs=2 or loss.high=0.28; repeatable"
    ),
]

Pricing = Annotated[
    str | None,
    typer.Option(metavar="INPUT,OUTPUT", help="dollars per million tokens, where the price is unknown"),
]
RunPath = Annotated[
    Path | None,
    typer.Option(help="run directory; taken up again if it exists", show_default="a new one in runs/"),
]
Lib = Annotated[
    str,
    typer.Argument(
        metavar="LIB",
        help="a store (team.sqlite, postgresql://..., with #name and @version), a run (runs/first@2), "
        "an artefact, or a file",
    ),
]
StoredLib = Annotated[
    str, typer.Argument(metavar="LIB", help="a store: team.sqlite or postgresql://..., with #name")
]
GraphPath = Annotated[
    str,
    typer.Argument(
        metavar="GRAPH", help="a graph.json, an artefact or a run; with @VERSION one of several graphs"
    ),
]
Message = Annotated[str | None, typer.Option("--message", help="what to write into the history")]
Author = Annotated[
    str | None, typer.Option(help="who makes the change", show_default="the user of this system")
]


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"edgewise {version('edgewise')}")
        except PackageNotFoundError:
            print("edgewise, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: edgewise improve examples/support_triage --calls 2000 --set epochs=1")
def improve(
    task: TaskPath,
    by: Annotated[
        str,
        typer.Option(
            metavar="experience|graph|weights",
            help="what to improve: lessons in the prompt, a graph of agents, or the weights",
        ),
    ] = "experience",
    model: Annotated[
        str | None, typer.Option(help="the model to improve, such as openai/gpt-4o-mini")
    ] = None,
    distiller: Annotated[
        str | None, typer.Option(help="the model that writes lessons; else the same model")
    ] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    minutes: Minutes = None,
    price: Pricing = None,
    run: RunPath = None,
    replay: Annotated[
        Path | None, typer.Option(help="a run (or its journal) that answers every call, offline")
    ] = None,
    lib: Annotated[
        str | None,
        typer.Option(
            "--library",
            metavar="LIB",
            help="lessons to start from; what is learnt is committed to it, where it is a store",
        ),
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(metavar="groups|gepa", help="who proposes lessons; gepa needs the package gepa==0.1.4"),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="on|off", help="off accepts lessons without a test, as the paper does"),
    ] = None,
    placebo: Annotated[
        bool, typer.Option("--placebo", help="also measure lessons off topic, and from shuffled rewards")
    ] = False,
    force: Force = False,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and ask no model")] = False,
    as_json: Json = False,
) -> None:
    """
    Learn from a task's rows and measure the gain on rows that learning never saw.

    --by weights trains a model of this machine or of the Hugging Face hub:
    --model torch/DIRECTORY, torch/OWNER/NAME or torch/smollm2-135m.

    Exit codes: 0 improved, 1 nothing worth keeping was found, 2 bad input,
    3 a limit was reached, 130 interrupted. What was paid for is always kept:
    run again with the same --run to go on.
    """
    way = _way(by)
    options = {"model": model, "distiller": distiller, "usd": usd, "tokens": tokens, "calls": calls}
    options |= {"proposer": proposer}
    options |= {"minutes": minutes, "gate": gate, "force": force or None, "placebo": placebo or None}
    job = way(task, options, settings or [], price)
    if dry_run:
        _print(job.plan(lib), as_json)
        return
    result = job.improve(run, replay, lib)
    _print(result, as_json)
    raise typer.Exit(0 if result.improved else 1)


@app.command(epilog="Example: edgewise evaluate examples/support_triage --artifact a.edge --artifact runs/b")
def evaluate(
    task: TaskPath,
    artifact: Annotated[
        list[str],
        typer.Option(
            metavar="LIB", help="an artefact, a run, or any library as for library show; repeatable"
        ),
    ],
    samples: Annotated[int | None, typer.Option(help="rollouts per row")] = None,
    model: Annotated[str | None, typer.Option(help="the model to use; else the artefacts'")] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    minutes: Minutes = None,
    price: Pricing = None,
    run: RunPath = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Run artefacts and the unchanged model on the same test rows and samples, and compare them."""
    options = {"samples": samples, "model": model, "usd": usd, "tokens": tokens, "calls": calls}
    compare = resolve(COMMANDS, "evaluate")
    _print(compare(task, {**options, "minutes": minutes}, settings or [], price, artifact, run), as_json)


@app.command(epilog="Example: edgewise report runs/support_triage-20260102-030405")
def report(run: Annotated[Path, typer.Argument(help="a finished run directory")]) -> None:
    """Write RUN/report.html, one file that opens without a network, and print its path."""
    print(resolve(COMMANDS, "report")(run))


@app.command(epilog="Example: edgewise serve runs/first --port 8000 --usd 5")
def serve(
    artifact: Annotated[Path, typer.Argument(help="an artefact, or a finished run")],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    model: Annotated[str | None, typer.Option(help="the model to use; else the artefact's")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="EDGEWISE_TOKEN", help="what clients must send as their API key")
    ] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    price: Pricing = None,
    concurrency: Annotated[int, typer.Option(min=1, help="the most calls of the model at once")] = 32,
) -> None:
    """
    Answer with an artefact behind an OpenAI-compatible endpoint, until it is stopped.

    Limits count from its start; once one is reached, requests are refused.
    """
    from edgewise.toolkit.budget.ledger import Limits

    resolve(COMMANDS, "serve")(
        artifact,
        host=host,
        port=port,
        model=model,
        token=token,
        limits=Limits(usd, tokens, calls),
        price=price,
        concurrency=concurrency,
    )


@library.command("show", epilog="Example: edgewise library show team.sqlite#triage@3")
def library_show(lib: Lib, as_json: Json = False) -> None:
    """Print the lessons of a library: id, age in steps, rows they came from, measured effect, flags, text."""
    _print(resolve(COMMANDS, "library show")(lib), as_json)


@library.command("log", epilog="Example: edgewise library log team.sqlite")
def library_log(lib: Lib, as_json: Json = False) -> None:
    """Print the versions of a stored library, or what each step of a run applied and refused."""
    _print(resolve(COMMANDS, "library log")(lib), as_json)


@library.command("diff", epilog="Example: edgewise library diff team.sqlite@head~1 team.sqlite")
def library_diff(
    before: Annotated[str, typer.Argument(metavar="LIB", help="a library, as for show")],
    after: Annotated[str, typer.Argument(metavar="OTHER", help="the library to compare it with")],
    as_json: Json = False,
) -> None:
    """Print what differs: + added, - removed, ~ reworded, * a setting."""
    _print(resolve(COMMANDS, "library diff")(before, after), as_json)


@library.command("rollback", epilog="Example: edgewise library rollback team.sqlite@3")
def library_rollback(
    lib: Annotated[str, typer.Argument(metavar="LIB@VERSION", help="a version of a stored library")],
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Append a version that restores an earlier one; history is never rewritten."""
    _print(resolve(COMMANDS, "library rollback")(lib, author), as_json)


@library.command("merge", epilog="Example: edgewise library merge team.sqlite runs/first --take theirs")
def library_merge(
    lib: StoredLib,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="the library to merge into it")],
    base: Annotated[
        str | None,
        typer.Option(metavar="LIB@VERSION", help="what both were made from", show_default="found by itself"),
    ] = None,
    take: Annotated[
        str | None, typer.Option(metavar="ours|theirs", help="who wins where both changed the same thing")
    ] = None,
    message: Message = None,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """
    Merge a library into a stored one, lesson by lesson; near-duplicates are joined.

    Where both sides changed the same thing, all conflicts are printed, nothing is
    changed, and the exit code is 2.
    """
    combine = resolve(COMMANDS, "library merge")
    _print(combine(lib, other, base, take, message, author), as_json)


@library.command("lock", epilog="Example: edgewise library lock team.sqlite G0 4ec5401a --always")
def library_lock(
    lib: StoredLib,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="ids or labels that show prints")],
    unlock: Annotated[bool, typer.Option("--unlock", help="take the locks away")] = False,
    always: Annotated[
        bool | None, typer.Option(help="whether they are shown for every question", show_default="as it is")
    ] = None,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Lock lessons: only people change or delete them, learning does not."""
    _print(resolve(COMMANDS, "library lock")(lib, ids, unlock, always, author), as_json)


@library.command("import", epilog="Example: edgewise library import playbook.txt team.sqlite --dry-run")
def library_import(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="lessons of ACE, ace-framework, GEPA, DSPy, youtu-agent, SKILL.md, text, or any library",
        ),
    ],
    lib: StoredLib,
    message: Message = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would enter; change nothing")
    ] = False,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Bring lessons into a stored library; what is unsafe is blocked or redacted, and said."""
    _print(
        resolve(COMMANDS, "library import")(source, lib, message, author, dry_run),
        as_json,
    )


@library.command("export", epilog="Example: edgewise library export triage.edge --as skill > SKILL.md")
def library_export(
    lib: Lib,
    kind: Annotated[
        str, typer.Option("--as", metavar="prompt|skill|youtu|json", help="the format to print")
    ] = "youtu",
) -> None:
    """
    Print a library for another system.

    prompt: the text as it goes into a prompt; skill: a SKILL.md;
    youtu: the flat object {"G0": text, ...}; json: all that is known.
    """
    print(resolve(COMMANDS, "library export")(lib, kind))


@graph.command("show", epilog="Example: edgewise graph show runs/first --as mermaid")
def graph_show(
    source: GraphPath,
    kind: Annotated[
        str, typer.Option("--as", metavar="text|mermaid|svg|json", help="the form to print")
    ] = "text",
    as_json: Json = False,
) -> None:
    """Print an agent graph; of a design with several graphs, how many queries each of them is used for."""
    _print(resolve(COMMANDS, "graph show")(source, kind), as_json)


@graph.command("diff", epilog="Example: edgewise graph diff runs/first runs/second@3f2a")
def graph_diff(
    before: GraphPath,
    after: Annotated[str, typer.Argument(metavar="OTHER", help="the graph to compare it with")],
    as_json: Json = False,
) -> None:
    """Print what differs: + added, - removed, ~ changed."""
    _print(resolve(COMMANDS, "graph diff")(before, after), as_json)


@graph.command("roles", epilog="Example: edgewise graph roles --roles my_roles.toml")
def graph_roles(
    files: Annotated[
        list[str] | None, typer.Option("--roles", metavar="FILE", help="a TOML file of roles; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the roles that graphs are made of: what each does, gives and needs, and the most it may cost."""
    _print(resolve(COMMANDS, "graph roles")(files or []), as_json)


@graph.command("export", epilog="Example: edgewise graph export runs/first my_graph")
def graph_export(
    source: GraphPath,
    folder: Annotated[Path, typer.Argument(help="where the module is written")],
    as_json: Json = False,
) -> None:
    """Write a graph as a LangGraph module and langgraph.json, which run without Edgewise."""
    _print(resolve(COMMANDS, "graph export")(source, folder), as_json)


@app.command("methods", epilog="Example: edgewise methods dapo --set loss.high=0.3")
def methods(
    name: Annotated[str | None, typer.Argument(help="one of them", show_default="all in a table")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="AXIS.NAME=VALUE",
            help="show it with another parameter (loss.high=0.3) or part (loss=plain); repeatable",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the methods of --by weights: paper and differences from GRPO, or one of them axis by axis."""
    _print(resolve(COMMANDS, "methods")(name, settings or []), as_json)


@app.command(
    "compare", epilog='Example: edgewise compare my/task.toml --methods "grpo,dapo(loss.high=0.3)" --seeds 3'
)
def compare(
    task: TaskPath,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="names as edgewise methods lists them, each with what is changed of it in brackets: "
            "grpo,dapo(loss.high=0.3, lr=1e-6); the others are compared with the first",
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="runs of each method; the same seeds for all")] = 3,
    model: Annotated[str | None, typer.Option(help="the model to train, such as torch/smollm2-135m")] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    minutes: Minutes = None,
    price: Pricing = None,
    run: RunPath = None,
    force: Force = False,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """
    Train by several methods from the same rows, seeds and budget, and show them in one report.

    Each method and seed is a run of its own, RUN/METHOD/seed-N, one after the other.
    Limits are for all of them together, and each may use the same share; --set
    goes to all. The table says, on rows that learning never saw, how good each
    method is, and how much better than the first one, with intervals over seeds
    and rows; RUN/report.html has the learning curves.

    Exit codes: 0 done, 2 bad input, 3 a run reached its share of a limit, 130
    interrupted. Run again with the same --run to go on, or to add methods or
    seeds: runs that ended are not run again.
    """
    options = {"model": model, "usd": usd, "tokens": tokens, "calls": calls, "minutes": minutes}
    options |= {"force": force or None}
    comparison = resolve(COMMANDS, "compare")
    job = comparison(task, methods, seeds, options, settings or [], price, run)
    if dry_run:
        _print(job.plan(), as_json)
        return
    result = job.compare()
    _print(result, as_json)
    raise typer.Exit(result.exit_code)


@app.command(epilog="Example: edgewise absorb my/task.toml --artifact runs/first --run runs/absorbed")
def absorb(
    task: TaskPath,
    artifact: Annotated[
        str, typer.Option(metavar="LIB", help="the lessons: an artefact, a run, or any LIB of library show")
    ],
    model: Annotated[
        str | None, typer.Option(help="the model that learns them, such as torch/smollm2-135m")
    ] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    minutes: Minutes = None,
    price: Pricing = None,
    run: RunPath = None,
    force: Force = False,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """
    Distil lessons into weights: answers are drawn with them in the prompt and learnt without.

    Measures the model alone, with what it learnt, and with the lessons in its
    prompt, on rows that learning never saw, and says how much of their gain is
    kept. What it leaves is used as any trained weights are.

    Exit codes: 0 better than the model alone, 1 nothing was kept, 2 bad input,
    3 a limit was reached, 130 interrupted. Run again with the same --run to go
    on.
    """
    options = {"model": model, "usd": usd, "tokens": tokens, "calls": calls, "minutes": minutes}
    job = resolve(COMMANDS, "absorb")(
        task, artifact, {**options, "force": force or None}, settings or [], price
    )
    if dry_run:
        _print(job.plan(), as_json)
        return
    result = job.absorb(run)
    _print(result, as_json)
    raise typer.Exit(0 if result.improved else 1)


@models.command("list", epilog="Example: edgewise models list --json")
def models_list(as_json: Json = False) -> None:
    """The embedded models, their size, licence, and whether they are on this machine."""
    _print(resolve(COMMANDS, "models list")(), as_json)


@models.command("pull", epilog="Example: edgewise models pull local/qwen2.5-coder-1.5b")
def models_pull(name: Annotated[str, typer.Argument(help="such as local/qwen2.5-coder-1.5b")]) -> None:
    """Fetch an embedded model and verify its checksum."""
    print(resolve(COMMANDS, "models pull")(name))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point: whatever ends a command becomes one sentence on standard error and an exit code."""
    warnings.showwarning = _warn
    try:
        sys.exit(app(arguments, prog_name="edgewise", standalone_mode=False))
    except EdgewiseError as error:
        _fail(error.exit_code, " ".join([f"{str(error).rstrip('.')}.", *getattr(error, "__notes__", ())]))
    except Usage as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare command: its help was printed
            sys.exit(error.exit_code)
        _fail(error.exit_code, f"{error.format_message().rstrip('.')}; --help shows what there is.")
    except (KeyboardInterrupt, typer.Abort):
        _fail(Interrupted.exit_code, "Stopped.")
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in LEARNER:
            _fail(ConfigError.exit_code, f"This needs {error.name}: pip install 'edgewise[learner]'.")
        import traceback

        traceback.print_exc()
        _fail(BUG, "This is a bug of Edgewise, or of a function of yours that it called: see above.")


def _fail(code: int, sentence: str) -> NoReturn:
    print(f"edgewise: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)


def _warn(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _way(name: str) -> Callable[..., Any]:
    if name not in WAYS:
        raise ConfigError(f"--by takes {', '.join(WAYS)}, not {name!r}.")
    return resolve(WAYS, name)


def _print(result: Any, as_json: bool) -> None:
    """A result knows itself as plain data (`to_json`) and as lines for people (`lines`)."""
    text = json.dumps(result.to_json(), indent=1) if as_json else "\n".join(result.lines())
    print(text, flush=True)  # so that typer notices a reader that has seen enough, as `head` does


if __name__ == "__main__":
    main()
