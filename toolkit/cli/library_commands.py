"""`edgewise library`: the experience library as data."""

from typing import Annotated

import typer

from edgewise.toolkit.cli.options import Author, CommitMessage, Json, Lib, StoredLib, print_result
from edgewise.toolkit.registry import COMMANDS, resolve

# Commands that change a store take an author and a message, as a version control system does.
app = typer.Typer(no_args_is_help=True, help="The experience library as data.")


@app.command(epilog="Example: edgewise library show team.sqlite#triage@3")
def show(lib: Lib, as_json: Json = False) -> None:
    """Print the lessons of a library: id, age in steps, source rows, measured effect, flags and text."""
    print_result(resolve(COMMANDS, "library show")(lib), as_json)


@app.command(epilog="Example: edgewise library log team.sqlite")
def log(lib: Lib, as_json: Json = False) -> None:
    """Print the versions of a stored library, or the accepted and rejected changes of each step of a run."""
    print_result(resolve(COMMANDS, "library log")(lib), as_json)


@app.command(epilog="Example: edgewise library diff team.sqlite@head~1 team.sqlite")
def diff(
    before: Annotated[str, typer.Argument(metavar="LIB", help="a library, as for edgewise library show")],
    after: Annotated[str, typer.Argument(metavar="OTHER", help="the library to compare it with")],
    as_json: Json = False,
) -> None:
    """Print the differences of two libraries: + added, - removed, ~ reworded, * a setting."""
    print_result(resolve(COMMANDS, "library diff")(before, after), as_json)


@app.command(epilog="Example: edgewise library rollback team.sqlite@3")
def rollback(
    lib: Annotated[str, typer.Argument(metavar="LIB@VERSION", help="a version of a stored library")],
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Append a version that restores an earlier one; the history keeps both."""
    print_result(resolve(COMMANDS, "library rollback")(lib, author), as_json)


@app.command(epilog="Example: edgewise library merge team.sqlite runs/first --take theirs")
def merge(
    lib: StoredLib,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="the library to merge into it")],
    base: Annotated[
        str | None, typer.Option(metavar="LIB@VERSION", help="common ancestor of both", show_default="from the history")
    ] = None,
    take: Annotated[str | None, typer.Option(metavar="ours|theirs", help="side that wins every conflict")] = None,
    message: CommitMessage = None,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """
    Merge a library into a stored one, lesson by lesson; near-duplicates are joined.

    If both sides changed the same thing, the command prints all conflicts,
    changes nothing and exits with code 2.
    """
    command = resolve(COMMANDS, "library merge")
    print_result(command(lib, other, base, take, message, author), as_json)


@app.command(epilog="Example: edgewise library lock team.sqlite G0 4ec5401a --always")
def lock(
    lib: StoredLib,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="ids or labels, as edgewise library show prints them")
    ],
    unlock: Annotated[bool, typer.Option("--unlock", help="remove the locks")] = False,
    always: Annotated[
        bool | None, typer.Option(help="insert these lessons into every prompt, or no longer", show_default="unchanged")
    ] = None,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Lock lessons, so that people may change or delete them and learning may not."""
    print_result(resolve(COMMANDS, "library lock")(lib, ids, unlock, always, author), as_json)


@app.command("import", epilog="Example: edgewise library import playbook.txt team.sqlite --dry-run")
def import_(  # `import` is a keyword
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="lessons of ACE, ace-framework, GEPA, DSPy, youtu-agent, SKILL.md, plain text, or any library",
        ),
    ],
    lib: StoredLib,
    message: CommitMessage = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the lessons that would be imported; change nothing")
    ] = False,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Import lessons into a stored library; unsafe ones are blocked or redacted, and listed."""
    command = resolve(COMMANDS, "library import")
    print_result(command(source, lib, message, author, dry_run), as_json)


@app.command(epilog="Example: edgewise library export triage.edge --as skill > SKILL.md")
def export(
    lib: Lib,
    form: Annotated[
        str, typer.Option("--as", metavar="prompt|skill|youtu|json", help="format of the output")
    ] = "youtu",
) -> None:
    """
    Print a library in the format of another system.

    prompt: the text that goes into a prompt; skill: a SKILL.md;
    youtu: the flat object {"G0": text, ...}; json: all fields of all lessons.
    """
    print(resolve(COMMANDS, "library export")(lib, form))
