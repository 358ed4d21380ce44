"""The short form of `make chaos`: a share of all crashes, and of the other faults over the bus in memory.

The real deployments, and all crashes there are, are `tests/chaos`'s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_share_of_all_crashes_breaks_no_promise() -> None:
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "tests.chaos.crashes",
            "--every", "13", "--pairs", "8", "--unruly", "12", "--doubles", "4", "--damages", "10",
            "--outages", "5",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["injected"] == counts["right"]
    assert set(counts["deaths"]) == {"gatekeeper", "trainer", "monitor", "inference", "reporter", "rank"}
