"""How long it takes to begin: importing the library, and `edgewise --help`, each in a fresh process."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, quick, report

BAR = "median under 0.5 s each"
COMMANDS = {
    "import": ["-c", "import edgewise, edgewise.toolkit, edgewise.experience"],
    "help": ["-c", "import sys; sys.argv = ['edgewise', '--help']; from edgewise.toolkit.cli.app import main; main()"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    runs = 5 if quick() else 15
    figures: dict[str, float] = {"python_s": round(statistics.median(seconds(["-c", ""]) for _ in range(runs)), 3)}
    for name, arguments in COMMANDS.items():
        seconds(arguments)  # compiles what changed
        figures[f"{name}_s"] = round(statistics.median(seconds(arguments) for _ in range(runs)), 3)
    return report(Path(__file__).stem, figures, BAR, max(figures.values()) < 0.5)


if __name__ == "__main__":
    sys.exit(main())
