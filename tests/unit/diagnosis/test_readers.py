"""What a path may be, and what is said about one that cannot be diagnosed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.diagnosis import artifacts, histories, layout
from services.diagnosis.core import measures
from shared.errors import BundleError
from tests.unit.diagnosis import cases
from tests.unit.diagnosis.cases import look, of


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "find_spec", lambda name: None)


def write_wandb(root: Path, name: str, table: cases.Table, *, config: dict[str, Any] | None = None) -> Path:
    """A real file, written by wandb offline."""
    import wandb

    settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
    run = wandb.init(dir=root, name=name, mode="offline", config=config or {}, settings=settings)
    directory = Path(run.dir).parent
    for row in range(len(table["_step"])):
        values = {key: float(column[row]) for key, column in table.items() if not key.startswith("_")}
        run.log(values, step=int(table["_step"][row]))
    run.finish()
    wandb.teardown()  # its process writes the last rows only now
    return next(directory.glob("*.wandb"))


def test_a_wandb_file_its_directory_and_the_folder_above_say_the_same(tmp_path: Path) -> None:
    table = cases.dynamics(diverging=True, rows=90)
    file = write_wandb(tmp_path, "dynamics_1", table, config={"n_updates": 1000, "learning_rate": 2e-4})
    for path in (file, file.parent, file.parent.parent, tmp_path):
        found = look(path)
        assert (found.kind, found.verdict) == ("wandb", "critical")
        stage = of(found, "dynamics")
        assert (stage.histories, stage.target) == ([str(file)], 1000)
        assert stage.loss is not None
        assert (stage.loss.rows, stage.loss.last_step) == (90, 89)
        assert stage.loss.final == pytest.approx(table[cases.LOSS][-1])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    stage = of(look(file), "dynamics")
    assert stage.loss is not None
    assert 10 < stage.loss.rows < 90
    assert any("ends inside the record" in note for note in stage.notes)


def test_csv_and_json_of_one_history_say_the_same(tmp_path: Path) -> None:
    table = cases.latent(collapsed=True)
    table[cases.LOSS][7] = np.nan
    cases.write_csv(tmp_path / "latent_actions_a.csv", table)
    rows = [dict(zip(table, map(float, row), strict=True)) for row in zip(*table.values(), strict=True)]
    rows[7][cases.LOSS] = "NaN"  # as wandb writes it
    (tmp_path / "latent_actions_b.json").write_text(json.dumps(rows))
    first, second = look(tmp_path / "latent_actions_a.csv"), look(tmp_path / "latent_actions_b.json")
    assert of(first, "latent_actions").loss == of(second, "latent_actions").loss
    assert first.cause.model_dump(exclude={"latent_criteria"}) == second.cause.model_dump(
        exclude={"latent_criteria"}
    )


def test_a_history_with_other_columns_is_an_error_that_names_the_missing_ones(tmp_path: Path) -> None:
    path = cases.write_csv(tmp_path / "dynamics.csv", {"Step": [1.0], "loss": [2.0]})
    with pytest.raises(BundleError, match=r"lacks the columns _step, train/loss; it has Step, loss"):
        look(path)
    path = cases.write_csv(tmp_path / "dynamics.csv", {"_step": [1.0], "loss": [2.0]})
    with pytest.raises(BundleError, match=r"lacks the column train/loss"):
        look(path)
    (tmp_path / "dynamics.json").write_text('[{"_step": 1}]')
    with pytest.raises(BundleError, match=r"lacks the column train/loss"):
        look(tmp_path / "dynamics.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dynamics.csv", "", "lacks the columns"),
        ("dynamics.csv", "_step,train/loss\n", "no rows"),
        ("dynamics.csv", "_step,train/loss\n,1\n,2\n", "no row has both _step and train/loss"),
        ("dynamics.csv", "_step,train/loss\n0,\n1,what\n", "no row has both _step and train/loss"),
        ("dynamics.csv", "\x1b[31m,loss\n0,1\n", "it has loss"),
        ("dynamics.json", "{", "cannot be read"),
        ("dynamics.json", "[" * 100_000, "cannot be read"),
        ("dynamics.json", "{}", "no list of rows"),
        ("dynamics.json", "[]", "no rows"),
        ("dynamics.wandb", "no wandb file", "no .wandb file"),
        ("dynamics.wandb", "", "ends inside its header"),
        ("dynamics.txt", "x", r"\.csv, \.json and \.wandb"),
    ],
)
def test_a_file_that_is_no_history_is_an_error_that_says_why(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BundleError, match=message) as caught:
        look(path)
    assert str(path) in str(caught.value)


def test_an_empty_directory_and_a_missing_one_are_errors_that_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing to diagnose.*events\.jsonl.*checkpoints/.*\.wandb"):
        look(tmp_path)
    with pytest.raises(BundleError, match="no such file or directory"):
        look(tmp_path / "nowhere")
    run = cases.bundle(tmp_path / "runs" / "20260101_000000", [], {})
    with pytest.raises(BundleError, match=r"no chunk of any stage was begun$"):
        look(run)
    with pytest.raises(BundleError, match=r"it holds runs; .* the newest is .*20260101_000000"):
        look(tmp_path / "runs")
    (run / "Logs" / "events.jsonl").write_bytes(b"\xff")
    with pytest.raises(BundleError, match=r"was begun; .*events cannot be read"):
        look(run)


def test_a_number_too_large_to_be_one_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.json"
    path.write_text(json.dumps([{"_step": step, "train/loss": 10**400} for step in range(30)]))
    assert look(path).verdict == "critical"


def test_an_unreadable_history_beside_results_is_watch_and_says_why(tmp_path: Path) -> None:
    run = cases.healthy(tmp_path)
    (run / "Logs" / "dynamics_history_latest.csv").write_bytes(b"\0\0\n\0")
    found = look(run)
    stage = of(found, "dynamics")
    assert (stage.verdict, stage.loss, [finding.name for finding in stage.findings]) == (
        "watch",
        None,
        ["no_history"],
    )
    assert any("dynamics_history_latest.csv" in note for note in found.notes)
    assert found.change_now[0].text.startswith("Find the history of dynamics")


def test_a_single_stage_is_diagnosed_alone(tmp_path: Path) -> None:
    run = cases.results(tmp_path, {"video_tokenizer": cases.tokenizer()})
    found = look(run)
    assert [stage.stage for stage in found.stages] == ["video_tokenizer"]
    assert (found.verdict, found.cause.latent_actions, found.cause.dynamics) == (
        "normal",
        "unknown",
        "unknown",
    )
    stage_directory = run / "results" / cases.RUN_NAME / "video_tokenizer"
    assert look(stage_directory).verdict == "normal"
    run = cases.healthy(tmp_path / "all")
    assert [stage.stage for stage in look(run, stage="dynamics").stages] == ["dynamics"]
    with pytest.raises(BundleError, match="there is no dynamics"):
        look(tmp_path / "results", stage="dynamics")


def test_the_newest_of_several_runs_is_taken_with_its_own_wandb_files(tmp_path: Path) -> None:
    for name in ("2026_01_01_00_00_00_pong", "2026_01_03_00_00_00_pong"):
        cases.write_checkpoints(tmp_path / "results" / name, "dynamics", [100, 200])
    found = look(tmp_path)
    assert any("2026_01_03_00_00_00_pong is the newest of 2 runs" in note for note in found.notes)
    results = layout.find_results(tmp_path)
    assert results is not None
    files = [Path(f"run-2026010{day}_120000-x/run-x.wandb") for day in (1, 2, 3, 4)]
    assert layout.of_run(files, results) == files[2:]
    older = layout.Results(tmp_path / "results" / "2026_01_01_00_00_00_pong", ("dynamics",), (results.path,))
    assert layout.of_run(files, older) == files[:2]


def test_a_history_whose_stage_nothing_tells_needs_to_be_told(tmp_path: Path) -> None:
    path = cases.write_csv(tmp_path / "export.csv", cases.history(cases.falling(7, 2, 1)))
    with pytest.raises(BundleError, match="--stage"):
        look(path)
    assert of(look(path, stage="dynamics"), "dynamics").verdict == "normal"


def test_the_stage_is_told_by_the_columns_where_the_name_does_not(tmp_path: Path) -> None:
    tables = {
        "latent_actions": cases.latent(collapsed=False),
        "dynamics": cases.dynamics(diverging=False),
        "video_tokenizer": {**cases.tokenizer(), "train/codebook_usage": np.full(cases.ROWS, 0.5)},
    }
    for stage, table in tables.items():
        assert histories.read(cases.write_csv(tmp_path / "export.csv", table)).stage == stage


def test_pieces_are_stitched_where_the_later_one_begins() -> None:
    first = {"_step": np.arange(5.0), "train/loss": np.arange(5.0)}
    second = {"_step": np.arange(3.0, 6.0), "train/loss": np.full(3, 9.0), "extra": np.ones(3)}
    whole = measures.stitch([first, second])
    assert whole["_step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert whole["train/loss"].tolist() == [0, 1, 2, 9, 9, 9]
    assert np.isnan(whole["extra"][:3]).all()


def test_a_span_is_the_longest_unbroken_one_and_a_constant_correlates_with_nothing() -> None:
    assert measures.longest(np.array([True, False, True, True, True, False, True])) == 3
    assert measures.longest(np.array([], dtype=np.bool_)) == 0
    columns = {"train/loss": np.arange(20.0), "up": 2 * np.arange(20.0), "flat": np.ones(20)}
    assert measures.correlation(columns, "up") == pytest.approx(1)
    assert measures.correlation(columns, "flat") is None
    assert measures.correlation(columns, "absent") is None
