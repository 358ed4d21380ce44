"""The verdict can be believed: few false alarms, nearly every strong collapse caught, on games held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.config import StageConfig
from shared.datasets.frames import FramesDataset
from shared.datasets.recording import record
from shared.events import STAGES, Stage
from shared.sheets import read_sheet, write_sheet
from shared.worldmodel.build import build_model
from shared.worldmodel.frames import to_float, to_uint8
from tests.unit.monitor.visual_corpus import (
    HELD_OUT,
    Case,
    Pixels,
    collapsed,
    copies,
    masked,
    tinyworlds_sheet,
)

STORED = Path(__file__).parents[2] / "fixtures" / "visual"
FALSE_ALARMS, CAUGHT = 0.02, 0.98
LIVE = (("SpaceInvaders", 64), ("Boxing", 64), ("Skiing", 128), ("Asteroids", 128))
TINYWORLDS: dict[str, Stage] = {
    "video_tokenizer_recon_step_50": "video_tokenizer",
    "reconstructions_latent_actions_step_50": "latent_actions",
}


def strip(path: Path) -> Pixels:
    """The frames of a stored picture, four of 64 pixels in a row, [rows, 4, 64, 64, 3]."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels.reshape(-1, 64, 4, 64, 3).transpose(0, 2, 1, 3, 4)


def stored(game: str) -> Iterator[Case]:
    """Sheets of two rows that `benchmarks/visual.py` drew; what was generated is stored a little lossy."""
    real, made = strip(STORED / f"{game}_originals.webp"), strip(STORED / f"{game}_generated.webp")
    yield Case(f"{game} 50", "video_tokenizer", real[:2], made[:2])
    yield Case(f"{game} 200", "video_tokenizer", real[:2], made[2:4])
    yield Case(f"{game} 50", "latent_actions", real[:2], made[4:6, 1:])
    yield Case(f"{game} 50", "dynamics", real[2:], made[6:])
    hidden = masked(real[:2], last_only=False, share=0.7, grey=131)
    yield Case(f"{game} 200, all masked", "dynamics", hidden, made[2:4])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FramesDataset]:
    """A few seconds of real games."""
    folder = tmp_path_factory.mktemp("recordings")
    found = {}
    for game, size in LIVE:
        path = folder / f"{game}_{size}.h5"
        record(f"ALE/{game}-v5", path, frames=64, size=size, seed=1)
        found[game] = FramesDataset.open(path, context_length=4, fps=60, cache_dir=folder)
    return found


def windows(recording: FramesDataset) -> Pixels:
    return recording.batch(np.linspace(0, recording.train_windows - 1, 4).round().astype(np.int64))


def test_on_held_out_games_few_young_sheets_are_called_collapsed_and_nearly_all_collapses_are_caught() -> (
    None
):
    healthy = [case for game in HELD_OUT for case in stored(game) if case.honest]
    assert {case.stage for case in healthy} == set(STAGES)
    assert len(healthy) >= 24
    alarms = [f"{case.name}: {text}" for case in healthy for ok, text in [case.verdict()] if not ok]
    assert len(alarms) <= FALSE_ALARMS * len(healthy), alarms
    oldest = {(case.name.split()[0], case.stage): case for case in healthy}.values()
    bad = [bad for case in oldest for bad in collapsed(case) if bad.strength == "strong"]
    missed = [(case.name, case.stage, case.degradation) for case in bad if case.verdict()[0]]
    for stage in STAGES:
        of_stage = [case for case in bad if case.stage == stage]
        assert len(of_stage) >= 30
        assert sum(kind == stage for _, kind, _ in missed) <= (1 - CAUGHT) * len(of_stage), missed


def test_real_frames_of_any_size_are_healthy(recordings: dict[str, FramesDataset]) -> None:
    for game, recording in recordings.items():
        for case in copies(game, windows(recording)):
            assert case.verdict() == (True, "the pictures keep their structure"), case


def test_a_model_trained_for_seconds_is_healthy_and_an_untrained_one_is_not(
    recordings: dict[str, FramesDataset], tmp_path: Path
) -> None:
    recording = recordings["Boxing"]
    config = StageConfig.model_validate(
        {"frame_size": 64, "patch_size": 8, "context_length": 4, "latent_dim": 5, "num_bins": 4}
        | {"embed_dim": 64, "num_heads": 4, "hidden_dim": 128, "num_blocks": 1}
    )
    model = build_model("video_tokenizer", config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    shown, random = windows(recording), np.random.default_rng(0)

    def sheet(step: int) -> Case:
        with torch.no_grad():
            made = to_uint8(model.decode(model.encode(to_float(torch.from_numpy(shown))))).numpy()
        write_sheet(tmp_path / f"{step}.png", shown, made)
        read = read_sheet(tmp_path / f"{step}.png")
        return Case(f"step {step}", "video_tokenizer", read.originals, read.generated)

    untrained = sheet(0)
    for _ in range(50):
        batch = recording.batch(random.integers(0, recording.train_windows, 4))
        loss = model(to_float(torch.from_numpy(batch))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sheet(50).verdict()[0], sheet(50).verdict()
    assert not untrained.honest
    assert not untrained.verdict()[0]


@pytest.mark.parametrize("name", TINYWORLDS)
def test_tinyworlds_own_young_sheets_are_healthy_and_their_degradations_are_caught(
    name: str, tmp_path: Path
) -> None:
    with Image.open(STORED / f"{name}.webp") as figure:
        figure.save(tmp_path / f"{name}.png")
    sheet = read_sheet(tmp_path / f"{name}.png")
    case = Case(name, TINYWORLDS[name], sheet.originals, sheet.generated)
    assert case.honest
    assert case.verdict() == (True, "the pictures keep their structure")
    strong = [bad for bad in collapsed(case) if bad.strength == "strong"]
    missed = [bad.degradation for bad in strong if bad.verdict()[0]]
    assert not missed


@pytest.mark.parametrize("stage", STAGES)
def test_figures_drawn_as_tinyworlds_does_are_judged_as_our_sheets(stage: Stage, tmp_path: Path) -> None:
    cases = [case for case in stored("Enduro") if case.stage == stage]
    name = f"{'reconstructions_' * (stage == 'latent_actions')}{stage}_step_50.png"
    for case in cases:
        for each in (case, next(bad for bad in collapsed(case) if bad.strength == "strong")):
            tinyworlds_sheet(each.originals, each.generated).save(tmp_path / name)
            sheet = read_sheet(tmp_path / name)
            again = Case(each.name, stage, sheet.originals, sheet.generated)
            assert again.verdict() == each.verdict()


OWN_NUMBER = {
    "near-constant": "contrast",
    "flat blocks": "flat_blocks",
    "stripes diagonal, period 8": "striping",
    "nothing but noise": "noise",
    "scrambled patches": "edges",
    "lost edges": "edges",
    "frozen": "frozen",
}


@pytest.mark.parametrize("degradation", OWN_NUMBER)
def test_the_verdict_names_the_number_that_failed(
    degradation: str, recordings: dict[str, FramesDataset]
) -> None:
    frames = windows(recordings["SpaceInvaders"])
    case = Case("real", "video_tokenizer", frames, frames)
    worst = [bad for bad in collapsed(case) if (bad.degradation, bad.strength) == (degradation, "strong")]
    ok, text = worst[0].verdict()
    assert not ok
    assert f"{OWN_NUMBER[degradation]} " in text
