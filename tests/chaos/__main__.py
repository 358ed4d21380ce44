"""`make chaos`: every fault, and what came of it. The last line is the summary as one JSON object.

The crashes over the bus in memory come first, a process per core; then the real deployments, one after the
other. Takes less than 50 minutes on two cores. `docs/reliability.md` explains the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos.tally import FILE, summary, table

PARTS = 2
CRASHES = [
    *("--pairs", "200", "--unruly", "200", "--doubles", "100"),
    *("--damages", "300", "--outages", "100"),
]
HERE = Path(__file__).parent


def in_memory(tally: Path) -> bool:
    """All that `tests.chaos.crashes` has."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.chaos.crashes", *CRASHES]
    parts = [
        subprocess.Popen([*command, "--part", f"{part}/{PARTS}"], stdout=subprocess.PIPE, text=True)
        for part in range(PARTS)
    ]
    good = True
    for process in parts:
        output, _ = process.communicate()
        print(output, end="", flush=True)
        good = good and process.returncode == 0
        *_, last = output.splitlines() or ["{}"]
        counts = json.loads(last)
        with tally.open("a") as stream:
            for what, injected in counts.get("injected", {}).items():
                right = counts["right"].get(what, 0)
                for times, ended in ((right, True), (injected - right, False)):
                    row = {"faults": {f"in memory: {what}": times}, "recovery": {}, "right": ended}
                    print(json.dumps(row), file=stream)
    return good


def main() -> int:
    """Run everything, or what pytest's own arguments choose of the real deployments."""
    since = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as directory:
        tally = Path(directory) / "tally"
        tally.touch()
        os.environ[FILE] = str(tally)
        good = bool(sys.argv[1:]) or in_memory(tally)
        options = ["-o", "python_files=fault_*.py", "-q", str(HERE)]
        code = pytest.main([*options, *sys.argv[1:]])
        found = summary(tally.read_text().splitlines())
    print(table(found))
    right = good and code == 0
    took = round((time.monotonic() - since) / 60, 1)
    print(json.dumps({"ok": right, "minutes": took, "faults": found}))
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
