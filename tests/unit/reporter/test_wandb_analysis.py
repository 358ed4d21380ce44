"""The W&B analysis of runs of ours: what counts, where it comes from, what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.reporter import wandb_analysis
from services.reporter.wandb_analysis import write_wandb
from shared.bundle import Bundle
from shared.errors import WorldloopError
from tests.unit.reporter.wandb_bundle import logged, request, went_to

if TYPE_CHECKING:
    from tests.unit.reporter.conftest import Log

RETUNED = {
    "decision": "retune",
    "verdict": "retune",
    "reason": "gate_fail",
    "accepted_checkpoint": None,
    "resume_step": 20,
}


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and two tests look at them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(wandb_analysis, "draw_stage", lambda *_: None)


@pytest.fixture
def pictures() -> None:
    """Has them drawn."""


@pytest.fixture
def rolled_back(log: Log, bundle: Bundle) -> Log:
    """Two chunks in one W&B run, the second superseded, then its third attempt in a run of its own."""
    log.begin().chunk(1, 0, 20).chunk(2, 20, 40, gate=RETUNED).chunk(3, 20, 40, learning_rate=2e-4)
    first = logged(bundle, "aaaa", range(40), lambda step: 1.0 if step < 20 else 100.0)
    second = logged(bundle, "bbbb", range(20, 40), lambda _: 0.5)
    for attempt, run, place in ((1, "aaaa", first), (2, "aaaa", first), (3, "bbbb", second)):
        went_to(log, attempt, run, place)
    return log


def written(log: Log, source: Any = None, **changes: Any) -> tuple[str, dict[str, Any]]:
    asked = request(log, **changes)
    path = asked.bundle.root / write_wandb(asked, source)
    return path.read_text(), json.loads(path.with_suffix(".json").read_text())["stages"]


@pytest.mark.usefixtures("pictures")
def test_rows_superseded_by_a_rollback_are_in_no_figure(rolled_back: Log, bundle: Bundle) -> None:
    text, stages = written(rolled_back)
    found = stages["dynamics"]
    assert (found["source"], found["rows"], found["rows_superseded"]) == ("local", 40, 20)
    loss = found["metrics"]["train/loss"]
    assert (loss["highest"], loss["first10"], loss["last10"], loss["delta"]) == (1.0, 1.0, 0.5, -0.5)
    assert found["runs"] == ["aaaa", "bbbb"]
    assert found["summary"]["grad_norm"] == 39.0
    assert found["notes"] == []
    assert "superseded by a rollback: 20 rows" in text
    assert (bundle.reports / "plots/wandb-analysis-2026_01_01_00_09_00/dynamics.png").is_file()
    assert "](plots/wandb-analysis-2026_01_01_00_09_00/dynamics.png)" in text
    assert "](../../wandb/offline-run-20260101_000000-bbbb/run-bbbb.wandb)" in text


def test_the_summary_is_of_rows_that_count(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 20).chunk(2, 20, 40, gate=RETUNED)
    place = logged(bundle, "aaaa", range(40))
    went_to(log, 1, "aaaa", place)
    went_to(log, 2, "aaaa", place)
    found = written(log)[1]["dynamics"]
    assert (found["summary"]["grad_norm"], found["summary"]["_step"]) == (19.0, 19)
    assert (found["rows"], found["rows_superseded"]) == (20, 20)


def test_values_retuned_after_the_run_had_begun_are_named(rolled_back: Log) -> None:
    text, stages = written(rolled_back)
    assert stages["dynamics"]["config"] == {"learning_rate": 1e-3}
    assert stages["dynamics"]["changed_since"] == {"learning_rate": {"wandb": 1e-3, "plan": 2e-4}}
    assert "| `learning_rate` | 0.001 | 0.0002 |" in text


def test_updates_that_wandb_lacks_come_from_the_attempts_own_rows(log: Log, bundle: Bundle) -> None:
    """As after a relaunch: the event names the last launch's W&B run alone."""
    log.begin().chunk(1, 0, 30)
    went_to(log, 1, "late", logged(bundle, "late", range(10, 30)))
    text, stages = written(log)
    assert stages["dynamics"]["rows"] == 30
    assert stages["dynamics"]["files"][-1] == "Logs/history/dynamics/attempt_0001.csv"
    assert "10 updates of attempt 1 that W&B lacks are from its own file." in text


def test_without_any_wandb_run_the_attempts_rows_are_analysed(log: Log) -> None:
    text, stages = written(log.begin(config={"training": {"wandb": "disabled"}}).chunk(1, 0, 30), "api_only")
    assert (stages["dynamics"]["source"], stages["dynamics"]["rows"]) == ("local", 30)
    assert "nothing was logged to W&B (wandb: disabled)" in text
    assert stages["dynamics"]["config_of"] == "the newest plan"


def test_a_damaged_or_lost_wandb_file_costs_no_row_and_is_said(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 20).chunk(2, 20, 40)
    went_to(log, 1, "torn", logged(bundle, "torn", range(15), end=b"\1\2\3\4\5\6\7\1\2"))
    went_to(log, 2, "gone", "wandb/offline-run-20260101_000000-gone")
    text, stages = written(log)
    assert stages["dynamics"]["rows"] == 40
    assert any("run-torn.wandb" in note for note in stages["dynamics"]["notes"])
    assert "5 updates of attempt 1 that W&B lacks" in text


def test_a_file_that_is_no_wandb_file_costs_no_report_though_the_api_comes_first(
    log: Log, bundle: Bundle
) -> None:
    log.begin().chunk(1, 0, 20)
    place = logged(bundle, "aaaa", range(20), offline=False)
    (bundle.root / place / "run-aaaa.wandb").write_bytes(b"garbage" * 99)
    went_to(log, 1, "aaaa", place)
    text, stages = written(log)
    assert stages["dynamics"]["rows"] == 20
    assert "no .wandb file" in text


def test_a_policy_that_allows_the_api_alone_costs_the_figures_and_not_the_run(
    log: Log, bundle: Bundle
) -> None:
    log.begin(policy={"reporter": {"wandb_source": "api_only"}}).chunk(1, 0, 20)
    went_to(log, 1, "aaaa", logged(bundle, "aaaa", range(20)))
    text, stages = written(log)
    assert (stages["dynamics"]["source"], stages["dynamics"]["rows"]) == ("none", 0)
    assert "W&B's API has no history of dynamics" in text
    assert "--source api_first" in text


def test_a_run_without_training_says_that_there_is_no_history(log: Log) -> None:
    text, stages = written(log.begin(stages=()).inference())
    assert stages == {}
    assert "There is no history of any stage" in text


def test_a_stage_whose_rows_are_gone_is_told_without_figures(log: Log) -> None:
    text, stages = written(log.begin().chunk(1, 0, 20, rows=False))
    assert (stages["dynamics"]["source"], stages["dynamics"]["metrics"]) == ("none", {})
    assert "dynamics: no row with a loss counts." in text
    assert "plots/" not in text


def test_an_analysis_that_was_not_wanted_says_so_until_it_is_asked_for_by_hand(log: Log) -> None:
    log.begin().chunk(1, 0, 20)
    asked = request(log)
    asked.story.spec.policy["reporter"] = {"enable_wandb_analysis": False}
    report = log.bundle.root / write_wandb(asked)
    assert "It was not wanted" in report.read_text()
    assert not report.with_suffix(".json").exists()
    write_wandb(asked, "local_only")
    assert "train/loss" in report.read_text()


@pytest.mark.usefixtures("pictures")
def test_the_files_come_out_the_same_again_also_in_a_bundle_that_was_moved(
    rolled_back: Log, tmp_path: Path
) -> None:
    def files(bundle: Bundle) -> dict[str, bytes]:
        return {bundle.relative(p): p.read_bytes() for p in bundle.reports.rglob("*") if p.is_file()}

    written(rolled_back)
    first = files(rolled_back.bundle)
    moved = Bundle(tmp_path / "elsewhere" / "moved", rolled_back.bundle.run_name)
    shutil.move(rolled_back.bundle.root, moved.root)
    shutil.rmtree(moved.reports)
    written(rolled_back, bundle=moved, again=True)
    assert files(moved) == first
    assert len(first) == 3
    assert b"matplotlib" not in b"".join(first.values()).lower()


@pytest.mark.parametrize(
    ("offline", "why"), [(True, "'wandb sync' of its directory sends it"), (False, "set WANDB_API_KEY")]
)
def test_api_only_fails_with_the_cure_where_the_api_cannot_have_it(
    log: Log, bundle: Bundle, offline: bool, why: str
) -> None:
    log.begin().chunk(1, 0, 20)
    went_to(log, 1, "aaaa", logged(bundle, "aaaa", range(20), offline=offline))
    with pytest.raises(WorldloopError, match="--source api_first") as caught:
        write_wandb(request(log), "api_only")
    assert why in str(caught.value)
    text, stages = written(log, "api_first")
    assert stages["dynamics"]["source"] == "local"
    assert why in text
    assert "only local files were asked for" in written(log, "local_only")[0]
