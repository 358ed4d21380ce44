"""The three-level verdict and the causal verdict, on runs as they lie on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from services.diagnosis import artifacts
from services.gatekeeper.config import Policy
from shared.events import STAGES, RunFinished
from tests.unit.diagnosis import cases
from tests.unit.diagnosis.cases import look, names, of

RECORDED = Path(__file__).parents[2] / "fixtures" / "histories"


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints here hold nothing: they are judged by files and sizes, as on a machine without torch."""
    monkeypatch.setattr(artifacts, "find_spec", lambda name: None)


def test_a_healthy_run_is_normal_and_needs_no_change(tmp_path: Path) -> None:
    found = look(cases.healthy(tmp_path))
    assert (found.verdict, found.wrong, found.cause.primary) == ("normal", [], "none")
    assert [stage.verdict for stage in found.stages] == ["normal"] * 3
    assert [action.text for action in found.change_now] == ["Change nothing: go on"]
    assert found.next_cycle == []
    assert found.fallback["dynamics"].endswith("dynamics_step_599")
    dynamics = of(found, "dynamics")
    assert dynamics.loss is not None
    assert dynamics.loss.rows == cases.ROWS
    assert dynamics.loss.windows.early > dynamics.loss.windows.mid > dynamics.loss.windows.late
    assert dynamics.throughput is not None
    assert dynamics.throughput.updates_per_sec == pytest.approx(20)
    assert any("torch is not installed" in note for note in found.notes)


@pytest.mark.parametrize("run", ["first", "second"])
def test_recorded_healthy_runs_are_not_critical_and_missing_actions_are_no_collapse(run: str) -> None:
    verdicts = {}
    for stage in STAGES:
        found = look(RECORDED / f"{run}_{stage}.csv", policy=Policy(absolute_loss_from=1.0))
        verdicts[stage] = found.verdict
    assert verdicts["latent_actions"] == "watch"
    assert (
        "unique_actions and action_entropy not logged"
        in look(RECORDED / f"{run}_latent_actions.csv").wrong[0]
    )
    assert {verdicts["video_tokenizer"], verdicts["dynamics"]} <= {"normal", "watch"}


def test_collapsed_latent_actions_with_healthy_dynamics_are_primary(tmp_path: Path) -> None:
    run = cases.results(
        tmp_path,
        {
            "video_tokenizer": cases.tokenizer(),
            "latent_actions": cases.latent(collapsed=True),
            "dynamics": cases.dynamics(diverging=False),
        },
    )
    found = look(run)
    assert (found.verdict, of(found, "latent_actions").verdict, of(found, "dynamics").verdict) == (
        "critical",
        "critical",
        "normal",
    )
    assert (found.cause.primary, found.cause.latent_actions) == ("latent_actions", "primary")
    assert found.cause.dynamics != "primary"
    held = {criterion.name for criterion in found.cause.latent_criteria if criterion.holds}
    assert held == {"one_action", "no_entropy", "codebook_shrinks"}
    assert found.change_now[0].stage == "latent_actions"
    texts = [action.text for action in found.next_cycle]
    assert any("Use fewer actions" in text for text in texts)
    assert any("Train dynamics again" in text for text in texts)
    assert not any("n_actions" in action.text for action in found.change_now)


def test_healthy_latent_actions_with_diverging_dynamics_make_dynamics_primary(tmp_path: Path) -> None:
    run = cases.results(
        tmp_path,
        {"latent_actions": cases.latent(collapsed=False), "dynamics": cases.dynamics(diverging=True)},
    )
    cases.write_sheets(run / "results" / cases.RUN_NAME, "dynamics", [600], flat=[600])
    found = look(run)
    assert (found.verdict, found.cause.primary) == ("critical", "dynamics")
    assert (found.cause.dynamics, found.cause.latent_actions) == ("primary", "not_involved")
    assert {criterion.name: criterion.holds for criterion in found.cause.dynamics_criteria} == {
        "windows_rise": True,
        "delta_positive": True,
        "ignores_actions": True,
        "follows_rate": True,
        "visuals_drift_flat": True,
    }
    assert "divergence" in names(of(found, "dynamics"))
    assert "visual_structure" in names(of(found, "dynamics"))
    assert found.change_now[0].stage == "dynamics"
    assert "learning_rate * 0.2" in found.change_now[0].text


def test_both_collapsed_is_mixed_and_latent_actions_come_first(tmp_path: Path) -> None:
    run = cases.results(
        tmp_path, {"latent_actions": cases.latent(collapsed=True), "dynamics": cases.dynamics(diverging=True)}
    )
    found = look(run)
    assert (found.cause.primary, found.cause.latent_actions, found.cause.dynamics) == (
        "mixed",
        "primary",
        "primary",
    )
    assert [action.stage for action in found.change_now] == ["latent_actions", "dynamics"]


def test_dynamics_that_suffers_from_collapsed_actions_is_secondary_and_held(tmp_path: Path) -> None:
    table = cases.dynamics(diverging=False)
    table[cases.LOSS][400:] += np.linspace(0, 1.0, 200)
    table[cases.ENTROPY][:] = 0.0
    run = cases.results(tmp_path, {"latent_actions": cases.latent(collapsed=True), "dynamics": table})
    found = look(run)
    assert (found.cause.primary, found.cause.dynamics) == ("latent_actions", "secondary")
    assert any(action.text.startswith("Hold dynamics") for action in found.change_now)


def test_without_a_latent_history_the_actions_that_dynamics_logged_are_looked_at(tmp_path: Path) -> None:
    table = cases.dynamics(diverging=False)
    table[cases.UNIQUE][100:], table[cases.ENTROPY][100:] = 1.0, 0.0
    found = look(cases.results(tmp_path, {"dynamics": table}))
    one_action = found.cause.latent_criteria[0]
    assert one_action.holds
    assert "from the history of dynamics" in one_action.text
    assert one_action.evidence == of(found, "dynamics").histories


def test_usage_that_was_low_from_the_start_does_not_shrink(tmp_path: Path) -> None:
    table = cases.latent(collapsed=True)
    table[cases.USAGE][:] = 0.25
    found = look(cases.write_csv(tmp_path / "latent_actions.csv", table))
    holds = {criterion.name: criterion.holds for criterion in found.cause.latent_criteria}
    assert holds == {"one_action": True, "no_entropy": True, "codebook_shrinks": False, "visuals_lost": None}
    assert found.cause.latent_actions == "primary"


def test_only_the_last_third_failing_is_watch_and_the_middle_third_too_is_critical(tmp_path: Path) -> None:
    table = cases.latent(collapsed=False)
    table[cases.UNIQUE][450:] = 1.0
    found = look(cases.write_csv(tmp_path / "latent_actions.csv", table))
    assert [gate.verdict for gate in of(found, "latent_actions").gates] == ["continue", "retune"]
    assert (found.verdict, names(of(found, "latent_actions"))) == ("watch", ["gate"])
    table[cases.UNIQUE][250:] = 1.0
    found = look(cases.write_csv(tmp_path / "latent_actions.csv", table))
    assert (found.verdict, names(of(found, "latent_actions"))) == ("critical", ["gates"])


def test_too_few_rows_for_thirds_are_one_gate_and_never_critical_by_it(tmp_path: Path) -> None:
    table = {name: column[:20] for name, column in cases.latent(collapsed=True).items()}
    table[cases.UNIQUE][:] = 1.0
    found = look(cases.write_csv(tmp_path / "latent_actions.csv", table))
    assert [gate.name for gate in of(found, "latent_actions").gates] == ["whole history"]
    assert found.verdict == "watch"


def test_a_loss_that_ends_in_nan_is_divergence_and_single_ones_are_watch(tmp_path: Path) -> None:
    table = cases.dynamics(diverging=False)
    table[cases.LOSS][300] = np.nan
    found = look(cases.write_csv(tmp_path / "dynamics.csv", table))
    assert (found.verdict, names(of(found, "dynamics"))) == ("watch", ["non_finite"])
    table[cases.LOSS][500:] = np.nan
    found = look(cases.write_csv(tmp_path / "dynamics.csv", table))
    assert found.verdict == "critical"
    assert "divergence" in names(of(found, "dynamics"))
    assert of(found, "dynamics").loss is not None
    assert "101 rows" in found.wrong[0]


def test_nothing_but_nan_is_critical_too(tmp_path: Path) -> None:
    table = cases.dynamics(diverging=False)
    table[cases.LOSS][:] = np.nan
    found = look(cases.write_csv(tmp_path / "dynamics.csv", table))
    assert found.verdict == "critical"
    assert of(found, "dynamics").loss is None


# --- checkpoints ------------------------------------------------------------------------------------------


def test_a_fifth_and_at_least_three_empty_checkpoints_are_critical_while_training_goes_on(
    tmp_path: Path,
) -> None:
    run = tmp_path / "results" / cases.RUN_NAME
    cases.write_csv(tmp_path / "Logs" / "dynamics_history.csv", cases.dynamics(diverging=False))
    cases.write_checkpoints(run, "dynamics", range(200, 560, 40))
    cases.write_sheets(run, "dynamics", [1, 400])
    cases.write_checkpoints(run, "dynamics", [560, 600], size=1024)
    found = look(tmp_path)
    assert (found.verdict, names(of(found, "dynamics"))) == ("watch", ["checkpoint_invalid"])
    assert found.change_now[0].text.startswith("Pin ")
    cases.write_checkpoints(run, "dynamics", [599], size=10)
    found = look(tmp_path)
    assert (found.verdict, names(of(found, "dynamics"))) == ("critical", ["checkpoints_empty"])
    assert "3 of 12" in found.wrong[0]
    assert found.fallback["dynamics"].endswith("dynamics_step_519")
    assert found.change_now[0].text.startswith("Stop dynamics")


def test_three_empty_ones_of_many_are_no_fifth_and_two_of_four_are_too_few(tmp_path: Path) -> None:
    cases.write_checkpoints(tmp_path / "many", "dynamics", range(10, 140, 10))
    cases.write_checkpoints(tmp_path / "many", "dynamics", [3, 5, 7], size=0)
    assert names(of(look(tmp_path / "many"), "dynamics")) == ["checkpoint_invalid", "no_history"]
    cases.write_checkpoints(tmp_path / "few", "dynamics", [30, 40])
    cases.write_checkpoints(tmp_path / "few", "dynamics", [10, 20], size=0)
    assert names(of(look(tmp_path / "few"), "dynamics")) == ["checkpoint_invalid", "no_history"]


def test_a_missing_model_file_counts_as_empty_and_a_missing_state_as_invalid(tmp_path: Path) -> None:
    first, second = cases.write_checkpoints(tmp_path, "dynamics", [10, 20])
    (first / "model_state_dict.pt").unlink()
    (second / "state.pt").unlink()
    checkpoints = of(look(tmp_path), "dynamics").checkpoints
    assert [(each.valid, each.empty) for each in checkpoints] == [(False, True), (False, False)]


def test_no_valid_checkpoint_newer_than_three_log_intervals_is_critical(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path)
    folder = run / "results" / cases.RUN_NAME / "dynamics" / "checkpoints"
    for path in folder.iterdir():
        path.rename(
            path.with_name(path.name.replace("_599", "_59").replace("_399", "_79").replace("_199", "_99"))
        )
    found = look(run)
    assert (found.verdict, names(of(found, "dynamics"))) == ("critical", ["checkpoints_stale"])
    assert "500 updates behind step 600" in found.wrong[0]
    assert found.fallback["dynamics"].endswith("dynamics_step_99")


def test_three_log_intervals_exactly_are_not_too_old(tmp_path: Path) -> None:
    table = {name: column[:400] for name, column in cases.dynamics(diverging=False).items()}
    cases.write_csv(tmp_path / "Logs" / "dynamics_history.csv", table)
    cases.write_checkpoints(tmp_path / "results" / cases.RUN_NAME, "dynamics", [25, 50, 100, 200, 250])
    assert "checkpoints_stale" not in names(of(look(tmp_path), "dynamics"))  # spacings 25, 50, 100, 50
    shutil.rmtree(tmp_path / "results" / cases.RUN_NAME / "dynamics/checkpoints/dynamics_step_249")
    assert "checkpoints_stale" in names(of(look(tmp_path), "dynamics"))


# --- pictures ---------------------------------------------------------------------------------------------


def test_flat_pictures_fail_where_they_bind_and_are_only_told_elsewhere(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path)
    for stage in STAGES:
        cases.write_sheets(run / "results" / cases.RUN_NAME, stage, [600], flat=[600])
    found = look(run)
    assert found.verdict == "watch"
    assert names(of(found, "dynamics")) == ["visual_structure"]
    assert of(found, "latent_actions").findings == []
    late = of(found, "latent_actions").visuals.late
    assert late is not None
    assert (late.ok, late.step) == (False, 600)
    early = of(found, "dynamics").visuals.early
    assert early is not None
    assert (early.ok, early.step) == (True, 1)


def test_a_sheet_that_cannot_be_read_is_told_and_the_one_before_is_judged(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path)
    bad = (
        run / "results" / cases.RUN_NAME / "dynamics" / "visualizations" / "dynamics_prediction_step_899.png"
    )
    bad.write_bytes(b"no picture")
    found = of(look(run), "dynamics")
    assert found.visuals.late is not None
    assert found.visuals.late.step == 400
    assert any(str(bad) in note for note in found.notes)


# --- runs of ours -----------------------------------------------------------------------------------------


def test_a_bundle_is_judged_by_its_recorded_gates(tmp_path: Path) -> None:
    tables = [cases.dynamics(diverging=False, rows=200)]
    gates = [cases.gate("dynamics", 1, "retune"), cases.gate("dynamics", 2, "continue")]
    found = look(cases.bundle(tmp_path / "a", gates, {"dynamics": tables}))
    assert (found.kind, found.run_id, found.verdict) == ("bundle", cases.RUN, "normal")
    assert found.policy == "the run's own policy"
    assert [(gate.name, gate.verdict) for gate in of(found, "dynamics").gates] == [
        ("attempt 1", "retune"),
        ("attempt 2", "continue"),
    ]


def test_one_failed_gate_is_watch_two_in_a_row_are_critical(tmp_path: Path) -> None:
    tables = {"dynamics": [cases.dynamics(diverging=False, rows=200)]}
    one = [cases.gate("dynamics", 1, "continue"), cases.gate("dynamics", 2, "retune")]
    found = look(cases.bundle(tmp_path / "one", one, tables))
    assert (found.verdict, names(of(found, "dynamics"))) == ("watch", ["gate"])
    two = [*one, cases.gate("dynamics", 3, "retune", config_patch_applied={"learning_rate": 4e-5})]
    found = look(cases.bundle(tmp_path / "two", two, tables))
    assert (found.verdict, names(of(found, "dynamics"))) == ("critical", ["gates"])
    assert "final loss 7 is above 5" in found.wrong[0]
    assert "learning_rate=4e-05" in found.change_now[0].text
    evidence = of(found, "dynamics").findings[0].evidence
    assert f"{tmp_path}/two/Logs/history/dynamics/attempt_0003.csv" in evidence
    watch = [*two, cases.gate("dynamics", 4, "watch")]
    assert look(cases.bundle(tmp_path / "watch", watch, tables)).verdict == "watch"


def test_a_run_in_progress_without_a_gate_is_not_judged_by_thirds(tmp_path: Path) -> None:
    young = {name: column[:60] for name, column in cases.dynamics(diverging=False).items()}
    young[cases.LOSS] = np.linspace(7.0, 6.5, 60)
    found = look(cases.bundle(tmp_path / "own", [], {"dynamics": [young]}))
    assert (found.verdict, found.status) == ("normal", "running")
    assert any("no gate was decided yet" in note for note in of(found, "dynamics").notes)
    foreign = look(cases.write_csv(tmp_path / "dynamics.csv", young))
    assert names(of(foreign, "dynamics")) == ["gate"]  # nobody says that this one is young


def test_an_attempt_that_went_back_replaces_what_it_went_back_over(tmp_path: Path) -> None:
    first, second = cases.dynamics(diverging=True, rows=200), cases.dynamics(diverging=False, rows=200)
    second["_step"] = second["_step"] + 100
    run = cases.bundle(
        tmp_path / "run", [cases.gate("dynamics", 2, "continue")], {"dynamics": [first, second]}
    )
    loss = of(look(run), "dynamics").loss
    assert loss is not None
    assert (loss.rows, loss.first_step, loss.last_step) == (300, 0, 299)


def test_with_a_policy_that_was_asked_for_histories_are_judged_instead_of_gates(tmp_path: Path) -> None:
    run = cases.bundle(
        tmp_path / "run",
        [cases.gate("dynamics", 1, "retune"), cases.gate("dynamics", 2, "retune")],
        {"dynamics": [cases.dynamics(diverging=False)]},
    )
    assert look(run).verdict == "critical"
    found = look(run, policy=Policy())
    assert (found.verdict, found.policy) == ("normal", "test")
    assert any("recorded gates are left aside" in note for note in found.notes)


def test_a_failed_run_is_watch_at_least_and_its_inference_gate_is_told(tmp_path: Path) -> None:
    events = [
        cases.gate("dynamics", 1, "continue"),
        cases.gate("dynamics", 1, "retune").model_copy(update={"stage": "inference"}),
        RunFinished(run_id=cases.RUN, status="failed", degraded=False, reason="the budget is spent"),
    ]
    run = cases.bundle(tmp_path / "run", events, {"dynamics": [cases.dynamics(diverging=False)]})
    found = look(run)
    assert (found.verdict, found.status) == ("watch", "failed")
    assert [finding.name for finding in found.findings] == ["inference", "failed"]
    assert any("test inference again" in action.text for action in found.change_now)


def test_the_target_is_what_was_decided_last_also_by_a_failed_inference_gate(tmp_path: Path) -> None:
    gates = [cases.gate("dynamics", 1, "continue")]
    tables = {"dynamics": [cases.dynamics(diverging=False)]}
    assert of(look(cases.bundle(tmp_path / "first", gates, tables)), "dynamics").target == 1000
    further = {"stage": "inference", "target_step": 1300, "next_target_step": 1300}
    gates.append(cases.gate("dynamics", 1, "retune").model_copy(update=further))
    assert of(look(cases.bundle(tmp_path / "further", gates, tables)), "dynamics").target == 1300
    ended = {"stage": "inference", "attempt": 2, "target_step": 0}
    gates.append(cases.gate("dynamics", 1, "retune").model_copy(update=ended))
    assert of(look(cases.bundle(tmp_path / "ended", gates, tables)), "dynamics").target == 1300


def test_events_that_cannot_be_read_leave_the_files_to_judge(tmp_path: Path) -> None:
    run = cases.bundle(tmp_path / "run", [], {"dynamics": [cases.dynamics(diverging=True)]})
    (run / "Logs" / "events.jsonl").write_text("nonsense\n")
    found = look(run)
    assert found.verdict == "critical"
    assert any("events.jsonl, line 1" in note for note in found.notes)


def test_knobs_that_are_known_are_patched_with_numbers(tmp_path: Path) -> None:
    run = cases.bundle(
        tmp_path / "run",
        [cases.gate("dynamics", 1, "retune"), cases.gate("dynamics", 2, "retune")],
        {"dynamics": [cases.dynamics(diverging=True)]},
    )
    action = look(run).change_now[0]
    assert action.patch["learning_rate"] == pytest.approx(3e-4 * 0.2)
    assert "learning_rate=6e-05" in action.text


@pytest.mark.parametrize(
    "decided",
    [{"decision": "restart_stage"}, {"decision": "stop", "decision_on_resume": "restart_stage"}, {}],
    ids=["restarted", "restart not affordable", "retuned"],
)
def test_a_stage_that_was_to_be_restarted_does_not_go_on_from_its_newest_checkpoint(
    tmp_path: Path, decided: dict[str, str]
) -> None:
    gates = [cases.gate("dynamics", 1, "retune", **decided)]
    run = cases.bundle(tmp_path / "run", gates, {"dynamics": [cases.dynamics(diverging=False)]})
    cases.write_checkpoints(run / "results" / cases.RUN_NAME, "dynamics", [400, 600])
    from_best = "Retune dynamics, from the best accepted checkpoint, else afresh: "
    assert look(run).change_now[0].text.startswith(from_best) == bool(decided)


def test_out_of_memory_asks_for_a_smaller_batch_and_an_idle_gpu_for_the_same_chunk_again(
    tmp_path: Path,
) -> None:
    tables = {"dynamics": [cases.dynamics(diverging=False, rows=200)]}
    oom = [cases.gate("dynamics", 1, "retune", reason="oom")]
    assert look(cases.bundle(tmp_path / "oom", oom, tables)).change_now[0].patch == {"batch_size_per_gpu": 4}
    idle = [cases.gate("dynamics", 1, "retune", reason="gpu_guard")]
    text = look(cases.bundle(tmp_path / "idle", idle, tables)).change_now[0].text
    assert "again with its knobs as they are" in text
