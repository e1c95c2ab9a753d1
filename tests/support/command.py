"""The `edgewise` command for tests: as a process of its own, or inside this one, which is faster."""

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
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """What it had to say about its end."""
        return [line for line in self.err.splitlines() if line.startswith("edgewise:")]


def start(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from edgewise.toolkit.cli.app import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for a process that was started."""
    with process:
        out, err = process.communicate(timeout=60)
    return Done(process.returncode, out, err)


def inside(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Done:
    """The command run in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return Done(int(ended.value.code or 0), shown.out, shown.err)


def task_file(
    folder: Path,
    content: Sequence[dict[str, Any]] | None = None,
    improve: dict[str, Any] | None = None,
    **task: Any,
) -> Path:
    """A task.toml for the toy task or other rows; more keys of [task] and [improve] may be given."""
    import tomli_w

    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in (toy.rows() if content is None else content)]
    (folder / "rows.jsonl").write_text("".join(lines))
    head = {"name": "colours", "rows": "rows.jsonl", "id": "id", "prompt": toy.PROMPT, **task}
    head = {key: value for key, value in head.items() if value is not None}
    path = folder / "task.toml"
    path.write_text(
        tomli_w.dumps({"task": head, "improve": {"model": SCRIPTED, **SETTINGS, **(improve or {})}})
    )
    return path
