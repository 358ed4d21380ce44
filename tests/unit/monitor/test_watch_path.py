"""`worldloop watch --path`: any run's files, with real times, and who is silent."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services import cli
from services.commands.terminal.text import seconds
from services.diagnosis import artifacts
from services.monitor.core.freshness import Silence, silences
from shared.errors import UsageError
from tests.unit import wandb_log
from tests.unit.diagnosis import cases

RUN = cases.RUN_NAME
WANDB = "wandb/offline-run-20260102_040405-abcd/run-abcd.wandb"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No torch, and a working directory of its own."""
    monkeypatch.setattr(artifacts, "find_spec", lambda name: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A healthy run of which everything was written an hour ago, dynamics a minute ago."""
    root = cases.healthy(tmp_path / "run")
    age(root, 3600)
    age(root / "results" / RUN / "dynamics", 60)
    age(root / "Logs" / "dynamics_history_latest.csv", 60)
    return root


def age(path: Path, seconds: float) -> None:
    """Everything there was last changed so many seconds ago."""
    at = time.time() - seconds
    for each in [*path.rglob("*"), path]:
        os.utime(each, (at, at))


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["watch", *(str(word) for word in words)])


def look(path: Path, *words: object) -> tuple[int, dict[str, Any]]:
    found = invoke("--path", path, "--once", "--json", *words)
    assert found.exit_code in (0, 1), found.output
    return found.exit_code, json.loads(found.stdout)


def test_a_healthy_run_shows_its_progress_and_the_age_of_each_channel(run: Path) -> None:
    code, seen = look(run)
    assert (code, seen["state"], seen["alerts"]) == (0, "normal", {})
    assert [stage["activity"] for stage in seen["stages"]] == ["over", "over", "running"]
    dynamics = seen["stages"][2]
    assert (dynamics["step"], dynamics["loss"]) == (600, pytest.approx(2.0, rel=0.1))
    assert dynamics["updates_per_sec"] == pytest.approx(20)
    assert (dynamics["checkpoint"]["step"], dynamics["checkpoint"]["valid"]) == (600, True)
    assert (dynamics["sheet_step"], dynamics["sheet_ok"]) == (400, True)
    assert dynamics["sheet_numbers"]["contrast"] == 1
    for channel, limit in zip(dynamics["channels"], (1800, 7200, 7200), strict=True):
        assert channel["age_sec"] == pytest.approx(60, abs=30)
        assert (channel["limit_sec"], channel["silent"], channel["ever"]) == (limit, False, True)


def test_the_lines_for_people_say_the_same(run: Path) -> None:
    found = invoke("--path", run / "results" / RUN, "--once")
    assert found.exit_code == 0
    assert "NORMAL" in found.stdout.splitlines()[0]
    dynamics = found.stdout[found.stdout.index("dynamics  ") :]
    assert "running  normal    step 600  loss " in dynamics
    assert "h)  dynamics_step_599, its files are there, their contents were not read\n" in dynamics
    assert " s ago (limit 2 h)  dynamics_prediction_step_399.png, ok\n    contrast 1  " in dynamics
    assert dynamics.count(" s ago (limit ") == found.stdout.count("(limit ") == 3  # of the running one alone


@pytest.mark.parametrize(
    ("channel", "files", "limit"),
    [
        ("history", "Logs/dynamics_history_latest.csv", 1800),
        ("checkpoint", f"results/{RUN}/dynamics/checkpoints", 7200),
        ("visualization", f"results/{RUN}/dynamics/visualizations", 7200),
    ],
)
def test_a_channel_of_the_running_stage_that_is_silent_too_long_is_an_alert(
    run: Path, channel: str, files: str, limit: int
) -> None:
    age(run / files, limit + 100)
    code, seen = look(run)
    assert (code, seen["state"], list(seen["alerts"])) == (1, "watch", [f"dynamics/{channel}"])
    assert f"of a running dynamics, limit {limit} s" in seen["alerts"][f"dynamics/{channel}"]
    found = invoke("--path", run, "--once")
    assert "SILENT" in found.stdout
    assert found.stdout.splitlines()[-1].startswith(f"ALERT {channel}: silent for ")


def test_a_stage_that_is_over_is_not_silent(run: Path) -> None:
    age(run, 100_000)
    rows = [wandb_log.run(1, "abcd", "dynamics_pong", {"n_updates": 700})]
    rows += [wandb_log.history(2, step, {"train/loss": 2.0 - step / 1e3}) for step in range(600)]
    write_wandb(run, [*rows, wandb_log.finish(3)], old=100_000)
    code, seen = look(run)
    assert (code, seen["alerts"], seen["stages"][2]["activity"]) == (0, {}, "over")
    write_wandb(run, rows[:-10], old=100_000)
    code, seen = look(run)
    assert (code, seen["stages"][2]["activity"]) == (1, "running")
    assert list(seen["alerts"]) == ["dynamics/history", "dynamics/checkpoint", "dynamics/visualization"]
    rows[0] = wandb_log.run(1, "abcd", "dynamics_pong", {"n_updates": 600})
    write_wandb(run, rows, old=100_000)  # at its target
    assert look(run)[1]["alerts"] == {}


def write_wandb(root: Path, records: list[bytes], *, old: float) -> Path:
    """Give a run's dynamics its rows in a `.wandb` file instead of an export."""
    (root / "Logs" / "dynamics_history_latest.csv").unlink(missing_ok=True)
    path = root / WANDB
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wandb_log.log_of(records))
    age(path, old)
    return path


def test_rows_that_wandb_wrote_after_an_export_count(run: Path) -> None:
    records = [wandb_log.run(1, "abcd", "dynamics_pong", {"n_updates": 1000})]
    records += [wandb_log.history(2, step, {"train/loss": 3.0 - step / 1e3}) for step in range(700)]
    export = (run / "Logs" / "dynamics_history_latest.csv").read_bytes()
    file = write_wandb(run, records, old=10)
    (run / "Logs" / "dynamics_history_latest.csv").write_bytes(export)
    age(run / "Logs" / "dynamics_history_latest.csv", 20)
    _, seen = look(run)
    assert (seen["stages"][2]["step"], seen["stages"][2]["target"]) == (700, 1000)
    age(file, 30)
    assert look(run)[1]["stages"][2]["step"] == 600


def test_empty_checkpoints_and_old_ones_are_alerts_and_critical(run: Path) -> None:
    place = run / "results" / RUN
    cases.write_checkpoints(place, "dynamics", [610, 620, 630], size=0)
    age(place / "dynamics" / "checkpoints", 60)
    code, seen = look(run)
    assert (code, seen["state"]) == (1, "critical")
    assert list(seen["alerts"]) == ["dynamics/checkpoints_empty"]
    shutil.rmtree(place / "dynamics" / "checkpoints")
    cases.write_checkpoints(place, "dynamics", [10, 20])
    age(place / "dynamics" / "checkpoints", 60)
    code, seen = look(run)
    assert (seen["state"], list(seen["alerts"])) == ("critical", ["dynamics/checkpoints_stale"])


def test_a_checkpoint_that_is_being_written_is_not_held_against_the_run(run: Path) -> None:
    place = run / "results" / RUN
    cases.write_checkpoints(place, "dynamics", [610], size=0)
    code, seen = look(run)
    assert (code, seen["stages"][2]["being_written"]) == (0, True)
    assert "dynamics_step_609, being written\n" in invoke("--path", run, "--once").stdout
    age(place / "dynamics" / "checkpoints", 60)
    code, seen = look(run)
    assert (code, seen["stages"][2]["being_written"], seen["state"]) == (1, False, "watch")
    assert "INVALID: model_state_dict.pt has only 0 bytes" in invoke("--path", run, "--once").stdout


def test_a_stage_without_any_picture_is_silent_since_it_began(run: Path) -> None:
    place = run / "results" / RUN / "dynamics"
    shutil.rmtree(place / "visualizations")
    age(place, 60)
    age(place / "checkpoints" / "dynamics_step_199", 7300)
    _, seen = look(run)
    assert list(seen["alerts"]) == ["dynamics/visualization"]
    assert "visualization  SILENT none for 2.03 h" in invoke("--path", run, "--once").stdout


def test_a_bundle_of_ours_is_judged_by_its_own_limits_and_over_when_it_says_so(tmp_path: Path) -> None:
    root = cases.bundle(tmp_path / cases.RUN, [], {"dynamics": [cases.dynamics(diverging=False)]})
    age(root, 100)
    _, seen = look(root)
    assert (seen["status"], seen["alerts"]) == ("running", {})
    (root / "config").mkdir()
    (root / "config" / "policy.yaml").write_text("monitor: {silence_sec: {history: 50}}")
    assert "dynamics/history" in look(root)[1]["alerts"]
    (root / "config" / "policy.yaml").write_text("monitor: {silence_sec: {history: -1}}")
    found = invoke("--path", root, "--once")
    assert found.exit_code != 0
    assert "monitor.silence_sec" in str(found.exception)


@pytest.fixture
def leaves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Does things between looks, then presses Ctrl-C."""

    def script(*steps: Callable[[], object]) -> None:
        waiting: Iterator[Callable[[], object]] = iter(steps)

        def sleep(pause: float) -> None:
            step = next(waiting, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        monkeypatch.setattr("services.commands.watching.files.time.sleep", sleep)

    return script


def test_every_so_often_what_is_seen_goes_to_logs_and_an_alert_is_told_once(
    run: Path, tmp_path: Path, leaves: Callable[..., None]
) -> None:
    rows = run / "Logs" / "dynamics_history_latest.csv"
    leaves(lambda: age(rows, 2000), lambda: None, lambda: age(rows, 1), lambda: age(rows, 2000))
    found = invoke("--path", run, "--every", "4h")
    assert found.exit_code == 1
    logs = tmp_path / "here" / "Logs"
    latest = (logs / "monitor_latest.info").read_text()
    assert "ALERT history" in latest
    assert latest.count("dynamics  ") == 1
    (log,) = logs.glob("monitor_2*.log")
    text = log.read_text()
    assert text.count("dynamics  ") == 5
    assert text.count("\nALERT history") == 3
    assert text.count("NEW ALERT history") == 2
    assert found.stdout.count("\nALERT history") == 3


def test_a_run_of_ours_keeps_it_in_its_bundle(tmp_path: Path, leaves: Callable[..., None]) -> None:
    root = cases.bundle(tmp_path / cases.RUN, [], {"dynamics": [cases.dynamics(diverging=False)]})
    leaves()
    assert "running" in invoke("--path", root, "--every", "10m").stdout
    assert (root / "Logs" / "monitor_latest.info").is_file()
    assert list((root / "Logs").glob("monitor_2*.log"))


def test_a_file_that_goes_away_between_two_looks_ends_nothing(
    run: Path, tmp_path: Path, leaves: Callable[..., None]
) -> None:
    away = tmp_path / "away"
    leaves(lambda: run.rename(away), lambda: away.rename(run))
    found = invoke("--path", run, "--json")
    assert len(found.stdout.splitlines()) == 2
    assert "there is no such file or directory" in found.stderr
    assert found.exit_code == 0


def test_what_cannot_be_watched_is_an_error_that_says_why(tmp_path: Path, run: Path) -> None:
    for words, message in (
        (["--path", tmp_path / "nowhere"], "no such file or directory"),
        (["--path", run, "--every", "soon"], "--every soon: give a length of time"),
        (["--path", run, "--profile", "nonsense"], "no such profile"),
        (["--profile", "demo"], "give --path DIR"),
    ):
        found = invoke(*words)
        assert found.exit_code != 0
        assert message in str(found.exception)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("30", 30), ("10m", 600), ("10 min", 600), ("4h", 14400), ("0.5d", 43200)],
)
def test_lengths_of_time(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "4x", "-4h", "0", "4h30m", "366d", "9" * 400])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)


def test_silence_counts_from_the_beginning_where_there_was_no_sign() -> None:
    found = silences(
        {"history": None, "checkpoint": 50.0}, {"history": 10, "checkpoint": 60}, began=40, now=100
    )
    assert found == [Silence("history", 40, 60, 10), Silence("checkpoint", 50, 50, 60)]
    assert [silence.too_long for silence in found] == [True, False]
