"""The inference test through a checkout's own script: what is asked, what is read, and every way it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.inference.checkout import run_checkout
from services.inference.core.markers import read
from services.inference.script import end, links
from services.inference.trial import run_trial
from services.inference.world import Cancelled
from shared.bundle import Bundle, check_inside
from shared.checkout import locate
from shared.config import RunConfig
from shared.errors import BundleError, WorldloopError
from shared.events import STAGES, EvaluateInference, InferenceDone, RunSpec
from tests.standins import checkouts

RUN = "20260101_000000"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCRIPT = """\
import json, os, subprocess, sys, time
from pathlib import Path

asked = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
fail = os.environ.get("STANDIN_FAIL", "")
if record := os.environ.get("STANDIN_RECORD"):
    where = {"cwd": os.getcwd(), "path": os.environ["PYTHONPATH"], "data": os.path.realpath("data")}
    where["bundle"] = os.environ.get("RUN_BUNDLE_ROOT")
    Path(record).write_text(json.dumps({"asked": asked, **where, "words": sys.argv[1:6]}))
if asked["use_latest_checkpoints"] != "false" or not Path("configs/inference.yaml").is_file():
    raise SystemExit("not started as it should be")
for stage in ("video_tokenizer", "latent_actions", "dynamics"):
    path = asked[f"{stage}_path"]
    if stage == "dynamics" and fail == "wrong_checkpoint":
        path = os.environ["STANDIN_OTHER"]
    if not (stage == "latent_actions" and fail == "no_checkpoint_line"):
        print(f"Using {stage} checkpoint: {path}")
steps = int(asked["generation_steps"])
for number in range(steps):
    if number == 2 and fail == "exit":
        raise SystemExit("CUDA error: device-side assert triggered")
    if number == 2 and fail == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["STANDIN_RECORD"]).write_text(json.dumps([os.getpid(), child.pid]))
        time.sleep(600)
    if number == 2 and fail == "endless":
        while True:
            print("still loading"), time.sleep(0.02)
    if number == 2 and fail == "short":
        break
    print(f"Inferring frame {number + 1}/{steps}")
results = Path("inference_results")
results.mkdir(exist_ok=True)
if fail != "no_picture":
    picture = b"nothing" if fail == "broken_picture" else b"\\x89PNG\\r\\n\\x1a\\n and so on"
    (results / "inference_results_gt_vs_pred_20260102_030405.png").write_bytes(picture)
(results / "tokenizer_recon_gt_vs_recon_A.png").write_bytes(b"\\x89PNG\\r\\n\\x1a\\n")
if fail == "video":
    (results / "inference_video_20260102_030405.mp4").write_bytes(b"film")
if fail != "no_statistics":
    print("\\nInference stats:\\nTotal frames generated: 14")
if fail != "no_mse":
    print("Mean Squared Error (GT vs Pred):", "nan" if fail == "nan" else "0.012611")
    print("Mean Squared Error (GT vs Pred, full_with_context): 0.5")
"""

SERVICE = """\
import json, sys
from pathlib import Path

from services.inference.checkout import run_checkout
from shared.bundle import Bundle
from shared.events import EvaluateInference, RunSpec

command, spec = json.loads(Path(sys.argv[1]).read_text())
spec = RunSpec.model_validate(spec)
run_checkout(
    EvaluateInference.model_validate(command), spec, Bundle(Path(spec.bundle), spec.run_name),
    cache_dir=Path(spec.bundle, "cache"), cancelled=lambda: False,
)
"""
"""What the inference service does with a command, to be killed at it."""


class Stand:
    """A run with three selected checkpoints, and a checkout whose script is the one above."""

    def __init__(self, root: Path) -> None:
        self.checkout = checkouts.build(root / "tinyworlds", "absolute")
        (self.checkout / "scripts" / "run_inference.py").write_text(SCRIPT)
        (self.checkout / "inference_results").mkdir()
        old = self.checkout / "inference_results" / "inference_results_gt_vs_pred_20250101_000000.png"
        old.write_bytes(b"\x89PNG\r\n\x1a\n of another time")
        self.bundle = Bundle(root / RUN, "2026_01_01_00_00_00_pong")
        self.record = root / "record.json"
        self.checkpoints = {}
        for stage in STAGES:
            directory = self.bundle.checkpoint(stage, 10)
            directory.mkdir(parents=True)
            self.checkpoints[stage] = self.bundle.relative(directory)

    def spec(self, **policy: float) -> RunSpec:
        training = {"dataset": str(self.checkout / "data" / "pong_frames.h5"), "held_out_ratio": 0.1}
        return RunSpec(
            bundle=str(self.bundle.root),
            run_name=self.bundle.run_name,
            profile="test",
            configuration=RunConfig.model_validate({"training": training}).model_dump(mode="json"),
            policy={"inference": policy},
            origins={},
            stages=list(STAGES),
            backend="checkout",
            checkout=locate(self.checkout, python=Path(sys.executable), inference="checkout"),
        )

    def command(self, **settings: Any) -> EvaluateInference:
        return EvaluateInference(
            run_id=RUN, inference_try=1, checkpoints=self.checkpoints, settings={"device": "cpu", **settings}
        )

    def run(
        self,
        policy: dict[str, float] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> dict[str, Any]:
        cache = self.bundle.root / "cache"
        command, spec = self.command(**settings), self.spec(**policy or {})
        return run_checkout(command, spec, self.bundle, cache_dir=cache, cancelled=cancelled)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    found = Stand(tmp_path)
    monkeypatch.setenv("STANDIN_RECORD", str(found.record))
    for name in ("STANDIN_FAIL", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
    yield found
    end(found.bundle.script_place)


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not (holds := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return holds


def gone(pids: list[int]) -> bool:
    """Whether the processes end; a zombie has ended, whoever is to take notice of it."""

    def ended() -> bool:
        alive = [pid for pid in pids if psutil.pid_exists(pid)]
        return all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in alive)

    return eventually(ended)


def test_a_clean_test_reports_the_number_that_gates_the_checkpoints_and_the_picture(stand: Stand) -> None:
    before = checkouts.digest(stand.checkout)
    (stand.bundle.script_place / "results").mkdir(parents=True)  # of a killed service
    found = stand.run()
    assert found["ok"], found["problem"]
    assert (found["mse_standard"], found["gated_by"], found.get("mse")) == (0.012611, "mse_standard", None)
    assert found["checkpoints"] == stand.checkpoints
    assert (found["frames_inferred"], found["frames_expected"]) == (12, 12)
    assert found["picture"] == "inference_results/inference_results_gt_vs_pred_20260102_030405.png"
    assert found["video_problem"] == "the checkout's script wrote no video"
    assert checkouts.digest(stand.checkout) == before
    written = sorted(path.name for path in stand.bundle.inference_results.iterdir())
    assert written == [Path(found["picture"]).name, "tokenizer_recon_gt_vs_recon_A.png"]


def test_the_script_is_started_as_the_documents_say_with_the_selected_checkpoints(stand: Stand) -> None:
    stand.run(temperature=0.25, teacher_forced=True, seed=7)
    seen = json.loads(stand.record.read_text())
    assert seen["words"][:3] == ["--config", "configs/inference.yaml", "--"]
    expected = {
        "use_latest_checkpoints": "false",
        "dataset": "PONG",
        "device": "cpu",
        "use_actions": "true",
        "use_gt_actions": "false",
        "use_interactive_mode": "false",
        "teacher_forced": "true",
        "context_window": "2",
        "prediction_horizon": "1",
        "generation_steps": "12",
        "temperature": "0.25",
        "decode_steps": "16",
        "seed": "7",
        "amp": "false",
        "compile": "false",
        "preload_ratio": "0.14375",
    }
    paths = {f"{stage}_path": str(stand.bundle.resolve(path)) for stage, path in stand.checkpoints.items()}
    assert seen["asked"] == expected | paths
    assert seen["path"].split(os.pathsep)[0] == seen["cwd"] != str(stand.checkout)
    assert seen["data"] == str(stand.checkout / "data")
    assert seen["bundle"] == str(stand.bundle.root)


def test_keys_that_the_checkout_does_not_have_are_not_given(stand: Stand) -> None:
    config = stand.checkout / "configs" / "inference.yaml"
    config.write_text("device: cpu\namp: false\npreload_ratio:\n")
    stand.run()
    assert not {"seed", "decode_steps", "sample_index"} & json.loads(stand.record.read_text())["asked"].keys()
    with pytest.raises(WorldloopError, match="has no sample_index"):
        stand.run(sample_index=3)


def test_actions_are_part_of_the_test(stand: Stand) -> None:
    with pytest.raises(WorldloopError, match="use_actions is false"):
        stand.run(use_actions=False)


@pytest.mark.parametrize(
    ("fail", "problem"),
    [
        ("no_picture", "it wrote no inference_results_gt_vs_pred_"),
        ("broken_picture", "it wrote no inference_results_gt_vs_pred_"),
        ("no_mse", "it reported no MSE"),
        ("nan", "the MSE it reported is nan"),
        ("no_statistics", "it reported no statistics"),
        ("short", "it inferred 2 of 12 frames"),
        ("no_checkpoint_line", "it reported no latent_actions checkpoint"),
    ],
)
def test_a_test_that_lacks_something_says_so_and_is_not_ok(
    fail: str, problem: str, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAIL", fail)
    found = stand.run()
    assert not found["ok"]
    assert problem in found["problem"]


@pytest.mark.parametrize("inside", [True, False])
def test_other_checkpoints_than_the_selected_are_named(
    inside: bool, stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = (stand.bundle.checkpoint("dynamics", 5) if inside else tmp_path / "dynamics_step_4").resolve()
    other.mkdir()
    monkeypatch.setenv("STANDIN_FAIL", "wrong_checkpoint")
    monkeypatch.setenv("STANDIN_OTHER", str(other))
    found = stand.run()
    assert f"it used {other} for dynamics" in found["problem"]
    assert found["checkpoints"].get("dynamics") == (stand.bundle.relative(other) if inside else None)


def test_the_weights_file_of_a_selected_checkpoint_is_that_checkpoint(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = stand.bundle.resolve(stand.checkpoints["dynamics"]) / "model_state_dict.pt"
    monkeypatch.setenv("STANDIN_FAIL", "wrong_checkpoint")
    monkeypatch.setenv("STANDIN_OTHER", str(weights))
    assert stand.run()["checkpoints"] == stand.checkpoints


def test_a_failed_script_is_told_with_its_last_line_and_where_the_rest_is(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAIL", "exit")
    with pytest.raises(WorldloopError, match=r"exit code 1: CUDA error.*Logs/inference/checkout_1_0\.log"):
        stand.run()
    assert "Inferring frame 2/12" in (stand.bundle.logs / "inference" / "checkout_1_0.log").read_text()


def test_a_script_that_hangs_is_ended_with_all_its_children(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    with pytest.raises(
        WorldloopError,
        match=r"1 s \(inference.checkout_silence_sec\) .* last line: Inf",
    ):
        stand.run({"checkout_silence_sec": 1.0})
    assert gone(json.loads(stand.record.read_text()))
    assert list(stand.bundle.inference_results.iterdir()) == []


def test_a_script_that_talks_for_ever_is_ended(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAIL", "endless")
    with pytest.raises(WorldloopError, match=r"was not done after 1 s \(inference.checkout_timeout_sec\)"):
        stand.run({"checkout_timeout_sec": 1.0, "checkout_silence_sec": 60.0})


def test_a_service_that_ends_takes_the_script_with_it(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    with pytest.raises(Cancelled):
        stand.run(cancelled=lambda: stand.record.exists() and stand.record.read_text().startswith("["))
    assert gone(json.loads(stand.record.read_text()))


def test_a_script_whose_service_was_killed_is_ended_before_the_next_test(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    request = tmp_path / "request.json"
    request.write_text(json.dumps([each.model_dump(mode="json") for each in (stand.command(), stand.spec())]))
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(request)], cwd=checkouts.HERE.parents[2])
    try:
        assert eventually(lambda: stand.record.exists() and stand.record.read_text().startswith("["))
        orphans = json.loads(stand.record.read_text())
    finally:
        service.kill()
        service.wait()
    assert all(psutil.pid_exists(pid) for pid in orphans)
    with links(stand.checkout, stand.bundle.script_place):
        assert gone(orphans)


def test_the_links_to_the_checkout_keep_no_command_from_the_bundle(stand: Stand) -> None:
    with links(stand.checkout, stand.bundle.script_place) as place:
        assert any(each.is_symlink() for each in place.iterdir())
        check_inside(stand.bundle.root)
        place.rename(stand.bundle.root / ".checkout")
        with pytest.raises(BundleError, match="leads out of the bundle"):
            check_inside(stand.bundle.root)


def test_a_video_is_kept_and_a_second_picture_of_the_same_second_too(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_FAIL", "video")
    first, second = stand.run(), stand.run()
    assert first["video"] == "inference_results/inference_video_20260102_030405.mp4"
    assert second["picture"] == "inference_results/inference_results_gt_vs_pred_20260102_030405_2.png"


def test_the_trial_of_a_run_with_a_checkout_answers_with_its_number(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(**settings: Any) -> InferenceDone:
        return run_trial(
            stand.command(**settings),
            stand.spec(),
            stand.bundle,
            cache_dir=stand.bundle.root / "cache",
            now=NOW,
            cancelled=lambda: False,
        )

    done = trial(teacher_forced=True)
    assert (done.ok, done.gating, done.mode) == (True, 0.012611, "teacher-forced")
    monkeypatch.setenv("STANDIN_FAIL", "exit")
    done = trial()
    assert not done.ok
    assert "exit code 1" in (done.problem or "")


def test_a_stand_in_of_tinyworlds_own_script_passes(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = checkouts.HERE / "run_inference.py"
    (stand.checkout / "scripts" / "run_inference.py").write_text(theirs.read_text())
    before = checkouts.digest(stand.checkout)
    found = stand.run()
    assert found["ok"], found["problem"]
    assert checkouts.digest(stand.checkout) == before


def test_markers_are_read_where_they_stand_and_nowhere_else() -> None:
    said = read(
        "Using dynamics checkpoint: a b/dynamics_step_9 \n"
        "[W] Using video_tokenizer checkpoint: x\n"
        "Inferring frame 1/2\nInferring frame 1/2\n"
        "Mean Squared Error (GT vs Pred, full_with_context): 0.5\nMean Squared Error (GT vs Pred): ?\n"
    )
    assert said.checkpoints == {"dynamics": "a b/dynamics_step_9"}
    assert (said.frames, said.statistics, said.mse) == (1, False, None)
    assert read("Mean Squared Error (GT vs Pred): 1.2e-3\n").mse == 1.2e-3
