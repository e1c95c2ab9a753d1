"""Options and arguments that several commands share, and how a result is printed."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

# Help texts teach what an option does, its unit, and what happens without it. Rich reads [words] in brackets as markup
# and drops them, so extras such as edgewise[gepa] can't stand here.

# ---- limits of a run -------------------------------------------------------------------------------

Usd = Annotated[float | None, typer.Option(metavar="DOLLARS", help="hard limit on dollars")]
Tokens = Annotated[int | None, typer.Option(metavar="N", help="hard limit on tokens, input and output together")]
Calls = Annotated[int | None, typer.Option(metavar="N", help="hard limit on model calls")]
Minutes = Annotated[float | None, typer.Option(metavar="MINUTES", help="hard limit on wall time")]
Pricing = Annotated[
    str | None,
    typer.Option(
        metavar="INPUT,OUTPUT", help="dollars per million input and output tokens, for models without a known price"
    ),
]
Force = Annotated[
    # Without a second name, typer would add --no-force.
    bool, typer.Option("--force", help="run even if the data or limits are too small to detect a gain")
]

# ---- the run itself --------------------------------------------------------------------------------

TaskPath = Annotated[Path, typer.Argument(metavar="TASK", help="a task.toml, or a directory that contains one")]
RunPath = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="run directory; an existing run is resumed", show_default="a new one in runs/"),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="any setting, such as epochs=2 or loss.high=0.28; repeatable"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="print calls, tokens, cost and time of the run, and stop there")
]
Json = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
TrainedModel = Annotated[str | None, typer.Option(metavar="MODEL", help="model to train, such as torch/smollm2-135m")]

# ---- edgewise improve ------------------------------------------------------------------------------

Way = Annotated[
    str,
    typer.Option(
        metavar="experience|graph|weights",
        help="what to improve: lessons in the prompt, a graph of agents, or the weights of the model",
    ),
]
ImprovedModel = Annotated[
    str | None, typer.Option(metavar="MODEL", help="model to improve, such as openai/gpt-4o-mini")
]
Distiller = Annotated[
    str | None, typer.Option(metavar="MODEL", help="model that writes lessons", show_default="the same model")
]
Replay = Annotated[
    Path | None, typer.Option(metavar="RUN", help="answer every call from the journal of this run; works offline")
]
StartLibrary = Annotated[
    str | None,
    typer.Option(
        "--library", metavar="LIB", help="lessons to start from; if it is a store, new lessons are committed to it"
    ),
]
Proposer = Annotated[
    str | None,
    typer.Option(
        metavar="groups|gepa",
        help="how lessons are proposed: by comparing groups of rollouts, or by the package gepa==0.1.4",
    ),
]
Gate = Annotated[
    str | None,
    typer.Option(
        metavar="on|off",
        help="on accepts a change only if it scores better on validation rows; off accepts every change",
    ),
]
Placebo = Annotated[
    bool,
    typer.Option("--placebo", help="also evaluate two controls: off-topic lessons, and lessons from shuffled rewards"),
]

# ---- libraries and graphs --------------------------------------------------------------------------

Lib = Annotated[
    str,
    typer.Argument(
        metavar="LIB",
        help="a store (team.sqlite or postgresql://..., with #name and @version), a run (runs/first@2 after "
        "step 2), an artefact, or a file of lessons",
    ),
]
StoredLib = Annotated[str, typer.Argument(metavar="LIB", help="a store: team.sqlite or postgresql://..., with #name")]
GraphPath = Annotated[
    str,
    typer.Argument(metavar="GRAPH", help="a graph.json, an artefact or a run; @VERSION picks one of several graphs"),
]
CommitMessage = Annotated[
    str | None, typer.Option("--message", metavar="TEXT", help="message of the new version in the history")
]
Author = Annotated[
    str | None, typer.Option(metavar="NAME", help="author of the new version", show_default="user of this system")
]


def print_result(result: Any, as_json: bool) -> None:
    """Print the result of a command: `result.to_json()` for programs, `result.lines()` for people."""
    text = json.dumps(result.to_json(), indent=1) if as_json else "\n".join(result.lines())
    # Flushed here, so that a closed pipe, as of `| head`, raises inside the command and not at exit.
    print(text, flush=True)
