"""`worldloop infer` on a run of TinyWorlds' own, on one of ours, and on what it must refuse."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.commands.infer import InferOptions, infer
from shared.bus.journal import to_line
from shared.bus.protocol import Recorded
from shared.errors import BundleError, CheckpointError, UsageError, WorldloopError
from shared.events import OperatorRequested, Stage
from tests.unit.inference.conftest import RUN_ID, TinyRun, configuration, save

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "fixtures" / "golden" / "tinyworlds_run"
PONG = ROOT / "tests" / "fixtures" / "pong_frames.h5"
SHORT = ("clips=2", "generation_steps=3", "decode_steps=2", "device=cpu")
PROMISED = {"passed", "mse", "mse_standard", "skill", "psnr", "tokenizer_mse", "checkpoints", "picture"}
FILES = {"picture", "video", "preview", "seconds"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of the test's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def options(*words: str, checkpoints: dict[Stage, str] | None = None, **others: Any) -> InferOptions:
    return InferOptions(words=words, checkpoints=checkpoints or {}, root=Path("runs").absolute(), **others)


def foreign(*words: str, **others: Any) -> InferOptions:
    return options(str(GOLDEN), *SHORT, *words, **{"dataset": str(PONG), **others})


def document(capsys: pytest.CaptureFixture[str], asked: InferOptions, code: int = 0) -> dict[str, Any]:
    assert infer(asked, as_json=True) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def digests(directory: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.rglob("*") if path.is_file()
    }


def ours(run: TinyRun, **training: Any) -> Path:
    """The tiny run as a bundle that says what it was asked to do, and which checkpoints it uses."""
    spec = run.spec.model_copy(update={"stages": [], "checkpoints": run.checkpoints})
    asked = OperatorRequested(
        run_id=RUN_ID,
        request_id="1",
        request="start_run",
        arguments={"spec": spec.model_dump(mode="json")},
    )
    run.bundle.logs.mkdir()
    run.bundle.events.write_text(to_line(Recorded(1, datetime(2026, 1, 1, tzinfo=UTC), "test", asked)) + "\n")
    return run.bundle.root


# --- a run that is not ours -------------------------------------------------------------------------------


def test_a_tinyworlds_run_is_tested_and_neither_it_nor_the_recording_changes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(GOLDEN) | digests(PONG.parent)
    found = document(capsys, foreign())
    assert before == digests(GOLDEN) | digests(PONG.parent)
    assert found.keys() >= PROMISED
    assert found["passed"]
    assert (found["held_out"], found["seen_share"]) == (False, 1)
    assert {stage: Path(path).name for stage, path in found["checkpoints"].items()} == {
        "video_tokenizer": "video_tokenizer_step_119",
        "latent_actions": "latent_actions_step_59",
        "dynamics": "dynamics_step_119",
    }
    written = {Path(found[kind]) for kind in ("picture", "video", "preview")}
    assert written == {path for path in here.rglob("*") if path.is_file()}
    assert {path.parent for path in written} == {here / "inference_results"}


def test_a_test_that_does_not_pass_says_why_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    asked = foreign("gatekeeper.require={skill: {above: 0}, seen_share: {min: 1}}", max_mse=1e-6)
    found = document(capsys, asked, code=1)
    assert found["passed"] is False
    by_mse, by_skill = [reason for reason in found["reasons"] if not reason["ok"]]
    assert (by_mse["name"], by_skill["name"]) == ("mse", "skill")
    assert by_mse["text"].endswith("is above 1e-06")
    assert found["advice"][0].startswith("a better tokenizer first")


def test_what_the_policy_requires_can_fail_a_test_whose_mse_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = foreign("gatekeeper.require={skill: {above: 0}}", "clips=1", "generation_steps=1")
    found = document(capsys, asked, code=1)
    assert [reason["name"] for reason in found["reasons"] if not reason["ok"]] == ["skill"]


def test_flags_say_what_is_tested(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = foreign(
        "action_codes=[1,0]", actions="given", teacher_forced=True, sample_index=7, out=tmp_path / "out"
    )
    found = document(capsys, asked)
    assert (found["actions"], found["mode"], found["gated_by"]) == ("given", "teacher-forced", "mse_standard")
    assert Path(found["picture"]).parent == tmp_path / "out"
    assert "mse_standard" in {reason["name"] for reason in found["reasons"]}


def test_people_are_told_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(foreign(), as_json=False) == 0
    text = capsys.readouterr().out
    assert text.startswith("passed  ")
    assert "2 NOT held-out clips, autoregressive, actions inferred" in text
    assert "! skill" in text
    assert "the model is no better than repeating the last frame" in text


def test_models_that_diverge_have_not_passed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise WorldloopError("the generated frames are not all finite")

    monkeypatch.setattr("services.inference.evaluation.evaluate", diverges)
    found = document(capsys, foreign(), code=1)
    assert (found["passed"], found["problem"]) == (False, "the generated frames are not all finite")
    assert (found["mse"], found["picture"]) == (None, None)
    assert infer(foreign(), as_json=False) == 1


# --- which run --------------------------------------------------------------------------------------------


def test_without_a_run_the_newest_one_is_taken_whose_three_checkpoints_are_valid(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = (path.name for path in (GOLDEN / "results").iterdir())
    for year in ("2026", "2027", "2028"):
        shutil.copytree(GOLDEN / "results" / name, here / "results" / name.replace("2026", year, 1))
    for broken in here.glob("results/2028*/dynamics/checkpoints/*/model_state_dict.pt"):
        broken.write_bytes(b"")
    found = document(capsys, options(*SHORT, dataset=str(PONG)))
    assert Path(found["run"]).name.startswith("2027")


def test_without_any_valid_run_there_is_nothing_to_test() -> None:
    with pytest.raises(BundleError, match="no run with valid checkpoints of all three stages"):
        infer(options(*SHORT), as_json=False)


def test_a_run_of_ours_is_tested_as_it_was_configured_and_with_what_it_selected(
    tiny_run: TinyRun, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ours(tiny_run)
    newer = tiny_run.bundle.checkpoint("dynamics", 9)
    shutil.copytree(tiny_run.bundle.checkpoint("dynamics", 1), newer)  # trained further, never accepted
    found = document(capsys, options(str(bundle), *SHORT, "max_mse=1"))
    assert {stage: str(bundle / path) for stage, path in tiny_run.checkpoints.items()} == found["checkpoints"]
    assert found["held_out"]
    assert found["run"] == RUN_ID
    assert Path(found["picture"]).parent == tiny_run.bundle.inference_results
    assert list(here.iterdir()) == []


def test_a_given_checkpoint_replaces_the_runs_own(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ours(tiny_run)
    other = tmp_path / "other" / "dynamics_step_0"
    shutil.copytree(tiny_run.bundle.checkpoint("dynamics", 1), other)
    asked = options(str(bundle), *SHORT, "max_mse=1", checkpoints={"dynamics": str(other)})
    assert document(capsys, asked)["checkpoints"]["dynamics"] == str(other)


# --- two tokenizers ---------------------------------------------------------------------------------------


def test_a_tokenizer_is_compared_with_another(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ours(tiny_run)
    recording = tmp_path / "square_frames.h5"
    other = tiny_run.bundle.__class__(tmp_path / "other", "2026_02_02_00_00_00_square")
    save(other, "video_tokenizer", configuration(recording, seed=5, latent_dim=3))
    found = document(
        capsys, options(str(bundle), "device=cpu", tokenizer_b=str(other.checkpoints("video_tokenizer")))
    )
    assert found["difference"]["mse"] == pytest.approx(found["b"]["mse"] - found["a"]["mse"])
    assert found["a"]["checkpoint"] != found["b"]["checkpoint"]
    assert found["held_out"]
    assert Path(found["picture"]).is_file()
    assert infer(options(str(bundle), "device=cpu", tokenizer_b=str(bundle)), as_json=False) == 0
    assert "no difference beyond doubt, by MSE" in capsys.readouterr().out


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (foreign("learning_rate=1"), "learning_rate: the models are as they were trained"),
        (foreign("n_actions=8"), "n_actions: the models are as they were trained"),
        (foreign("action_codes=[4]", actions="given"), "action_codes: 4 is no action"),
        (foreign(sample_index=397), "sample_index 397 is no first frame of a clip"),
        (foreign(dataset="nowhere.h5"), "no such dataset"),
        (options("nonsense"), "nonsense: no step directory"),
        (options(RUN_ID), f"{RUN_ID}: no run of that id"),
        (foreign(checkpoints={"dynamics": str(PONG)}), "--dynamics-checkpoint"),
        (foreign(tokenizer_b="nowhere"), "--tokenizer-b nowhere: no step directory"),
        (
            foreign(
                checkpoints={"dynamics": str(next(GOLDEN.glob("results/*/video_tokenizer/checkpoints/*")))}
            ),
            "this is a checkpoint of video_tokenizer",
        ),
    ],
    ids=lambda value: None if isinstance(value, InferOptions) else value[:30],
)
def test_what_cannot_be_tested_is_an_error_that_says_so(asked: InferOptions, message: str) -> None:
    with pytest.raises(WorldloopError) as caught:
        infer(asked, as_json=False)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_run_without_dynamics_says_which_stage_is_missing(here: Path) -> None:
    (name,) = (path.name for path in (GOLDEN / "results").iterdir())
    shutil.copytree(GOLDEN / "results" / name, here / "results" / name)
    shutil.rmtree(here / "results" / name / "dynamics")
    with pytest.raises(
        CheckpointError, match=r"no valid dynamics checkpoint.* Give one with --dynamics-checkpoint"
    ):
        infer(options(str(here / "results" / name), dataset=str(PONG)), as_json=False)


def test_nothing_is_written_into_a_run_that_is_not_ours(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    shutil.copytree(GOLDEN, here / "run")
    monkeypatch.chdir(here / "run")
    with pytest.raises(
        UsageError, match=r"\.: nothing is written into a run that is not ours; say with --out"
    ):
        infer(options(".", dataset=str(PONG)), as_json=False)
    assert not (here / "run" / "inference_results").exists()


@pytest.mark.parametrize("tokenizer_b", [None, str(GOLDEN)])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, tokenizer_b: str | None) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file: .*; say with --out where the pictures go"):
        infer(foreign("clips=1", out=tmp_path / "file", tokenizer_b=tokenizer_b), as_json=False)


def test_a_machine_without_torch_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "services.commands.infer_subject", raising=False)
    monkeypatch.setitem(sys.modules, "services.commands.checkpoints.found", None)
    with pytest.raises(UsageError, match=r"is missing: pip install 'worldloop\[inference\]'"):
        infer(foreign(), as_json=False)
