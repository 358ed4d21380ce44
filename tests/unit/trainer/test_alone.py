"""A second trainer of a state directory waits for the first one's end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.trainer.alone import alone
from shared.settings import Settings

SECOND = """
import sys
from pathlib import Path
from services.trainer.alone import alone
from shared.settings import Settings
with alone(Settings(state_dir=Path(sys.argv[1]), node_rank=int(sys.argv[2]))):
    print("alone")
"""


def start(state_dir: Path, rank: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SECOND, state_dir, str(rank)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_a_second_trainer_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    with alone(Settings(state_dir=tmp_path)), start(tmp_path, 1) as other:
        assert other.stdout is not None
        assert other.stdout.read() == "alone\n", "of another host"
    with alone(Settings(state_dir=tmp_path)):
        second = start(tmp_path, 0)
        assert second.stderr is not None
        assert "another trainer holds" in second.stderr.readline()
        assert second.poll() is None
    assert second.communicate() == ("alone\n", "")
