"""Documentation names things that exist: modules, functions, files, imports of Python blocks, commands and options."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgewise.experience.config import ExperienceConfig
from edgewise.learner.absorption.spec import AbsorbConfig
from edgewise.learner.config import WeightsConfig
from edgewise.learner.methods.method import AXES
from edgewise.mas.config import GraphConfig
from edgewise.mas.two_level.config import TwoLevelConfig
from edgewise.toolkit.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
EXAMPLES = [str(page.relative_to(ROOT)) for page in sorted((ROOT / "examples").rglob("*.py"))]

PACKAGES = "toolkit|experience|mas|learner"
DOTTED = re.compile(rf"(?<![\w./-])(?:edgewise|(?:edgewise\.)?(?:{PACKAGES}))(?:\.[A-Za-z_]\w*)+(?![\w/-])")
FILE_ENDINGS = {"csv", "edge", "html", "json", "jsonl", "md", "py", "sqlite", "toml", "txt"}
PATH = re.compile(r"(?<![\w./:@-])(?:[\w.-]+/)+[\w.-]*\w/?")
HOMES = {*PACKAGES.split("|"), "edgewise", "tests", "docs", "bench", "examples"}
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(edgewise [a-z][^`]*)`")
COMMANDS = {"edgewise", ".venv/bin/edgewise", "edgewise.toolkit.cli.app"}
SHELL_ENDS = {"|", ">", ">>", "&&", "||", ";", "&"}
CONFIGS = (ExperienceConfig, GraphConfig, TwoLevelConfig, WeightsConfig, AbsorbConfig)
SETTINGS = {name for config in CONFIGS for name in config.model_fields} | set(AXES)


def resolves(reference: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    parts = reference.split(".")
    parts = parts if parts[0] == "edgewise" else ["edgewise", *parts]
    value: Any = importlib.import_module("edgewise")
    for number, part in enumerate(parts[1:], 2):
        try:
            value = getattr(value, part)
        except AttributeError:
            try:
                value = importlib.import_module(".".join(parts[:number]))
            except ModuleNotFoundError:
                return False
    return True


def read_commands(text: str) -> Iterator[list[str]]:
    """Yield the words after `edgewise` of each command in blocks of shell and in inline code."""
    lines = [line for _, kind, block in BLOCK.findall(text) if kind in ("sh", "bash", "") for line in block.split("\n")]
    lines += re.findall(r"^    (edgewise .+|.*cli\.app .+)$", text, re.MULTILINE)
    lines = "\n".join(lines).replace("\\\n", " ").split("\n")
    for line in [*lines, *(" ".join(match.split()) for match in INLINE.findall(text))]:
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:  # output of a command, with a lone quote
            continue
        starts = [i for i, word in enumerate(words) if word in COMMANDS]
        # Elsewhere in a line it is an argument, or a sentence that a command printed.
        starts = [i for i in starts if i == 0 or words[i - 1] in ("-m", "--", "&&")]
        for start in starts:
            ends = [i for i, word in enumerate(words) if i > start and word in SHELL_ENDS]
            yield words[start + 1 : min(ends, default=len(words))]


def check_command(words: list[str]) -> str:
    """Return what is wrong with the words after `edgewise`, "" if nothing is."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    for option, value in zip(rest, [*rest, ""][1:], strict=True):
        name = option.strip("[]").partition("=")[0]
        if name.startswith("--") and name not in known:
            return f"no option {name}"
        if name == "--set" and value and re.split(r"[.=]", value)[0] not in SETTINGS | {"KEY", "AXIS"}:
            return f"no setting {value}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_dotted_names_exist(name: str):
    text = (ROOT / name).read_text("utf-8")
    references = {x for x in DOTTED.findall(text) if x.rsplit(".", 1)[1] not in FILE_ENDINGS | {"PACKAGE"}}
    assert [x for x in sorted(references) if not resolves(x)] == []


@pytest.mark.parametrize("name", NAMES)
def test_files_exist(name: str):
    text = (ROOT / name).read_text("utf-8")
    paths = {x for x in PATH.findall(text) if x.split("/")[0] in HOMES or (x.endswith(".py") and x.islower())}
    # A module may stand without its ending, and a page may name its neighbour.
    spellings = {x: (ROOT / x, ROOT / f"{x}.py", (ROOT / name).parent / x) for x in paths}
    assert [x for x in sorted(paths) if not any(path.exists() for path in spellings[x])] == []


@pytest.mark.parametrize("name", [*NAMES, *EXAMPLES])
def test_python_parses_and_its_imports_resolve(name: str):
    text = (ROOT / name).read_text("utf-8")
    blocks = [text] if name.endswith(".py") else [block for _, kind, block in BLOCK.findall(text) if kind == "python"]
    for block in blocks:
        compile(block, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(block)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            assert [x for x in modules if x.split(".")[0] == "edgewise" and not resolves(x)] == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_options_and_settings_exist(name: str):
    commands = list(read_commands((ROOT / name).read_text("utf-8")))
    problems = {" ".join(words): check_command(words) for words in commands}
    assert {command: problem for command, problem in problems.items() if problem} == {}


def test_wrong_commands_names_and_settings_are_seen():
    lines = (
        "```sh",
        "edgewise improve x --bye graph",
        ".venv/bin/edgewise learn \\\n  x",
        "edgewise improve x --set epoch=1",
    )
    page = "\n".join((*lines, "```"))
    assert [check_command(words) for words in read_commands(page)] == [
        "no option --bye",
        "no command 'learn'",
        "no setting epoch=1",
    ]
    assert resolves("mas.graph.graph.Graph") and not resolves("edgewise.toolkit.client")
