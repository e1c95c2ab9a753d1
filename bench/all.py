"""
Run benches and write the table docs/bench.md: every one, or those that are named, which then replace their own rows.

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

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "docs" / "bench.md"
NO_BENCH = {"all.py", "common.py", "puzzles.py", "simulated_graphs.py", "one_update.py", "sentences.py"}
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


def row(result: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in result["figures"].items())
    return f"| {result['bench']} | {figures} | {result['bar']} | {'yes' if result['holds'] else '**no**'} |"


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


def kept(names: set[str]) -> dict[str, str]:
    """Rows of the table as it stands, by bench, without those of `names`."""
    lines = TABLE.read_text("utf-8").splitlines() if TABLE.exists() else []
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    return {name: line for name, line in rows.items() if name not in {*names, "bench"}}


def main() -> int:
    scripts = {x.stem: x for x in sorted(HERE.glob("*.py")) if x.name not in NO_BENCH}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", nargs="*", help=f"all by default, or some of {', '.join(scripts)}")
    parser.add_argument("--quick", action="store_true", help="the short form of each")
    given = parser.parse_args()
    wanted = set(given.bench)
    if unknown := wanted - scripts.keys():
        parser.error(f"there is no bench {', '.join(sorted(unknown))}")
    results = [run(x, given.quick) for name, x in scripts.items() if not wanted or name in wanted]
    rows = kept(wanted) if wanted else {}
    rows |= {result["bench"]: row(result) for result in results}
    head = ["# Benches", "", "Written by `make bench`; rows may be of different days."]
    facts = [
        f"- Last run: {datetime.now(UTC):%Y-%m-%d}",
        f"- Machine: {machine()}",
        f"- Versions: {versions()}",
    ]
    table = ["| bench | figures | bar | holds |", "|---|---|---|---|", *(rows[name] for name in sorted(rows))]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join([*head, "", *facts, "", *table, ""]), "utf-8")
    print(TABLE.read_text("utf-8"))
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
