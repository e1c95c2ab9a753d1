"""`edgewise graph`: agent graphs as data."""

from pathlib import Path
from typing import Annotated

import typer

from edgewise.toolkit.cli.options import GraphPath, Json, print_result
from edgewise.toolkit.registry import COMMANDS, resolve

# These read files and call no model.
app = typer.Typer(no_args_is_help=True, help="Agent graphs as data.")


@app.command(epilog="Example: edgewise graph show runs/first --as mermaid")
def show(
    source: GraphPath,
    form: Annotated[str, typer.Option("--as", metavar="text|mermaid|svg|json", help="format of the output")] = "text",
    as_json: Json = False,
) -> None:
    """Print an agent graph; for a design with several graphs, also the number of queries of each."""
    print_result(resolve(COMMANDS, "graph show")(source, form), as_json)


@app.command(epilog="Example: edgewise graph diff runs/first runs/second@3f2a")
def diff(
    before: GraphPath,
    after: Annotated[str, typer.Argument(metavar="OTHER", help="the graph to compare it with")],
    as_json: Json = False,
) -> None:
    """Print the differences of two graphs: + added, - removed, ~ changed."""
    print_result(resolve(COMMANDS, "graph diff")(before, after), as_json)


@app.command(epilog="Example: edgewise graph roles --roles my_roles.toml")
def roles(
    files: Annotated[
        list[str] | None, typer.Option("--roles", metavar="FILE", help="TOML file with more roles; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the roles of agents: what each does, outputs and receives, and its maximum calls and tokens."""
    print_result(resolve(COMMANDS, "graph roles")(files or []), as_json)


@app.command(epilog="Example: edgewise graph export runs/first my_graph")
def export(
    source: GraphPath,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder to write the module to")],
    as_json: Json = False,
) -> None:
    """Write a graph as a LangGraph module and langgraph.json, which run without Edgewise."""
    print_result(resolve(COMMANDS, "graph export")(source, folder), as_json)
