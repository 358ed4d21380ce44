"""train --checkout: the repository is looked over, its files count, and what cannot work is said at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import Result

from services.commands.training.options import TrainOptions
from services.commands.training.start import Prepared, create, prepare
from shared.errors import CheckpointError, ConfigurationError, UsageError, WorldloopError
from shared.events import STAGES
from tests.standins import checkouts
from tests.unit.cli.standin import checkout, program
from tests.unit.cli.test_given import save

RUN = "20260102_030405"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Invoke = Callable[..., Result]


@pytest.fixture
def theirs(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout on a machine without a GPU; we are in it."""
    root = checkout(place / "tinyworlds")
    monkeypatch.chdir(root)
    return root


def prepared(**changes: object) -> Prepared:
    return prepare(TrainOptions(**{"checkout": Path(), **changes}))  # type: ignore[arg-type]


def refusal(**changes: object) -> str:
    with pytest.raises(WorldloopError) as caught:
        prepared(**changes)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_spec_names_the_checkout_and_its_programs(theirs: Path) -> None:
    before = checkouts.digest(theirs)
    spec = create(prepared(output_root=theirs.parent / "runs"), RUN, NOW)
    assert spec.backend == "checkout"
    assert spec.checkout is not None
    assert spec.checkout.directory == str(theirs)
    assert spec.checkout.python == str(theirs / ".venv" / "bin" / "python")
    assert spec.checkout.torchrun == str(theirs / ".venv" / "bin" / "torchrun")
    assert spec.checkout.inference == "own"
    assert spec.run_name.endswith("_pong")
    assert checkouts.digest(theirs) == before


def test_without_a_checkout_the_built_in_trainer_trains(dataset: Path) -> None:
    spec = create(prepare(TrainOptions(profile="demo", dataset=str(dataset)), gpus=0), RUN, NOW)
    assert (spec.backend, spec.checkout) == ("own", None)


# --- whose configuration ------------------------------------------------------------------------------------


def test_in_a_checkout_our_files_say_how_to_train_and_its_own_what_the_model_is(theirs: Path) -> None:
    found = prepared()
    run, origins = found.resolution.run, found.resolution.origins
    assert (run.training.patch_size, run.training.latent_dim) == (16, 3)
    assert (run.dynamics.embed_dim, run.latent_actions.num_blocks) == (16, 1)
    assert origins["training.patch_size"] == "configs/training.yaml"
    assert origins["dynamics.embed_dim"] == "configs/training.yaml"
    assert (run.video_tokenizer.batch_size_per_gpu, run.video_tokenizer.n_updates) == (8, 40000)
    assert origins["video_tokenizer.n_updates"] == "profile inference-safe"
    assert found.resolution.policy.gatekeeper.max_retries == 5


def test_flags_beat_the_files_of_the_checkout(theirs: Path) -> None:
    found = prepared(assignments=("latent_dim=4", "embed_dim=32"))
    assert found.resolution.run.training.latent_dim == 4
    assert found.resolution.run.video_tokenizer.embed_dim == 32


def test_a_checkout_whose_stages_do_not_fit_together_is_refused_with_its_files(theirs: Path) -> None:
    path = theirs / "configs" / "training.yaml"
    path.write_text(path.read_text().replace("num_blocks: 1\n", ""))
    for stage, blocks in zip(STAGES, (4, 2, 4), strict=True):
        with (theirs / "configs" / f"{stage}.yaml").open("a") as file:
            file.write(f"num_blocks: {blocks}\n")
    assert "2 for latent_actions in configs/latent_actions.yaml" in refusal()


def test_a_hard_coded_checkpoint_path_is_said_and_does_not_count(theirs: Path) -> None:
    path = theirs / "configs" / "dynamics.yaml"
    path.write_text(path.read_text().replace("video_tokenizer_path: null", "video_tokenizer_path: /old/run"))
    found = prepared()
    assert found.resolution.run.dynamics.video_tokenizer_path is None
    assert any("video_tokenizer_path: /old/run is hard-coded" in notice for notice in found.notices)


def test_a_saw_tooth_schedule_is_said_and_one_chunk_has_none(theirs: Path) -> None:
    assert any("saw-tooth" in notice for notice in prepared().notices)
    whole = {f"{name}_chunk": 300000 for name in ("video", "latent", "dynamics")}
    assert not any("saw-tooth" in notice for notice in prepared(**whole).notices)


def test_the_configs_of_a_checkout_are_not_taken_for_ours(theirs: Path, worldloop: Invoke) -> None:
    for arguments in (["train"], ["policy", "show"]):
        error = worldloop(*arguments).exception
        assert isinstance(error, UsageError)
        assert "configs has no policy.yaml" in str(error)
        assert "give --checkout ." in str(error)
    assert refusal(checkout=None).startswith("configs has no policy.yaml")
    shown = worldloop("policy", "show", "--checkout", ".", "--section", "training.patch_size").stdout
    assert shown.split() == ["training.patch_size", "16", "file:", "configs/training.yaml"]
    history = Path(__file__).parents[2] / "fixtures" / "histories"
    csv = next(history.glob("*.csv"))
    assert worldloop("gate", str(csv), "--stage", "dynamics").exit_code in (0, 1)


def test_our_own_configs_beside_a_checkout_are_read(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = theirs.parent / "mine"
    shutil.copytree(Path(__file__).parents[3] / "configs", here / "configs")
    text = (here / "configs" / "policy.yaml").read_text()
    (here / "configs" / "policy.yaml").write_text(
        text.replace("  checkout: null", f"  checkout: {theirs}").replace("max_retries: 5", "max_retries: 9")
    )
    monkeypatch.chdir(here)
    found = prepared(checkout=None)
    assert found.checkout is not None
    assert found.resolution.policy.gatekeeper.max_retries == 9


# --- what has to be there -----------------------------------------------------------------------------------


def test_a_directory_that_is_no_checkout_says_what_it_lacks(place: Path) -> None:
    assert "it lacks configs/training.yaml, scripts/train_video_tokenizer.py" in refusal(checkout=place)
    assert "--checkout nowhere: no such directory" in refusal(checkout=Path("nowhere"))


def test_the_inference_script_is_needed_only_for_its_own_gate(theirs: Path) -> None:
    (theirs / "scripts" / "run_inference.py").unlink()
    assert prepared().checkout is not None
    assert "it lacks scripts/run_inference.py" in refusal(inference_backend="checkout")


@pytest.mark.parametrize(
    "changes", [{"python_exec": Path("p")}, {"torchrun": Path("t")}, {"inference_backend": "checkout"}]
)
def test_what_is_asked_of_a_checkout_needs_one(
    changes: dict[str, object], dataset: Path, place: Path
) -> None:
    text = refusal(checkout=None, profile="demo", dataset=str(dataset), **changes)
    assert "is asked of a checkout, and there is none" in text
    assert text.startswith("--")


def test_an_interpreter_without_torch_is_refused(theirs: Path) -> None:
    program(theirs / ".venv" / "bin" / "python", fails="ModuleNotFoundError: No module named torch")
    assert "cannot run TinyWorlds (ModuleNotFoundError: No module named torch)" in refusal()


def test_a_program_that_is_no_python_is_refused(theirs: Path) -> None:
    program(theirs / "other", prints="hello")
    assert "is no Python" in refusal(python_exec=Path("other"))


def test_a_named_torchrun_has_to_start(theirs: Path) -> None:
    program(theirs / "bad", fails="bad interpreter")
    assert "--torchrun" in refusal(torchrun=Path("bad"))
    assert "there is no such program" in refusal(torchrun=Path("nowhere"))
    program(theirs / "other", prints="usage: python")
    assert "is no torchrun" in refusal(torchrun=Path("other"))
    spec = prepared(torchrun=Path("./.venv/bin/torchrun")).checkout
    assert spec is not None
    assert spec.torchrun == str(theirs / ".venv" / "bin" / "torchrun")


def test_a_dataset_is_a_file_of_the_checkouts_data_directory(theirs: Path) -> None:
    found = prepared(dataset="PONG").resolution.run.training
    assert found.dataset == str(theirs / "data" / "pong_frames.h5")
    linked = prepared(dataset=str((theirs / "data" / "pong_frames.h5").resolve())).resolution.run.training
    assert linked.dataset == found.dataset


def test_a_dataset_that_is_not_there_says_how_to_get_it_there(theirs: Path) -> None:
    text = refusal(dataset="ZELDA")
    assert f"there is no file {theirs / 'data' / 'zelda_frames.h5'}" in text
    assert "worldloop data download --pattern zelda_frames.h5" in text


def test_a_file_that_the_checkout_would_not_read_is_refused(theirs: Path, place: Path) -> None:
    other = place / "pong_frames.h5"
    shutil.copy(checkouts.FRAMES, other)
    for written in (str(other), "../pong_frames.h5"):
        assert "data/<name>_frames.h5 of its own" in refusal(dataset=written)


def test_a_key_that_no_script_takes_is_refused_when_it_is_asked_for(theirs: Path) -> None:
    assert "take no context_noise" in refusal(assignments=("context_noise=0.1",))
    alone = refusal(assignments=("latent_dim=4",), only_stage="latent_actions")
    assert f"scripts/train_latent_actions.py of {theirs} take no latent_dim" in alone
    assert "take no seed" in refusal(assignments=("training.seed=1",))
    assert prepared(assignments=("n_actions=8", "held_out_ratio=0.2")).checkout is not None


def test_where_nothing_is_trained_it_does_not_matter_which_keys_the_scripts_take(
    theirs: Path, place: Path
) -> None:
    for stage in STAGES:
        save(place / "runs", stage, hidden_dim=24, context_length=4)
    found = prepared(train_stage="none", assignments=("fps=30",), output_root=place / "runs")
    assert found.resolution.run.training.fps == 30


# --- devices ------------------------------------------------------------------------------------------------


def test_without_a_gpu_one_process_trains(theirs: Path) -> None:
    found = prepared().resolution
    assert (found.run.training.device, found.run.training.nproc_per_node) == ("cpu", 1)
    assert found.origins["training.nproc_per_node"] == "--checkout"
    assert "no usable GPU" in refusal(device="cuda")


def test_the_gpus_of_the_checkouts_own_torch_count(theirs: Path) -> None:
    program(theirs / ".venv" / "bin" / "python", prints="2")
    two = prepared().resolution.run.training
    assert (two.device, two.nproc_per_node) == ("cuda", 2)
    program(theirs / ".venv" / "bin" / "python", prints="1")
    assert "give --allow-single-gpu" in refusal()
    one = prepared(allow_single_gpu=True).resolution.run.training
    assert (one.device, one.nproc_per_node) == ("cuda", 1)


# --- which checkpoints --------------------------------------------------------------------------------------


def test_fresh_takes_no_checkpoint_and_latest_the_newest_valid_ones(theirs: Path, place: Path) -> None:
    root = place / "runs"
    for stage in STAGES:
        save(root, stage, hidden_dim=24, context_length=4)
    assert prepared(output_root=root).given == {}
    found = prepared(output_root=root, checkpoint_policy="latest")
    assert {stage: one.step for stage, one in found.given.items()} == dict.fromkeys(STAGES, 60)
    assert any(notice.startswith("dynamics goes on from") for notice in found.notices)
    alone = prepared(output_root=root, checkpoint_policy="latest", only_stage="dynamics")
    assert alone.given.keys() == set(STAGES)


def test_latest_begins_fresh_where_there_is_nothing_to_go_on_from(theirs: Path, place: Path) -> None:
    root = place / "runs"
    save(root, "latent_actions", hidden_dim=24, context_length=4)
    save(root, "dynamics", hidden_dim=24, context_length=4)
    found = prepared(output_root=root, checkpoint_policy="latest")
    assert found.given.keys() == {"latent_actions"}
    assert any(notice.startswith("dynamics begins fresh") for notice in found.notices)
    with pytest.raises(CheckpointError, match="no valid video_tokenizer checkpoint"):
        prepared(output_root=root, checkpoint_policy="latest", only_stage="dynamics")


# --- what later reports are asked for -----------------------------------------------------------------------


def test_what_the_reports_are_asked_for_is_recorded(theirs: Path, place: Path) -> None:
    reporter = prepared().resolution.policy.reporter
    assert reporter.model_dump() == {
        "enable_wandb_analysis": True,
        "wandb_source": "api_first",
        "history_audit_year": 2025,
        "history_audit_mode": "strict",
        "history_repo": str(theirs),
    }
    given = prepared(wandb_source="local_only", history_audit_year=2024, history_repo=place)
    assert given.resolution.policy.reporter.history_repo == str(place)
    assert "no such directory" in refusal(history_repo=place / "nowhere")


def test_without_a_checkout_the_audited_history_is_that_of_the_current_directory(
    dataset: Path, place: Path
) -> None:
    found = prepare(TrainOptions(profile="demo", dataset=str(dataset)), gpus=0)
    assert found.resolution.policy.reporter.history_repo == str(place)


def test_an_impossible_choice_is_refused(theirs: Path) -> None:
    with pytest.raises(ConfigurationError, match="wandb_source"):
        prepared(assignments=("wandb_source=cloud",))
