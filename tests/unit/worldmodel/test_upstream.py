"""Which tokenizer and latent actions a dynamics was trained with: told by weights, recordings, or paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import CheckpointError
from shared.events import STAGES, Stage
from shared.worldmodel.checkpoints import Checkpoint, load_checkpoint
from shared.worldmodel.seen import Seen
from shared.worldmodel.seen import record as recordings
from shared.worldmodel.upstream import check_trained_together, digest_of, record


@pytest.fixture
def three(tinyworlds: Mapping[str, Path]) -> dict[Stage, Checkpoint]:
    return {stage: load_checkpoint(tinyworlds[stage]) for stage in STAGES}


def saying(checkpoint: Checkpoint, extra: Mapping[str, Any]) -> Checkpoint:
    return replace(checkpoint, extra={**checkpoint.extra, **extra})


def trained_with(three: Mapping[Stage, Checkpoint]) -> dict[str, Any]:
    upstream = STAGES[:2]
    return record(
        {stage: f"its/{stage}" for stage in upstream}, {stage: three[stage].model for stage in upstream}
    )


def test_the_digest_is_of_names_shapes_and_values_alone() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": torch.arange(6.0).reshape(3, 2).reshape(2, 3)}
    assert digest_of(weights) == digest_of(same)
    others = [
        {**weights, "a": weights["a"] + 1e-6},
        {**weights, "a": weights["a"].reshape(3, 2)},
        {"c": weights["a"], "b": weights["b"]},
    ]
    assert len({digest_of(other) for other in [weights, *others]}) == 4


def test_weights_decide_where_they_are_known(three: dict[Stage, Checkpoint]) -> None:
    three["dynamics"] = saying(three["dynamics"], trained_with(three))
    moved = {
        stage: replace(one, directory=Path(f"/elsewhere/{stage}_step_7")) for stage, one in three.items()
    }
    assert check_trained_together(moved) == []
    latent = three["latent_actions"]
    name = next(iter(latent.model))
    three["latent_actions"] = replace(latent, model={**latent.model, name: latent.model[name] + 1})
    with pytest.raises(CheckpointError, match="latent_actions_step_59, but with its/latent_actions, whose"):
        check_trained_together(three)


def test_a_dynamics_without_actions_needs_no_latent_actions(three: dict[Stage, Checkpoint]) -> None:
    told = record({"video_tokenizer": "its"}, {"video_tokenizer": three["video_tokenizer"].model})
    config = {**three["dynamics"].config, "use_actions": False, "latent_actions_path": None}
    three["dynamics"] = replace(saying(three["dynamics"], told), config=config)
    assert check_trained_together(three) == []


def test_recordings_that_have_nothing_in_common_tell_as_well(three: dict[Stage, Checkpoint]) -> None:
    for stage, seen in zip(STAGES, ("pong", "pong", "zelda"), strict=True):
        extra = recordings([Seen(name=f"{seen}_frames.h5", fingerprint=seen * 3, frames=9)])
        three[stage] = saying(three[stage], extra)
    with pytest.raises(CheckpointError, match=r"different recordings, zelda_frames\.h5 .* and pong_frames"):
        check_trained_together(three)


def test_tinyworlds_paths_tell_run_and_step(three: dict[Stage, Checkpoint]) -> None:
    assert check_trained_together(three) == []
    with pytest.raises(CheckpointError, match="but with results/2026_11_20_20_30_00_pong/video_tokenizer/"):
        check_trained_together({**three, "video_tokenizer": replace(three["video_tokenizer"], step=99)})
    directory = Path("/r/2026_12_01_00_00_00_pong/video_tokenizer/checkpoints/video_tokenizer_step_119")
    of_another_run = replace(three["video_tokenizer"], directory=directory)
    (note,) = check_trained_together({**three, "video_tokenizer": of_another_run})
    assert f"whether it was trained with {directory} is not known" in note


def test_nothing_known_is_said_and_not_refused(three: dict[Stage, Checkpoint]) -> None:
    silent = {key: value for key, value in three["dynamics"].config.items() if not key.endswith("_path")}
    three["dynamics"] = replace(three["dynamics"], config=silent)
    notes = check_trained_together(three)
    assert [note.partition(": ")[0] for note in notes] == ["dynamics_step_119 does not say"] * 2


def test_a_record_that_cannot_be_read_names_the_checkpoint(three: dict[Stage, Checkpoint]) -> None:
    three["dynamics"] = saying(three["dynamics"], {"trained_with": {"video_tokenizer": 3}})
    with pytest.raises(CheckpointError, match="dynamics_step_119 is damaged: its entry 'trained_with'"):
        check_trained_together(three)
