"""Checkpoints are read through where torch is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.monitor.core import checkpoints as outside
from tests.unit.diagnosis.cases import look, of

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "tinyworlds_run"


def test_contents_are_read_where_torch_is_installed(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "results", tmp_path / "results")
    folder = next((tmp_path / "results").glob("*/dynamics/checkpoints"))
    broken = folder / "dynamics_step_139"
    shutil.copytree(folder / "dynamics_step_119", broken)
    (broken / "model_state_dict.pt").write_bytes(b"no tensors" * 1000)
    found = look(tmp_path)
    checkpoints = of(found, "dynamics").checkpoints
    assert [(each.valid, each.contents) for each in checkpoints] == [(True, True), (False, True)]
    assert found.fallback["dynamics"].endswith("dynamics_step_119")
    assert of(found, "dynamics").target is not None
    assert found.verdict == "watch"


def test_what_counts_as_empty_is_what_the_trainer_takes_for_empty() -> None:
    from shared.worldmodel import checkpoints

    assert (outside.FILES, outside.TINY) == (checkpoints.FILES, checkpoints.TINY)
    assert outside.LARGE_FILES == (checkpoints.MODEL, checkpoints.OPTIMIZER)
