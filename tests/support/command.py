"""Run the `edgewise` command in tests: in a process of its own, or in this one, which is faster."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgewise.toolkit.cli.app import main
from tests.support import toy

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = "scripted/tests.support.toy:play"
SETTINGS = {"epochs": 1, "batch_size": 12, "attempts": 1, "draws": 2}


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines that report an error."""
        return [line for line in self.err.splitlines() if line.startswith("edgewise:")]


def start_command(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from edgewise.toolkit.cli.app import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def wait_for_command(process: subprocess.Popen[str]) -> CommandResult:
    """Wait for a process from `start_command`."""
    with process:
        out, err = process.communicate(timeout=60)
    return CommandResult(process.returncode, out, err)


def run_command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> CommandResult:
    """Run the command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return CommandResult(int(exit_info.value.code or 0), output.out, output.err)


def write_task(
    folder: Path, content: Sequence[dict[str, Any]] | None = None, improve: dict[str, Any] | None = None, **task: Any
) -> Path:
    """Write a task.toml for the toy task or other rows, with more keys of [task] and [improve]; return its path."""
    import tomli_w

    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in (toy.rows() if content is None else content)]
    (folder / "rows.jsonl").write_text("".join(lines))
    head = {"name": "colours", "rows": "rows.jsonl", "id": "id", "prompt": toy.PROMPT, **task}
    head = {key: value for key, value in head.items() if value is not None}
    path = folder / "task.toml"
    path.write_text(tomli_w.dumps({"task": head, "improve": {"model": SCRIPTED, **SETTINGS, **(improve or {})}}))
    return path
