"""Checkpoints: TinyWorlds' form, whole or not at all, no code from files."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.bundle import Bundle
from shared.errors import CheckpointError
from shared.events import STAGES, Schedule, Stage
from shared.worldmodel.build import build_model, load_weights, model_of
from shared.worldmodel.checkpoints import (
    architecture_of,
    check_same_architecture,
    inspect_checkpoint,
    load_checkpoint,
    newest_valid,
    save_checkpoint,
)
from shared.worldmodel.optim import make_optimizer, restore_optimizer
from shared.worldmodel.safe_load import load_file

SCHEDULE = Schedule(peak=2e-3, start_step=0, end_step=120)


class Writer:
    """Writes checkpoints of a tiny tokenizer into a bundle."""

    def __init__(self, root: Path, tiny) -> None:
        self.bundle = Bundle(root, "2026_01_01_00_00_00_pong")
        self.folder = self.bundle.checkpoints("video_tokenizer")
        self.config = tiny.config()
        self.model = build_model("video_tokenizer", self.config)
        self.optimizer = make_optimizer(self.model, self.config)
        tiny.update(self.model, self.optimizer, "video_tokenizer", 0)

    def save(self, step: int, **extra: int) -> Path:
        directory = self.bundle.checkpoint("video_tokenizer", step)
        save_checkpoint(
            directory,
            stage="video_tokenizer",
            model=self.model,
            optimizer=self.optimizer,
            step=step,
            config=self.config,
            schedule=SCHEDULE,
            extra=extra,
        )
        return directory

    def problem(self, step: int) -> str | None:
        return inspect_checkpoint(self.bundle.checkpoint("video_tokenizer", step), bundle=self.bundle).problem


@pytest.fixture
def writer(tmp_path: Path, tiny) -> Writer:
    return Writer(tmp_path, tiny)


# --- TinyWorlds' form ---


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_tinyworlds_is_read_whole(tinyworlds: Mapping[str, Path], stage: Stage) -> None:
    checkpoint = load_checkpoint(tinyworlds[stage])
    assert checkpoint.stage == stage
    assert checkpoint.step == {"video_tokenizer": 120, "latent_actions": 60, "dynamics": 120}[stage]
    assert checkpoint.config["device"] == "cpu"
    assert checkpoint.config["distributed"]["use_ddp"] is False
    assert checkpoint.config["distributed"]["fsdp_mixed_precision"]["param_dtype"] == "bfloat16"
    assert checkpoint.scheduler["base_lrs"] == [0.002, 0.002]
    assert checkpoint.schedule is None
    assert architecture_of(checkpoint.config, stage)["embed_dim"] == 32


@pytest.mark.parametrize("stage", STAGES)
def test_what_we_write_has_tinyworlds_files_names_shapes_and_numbering(
    tinyworlds: Mapping[str, Path], tmp_path: Path, tiny, stage: Stage
) -> None:
    theirs = load_checkpoint(tinyworlds[stage])
    model = model_of(theirs)
    config = tiny.config(**architecture_of(theirs.config, stage), learning_rate=2e-3)
    optimizer = make_optimizer(model, config)
    restore_optimizer(optimizer, theirs.optimizer)
    directory = tmp_path / tinyworlds[stage].name
    schedule = Schedule(peak=2e-3, start_step=0, end_step=theirs.step)
    save_checkpoint(
        directory,
        stage=stage,
        model=model,
        optimizer=optimizer,
        step=theirs.step,
        config=config,
        schedule=schedule,
    )

    ours = load_checkpoint(directory)
    assert {path.name for path in directory.iterdir()} - {
        path.name for path in tinyworlds[stage].iterdir()
    } == {"manifest.json"}
    assert list(ours.model) == list(theirs.model)
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)
    assert ours.optimizer["state"].keys() == theirs.optimizer["state"].keys()
    for number, values in theirs.optimizer["state"].items():
        assert ours.optimizer["state"][number].keys() == values.keys()
        assert all(torch.equal(ours.optimizer["state"][number][key], values[key]) for key in values)
    for group, expected in zip(ours.optimizer["param_groups"], theirs.optimizer["param_groups"], strict=True):
        assert group == expected
    assert ours.scheduler.keys() == theirs.scheduler.keys()
    assert ours.scheduler["_last_lr"] == pytest.approx(theirs.scheduler["_last_lr"])
    # read as any program would: no class of ours is in the file
    state = torch.load(directory / "state.pt", weights_only=True)
    assert state["step"] == theirs.step - 1
    raw_keys = set(load_file(tinyworlds[stage] / "state.pt"))
    assert state.keys() - raw_keys == {"worldloop"}
    assert raw_keys <= state.keys()
    assert set(theirs.config) <= set(state["config"])
    assert set(theirs.config["distributed"]) == set(state["config"]["distributed"])

    loaded = by_tinyworlds(tinyworlds[stage], directory)
    assert loaded["config"] == state["config"], "plain values: JSON carries them unchanged"
    assert (loaded["step"], loaded["updates"], loaded["last_epoch"]) == (
        theirs.step - 1,
        theirs.step + 1,
        theirs.step,
    )


def by_tinyworlds(theirs: Path, ours: Path) -> dict[str, Any]:
    """What a stand-in of TinyWorlds' loader makes of a checkpoint, in a process without worldloop."""
    script = Path(__file__).with_name("tinyworlds_loader.py")
    packages = Path(torch.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-I", "-S", script, packages, theirs, ours],
        cwd=ours,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_wrapped_models_are_saved_under_the_bare_names(writer: Writer) -> None:
    plain = load_checkpoint(writer.save(1)).model
    holder = torch.nn.Module()
    holder.module = writer.model
    writer.model = holder  # type: ignore[assignment]
    assert load_checkpoint(writer.save(2)).model.keys() == plain.keys()


def test_a_checkpoint_says_what_its_writer_said(writer: Writer) -> None:
    checkpoint = load_checkpoint(writer.save(5, attempt=3))
    assert (checkpoint.stage, checkpoint.step, checkpoint.extra) == ("video_tokenizer", 5, {"attempt": 3})
    assert checkpoint.schedule == SCHEDULE
    assert checkpoint.directory.name == "video_tokenizer_step_4"
    assert "n_actions" not in checkpoint.config


# --- whole or not at all ---


def test_killed_at_any_point_a_complete_checkpoint_stands(tmp_path: Path) -> None:
    script = Path(__file__).with_name("die_while_saving.py")
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, script, tmp_path / "checkpoints"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    reports = [json.loads(line) for line in ended.stdout.splitlines()]
    for how in ("die_at_touch", "die_at_byte"):
        deaths = [report for report in reports if report["how"] == how and not report["lived"]]
        assert len(deaths) > 10
        assert any(report["lived"] for report in reports if report["how"] == how)
    for report in reports:
        # the one that was there before is never harmed; in the instant of a replacement it is the newest
        assert report["newest"] in ("video_tokenizer_step_19", "video_tokenizer_step_9"), report
        assert report["value"] == 2.0 or (report["value"] == 1.0 and not report["lived"]), report
        assert report["left"] == ["video_tokenizer_step_19", "video_tokenizer_step_9"], report
    assert {report["value"] for report in reports if not report["lived"]} == {1.0, 2.0}


def test_a_disk_that_refuses_leaves_the_old_checkpoint_and_no_rest(writer: Writer) -> None:
    before = load_checkpoint(writer.save(5)).model
    torch.nn.init.zeros_(writer.model.get_parameter("encoder.latent_head.1.bias"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.save(5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in writer.folder.iterdir()] == ["video_tokenizer_step_4"]
    after = load_checkpoint(writer.folder / "video_tokenizer_step_4").model
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_saving_the_same_step_again_replaces_it(writer: Writer) -> None:
    writer.save(5)
    torch.nn.init.constant_(writer.model.get_parameter("encoder.latent_head.1.bias"), 3.0)
    found = load_checkpoint(writer.save(5)).model["encoder.latent_head.1.bias"]
    assert torch.equal(found, torch.full_like(found, 3.0))
    assert [path.name for path in writer.folder.iterdir()] == ["video_tokenizer_step_4"]


# --- valid or not ---


def test_a_good_checkpoint_is_valid_and_named_by_its_path_in_the_bundle(writer: Writer) -> None:
    info = inspect_checkpoint(writer.save(60), bundle=writer.bundle)
    assert info.valid
    assert info.problem is None
    assert info.step == 60
    assert info.path == "results/2026_01_01_00_00_00_pong/video_tokenizer/checkpoints/video_tokenizer_step_59"
    assert info.size_bytes == sum(path.stat().st_size for path in writer.bundle.resolve(info.path).iterdir())


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def put(name: str, content: object) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        torch.save(content, directory / name)
        manifest = json.loads((directory / "manifest.json").read_bytes())
        manifest["files"][name]["sha256"] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        (directory / "manifest.json").write_text(json.dumps(manifest))

    return write


def flip_a_byte(directory: Path) -> None:
    path = directory / "optim_state_dict.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    os.truncate(directory / "model_state_dict.pt", 5000)


def break_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text('{"files": ')


WEIGHTS = {"encoder.latent_head.1.weight": torch.ones(1000), "other": torch.zeros(3)}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove("model_state_dict.pt"), "model_state_dict.pt is missing"),
        (remove("optim_state_dict.pt"), "optim_state_dict.pt is missing"),
        (remove("state.pt"), "state.pt is missing"),
        (remove("manifest.json"), "manifest.json is missing, it was not written to the end"),
        (break_manifest, "manifest.json is damaged"),
        (flip_a_byte, "optim_state_dict.pt is damaged: its checksum is not the manifest's"),
        (cut, "model_state_dict.pt is damaged"),
        (lambda directory: os.truncate(directory / "optim_state_dict.pt", 1024), "has only 1024 bytes"),
        (put("model_state_dict.pt", {}), "model_state_dict.pt holds no entries"),
        (put("optim_state_dict.pt", list(range(2000))), "optim_state_dict.pt holds no entries"),
        (put("model_state_dict.pt", WEIGHTS | {"other": torch.tensor([torch.nan])}), "other is not finite"),
        (put("optim_state_dict.pt", {"state": {7: {"a": torch.ones(999) / 0}}}), "state.7.a is not finite"),
        (put("model_state_dict.pt", {"what": torch.ones(1000)}), "is of no stage"),
        (put("model_state_dict.pt", {"what": "x" * 2000}), "is no state dict"),
        (put("state.pt", {"config": {}}), "state.pt has no step"),
        (put("state.pt", {"step": 3}), "state.pt has no config"),
        (put("state.pt", {"step": 3, "config": {"a": 1}, "worldloop": [1]}), "its entry 'worldloop' cannot"),
    ],
)
def test_a_bad_checkpoint_says_what_is_wrong(
    writer: Writer, damage: Callable[[Path], None], problem: str
) -> None:
    directory = writer.save(60)
    damage(directory)
    info = inspect_checkpoint(directory, bundle=writer.bundle)
    assert not info.valid
    assert info.step == 60
    assert info.problem is not None
    assert problem in info.problem
    assert directory.name in info.problem
    with pytest.raises(CheckpointError):
        load_checkpoint(directory)


def test_a_checkpoint_without_manifest_is_valid_when_it_is_not_ours(
    tinyworlds: Mapping[str, Path], tmp_path: Path
) -> None:
    bundle = Bundle(tmp_path, "2026_01_01_00_00_00_pong")
    directory = bundle.checkpoint("dynamics", 120)
    shutil.copytree(tinyworlds["dynamics"], directory)
    assert inspect_checkpoint(directory, bundle=bundle).valid


def test_the_newest_valid_checkpoint_goes_by_step_and_skips_broken_ones(writer: Writer) -> None:
    assert newest_valid(writer.folder).checkpoint is None
    writer.save(100)
    expected = writer.save(300)
    broken = writer.save(500)
    (broken / "state.pt").unlink()
    writer.save(200)
    (writer.folder / ".video_tokenizer_step_899.tmp").mkdir()
    found = newest_valid(writer.folder)
    assert found.checkpoint is not None
    assert found.checkpoint.directory == expected
    assert found.passed_over == (f"{broken} is no valid checkpoint: state.pt is missing",)
    assert newest_valid(writer.folder, "dynamics").checkpoint is None


# --- no code from files ---


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model_state_dict.pt", "optim_state_dict.pt", "state.pt"])
def test_a_file_that_would_run_code_is_refused_by_name(
    writer: Writer, tmp_path: Path, name: str, zipped: bool
) -> None:
    marker = tmp_path / "ran"
    directory = writer.save(5)
    (directory / "manifest.json").unlink()
    content = {"a": RunsCode(marker), "b": torch.ones(1000)}
    torch.save(content, directory / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: it would import posix\.system") as refused:
        load_checkpoint(directory)
    assert "weights_only" not in str(refused.value)
    assert not marker.exists()
    torch.load(directory / name, weights_only=False)
    assert marker.exists(), "the file does run code where it is trusted"


def test_a_class_that_is_no_stand_in_is_refused_by_name(writer: Writer) -> None:
    directory = writer.save(5)
    (directory / "manifest.json").unlink()
    torch.save({"step": 3, "config": {"path": Path("x")}}, directory / "state.pt")
    with pytest.raises(CheckpointError, match=r"refused: it would import pathlib\.\w*Path"):
        load_checkpoint(directory)


def test_a_plain_pickle_is_no_torch_file(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(pickle.dumps({"step": 3}, protocol=2))
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
        load_file(tmp_path / "state.pt")


# --- fit ---


def test_weights_of_another_architecture_are_refused_by_name(writer: Writer, tiny) -> None:
    checkpoint = load_checkpoint(writer.save(5))
    with pytest.raises(
        CheckpointError, match=r"to_pixels\.weight is \(48, 24, 1, 1\) there, \(48, 48, 1, 1\) in"
    ):
        load_weights(build_model("video_tokenizer", tiny.config(embed_dim=48)), checkpoint)
    with pytest.raises(CheckpointError, match="unknown in the model"):
        load_weights(build_model("dynamics", tiny.config()), checkpoint)


def test_an_optimizer_state_of_another_kind_is_refused(writer: Writer, tiny) -> None:
    checkpoint = load_checkpoint(writer.save(5))
    muon = make_optimizer(writer.model, tiny.config(optimizer="muon"))
    with pytest.raises(CheckpointError, match="does not fit MuonWithAdamW"):
        restore_optimizer(muon, checkpoint.optimizer)


def test_differing_architectures_name_key_values_and_owners(tinyworlds: Mapping[str, Path]) -> None:
    known = {
        stage: architecture_of(load_checkpoint(path).config, stage) for stage, path in tinyworlds.items()
    }  # type: ignore[arg-type]
    check_same_architecture(known)
    other = {**known["dynamics"], "n_actions": 8, "latent_dim": 6}
    with pytest.raises(
        CheckpointError,
        match=r"latent_dim is 5 in video_tokenizer, dynamics and 6 in the configuration; "
        r"n_actions is 4 in latent_actions, dynamics and 8 in the configuration\.",
    ):
        check_same_architecture({**known, "the configuration": other})
    with pytest.raises(
        CheckpointError, match=r"config of dynamics has no usable n_actions, num_bins|num_bins, n_act"
    ):
        architecture_of({**known["dynamics"], "num_bins": None, "n_actions": "4"}, "dynamics")


def test_experts_are_found_by_their_keys(tmp_path: Path, tiny) -> None:
    config = tiny.config(use_moe=True, num_experts=3)
    model = build_model("dynamics", config)
    optimizer = make_optimizer(model, config)
    tiny.update(model, optimizer, "dynamics", 0)
    directory = tmp_path / "dynamics_step_0"
    save_checkpoint(
        directory,
        stage="dynamics",
        model=model,
        optimizer=optimizer,
        step=1,
        config=config,
        schedule=SCHEDULE,
    )
    checkpoint = load_checkpoint(directory)
    for key in ("use_moe", "num_experts"):
        del checkpoint.config[key]
    found = model_of(checkpoint).state_dict()
    assert found.keys() == model.state_dict().keys()
    assert "transformer.blocks.0.ffn.experts.2.w_g.bias" in found
