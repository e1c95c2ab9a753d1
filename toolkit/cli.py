"""The command line: parsing and wiring only. What a command needs is imported when it runs."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.errors import ConfigError, EdgewiseError

# Ways of improving, resolved when a command runs, so that this file imports no upper package.
WAYS = {"experience": "experience.command:Words"}
COMING = {"graph": "mas", "weights": "learner"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Improve a language model from rows, a reward and a budget.",
    epilog="Start with: edgewise improve examples/support_triage --dry-run",
)
library = typer.Typer(no_args_is_help=True, help="The experience library as data.")
models = typer.Typer(no_args_is_help=True, help="The embedded models.")
app.add_typer(library, name="library")
app.add_typer(models, name="models")

TaskPath = Annotated[Path, typer.Argument(help="a task.toml, or a directory that holds one")]
Json = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="any setting, such as epochs=2; repeatable"),
]


@app.command()
def improve(
    task: TaskPath,
    by: Annotated[str, typer.Option(help="experience (lessons in the prompt)")] = "experience",
    model: Annotated[
        str | None, typer.Option(help="the model to improve, such as openai/gpt-4o-mini")
    ] = None,
    distiller: Annotated[str | None, typer.Option(help="the model that writes lessons")] = None,
    usd: Annotated[float | None, typer.Option(help="hard limit in dollars")] = None,
    tokens: Annotated[int | None, typer.Option(help="hard limit in tokens")] = None,
    calls: Annotated[int | None, typer.Option(help="hard limit in calls")] = None,
    minutes: Annotated[float | None, typer.Option(help="hard limit in minutes")] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="INPUT,OUTPUT", help="dollars per million tokens, where the price is unknown"),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="run directory; taken up again if it exists")] = None,
    replay: Annotated[Path | None, typer.Option(help="a journal that answers every call, offline")] = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and ask no model")] = False,
    as_json: Json = False,
) -> None:
    """
    Learn from a task's rows and measure the gain on rows that learning never saw.

    Exit codes: 0 improved; 1 nothing worth keeping was found; 2 bad input; 3 a limit was reached (run again
    with the same --run to go on); 130 interrupted, likewise.
    """
    way = _way(by)
    options = {"model": model, "distiller": distiller, "usd": usd, "tokens": tokens, "calls": calls}
    job = way(task, {**options, "minutes": minutes}, settings or [], price)
    if dry_run:
        _print(job.plan(), as_json)
        return
    result = job.improve(run, replay)
    _print(result, as_json)
    raise typer.Exit(0 if result.improved else 1)


@app.command()
def evaluate(
    task: TaskPath,
    artifact: Annotated[list[Path], typer.Option(help="an artefact or run directory; repeatable")],
    samples: Annotated[int | None, typer.Option(help="rollouts per row")] = None,
    model: Annotated[str | None, typer.Option(help="the model to use; else the artefact's")] = None,
    run: Annotated[Path | None, typer.Option(help="run directory; taken up again if it exists")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Run artefacts and the unchanged model on the same test rows and samples, and compare them."""
    way = _way("experience")
    job = way(task, {"samples": samples, "model": model}, settings or [], None)
    _print(job.evaluate(artifact, run), as_json)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a finished run directory")]) -> None:
    """Write RUN/report.html, one file that opens without a network, and print its path."""
    print(import_module("toolkit.report").write(run))


@library.command("show")
def library_show(
    artifact: Annotated[Path, typer.Argument(help="an artefact or run directory")], as_json: Json = False
) -> None:
    """Print the lessons of a library: id, kind, the step it was born at, the rows it came from, text."""
    _print(_load("experience.command:shown")(artifact), as_json)


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """The embedded models, their size, licence, and whether they are on this machine."""
    _print(_load("toolkit.models:listed")(), as_json)


@models.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="such as local/qwen2.5-coder-1.5b")]) -> None:
    """Fetch an embedded model and verify its checksum."""
    print(_load("toolkit.models:pulled")(name))


def main() -> None:
    """Entry point: errors become one sentence on standard error and an exit code."""
    try:
        app()
    except EdgewiseError as error:
        print(f"edgewise: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _way(name: str) -> Callable[..., Any]:
    if name in COMING:
        raise ConfigError(f"--by {name} is not in this version; use --by experience.")
    if name not in WAYS:
        raise ConfigError(f"--by takes {', '.join(WAYS)}, not {name!r}.")
    return _load(WAYS[name])


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _print(result: Any, as_json: bool) -> None:
    """A result knows itself as plain data (`to_json`) and as lines for people (`lines`)."""
    print(json.dumps(result.to_json(), indent=1) if as_json else "\n".join(result.lines()))
