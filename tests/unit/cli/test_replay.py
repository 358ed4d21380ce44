"""replay: a bundle's gates under another policy, as a table, as JSON, and in the exit code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from shared.bus.journal import to_line
from shared.errors import BundleError, ConfigurationError, UsageError
from shared.events import RunSpec
from tests.unit.gatekeeper.story import RUN_ID, Outcome, Story, only

Invoke = Callable[..., Result]
SHAKY = Outcome(loss=0.015)


@pytest.fixture
def bundle(place: Path) -> Path:
    """A run whose first gate was flagged, under the small policy of the gatekeeper's tests."""
    return write(place, Story(only("video_tokenizer"), {("video_tokenizer", 1): SHAKY}))


def write(place: Path, story: Story) -> Path:
    path = place / "runs" / RUN_ID / "Logs" / "events.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{to_line(record)}\n" for record in story.play().log))
    return place / "runs" / RUN_ID


def test_under_its_own_policy_a_run_is_decided_the_same(bundle: Path, worldloop: Invoke) -> None:
    result = worldloop("replay", RUN_ID)
    assert result.exit_code == 0
    assert "2 gates, every one decided the same." in result.stdout
    (bundle / "own.yaml").write_text("gatekeeper: {max_retries: 5}\n")
    assert worldloop("replay", RUN_ID, "--policy", str(bundle / "own.yaml")).exit_code == 0


def test_a_run_of_another_version_is_decided_the_same(bundle: Path, worldloop: Invoke) -> None:
    file = bundle / "Logs" / "events.jsonl"
    sections = r'"(parameters|configuration|training|policy|gatekeeper)":\{(?=")'
    file.write_text(re.sub(sections, r'"\1":{"of_another_version":{},', file.read_text()))
    result = worldloop("replay", RUN_ID)
    assert result.exit_code == 0
    assert "2 gates, every one decided the same." in result.stdout


def test_a_complete_recorded_policy_gives_the_same_decisions(
    place: Path, spec: RunSpec, worldloop: Invoke
) -> None:
    bundle = write(place, Story(spec))
    policy = place / "policy.yaml"
    policy.write_text(json.dumps(spec.policy))
    result = worldloop("replay", str(bundle), "--policy", str(policy))
    assert result.exit_code == 0
    assert "under its own policy" in result.stdout


def test_what_the_record_does_not_have_is_told_to_be_judged_by_defaults(
    bundle: Path, place: Path, spec: RunSpec, worldloop: Invoke
) -> None:
    found = worldloop("replay", RUN_ID, "policy.gatekeeper.detectors.loss_spike.enabled=false")
    line = next(line for line in found.stdout.splitlines() if "today's defaults" in line)
    assert " detectors, " in line  # of which one key alone was given
    assert "chunk" not in line  # is recorded
    shutil.rmtree(bundle)
    write(place, Story(spec))
    assert json.loads(worldloop("replay", RUN_ID, "--json").stdout)["defaults"] == []


def test_a_moved_bundle_under_another_policy_is_shown_side_by_side(
    bundle: Path, place: Path, worldloop: Invoke
) -> None:
    moved = place / "elsewhere"
    shutil.move(bundle, moved)
    policy = place / "strict.yaml"
    policy.write_text("gatekeeper: {limits: {video_tokenizer: {watch_final_loss: 0.012}}}\n")
    result = worldloop("replay", str(moved), "--policy", str(policy))
    assert result.exit_code == 1
    assert "policy.gatekeeper.limits.video_tokenizer.watch_final_loss  0.02 -> 0.012  (strict.yaml)" in (
        result.stdout
    )
    lines = result.stdout.splitlines()
    row = next(line for line in lines if line.startswith("video_tokenizer 1 at 10"))
    assert "continue | watch | watch" in row
    assert "retune | retune | gate_fail | learning_rate=0.0005" in row
    assert any(
        line.startswith(
            "    replayed: final loss 0.015 is above 0.01; final loss 0.015 is above 0.012. Goes on"
        )
        for line in lines
    )
    assert "--- the run would have gone elsewhere at the gate of video_tokenizer, attempt 1" in lines
    assert lines[-1] == "2 gates, 1 decided otherwise; 1 of the gates lie where the run would not have gone."


def test_json_holds_both_records_of_every_gate(bundle: Path, worldloop: Invoke) -> None:
    result = worldloop("replay", RUN_ID, "gatekeeper.limits.video_tokenizer.watch_final_loss=0.012", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["run_id"], found["same"]) == (RUN_ID, False)
    assert found["parting"] == "at the gate of video_tokenizer, attempt 1"
    first, second = found["gates"]
    assert (first["recorded"]["decision"], first["replayed"]["decision"]) == ("continue", "retune")
    assert {"decision", "verdict", "reason", "resume_from"} <= set(first["differing"])
    assert (second["same"], second["elsewhere"]) == (True, True)
    assert {change["source"] for change in found["policy"]} == {"command line"}


def test_a_profile_brings_its_policy_and_a_file_goes_over_it(
    bundle: Path, place: Path, worldloop: Invoke
) -> None:
    policy = place / "mine.yaml"
    policy.write_text("gatekeeper: {max_retries: 1}\n")
    result = worldloop("replay", RUN_ID, "--profile", "demo", "--policy", str(policy), "--json")
    sources = {change["key"]: change["source"] for change in json.loads(result.stdout)["policy"]}
    assert sources["policy.gatekeeper.chunk.video_tokenizer"] == "profile demo"
    assert sources["policy.gatekeeper.max_retries"] == "mine.yaml"
    assert not [key for key in sources if not key.startswith("policy.")]


def test_what_cannot_change_a_gate_is_said_to_change_none(bundle: Path, worldloop: Invoke) -> None:
    result = worldloop("replay", RUN_ID, "gpu_util_threshold=50", "evidence_timeout_sec=5", "--json")
    assert result.exit_code == 0
    assert {change["key"]: change["used"] for change in json.loads(result.stdout)["policy"]} == {
        "policy.monitor.gpu_util_threshold": False,
        "policy.gatekeeper.evidence_timeout_sec": False,
    }
    assert "changes no gate" in worldloop("replay", RUN_ID, "gpu_util_threshold=50").stdout


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            "gatekeeper: {max_retrys: 1}",
            "bad.yaml: gatekeeper.max_retrys: unknown key. Did you mean max_retries?",
        ),
        ("gatekeeper: {max_retries: many}", "bad.yaml: gatekeeper.max_retries: 'many' cannot be used"),
        (
            "max_retries: 1",
            "bad.yaml: max_retries: unknown key here. Its place is policy.gatekeeper.max_retries",
        ),
        ("[1]", "bad.yaml: it holds no mapping"),
    ],
)
def test_a_policy_that_cannot_be_used_names_file_and_key(
    bundle: Path, place: Path, worldloop: Invoke, content: str, text: str
) -> None:
    (place / "bad.yaml").write_text(content)
    result = worldloop("replay", RUN_ID, "--policy", "bad.yaml")
    assert isinstance(result.exception, ConfigurationError)
    assert result.exception.exit_code == 2
    assert text in str(result.exception)


def test_bad_input_is_named(bundle: Path, place: Path, worldloop: Invoke) -> None:
    for arguments, kind, text in (
        (["20200101_000000"], BundleError, "no bundle of that name under"),
        ([str(place)], BundleError, "cannot be read"),
        ([RUN_ID, "--policy", "nowhere.yaml"], UsageError, "--policy nowhere.yaml: no such file"),
        ([RUN_ID, "--profile", "dmeo"], UsageError, "did you mean demo?"),
        ([RUN_ID, "dynamics.learning_rate=1"], UsageError, "the run was trained as it was"),
    ):
        error = worldloop("replay", *arguments).exception
        assert isinstance(error, kind), arguments
        assert text in str(error)
        assert error.exit_code == 2
    events = bundle / "Logs" / "events.jsonl"
    whole = events.read_text()
    events.write_text(whole.replace('"run_name":"2026_11_21', '"run_name":"2026-11-21'))
    assert "run_name" in str(worldloop("replay", RUN_ID).exception)
    events.write_text(whole)
    events.write_text("".join(events.read_text().splitlines(keepends=True)[1:]))
    error = worldloop("replay", RUN_ID).exception
    assert "does not say what the run was asked to do" in str(error)


def test_an_observed_run_is_named_and_replayed(place: Path, worldloop: Invoke) -> None:
    write(place, Story(only("video_tokenizer", observe=True), {("video_tokenizer", 1): Outcome(loss=1.0)}))
    result = worldloop("replay", RUN_ID)
    assert result.exit_code == 0
    assert "observed only" in result.stdout
    assert "continue (would retune) | retune | gate_fail" in result.stdout
