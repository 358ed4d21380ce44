"""`worldloop report wandb` and `report compare`, by hand, on runs of any trainer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from services.commands import report_wandb
from shared.bundle import Bundle
from shared.bus.journal import to_line
from shared.errors import BundleError, UsageError
from tests.unit import wandb_log
from tests.unit.reporter.conftest import NAME, Log
from tests.unit.reporter.wandb_bundle import logged, went_to


@pytest.fixture(autouse=True)
def _somewhere_with_nobody_logged_in(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.chdir(tmp_path)


def bundle_of(root: Path, run_id: str, **parameters: Any) -> Path:
    """A bundle of one chunk whose rows went to W&B."""
    bundle = Bundle(root / run_id, NAME)
    log = Log(bundle).begin().chunk(1, 0, 30, **parameters)
    went_to(log, 1, "aaaa", logged(bundle, "aaaa", range(30), lambda step: 2.0 / (step + 1)))
    bundle.events.parent.mkdir(parents=True, exist_ok=True)
    bundle.events.write_text("".join(to_line(record) + "\n" for record in log.records))
    return bundle.root


def foreign(folder: Path, *files: tuple[str, range, float]) -> Path:
    """A TinyWorlds run directory with the W&B files of its launches beside it."""
    (folder / "results/2026_01_01_00_00_00_pong/dynamics/checkpoints").mkdir(parents=True)
    for stamp, steps, loss in files:
        place = folder / "wandb" / f"run-{stamp}-{stamp[-4:]}"
        place.mkdir(parents=True)
        records = [wandb_log.run(1, stamp[-4:], "dynamics", {"n_actions": 8})]
        records += [
            wandb_log.history(n, n, {"train/loss": loss, "action_entropy": 1.0, "unique_actions": 3})
            for n in steps
        ]
        (place / f"run-{stamp[-4:]}.wandb").write_bytes(wandb_log.log_of(records))
    return folder


def wandb(argument: Path | str, **changes: Any) -> None:
    """Write the report and print its JSON."""
    flags = {"source": None, "stage": None, "out": None, "root": Path("runs"), "as_json": True}
    assert report_wandb.wandb(str(argument), **(flags | changes)) == 0


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_tinyworlds_run_is_analysed_from_its_launches_each_replacing_what_was_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = foreign(tmp_path, ("20260101_000100", range(20), 9.0), ("20260101_000200", range(10, 30), 1.0))
    wandb(run)
    dynamics = said(capsys)["stages"]["dynamics"]
    assert (dynamics["source"], dynamics["rows"], dynamics["rows_superseded"]) == ("local", 30, 10)
    assert (dynamics["metrics"]["train/loss"]["first10"], dynamics["metrics"]["train/loss"]["final"]) == (
        9,
        1,
    )
    assert dynamics["config"] == {"n_actions": 8}
    report = tmp_path / "docs/action/wandb-analysis-2026_01_01_00_02_00.md"
    assert "# W&B analysis: 2026_01_01_00_00_00_pong" in report.read_text()
    assert (tmp_path / "docs/action/plots/wandb-analysis-2026_01_01_00_02_00/dynamics.png").is_file()


@pytest.mark.parametrize("form", ["csv", "json"])
def test_without_a_wandb_file_the_newest_export_of_a_stage_is_analysed(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"_step": step, "train/loss": 0.5} for step in range(12)]
    (tmp_path / "Logs").mkdir()
    export = tmp_path / f"Logs/dynamics_history_x_latest.{form}"
    table = "_step,train/loss\n" + "".join(f"{row['_step']},{row['train/loss']}\n" for row in rows)
    export.write_text(table if form == "csv" else json.dumps(rows))
    wandb(tmp_path, out=tmp_path / "o")
    document = said(capsys)
    assert document["stages"]["dynamics"]["rows"] == 12
    assert "is an export and does not say which run it is of" in document["stages"]["dynamics"]["why"]
    wandb(export, stage="video_tokenizer", out=tmp_path / "o")
    assert list(said(capsys)["stages"]) == ["video_tokenizer"]


def test_a_bundle_keeps_its_report_also_where_it_was_moved_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(bundle_of(tmp_path, "20260101_000000"), moved)
    wandb(moved, source="local_only")
    assert said(capsys)["stages"]["dynamics"]["rows"] == 30
    assert [path.suffix for path in sorted((moved / "docs/action").glob("wandb*"))] == [".json", ".md"]


def test_what_is_nothing_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no run id"):
        wandb(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"neither \*\.wandb"):
        wandb(tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two bundles; the older was last trained with half the learning rate."""
    newer = bundle_of(tmp_path / "runs", "20260102_000000", learning_rate=1e-3)
    older = bundle_of(tmp_path / "runs", "20260101_000000", learning_rate=5e-4)
    return [newer.name, str(older)]


def compare(runs: list[str], **changes: Any) -> int:
    flags = {"stage": None, "into": None, "root": Path("runs"), "as_json": False}
    return report_wandb.compare(runs, **(flags | changes))


def test_a_comparison_says_what_differs_and_lies_in_the_newest_bundle(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(two[::-1]) == 0
    path = Path(capsys.readouterr().out.strip()).resolve()
    assert path.parent == (tmp_path / "runs/20260102_000000/docs/action")
    text = path.read_text()
    assert "| `learning_rate` | 0.0005 | 0.001 |" in text
    assert f"]({Path('plots') / path.stem / 'dynamics.png'})" in text
    assert (path.parent / "plots" / path.stem / "dynamics.png").is_file()
    found = json.loads(path.with_suffix(".json").read_text())["stages"]["dynamics"]
    assert found["common_update"] == 29
    assert list(found["config_differences"]) == ["learning_rate"]
    assert found["loss_at_common_update"]["20260101_000000"] == pytest.approx(
        sum(2 / n for n in range(26, 31)) / 5
    )


def test_a_foreign_run_is_compared_up_to_the_last_update_that_both_have(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = foreign(tmp_path / "theirs", ("20260101_000100", range(100), 9.0))
    compare([two[0], str(run)], into=tmp_path / "here", as_json=True)
    found = said(capsys)["stages"]["dynamics"]
    assert found["common_update"] == 29
    assert found["loss_at_common_update"]["2026_01_01_00_00_00_pong"] == 9.0
    assert found["config_differences"]["n_actions"] == {"20260102_000000": "-", "2026_01_01_00_00_00_pong": 8}
    assert [path.suffix for path in sorted((tmp_path / "here").glob("run-comparison-*"))] == [".json", ".md"]


def test_what_cannot_be_compared_is_refused(two: list[str]) -> None:
    with pytest.raises(UsageError, match="two runs or more"):
        compare(two[:1])
    with pytest.raises(UsageError, match="named twice"):
        compare([two[0], two[0]])
    with pytest.raises(BundleError, match="have a history of latent_actions"):
        compare(two, stage="latent_actions")
