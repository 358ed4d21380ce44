"""`worldloop diagnose` and `worldloop gate` at the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services import cli
from services.diagnosis import artifacts
from services.diagnosis.core.model import Diagnosis
from tests.unit.diagnosis import cases


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "find_spec", lambda name: None)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_exit_code_is_the_verdict(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path / "run")
    assert invoke("diagnose", run).exit_code == 0
    cases.write_sheets(run / "results" / cases.RUN_NAME, "dynamics", [600], flat=[600])
    assert invoke("diagnose", run).exit_code == 1
    cases.write_csv(run / "Logs" / "dynamics_history_latest.csv", cases.dynamics(diverging=True))
    assert invoke("diagnose", run).exit_code == 2
    assert invoke("diagnose", tmp_path / "nowhere").exit_code == 3


def test_a_run_is_named_by_its_id_too(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path / "runs" / "20260101_000000")
    found = invoke("diagnose", run.name, "--output-root", run.parent)
    assert (found.exit_code, found.stdout) == (0, invoke("diagnose", run).stdout)
    lost = invoke("diagnose", "20260101_000001", "--output-root", run.parent)
    assert lost.exit_code == 3
    assert f"there is no bundle of it under {run.parent}; give its path" in lost.stderr


@pytest.mark.parametrize("words", [[], ["--stage", "nonsense", "x"], ["x", "--bogus"], ["x", "y"]])
def test_wrong_usage_is_3_because_2_is_an_answer(words: list[str]) -> None:
    assert invoke("diagnose", *words).exit_code == 3
    assert invoke("gate", *words).exit_code == 2
    assert invoke("diagnose", "--help").exit_code == 0


def test_an_unknown_profile_is_3_too(tmp_path: Path) -> None:
    found = invoke("diagnose", cases.healthy(tmp_path), "--profile", "nonsense")
    assert found.exit_code == 3
    assert "no such profile" in found.stderr


def test_the_first_lines_say_what_is_wrong_what_to_trust_and_what_to_do(tmp_path: Path) -> None:
    run = cases.results(
        tmp_path,
        {"latent_actions": cases.latent(collapsed=True), "dynamics": cases.dynamics(diverging=False)},
    )
    lines = invoke("diagnose", run).stdout.splitlines()
    assert lines[0].startswith(f"CRITICAL  {run} (results; judged by ")
    assert lines[1].startswith("wrong:  latent_actions: the last two thirds would each be retune: ")
    assert lines[2].startswith("cause:  latent_actions (latent_actions primary, dynamics secondary)")
    assert lines[3].startswith("trust:  ")
    assert lines[3].endswith("latent_actions_step_599 (600 updates, contents not validated)")
    assert lines[5] == "change now"
    assert lines[6].startswith("  1. Retune latent_actions, from ")


def test_what_is_nobodys_fault_yet_accuses_no_stage(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path / "run")
    assert (
        invoke("diagnose", run).stdout.splitlines()[2] == "cause:  none: nothing is wrong that needs a cause"
    )
    newest = run / "results" / cases.RUN_NAME / "dynamics" / "checkpoints" / "dynamics_step_599"
    (newest / "model_state_dict.pt").write_bytes(b"")
    line = invoke("diagnose", run).stdout.splitlines()[2]
    assert line.startswith("cause:  undetermined: not normal: dynamics; but only ")
    cause = Diagnosis.model_validate_json(invoke("diagnose", run, "--json").stdout).cause
    assert (cause.latent_actions, cause.dynamics) == ("not_involved", "unknown")


def test_below_the_answer_files_are_named_from_the_run(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path / "run")
    found = invoke("diagnose", run).stdout
    head, _, rest = found.partition(f"\nbelow, files are named from {run}\n")
    assert f"{run}/results/" in head
    assert "history: Logs/" in rest
    assert str(run) not in rest
    alone = cases.write_csv(tmp_path / "dynamics.csv", cases.dynamics(diverging=False))
    assert "files are named from" not in invoke("diagnose", alone).stdout


def test_a_name_that_no_file_can_have_is_bad_input(tmp_path: Path) -> None:
    found = invoke("diagnose", tmp_path / ("x" * 5000))
    assert (found.exit_code, found.stdout) == (3, "")
    assert "too long" in found.stderr


def test_gate_on_a_run_names_the_command_for_runs(tmp_path: Path) -> None:
    assert "worldloop diagnose" in str(invoke("gate", tmp_path).exception)


def test_json_is_one_object_that_says_everything(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path)
    found = invoke("diagnose", run, "--json", "--profile", "inference-safe")
    assert found.exit_code == 0
    document = Diagnosis.model_validate_json(found.stdout)
    assert (document.verdict, document.policy) == ("normal", "profile inference-safe")
    assert set(document.fallback) == {"video_tokenizer", "latent_actions", "dynamics"}


def test_gate_gives_the_numeric_verdict_on_a_history(tmp_path: Path) -> None:
    good = cases.write_csv(tmp_path / "dynamics_good.csv", cases.dynamics(diverging=False))
    found = invoke("gate", good)
    assert (found.exit_code, found.stdout.split()[0]) == (0, "continue")
    bad = cases.write_csv(tmp_path / "dynamics_bad.csv", cases.dynamics(diverging=True))
    found = invoke("gate", bad, "--json")
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert (document["verdict"], document["stage"]) == ("retune", "dynamics")
    assert {"late_over_mid", "delta", "loss_spike"} <= {
        reason["name"] for reason in document["reasons"] if not reason["ok"]
    }
    assert invoke("gate", bad, "--stage", "video_tokenizer").exit_code == 1


def test_gate_fails_a_loss_that_ends_non_finite_though_its_windows_are_fine(tmp_path: Path) -> None:
    table = cases.dynamics(diverging=False)
    table[cases.LOSS][500:] = float("nan")
    found = invoke("gate", cases.write_csv(tmp_path / "dynamics.csv", table))
    assert (found.exit_code, found.stdout.split()[0]) == (1, "retune")
    assert "FAILED non_finite_tail: 100 rows" in found.stdout


def test_gate_needs_to_know_the_stage_and_a_history(tmp_path: Path) -> None:
    untold = cases.write_csv(tmp_path / "export.csv", cases.history(cases.falling(7, 2, 1)))
    assert "--stage" in str(invoke("gate", untold).exception)
    assert "no such" in str(invoke("gate", tmp_path / "nowhere.csv").exception).lower()
