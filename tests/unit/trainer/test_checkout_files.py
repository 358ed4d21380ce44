"""A checkout's files: what is found in it, and what comes out of a launch's directory."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import structlog
import torch

from services.trainer.checkout import signs
from services.trainer.checkout.repository import Repository
from services.trainer.checkout.start import start
from services.trainer.checkout.takeover import Takeover, directory, leftovers
from services.trainer.core.checkout.launch import Counts, Launch
from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.checkout import locate
from shared.errors import ConfigurationError, UsageError
from shared.events import STAGES, ChunkPlan, Schedule
from shared.settings import Settings
from shared.worldmodel.checkpoints import inspect_checkpoint, load_checkpoint
from shared.worldmodel.safe_load import load_file
from tests.standins.checkouts import FRAMES, build, digest

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "tinyworlds_run" / "results"
STEP_120 = next(GOLDEN.glob("*/video_tokenizer/checkpoints/*_step_119"))
RUN_NAME = "2026_01_01_00_00_00_pong"


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


# --- finding it -------------------------------------------------------------------------------------------


def test_a_checkouts_own_environment_runs_it(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    python, torchrun = program(root / ".venv/bin/python"), program(root / ".venv/bin/torchrun")
    found = locate(root)
    assert (found.directory, found.python, found.torchrun) == (str(root), str(python), str(torchrun))


def test_programs_may_be_named_relative_to_the_checkout(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    python = program(root / "env/bin/python3")
    found = locate(root, python=Path("./env/bin/python3"))
    assert (Path(found.python), found.torchrun) == (python, None)


def test_an_environments_interpreter_is_not_followed_to_where_it_links(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python").symlink_to(sys.executable)
    assert locate(root).python == str(root / ".venv/bin/python")


def test_without_an_environment_ours_runs_it(tmp_path: Path) -> None:
    assert locate(build(tmp_path / "repo", "absolute")).python == sys.executable


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks configs/training\.yaml, scripts/train_video_tokenizer\.py"):
        locate(tmp_path)
    root = build(tmp_path / "repo", "absolute")
    with pytest.raises(UsageError, match="--torchrun bin/torchrun: there is no such program"):
        locate(root, torchrun=Path("bin/torchrun"))
    (root / "scripts/run_inference.py").unlink()
    locate(root)
    with pytest.raises(UsageError, match=r"lacks scripts/run_inference\.py"):
        locate(root, inference="checkout")


# --- reading it -------------------------------------------------------------------------------------------


def test_each_stages_keys_are_read_off_its_schema(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    before = digest(root)
    keys = {stage: Repository(locate(root)).keys(stage) for stage in STAGES}
    for found in keys.values():
        assert {"n_updates", "checkpoint", "distributed.use_ddp", "device"} <= found
    assert "n_actions" not in keys["video_tokenizer"]
    assert "latent_dim" not in keys["latent_actions"]
    assert {"n_actions", "latent_dim", "video_tokenizer_path"} <= keys["dynamics"]
    assert digest(root) == before


def test_without_the_class_the_stages_file_tells_its_keys(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    shutil.rmtree(root / "utils")
    keys = Repository(locate(root)).keys("dynamics")
    assert {"use_actions", "video_tokenizer_path", "n_updates"} <= keys
    (root / "configs/dynamics.yaml").write_text("a: [")
    with pytest.raises(ConfigurationError, match=r"dynamics\.yaml: no YAML"):
        Repository(locate(root)).keys("dynamics")


def test_each_stage_counts_in_its_own_way(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    other = build(tmp_path / "other", "relative")
    shutil.copy(other / "scripts/train_latent_actions.py", root / "scripts")
    repository = Repository(locate(root))
    assert [repository.dialect(stage) for stage in STAGES] == ["absolute", "relative", "absolute"]
    unseen = Repository(locate(build(tmp_path / "unseen", "relative_unseen")))
    assert unseen.dialect("dynamics") is None
    (root / "scripts/train_dynamics.py").unlink()
    with pytest.raises(ConfigurationError, match=r"train_dynamics\.py cannot be read"):
        repository.dialect("dynamics")


def test_the_loss_is_seen_to_be_divided_as_tinyworlds_does(tmp_path: Path) -> None:
    root = build(tmp_path / "repo", "absolute")
    assert all(Repository(locate(root)).divides_loss(stage) for stage in STAGES)
    script = root / "scripts/train_dynamics.py"
    script.write_text(script.read_text().replace("loss /=", "scaled = loss /"))
    assert not Repository(locate(root)).divides_loss("dynamics")


def test_the_dataset_must_be_the_checkouts_own(tmp_path: Path) -> None:
    repository = Repository(locate(build(tmp_path / "repo", "absolute")))
    assert repository.dataset("PONG") == "PONG"
    assert repository.dataset(str(FRAMES)) == "PONG"  # the checkout's is a link to it
    other = shutil.copy(FRAMES, tmp_path)
    for foreign in (str(other), "/data/doom_frames.h5"):
        with pytest.raises(ConfigurationError, match="not what the checkout trains on"):
            repository.dataset(foreign)


# --- starting and hearing it ------------------------------------------------------------------------------


def planned(bundle: Bundle) -> Run:
    plan = ChunkPlan(
        stage="video_tokenizer",
        attempt=1,
        start_step=0,
        target_step=200,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=200),
        parameters={"dataset": "PONG", "device": "cpu"},
    )
    where = {"run_id": "20260101_000000", "run_name": RUN_NAME, "bundle": str(bundle.root)}
    return Run(**where, plan=plan, launch=1, resume_from=None, resume_step=0)


async def test_an_interpreter_that_cannot_be_started_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "run", RUN_NAME)
    root = build(tmp_path / "repo", "absolute")
    python = root / ".venv/bin/python"
    program(python)
    spec = locate(root)
    python.unlink()
    settings = Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigurationError, match=r"bin/python cannot be started.*--python-exec"):
        await start(planned(bundle), spec, bundle, settings, tmp_path / "log", None)
    assert list(leftovers(bundle)) == []
    assert list(settings.state_dir.rglob("tmp/*")) == []


async def test_git_is_given_an_index_of_its_own_to_write_to(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "run", RUN_NAME)
    root = build(tmp_path / "repo", "absolute")
    program(root / ".venv/bin/python").write_text('#!/bin/sh\nprintf changed >> "$GIT_INDEX_FILE"\n')
    (root / ".git").mkdir()
    (root / ".git/index").write_text("as it was, ")
    settings = Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")
    started = await start(planned(bundle), locate(root), bundle, settings, tmp_path / "log", None)
    assert await started.launched.process.wait() == 0
    assert (root / ".git/index").read_text() == "as it was, "
    assert (started.launched.scratch / "index").read_text() == "as it was, changed"


async def test_a_line_without_end_and_binary_output_hide_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "READ_BYTES", 1000)
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=0, end=200, offset=0, saved=())
    log = tmp_path / "log"
    log.write_bytes(b"x" * 5000 + bytes(range(256)) * 9)
    heard = signs.Signs(planned(bundle), Counts(200, 50, 200, 0), takeover, log)
    assert not await heard.look(over=False)
    with log.open("ab") as stream:
        stream.write(b"\r 12%|#2 | 24/200 [00:03<00:26]" + b"\r 12%|#2 | 25/200 [")
    assert await heard.look(over=False)
    assert heard.updates == 24
    assert await heard.look(over=True)
    assert heard.updates == 25


# --- taking over ------------------------------------------------------------------------------------------


def launched(bundle: Bundle, *, start: int, end: int, offset: int, saved: tuple[int, ...]) -> Takeover:
    """A launch that wrote checkpoints and sheets under its own step numbers."""
    launch = Launch(stage="video_tokenizer", attempt=2, start_step=start, end_step=end, offset=offset)
    takeover = Takeover(bundle, directory(bundle, "video_tokenizer", 2, 1), launch)
    takeover.begin()
    output = takeover.directory / "video_tokenizer"
    (output / "visualizations").mkdir(parents=True)
    for step in saved:
        target = output / "checkpoints" / f"video_tokenizer_step_{step}"
        shutil.copytree(STEP_120, target)
        torch.save(load_file(target / "state.pt") | {"step": step}, target / "state.pt")
        (output / "visualizations" / f"video_tokenizer_recon_step_{step}.png").write_bytes(b"png")
    return takeover


def test_relative_steps_become_absolute_ones(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=7, end=10, offset=7, saved=(0, 2))
    takeover.finish(died=False)
    for step in (8, 10):
        assert load_checkpoint(bundle.checkpoint("video_tokenizer", step)).step == step
    pictures = bundle.visualizations("video_tokenizer")
    assert sorted(path.name for path in pictures.iterdir()) == [
        "video_tokenizer_recon_step_7.png",
        "video_tokenizer_recon_step_9.png",
    ]
    assert not (bundle.root / "launches").exists()
    assert "no history" in takeover.logged.problems[0]


def test_while_it_runs_only_what_has_settled_is_taken_and_what_changes_is_taken_again(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=0, end=10, offset=0, saved=(0,))
    takeover.look(over=False)
    assert not bundle.checkpoint("video_tokenizer", 1).exists()
    source = takeover.directory / "video_tokenizer" / "checkpoints" / "video_tokenizer_step_0"
    for path in (*source.iterdir(), *source.parents[1].glob("visualizations/*")):
        os.utime(path, (1, 1))
    takeover.look(over=False)
    taken = bundle.checkpoint("video_tokenizer", 1)
    assert inspect_checkpoint(taken, bundle=bundle).valid
    assert (taken / "model_state_dict.pt").samefile(source / "model_state_dict.pt")  # no second copy
    torch.save({}, source / "optim_state_dict.pt")  # as a second rank does
    takeover.finish(died=False)
    assert not inspect_checkpoint(taken, bundle=bundle).valid


def test_where_files_cannot_be_linked_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=0, end=10, offset=0, saved=(0,))
    takeover.look(over=True)
    taken = bundle.checkpoint("video_tokenizer", 1)
    assert inspect_checkpoint(taken, bundle=bundle).valid
    source = takeover.directory / "video_tokenizer" / "checkpoints" / "video_tokenizer_step_0"
    torch.save({}, source / "optim_state_dict.pt")
    takeover.finish(died=False)
    assert not inspect_checkpoint(taken, bundle=bundle).valid  # copied again


def test_what_a_launch_wrote_beside_is_left_where_it_is(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=0, end=10, offset=0, saved=(0,))
    samples = takeover.directory / "video_tokenizer" / "samples"
    samples.mkdir()
    (samples / "ours.txt").write_text("mine")
    (takeover.directory / "video_tokenizer" / "visualizations" / "final.png").write_bytes(b"no step")
    takeover.finish(died=False)
    left = sorted(path.name for path in takeover.directory.rglob("*") if path.is_file())
    assert left == ["final.png", "ours.txt"]
    assert list(leftovers(bundle)) == []
    takeover.begin()  # a launch of the same number begins all the same


def test_what_is_half_written_when_it_ends_is_taken_and_found_invalid(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=7, end=10, offset=7, saved=(0,))
    source = takeover.directory / "video_tokenizer" / "checkpoints" / "video_tokenizer_step_0"
    state = (source / "state.pt").read_bytes()
    (source / "state.pt").write_bytes(state[: len(state) // 2])
    (source / "optim_state_dict.pt").unlink()
    takeover.finish(died=True)
    info = inspect_checkpoint(bundle.checkpoint("video_tokenizer", 8), bundle=bundle)
    assert not info.valid
    assert "optim_state_dict.pt" in (info.problem or "")


@pytest.mark.parametrize(
    ("content", "problem"), [(b":W&B", "logged nothing to W&B"), (b"nothing of the kind", "no .wandb file")]
)
def test_a_wandb_file_without_rows_is_no_history(tmp_path: Path, content: bytes, problem: str) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    takeover = launched(bundle, start=0, end=10, offset=0, saved=())
    run = takeover.directory / "wandb" / "offline-run-20260101_000000-abcd1234"
    run.mkdir(parents=True)
    file = run / "run-abcd1234.wandb"
    for size in range(1, len(content) + 1):  # it grows, and is looked at again each time
        file.write_bytes(content[:size])
        takeover.look(over=False)
    assert takeover.finish(died=True)[0] == "abcd1234"
    assert not bundle.history("video_tokenizer", 2).exists()
    (found,) = takeover.logged.problems
    assert problem in found


def test_what_a_killed_trainer_left_is_found_with_its_meaning(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    launched(bundle, start=7, end=10, offset=7, saved=(0,))
    (found,) = leftovers(bundle)
    found.finish(died=True)
    assert load_checkpoint(bundle.checkpoint("video_tokenizer", 8)).step == 8
    assert list(leftovers(bundle)) == []


def test_what_was_left_with_a_broken_record_is_named_and_left_alone(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    whole = launched(bundle, start=7, end=10, offset=7, saved=(0,))
    broken = directory(bundle, "video_tokenizer", 1, 1)
    broken.mkdir()
    (broken / "launch.json").write_bytes(b'{"stage": "video_tokenizer", "att')
    with structlog.testing.capture_logs() as told:
        assert [each.directory for each in leftovers(bundle)] == [whole.directory]
    assert [each["record"] for each in told] == [str(broken / "launch.json")]


def test_steps_that_were_misread_never_come_into_the_lineage(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, RUN_NAME)
    launched(bundle, start=7, end=20, offset=0, saved=(0, 8)).finish(died=True)  # thought absolute
    assert not bundle.checkpoints("video_tokenizer").exists()
    assert not (bundle.root / "launches").exists()
