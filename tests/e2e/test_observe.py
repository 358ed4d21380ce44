"""A real run that is only observed, with an outsider listening, and real runs decided once more."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.world import ROOT, World

STRICT = [
    f"gatekeeper.limits.video_tokenizer.{limit}=0" for limit in ("continue_final_loss", "watch_final_loss")
]


def test_a_run_replayed_under_its_own_policy_is_decided_the_same(finished: World) -> None:
    moved = finished.directory.parent / "moved"
    shutil.copytree(finished.bundle() / "Logs", moved / "Logs")  # the events are enough
    found = json.loads(finished.run("replay", str(moved), "--json").stdout)
    assert (found["same"], found["parting"], len(found["gates"])) == (True, None, 10)
    own = str(finished.bundle() / "config" / "policy.yaml")
    assert json.loads(finished.run("replay", str(moved), "--policy", own, "--json").stdout)["same"]
    assert not json.loads(finished.run("replay", str(moved), *STRICT, "--json", code=1).stdout)["same"]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """A world in which such a run has ended, and the first line that an outsider printed meanwhile."""
    world = World(tmp_path_factory.mktemp("observed"))
    try:
        world.run("up")
        url = json.loads((world.directory / "state" / "stack.json").read_text())["url"]
        key = world.directory / "state" / "keys" / "observer.nk"
        with subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "examples" / "print_decisions.py"), url, str(key)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=world.directory,
        ) as outsider:
            try:
                run = (
                    "--only-stage",
                    "video_tokenizer",
                    "--nproc-per-node",
                    "1",
                    "--observe",
                    "n_updates=16",
                )
                world.run(*world.train(*run, *STRICT))
                assert outsider.stdout is not None
                line = outsider.stdout.readline()
            finally:
                outsider.terminate()
        yield world, line
    finally:
        world.close()


def test_an_outsider_sees_decisions_with_nats_py_and_a_key_alone(observed: tuple[World, str]) -> None:
    world, line = observed
    gate = world.named("gate_decided")[0]
    assert line.split()[1:] == ["video_tokenizer", "1", "8", gate["verdict"], gate["decision"]]


def test_an_observed_run_goes_on_over_failed_gates_and_its_reports_say_so(
    observed: tuple[World, str],
) -> None:
    world, _ = observed
    gates = world.named("gate_decided")
    assert [(gate["gate_step"], gate["decision"], gate["verdict"]) for gate in gates] == [
        (8, "continue", "retune"),
        (16, "continue", "retune"),
    ]
    assert gates[0]["observed"]["decision"] == "retune"
    assert gates[0]["observed"]["config_patch"]["learning_rate"] == pytest.approx(1.5e-3)
    assert gates[0]["config_patch_applied"] == {}
    plans = [start["plan"] for start in world.named("chunk_started")]
    assert [(plan["start_step"], plan["target_step"]) for plan in plans] == [(0, 8), (8, 16)]
    assert {plan["parameters"]["learning_rate"] for plan in plans} == {3e-3}
    assert world.named("run_finished")[0]["status"] == "stage_completed"

    (report,) = (world.bundle() / "docs" / "action").glob("auto-training-loop-report-*.md")
    text = report.read_text()
    assert text.count("**observed only**: would have decided retune") == 2
    assert "these gates failed and were passed over: video_tokenizer attempt 1 (gate_fail)" in text

    world.run("replay", str(world.bundle()))
    loose = "gatekeeper.limits.video_tokenizer.continue_final_loss=10"
    again = json.loads(world.run("replay", str(world.bundle()), loose, "--json", code=1).stdout)
    assert again["gates"][0]["replayed"]["observed"] is None
    assert again["parting"] is None
