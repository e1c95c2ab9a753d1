"""Commands that run models: improve, evaluate, compare, absorb, serve; and what describes their results."""

from pathlib import Path
from typing import Annotated

import typer

from edgewise.toolkit.cli.options import (
    Calls,
    Distiller,
    DryRun,
    Force,
    Gate,
    ImprovedModel,
    Json,
    Minutes,
    Placebo,
    Pricing,
    Proposer,
    Replay,
    RunPath,
    Settings,
    StartLibrary,
    TaskPath,
    Tokens,
    TrainedModel,
    Usd,
    Way,
    print_result,
)
from edgewise.toolkit.errors import ConfigError
from edgewise.toolkit.registry import COMMANDS, WAYS, resolve

# Each function is one command. Its docstring is the help text, so line breaks in it are those of a terminal.
app = typer.Typer()


@app.command(epilog="Example: edgewise improve my/task.toml --calls 2000 --set epochs=1")
def improve(
    task: TaskPath,
    by: Way = "experience",
    model: ImprovedModel = None,
    distiller: Distiller = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    minutes: Minutes = None,
    price: Pricing = None,
    run: RunPath = None,
    replay: Replay = None,
    lib: StartLibrary = None,
    proposer: Proposer = None,
    gate: Gate = None,
    placebo: Placebo = False,
    force: Force = False,
    settings: Settings = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """
    Learn from a task's training rows and evaluate the result on its test rows.

    --by weights trains a model on this machine: --model torch/DIRECTORY,
    torch/OWNER/NAME of the Hugging Face hub, or torch/smollm2-135m.

    Exit codes: 0 improved, 1 nothing better was found, 2 bad input,
    3 a limit was reached, 130 interrupted. Paid replies are always kept:
    run again with the same --run to resume.
    """
    # The table of ways is the only list of them; typer would need a second one, as an Enum.
    if by not in WAYS:
        raise ConfigError(f"--by takes {', '.join(WAYS)}, not {by!r}.")
    options = {"model": model, "distiller": distiller, "proposer": proposer, "gate": gate}
    options |= {"usd": usd, "tokens": tokens, "calls": calls, "minutes": minutes}
    # A flag that is not given is None: False would win over the task file.
    options |= {"force": force or None, "placebo": placebo or None}
    # The package of the way is imported here.
    command = resolve(WAYS, by)(task, options, settings or [], price)
    if dry_run:
        print_result(command.plan(lib), as_json)
        return
    result = command.improve(run, replay, lib)
    print_result(result, as_json)
    raise typer.Exit(0 if result.improved else 1)


@app.command(epilog="Example: edgewise evaluate my/task.toml --artifact lessons.edge --artifact runs/second")
def evaluate(
    task: TaskPath,
    artifact: Annotated[
        list[str],
        typer.Option(metavar="LIB", help="an artefact, a run, or any LIB of edgewise library show; repeatable"),
    ],
    samples: Annotated[int | None, typer.Option(metavar="N", help="rollouts per row")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="model to run", show_default="that of the artefacts")
    ] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    minutes: Minutes = None,
    price: Pricing = None,
    run: RunPath = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Evaluate artefacts and the unchanged model on the same test rows and samples."""
    options = {"samples": samples, "model": model}
    options |= {"usd": usd, "tokens": tokens, "calls": calls, "minutes": minutes}
    command = resolve(COMMANDS, "evaluate")
    print_result(command(task, options, settings or [], price, artifact, run), as_json)


@app.command(epilog="Example: edgewise report runs/first")
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run directory")]) -> None:
    """Write RUN/report.html, a single file without external resources, and print its path."""
    print(resolve(COMMANDS, "report")(run))


@app.command(epilog="Example: edgewise serve runs/first --port 8000 --usd 5")
def serve(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="an artefact, or a finished run")],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 picks a free one")] = 8000,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="model to run", show_default="that of the artefact")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="EDGEWISE_TOKEN", metavar="KEY", help="API key that clients must send")
    ] = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    price: Pricing = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="maximum concurrent calls; lowered automatically on rate limits")
    ] = 32,
) -> None:
    """
    Serve an artefact behind an OpenAI-compatible endpoint until it is stopped.

    Limits count from the start of the server. When one is reached, the server refuses further requests.
    """
    # Here and not at the head: --help has to answer at once.
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


@app.command(epilog="Example: edgewise methods dapo --set loss.high=0.3")
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="METHOD", help="a method", show_default="all, in a table")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="AXIS.NAME=VALUE",
            help="change a parameter (loss.high=0.3) or a part (loss=plain) of the method; repeatable",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods of --by weights with paper and difference from GRPO, or print one axis by axis."""
    print_result(resolve(COMMANDS, "methods")(name, settings or []), as_json)


@app.command(epilog='Example: edgewise compare my/task.toml --methods "grpo,dapo(loss.high=0.3)" --seeds 3')
def compare(
    task: TaskPath,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="methods, each with its changed settings in brackets: grpo,dapo(loss.high=0.3, lr=1e-6); the "
            "first is the baseline",
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="runs of each method, with the same seeds for all")] = 3,
    model: TrainedModel = None,
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
    Train with several methods on the same rows, seeds and budget, and report the differences.

    Each method and seed is one run, RUN/METHOD/seed-N; runs follow one another.
    Limits apply to all runs together, and each run gets an equal share. --set
    applies to all methods. The table has the score of each method on the test
    rows and its difference from the baseline, with intervals over seeds and
    rows; RUN/report.html has the learning curves.

    Exit codes: 0 done, 2 bad input, 3 a run reached its share of a limit, 130
    interrupted. Run again with the same --run to resume, or to add methods or
    seeds: finished runs are not repeated.
    """
    # The limits here are for all runs together; the lineup gives each its share.
    options = {"model": model, "usd": usd, "tokens": tokens, "calls": calls, "minutes": minutes}
    options |= {"force": force or None}
    command = resolve(COMMANDS, "compare")(task, methods, seeds, options, settings or [], price, run)
    if dry_run:
        print_result(command.plan(), as_json)
        return
    output, exit_code = command.compare()
    print_result(output, as_json)
    raise typer.Exit(exit_code)


@app.command(epilog="Example: edgewise absorb my/task.toml --artifact runs/first --run runs/absorbed")
def absorb(
    task: TaskPath,
    artifact: Annotated[
        str, typer.Option(metavar="LIB", help="lessons: an artefact, a run, or any LIB of edgewise library show")
    ],
    model: TrainedModel = None,
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
    Distil lessons into weights: sample answers with the lessons in the prompt, train on them without.

    Evaluates the model alone, after training, and with the lessons in its
    prompt, on the test rows, and reports the share of the lessons' gain that
    the weights retain. The result is an artefact like that of --by weights.

    Exit codes: 0 better than the model alone, 1 no better, 2 bad input,
    3 a limit was reached, 130 interrupted. Run again with the same --run to
    resume.
    """
    options = {"model": model, "usd": usd, "tokens": tokens, "calls": calls, "minutes": minutes}
    options |= {"force": force or None}
    command = resolve(COMMANDS, "absorb")(task, artifact, options, settings or [], price)
    if dry_run:
        print_result(command.plan(), as_json)
        return
    result = command.improve(run)
    print_result(result, as_json)
    raise typer.Exit(0 if result.improved else 1)
