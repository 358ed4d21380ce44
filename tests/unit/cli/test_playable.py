"""What `play` plays: which run a word means, and the checklist, item by item."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from services.cli import app
from services.commands.checklist import SELECTORS, Item
from services.commands.playable import Playable, check, choose
from shared.bundle import Bundle
from shared.errors import BundleError, CheckpointError, UsageError
from shared.events import STAGES
from shared.worldmodel.safe_load import load_file
from tests.unit.cli.test_given import save

GOLDEN = Path(__file__).parents[2] / "fixtures/golden/tinyworlds_run"
(RESULTS,) = (GOLDEN / "results").iterdir()


def run_of(place: Path, name: str) -> Path:
    """A playable run of TinyWorlds in ./results."""
    return Path(shutil.copytree(RESULTS, place / "results" / name))


@pytest.fixture
def recording(place: Path) -> Path:
    """data/pong_frames.h5"""
    (place / "data").mkdir()
    path = place / "data/pong_frames.h5"
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros((60, 64, 64, 3), np.uint8)
    return path


def item(chosen: Playable, key: str) -> Item:
    (found,) = [each for each in chosen.items if each.key == key]
    return found


# --- which run --------------------------------------------------------------------------------------------


def test_a_run_of_tinyworlds_is_playable_as_it_is(place: Path, recording: Path) -> None:
    chosen = choose(str(RESULTS), place)
    chosen.require()
    assert (chosen.run, chosen.game, chosen.dataset) == (RESULTS, "pong", recording)
    assert chosen.steps == {"video_tokenizer": 120, "latent_actions": 60, "dynamics": 120}
    assert chosen.checkpoints["dynamics"] == RESULTS / "dynamics/checkpoints/dynamics_step_119"
    assert (chosen.training.frame_size, chosen.training.context_length) == (64, 4)
    assert [each.ok for each in chosen.items] == [True] * 6
    assert "dynamics was trained with this tokenizer" in item(chosen, "fit").answer


@pytest.mark.parametrize(
    ("word", "name"), [*zip(SELECTORS, SELECTORS, strict=True), ("pole", "pole_position")]
)
def test_a_game_means_the_newest_run_whose_name_contains_it(word: str, name: str, place: Path) -> None:
    run_of(place, f"2026_01_01_00_00_00_{name}")
    newer = run_of(place, f"2026_01_02_00_00_00_{name}")
    run_of(place, "2026_01_03_00_00_00_breakout")
    chosen = choose(word, place / "runs")
    assert chosen.run == newer
    assert item(chosen, "name").ok


def test_bundles_under_the_output_root_and_results_are_one_row_of_runs(place: Path) -> None:
    root = place / "runs"
    run_of(place, "2025_12_31_00_00_00_pong")
    for stage in STAGES:
        save(root, stage)
    assert choose("pong", root).run == Bundle(root / "20260101_000000", "2026_01_01_00_00_00_pong").results
    newest = run_of(place, "2026_01_02_00_00_00_pong")
    assert choose("pong", root).run == newest
    assert choose("20260101_000000", root).run == choose(str(root / "20260101_000000"), root).run != newest


def test_without_a_word_it_is_the_newest_run_that_is_whole(place: Path) -> None:
    whole = run_of(place, "2026_01_01_00_00_00_zelda")
    newer = run_of(place, "2026_01_02_00_00_00_zelda")
    (newer / "dynamics/checkpoints/dynamics_step_119/state.pt").unlink()
    assert choose(None, place).run == whole
    assert choose("zelda", place).run == newer, "a game means the newest run, whole or not"
    shutil.rmtree(whole)
    with pytest.raises(BundleError, match="no run with valid checkpoints of all three stages under"):
        choose(None, place)


def test_a_word_that_means_nothing_is_a_usage_error(place: Path) -> None:
    with pytest.raises(UsageError, match=r"zeldda: neither a game \(zelda, .* Did you mean zelda\?"):
        choose("zeldda", place)


# --- the checklist ----------------------------------------------------------------------------------------


def test_the_latest_valid_step_is_taken_and_what_was_passed_over_is_said(
    place: Path, recording: Path
) -> None:
    run = run_of(place, "2026_01_01_00_00_00_pong")
    folder = run / "dynamics/checkpoints"
    shutil.copytree(folder / "dynamics_step_119", folder / "dynamics_step_219")
    (folder / "dynamics_step_219/model_state_dict.pt").write_bytes(b"")
    chosen = choose("pong", place)
    assert chosen.checkpoints["dynamics"].name == "dynamics_step_119"
    assert item(chosen, "newest_valid").ok
    assert "passed over: " in item(chosen, "newest_valid").answer
    assert "model_state_dict.pt has only 0 bytes" in item(chosen, "newest_valid").answer


def test_what_another_run_has_is_cured_by_a_merge(place: Path, recording: Path) -> None:
    other = run_of(place, "2026_01_01_00_00_00_pong")
    run = run_of(place, "2026_01_02_00_00_00_pong")
    shutil.rmtree(run / "dynamics")
    chosen = choose("pong", place)
    assert (chosen.ready, item(chosen, "valid").ok, item(chosen, "one_run").ok) == (False, False, False)
    assert (
        f"`worldloop checkpoints merge {run} {other / 'dynamics'} --game pong`"
        in item(chosen, "one_run").cure
    )
    assert item(chosen, "newest_valid").ok is None
    with pytest.raises(CheckpointError, match=r"(?s)pong cannot be played yet.*-> put one run together"):
        chosen.require()
    assert check(chosen, as_json=False) == 1, "not every item could be answered"


def test_a_merge_that_would_be_refused_is_no_cure(place: Path, recording: Path) -> None:
    other = run_of(place, "2026_01_01_00_00_00_pong")
    run = run_of(place, "2026_01_02_00_00_00_pong")
    shutil.rmtree(run / "dynamics")
    state = run / "video_tokenizer/checkpoints/video_tokenizer_step_119/state.pt"
    torch.save({**load_file(state), "step": 99}, state)
    assert "checkpoints merge" not in item(choose("pong", place), "valid").cure, "dynamics knows another one"
    shutil.rmtree(run / "video_tokenizer/checkpoints/video_tokenizer_step_119")
    assert f"merge {run} {other / 'video_tokenizer'} " in item(choose("pong", place), "valid").cure


def test_a_run_that_has_nothing_is_no_source_of_a_merge(place: Path, recording: Path) -> None:
    other = run_of(place, "2026_01_01_00_00_00_pong")
    run = run_of(place, "2026_01_02_00_00_00_pong")
    for stage in STAGES:
        (next((run / stage / "checkpoints").iterdir()) / "state.pt").unlink()
    assert item(choose("pong", place), "valid").cure == f"play another run: `worldloop play {other}`"
    third = run_of(place, "2026_01_01_12_00_00_pong")
    shutil.rmtree(third / "dynamics")
    assert (
        f"merge {third / 'video_tokenizer'} {third / 'latent_actions'} {other / 'dynamics'} --game pong`"
        in item(choose("pong", place), "valid").cure
    )


def test_a_cure_can_be_copied_whatever_the_place_is_called(
    place: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = place / "my runs"
    run_of(odd, "2026_01_01_00_00_00_pong")
    run = run_of(odd, "2026_01_02_00_00_00_pong")
    shutil.rmtree(run / "dynamics")
    monkeypatch.chdir(odd)
    command = item(choose("pong", odd), "one_run").cure.split("`")[1]
    assert main_of(shlex.split(command)) == 0


def main_of(words: list[str]) -> int:
    """The exit code of a command as it was told."""
    return CliRunner().invoke(app, words[1:]).exit_code


def test_what_no_run_has_must_be_trained(place: Path, recording: Path) -> None:
    run = run_of(place, "2026_01_02_00_00_00_pong")
    (run / "dynamics/checkpoints/dynamics_step_119/state.pt").write_bytes(b"x")
    chosen = choose("pong", place)
    assert "state.pt is damaged" in item(chosen, "valid").answer
    assert item(chosen, "valid").cure == "train it with `worldloop train --dataset PONG`"


def test_a_game_without_run_is_answered_as_far_as_it_goes(place: Path) -> None:
    run_of(place, "2026_01_02_00_00_00_pong")
    chosen = choose("zelda", place)
    assert (chosen.run, chosen.ready, chosen.checkpoints) == (None, False, {})
    assert "has zelda in its name; there is 2026_01_02_00_00_00_pong" in item(chosen, "name").answer
    assert "checkpoints merge RUN --game zelda" in item(chosen, "name").cure
    assert "data download --pattern zelda_frames.h5" in item(chosen, "dataset").cure
    assert check(chosen, as_json=False) == 1


def test_models_that_do_not_fit_are_answered_with_what_differs(place: Path, recording: Path) -> None:
    root = place / "runs"
    for stage in STAGES:
        save(root, stage, embed_dim=32 if stage == "dynamics" else 16)
    chosen = choose("pong", root)
    assert item(chosen, "valid").ok
    assert item(chosen, "fit").ok is False
    assert (
        "embed_dim is 16 in video_tokenizer_step_59, latent_actions_step_59 and 32 in"
        in item(chosen, "fit").answer
    )
    assert check(chosen, as_json=False) == 0, "every item was answered, one with no"


def test_weights_that_their_config_does_not_describe_are_not_loadable(place: Path, recording: Path) -> None:
    run = run_of(place, "2026_01_02_00_00_00_pong")
    tokenizer = save(place / "runs", "video_tokenizer")
    directory = run / "video_tokenizer/checkpoints/video_tokenizer_step_119"
    shutil.copy(tokenizer / "model_state_dict.pt", directory)
    chosen = choose("pong", place)
    assert item(chosen, "valid").ok is False
    assert "video_tokenizer_step_119 does not fit" in item(chosen, "valid").answer


def test_the_recording_is_the_runs_own_else_the_games_else_a_given_one(place: Path, recording: Path) -> None:
    run_of(place, "2026_01_02_00_00_00_zelda")
    assert choose("zelda", place).dataset == recording, "its checkpoints say PONG"
    recording.rename(place / "data/zelda_frames.h5")
    assert choose("zelda", place).dataset == place / "data/zelda_frames.h5"
    given = choose("zelda", place, dataset="elsewhere.h5")
    assert given.dataset is None
    assert item(given, "dataset").cure == "name another recording with --dataset FILE"


def test_a_recording_that_does_not_fit_is_no_recording(place: Path, recording: Path) -> None:
    run_of(place, "2026_01_02_00_00_00_pong")
    with h5py.File(place / "large.h5", "w") as file:
        file["frames"] = np.zeros((9, 128, 128, 3), np.uint8)
    (place / "broken.h5").write_bytes(b"no h5")
    large, broken = (choose("pong", place, dataset=name) for name in ("large.h5", "broken.h5"))
    assert (large.dataset, broken.dataset) == (None, None)
    assert "frames of 128x128, and the models are made for 64x64" in item(large, "dataset").answer
    assert "cannot be read as HDF5" in item(broken, "dataset").answer


def test_the_checklist_is_printed_and_is_json(
    place: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(place, "2026_01_02_00_00_00_pong")
    chosen = choose("pong", place)
    assert check(chosen, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["playable"], told["run"], told["dataset"]) == (True, str(run), str(recording))
    assert told["checkpoints"]["dynamics"]["step"] == 120
    assert [each["key"] for each in told["items"]] == [
        "valid", "one_run", "name", "newest_valid", "fit", "dataset",
    ]  # fmt: skip
    assert all(each["question"].endswith("?") and each["answer"] for each in told["items"])
    assert check(chosen, as_json=False) == 0
    text = capsys.readouterr().out
    assert text.count("  yes ") == 6
    assert text.endswith("playable\n")
