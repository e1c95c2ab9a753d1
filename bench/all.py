"""Run every bench and write the table docs/bench.md; arguments (--quick) are passed on to each."""

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
NO_BENCH = {"all.py", "common.py"}
PACKAGES = ("edgewise", "openai", "litellm", "langgraph", "xllamacpp", "torch")


def run(script: Path) -> dict[str, Any]:
    """The JSON object of a bench's last line; a bench that gave none does not hold."""
    print(f"bench {script.stem} ...", file=sys.stderr, flush=True)
    command = [sys.executable, str(script), *sys.argv[1:]]
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


def main() -> int:
    results = [run(script) for script in sorted(HERE.glob("*.py")) if script.name not in NO_BENCH]
    arguments = f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else ""
    head = ["# Benches", "", f"Written by `make bench{arguments}`."]
    facts = [f"- Date: {datetime.now(UTC):%Y-%m-%d}", f"- Machine: {machine()}", f"- Versions: {versions()}"]
    table = ["| bench | figures | bar | holds |", "|---|---|---|---|", *map(row, results)]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join([*head, "", *facts, "", *table, ""]), "utf-8")
    print(TABLE.read_text("utf-8"))
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
