"""A run whose first inference gate fails and whose second passes, end to end, and the same test by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.world import ROOT, World

GIVEN = ROOT / "tests" / "fixtures" / "golden" / "tinyworlds_run"
"""Where tokenizer and latent actions come from; dynamics alone is trained."""
LIMIT = 0.02
"""An untrained dynamics behind this tokenizer is at three times this; after the retry it is at half of it."""
TARGET, RETRY_CHUNK = 1, 40
PEAK, RETRY_PEAK, DECAY = 1e-2, 9e-3, 0.7
RUN = (
    "--nproc-per-node", "1", "--max-mse", str(LIMIT),
    "--video-checkpoint", str(GIVEN), "--latent-checkpoint", str(GIVEN),
    f"dynamics.n_updates={TARGET}", f"dynamics.learning_rate={PEAK}", "dynamics.log_interval=200",
    "--dynamics-chunk", "200", "temperature=0.5", "decode_steps=4",
    "--retry-chunk", str(RETRY_CHUNK), "--retry-lr-decay", str(DECAY),
    "--retry-init-learning-rate", str(RETRY_PEAK),
)  # fmt: skip
OF_THE_FILES = {"picture", "video", "preview", "seconds", "checkpoints"}


@pytest.fixture(scope="module")
def retried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which such a run has ended."""
    world = World(tmp_path_factory.mktemp("retried"))
    try:
        world.run(*world.train(*RUN))
        yield world
    finally:
        world.close()


def inference_gates(world: World) -> list[dict[str, Any]]:
    return [gate for gate in world.named("gate_decided") if gate["stage"] == "inference"]


def test_the_first_inference_gate_fails_and_the_second_passes(retried: World) -> None:
    first, second = inference_gates(retried)
    assert (first["decision"], first["reason"], first["retries_used"]) == ("retune", "inference_metric", 1)
    assert (second["decision"], second["verdict"]) == ("continue", "watch")  # better than before, not good
    assert [done["inference_try"] for done in retried.named("inference_done")] == [1, 2]
    worse, better = (done["mse"] for done in retried.named("inference_done"))
    assert worse > LIMIT >= better
    assert retried.named("run_finished")[0]["status"] == "passed"


def test_dynamics_goes_on_from_its_newest_valid_checkpoint_in_a_new_segment(retried: World) -> None:
    failed, _ = inference_gates(retried)
    first, again = [each["plan"] for each in retried.named("chunk_started") if each["stage"] == "dynamics"]
    done = next(each for each in retried.named("chunk_done") if each["stage"] == "dynamics")
    newest = max((each for each in done["checkpoints"] if each["valid"]), key=lambda each: each["step"])
    assert failed["resume_from"] == again["resume_from"] == newest["path"]
    assert (first["start_step"], first["target_step"]) == (0, TARGET)
    assert (again["start_step"], again["target_step"]) == (TARGET, TARGET + RETRY_CHUNK)
    peak = min(PEAK * DECAY, RETRY_PEAK * DECAY)
    assert failed["config_patch_applied"]["learning_rate"] == pytest.approx(peak)
    assert again["schedule"] == {
        "peak": pytest.approx(peak),
        "start_step": TARGET,
        "end_step": TARGET + RETRY_CHUNK,
    }


def test_the_rate_that_was_trained_with_is_the_decayed_one(retried: World) -> None:
    *_, history = sorted(retried.bundle().glob("Logs/history/dynamics/attempt_*.csv"))
    with history.open() as stream:
        rates = [float(row["learning_rate/group_0"]) for row in csv.DictReader(stream)]
    assert len(rates) == RETRY_CHUNK
    assert max(rates) == pytest.approx(RETRY_PEAK * DECAY, rel=1e-3)


def test_the_report_shows_both_tries_and_what_a_pass_on_mse_alone_is_worth(retried: World) -> None:
    (report,) = retried.bundle().glob("docs/action/train-to-inference-report-*.md")
    text = report.read_text()
    assert "### Try 1" in text
    assert "### Try 2" in text
    assert "First residual risk: The model passes on MSE alone: skill" in text
    kinds = {path.suffix for path in (retried.bundle() / "inference_results").iterdir()}
    assert kinds == {".png", ".mp4", ".webp"}


def test_the_same_test_by_hand_gives_the_same_numbers_bit_for_bit_without_a_server(retried: World) -> None:
    assert retried.processes() == {}
    found = json.loads(retried.run("infer", "--json").stdout)
    gated = retried.named("inference_done")[-1]
    assert found["passed"]
    same = (set(found) & set(gated)) - OF_THE_FILES
    assert {"mse", "skill", "psnr", "ssim", "delta_psnr", "tokenizer_mse", "mse_standard", "held_out"} <= same
    assert {key: found[key] for key in same} == {key: gated[key] for key in same}
    assert {
        stage: path.removeprefix(f"{retried.bundle()}/") for stage, path in found["checkpoints"].items()
    } == (gated["checkpoints"])
