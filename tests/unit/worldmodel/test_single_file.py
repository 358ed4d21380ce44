"""TinyWorlds' single-file checkpoints: read as what they are, or refused with the cure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import CheckpointError
from shared.events import STAGES, Stage
from shared.worldmodel.build import check_resumable, config_of, model_of
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.safe_load import load_file
from shared.worldmodel.single_file import is_single_file, read_single_file, write_directory

UNSAID = {"frame_size": 64, "context_length": 4}


def released(directory: Path, path: Path, **changes: Any) -> Path:
    """A TinyWorlds checkpoint in one file; a change to None leaves the key out."""
    state = load_file(directory / "state.pt")
    content = {
        "model": load_file(directory / "model_state_dict.pt"),
        "optimizer": load_file(directory / "optim_state_dict.pt"),
        "scheduler": state["scheduler_state_dict"],
        "config": state["config"],
        "step": state["step"],
    } | changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_a_single_file_is_the_checkpoint_it_was_made_from(
    tinyworlds: Mapping[str, Path], tmp_path: Path, stage: Stage
) -> None:
    whole = load_checkpoint(tinyworlds[stage])
    path = released(tinyworlds[stage], tmp_path / f"pong_{stage}_step_7_2025_09_17.pth")
    assert is_single_file(path)
    single = read_single_file(path, UNSAID)
    assert (single.stage, single.step, single.directory) == (stage, whole.step, path)
    write_directory(single, tmp_path / "out")
    copy = load_checkpoint(tmp_path / "out")
    assert (copy.config, copy.scheduler, copy.step) == (whole.config, whole.scheduler, whole.step)
    assert all(torch.equal(copy.model[name], whole.model[name]) for name in whole.model)
    check_resumable(copy, config_of(copy))


@pytest.mark.parametrize("stage", STAGES)
def test_what_an_old_file_leaves_out_is_filled_in(
    tinyworlds: Mapping[str, Path], tmp_path: Path, stage: Stage
) -> None:
    config = load_checkpoint(tinyworlds[stage]).config
    left_out = {"frame_size", "context_length", "n_actions"}
    path = released(
        tinyworlds[stage],
        tmp_path / f"pong_{stage}_step_7_2025_09_17.pth",
        config={key: value for key, value in config.items() if key not in left_out},
        step=None,
        optimizer=None,
        scheduler=None,
    )
    single = read_single_file(path, UNSAID)
    assert single.step == 8, "from the file's name, which counts from 0"
    model_of(single)
    assert single.config["frame_size"] == 64
    assert stage == "video_tokenizer" or single.config["n_actions"] == 4, "read off the weights"
    write_directory(single, tmp_path / "out")
    copy = load_checkpoint(tmp_path / "out")
    assert copy.optimizer["state"] == {}
    check_resumable(copy, config_of(copy))


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"config": None}, "is refused: it is no dict with 'model'"),
        ({"model": None}, "is refused: it is no dict with 'model'"),
        ({"model": {"what": torch.ones(3)}}, "is of no stage"),
        ({"model": {"what": torch.tensor([torch.nan])}}, "what is not finite"),
        ({"config": {"frame_size": 64}}, "has no usable embed_dim"),
        ({"config": {"code": RunsCode(Path("ran"))}}, r"refused: it would import posix\.system"),
    ],
)
def test_a_file_that_does_not_suffice_is_refused_by_name(
    tinyworlds: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = released(tinyworlds["dynamics"], tmp_path / "dynamics_step_7.pth", **changes)
    with pytest.raises(CheckpointError, match=problem):
        model_of(read_single_file(path, UNSAID))
    assert not Path("ran").exists()


def test_weights_alone_are_refused_with_the_cure(tinyworlds: Mapping[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "dynamics_step_7.pth"
    torch.save(load_file(tinyworlds["dynamics"] / "model_state_dict.pt"), path)
    with pytest.raises(CheckpointError, match="give the step directory it came from"):
        read_single_file(path, UNSAID)


def test_a_file_without_step_says_how_to_name_it(tinyworlds: Mapping[str, Path], tmp_path: Path) -> None:
    path = released(tinyworlds["dynamics"], tmp_path / "dynamics.pth", step=None)
    with pytest.raises(CheckpointError, match=r"call it <stage>_step_<N>\.pth"):
        read_single_file(path, UNSAID)
