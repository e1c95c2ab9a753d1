"""The `edgewise` command: parsing, errors and exit codes. A command imports its code when it runs."""

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, NoReturn

import typer

from edgewise.toolkit.cli import graph_commands, learn_commands, library_commands
from edgewise.toolkit.cli.options import Json, print_result
from edgewise.toolkit.errors import ConfigError, EdgewiseError, Interrupted
from edgewise.toolkit.registry import COMMANDS, resolve

LEARNER = ("torch", "transformers", "tokenizers", "safetensors", "peft")
"""Packages of the extra `learner`."""
BUG_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h

# Base class of typer's errors for wrong usage. Typer bundles its own click and exports only this subclass.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Improve a language model from rows, a reward and a budget.",
    epilog="Start with: edgewise improve my/task.toml --dry-run",
)
models = typer.Typer(no_args_is_help=True, help="The embedded models.")
app.add_typer(learn_commands.app)
app.add_typer(library_commands.app, name="library")
app.add_typer(graph_commands.app, name="graph")
app.add_typer(models, name="models")


def print_version(is_wanted: bool) -> None:
    """Print the version and exit, for `--version`."""
    if is_wanted:
        try:
            print(f"edgewise {version('edgewise')}")
        except PackageNotFoundError:
            print("edgewise, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


@models.command("list", epilog="Example: edgewise models list --json")
def list_models(as_json: Json = False) -> None:
    """List the embedded models with size, licence and path on this machine."""
    print_result(resolve(COMMANDS, "models list")(), as_json)


@models.command("pull", epilog="Example: edgewise models pull local/qwen2.5-coder-1.5b")
def pull_model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="name, such as local/qwen2.5-coder-1.5b")],
) -> None:
    """Download an embedded model and verify its checksum."""
    print(resolve(COMMANDS, "models pull")(name))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; every error becomes one sentence on standard error and an exit code."""
    # One line for a warning; Python's own format shows a line of our code, which means nothing to a user.
    warnings.showwarning = _print_warning
    try:
        sys.exit(app(arguments, prog_name="edgewise", standalone_mode=False))
    except EdgewiseError as error:
        _fail(error.exit_code, " ".join([f"{str(error).rstrip('.')}.", *getattr(error, "__notes__", ())]))
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare command: typer has printed its help
            sys.exit(error.exit_code)
        _fail(error.exit_code, f"{error.format_message().rstrip('.')}; --help lists the options.")
    except (KeyboardInterrupt, typer.Abort):
        _fail(Interrupted.exit_code, "Stopped.")
    except Exception as error:
        # Commands import their libraries when they run, so a missing extra shows up here.
        if isinstance(error, ModuleNotFoundError) and error.name in LEARNER:
            _fail(ConfigError.exit_code, f"This needs {error.name}: pip install 'edgewise[learner]'.")
        traceback.print_exc()
        _fail(BUG_EXIT_CODE, "This is a bug of Edgewise, or of your own function that it called: see above.")


def _fail(code: int, sentence: str) -> NoReturn:
    print(f"edgewise: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)


def _print_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
