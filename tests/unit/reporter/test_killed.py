"""A reporter that is killed while it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("die_while_reporting.py")


@pytest.mark.skipif(sys.platform != "linux", reason="looks up open files in /proc, which is Linux's")
def test_killed_in_the_middle_of_each_kind_no_half_file_is_left_and_the_next_one_writes_all(
    tmp_path: Path,
) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.unit.reporter.die_while_reporting", str(tmp_path)],
        cwd=SCRIPT.parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout.strip()) == (0, "5"), found.stderr
