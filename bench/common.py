"""What every bench shares: arguments, the instant server, and the JSON line at the end."""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a bench runs from a checkout that is not installed


def quick() -> bool:
    """Whether the bench was called with --quick."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="under a minute")
    return parser.parse_args().quick


def report(bench: str, figures: dict[str, Any], bar: str, holds: bool) -> int:
    """Print the last line of a bench; the exit code."""
    print(json.dumps({"bench": bench, "figures": figures, "bar": bar, "holds": bool(holds)}))
    return 0 if holds else 1


@contextlib.contextmanager
def instant_server() -> Iterator[str]:
    """An OpenAI-compatible server that answers at once, in a process of its own; its base URL."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()
