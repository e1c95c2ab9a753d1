"""
Run benches, add their figures to bench/results.jsonl and write docs/bench.md: every bench, or those that are named.

`--quick` runs the short form of each.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import page

HERE = Path(__file__).resolve().parent
NO_BENCH = {"all.py", "common.py", "puzzles.py", "simulated_graphs.py", "one_update.py", "sentences.py", "page.py"}
PACKAGES = (
    "edgewise",
    "openai",
    "litellm",
    "langgraph",
    "xllamacpp",
    "statsmodels",
    "gepa",
    "torch",
    "transformers",
    "trl",
)


def run(script: Path, short: bool) -> dict[str, Any]:
    """The JSON object of a bench's last line; a bench that gave none does not hold."""
    print(f"bench {script.stem} ...", file=sys.stderr, flush=True)
    command = [sys.executable, str(script), *(["--quick"] if short else [])]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"bench": script.stem, "figures": {}, "bar": "gave no result", "holds": False}


def machine() -> str:
    # Linux names the processor only there.
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> int:
    scripts = {x.stem: x for x in sorted(HERE.glob("*.py")) if x.name not in NO_BENCH}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"all by default, or some of {', '.join(scripts)}")
    parser.add_argument("--quick", action="store_true", help="the short form of each")
    given = parser.parse_args()
    wanted = set(given.bench)
    if unknown := wanted - scripts.keys():
        parser.error(f"there is no bench {', '.join(sorted(unknown))}")
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "versions": versions()}
    all_hold = True
    for name, script in scripts.items():
        if not wanted or name in wanted:
            result = run(script, given.quick)
            all_hold &= result["holds"]
            # A short form's figures are not those of the bar.
            if not given.quick:
                page.add({**result, **facts})
    print(page.write())
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
