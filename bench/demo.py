"""
The main job on a real model: `edgewise improve examples/support_triage`, the default embedded model, this machine.

Wall time is counted from the start of the command, with the model already pulled. `--quick` replays nothing and
saves nothing: it uses the small model and a few rows, and only shows that the road is open.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, quick, report

SHORT = ["--model", "local/smollm2-135m", "--set", "epochs=1", "--set", "gate_rows=8"]


def main() -> int:
    small = quick()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from edgewise.toolkit.cli.app import main; main()", "improve"]
        command += [str(ROOT / "examples" / "support_triage"), "--json", "--run", str(Path(folder) / "run")]
        started = time.monotonic()
        done = subprocess.run(
            command + (SHORT if small else []),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        minutes = (time.monotonic() - started) / 60
    result = json.loads(done.stdout)
    before, after = result["evidence"]["results"]
    gain = after["against"]["mean"]
    figures = {
        "minutes": round(minutes, 1),
        "rows": result["evidence"]["examples"],
        "before": before["mean"]["estimate"],
        "after": after["mean"]["estimate"],
        "gain": gain["estimate"],
        "interval": [gain["low"], gain["high"]],
        "p": gain["p"],
        "calls": result["costs"]["total"]["calls"],
        "model": "small" if small else "default",
    }
    holds = small or (minutes <= 12 and gain["low"] > 0 and figures["rows"] >= 60)
    return report("demo", figures, "<= 12 minutes, >= 60 rows, 95 % interval above 0", holds)


if __name__ == "__main__":
    sys.exit(main())
