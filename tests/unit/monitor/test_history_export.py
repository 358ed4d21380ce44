"""`worldloop history export`: what a run logged, as CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services import cli
from services.diagnosis import histories
from shared.history_export import csv_rows, number, write_exports
from tests.unit import wandb_log
from tests.unit.diagnosis import cases

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "wandb"
LOSS = cases.LOSS


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["history", "export", *(str(word) for word in words)])


def exported(folder: Path, stage: str, run_id: str) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    path = folder / f"{stage}_history_{run_id}_latest.csv"
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream)), json.loads(path.with_suffix(".json").read_text())


def table(first: int, rows: int, loss: float) -> cases.Table:
    found = cases.history(cases.falling(loss, loss / 2, first, rows))
    found["_step"] += first
    return found


@pytest.mark.parametrize("line", ["0.19", "0.31"])
def test_a_wandb_file_is_exported_with_all_it_logged(here: Path, line: str) -> None:
    file = FIXTURES / f"wandb_{line}.wandb"
    found = invoke(file)
    assert found.exit_code == 0, found.output
    run_id = next(here.glob("Logs/*.csv")).name.split("_")[2]
    assert found.stdout == "".join(
        f"Logs/dynamics_history_{run_id}_latest.{form}  62 rows\n" for form in ("csv", "json")
    )
    cells, values = exported(here / "Logs", "dynamics", run_id)
    assert [row["_step"] for row in cells] == [str(step) for step in range(100, 162)]
    assert [row["_step"] for row in values] == list(range(100, 162))
    assert next(iter(cells[0])) == "_step"
    assert (cells[5][LOSS], values[5][LOSS]) == ("nan", "NaN")
    assert (cells[3]["nested.a.b"], cells[3]["x.y"], cells[3]["unique_actions"]) == ("103", "0.25", "3")
    assert (cells[10]["text"], values[10]["text"]) == ('é "quoted" ' + "x" * 200,) * 2
    assert (cells[9]["text"], "text" in values[9]) == ("", False)
    assert (values[11]["flag"], cells[11]["flag"], values[11]["none"]) == (True, "true", None)


def test_an_export_reads_back_as_what_it_was_made_of(here: Path) -> None:
    file = FIXTURES / "wandb_0.31.wandb"
    invoke(file)
    before = histories.read(file)
    for path in (here / "Logs").iterdir():
        after = histories.read(path)
        assert after.stage == "dynamics"
        for name, column in before.columns.items():
            assert str(after.columns[name].tolist()) == str(column.tolist()), (path, name)
        assert math.isinf(after.columns[LOSS][5])  # a loss that was not finite still shows


def test_of_a_bundle_the_attempts_are_joined_as_training_went(tmp_path: Path) -> None:
    tables = {"dynamics": [table(0, 30, 6), table(20, 30, 5)], "latent_actions": [table(0, 12, 1)]}
    root = cases.bundle(tmp_path / cases.RUN, [], tables)
    for words in ([root], [cases.RUN, "--output-root", tmp_path], ["--output-root", tmp_path]):
        assert invoke(*words).exit_code == 0
        cells, values = exported(root / "Logs", "dynamics", cases.RUN)
        assert [row["_step"] for row in values] == list(range(50))
        assert [float(row[LOSS]) for row in cells[:20]] == tables["dynamics"][0][LOSS][:20].tolist()
        assert [float(row[LOSS]) for row in cells[20:]] == tables["dynamics"][1][LOSS].tolist()
        assert len(exported(root / "Logs", "latent_actions", cases.RUN)[0]) == 12
    for file in (root / "Logs").glob("*_latest.*"):
        file.unlink()
    assert invoke(root, "--stage", "dynamics", "--format", "json", "--out", tmp_path / "out").exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        f"dynamics_history_{cases.RUN}_latest.json"
    ]
    assert not list((root / "Logs").glob("*_latest.*"))


def wandb_run(root: Path, directory: str, name: str, first: int, rows: int) -> Path:
    path = root / "wandb" / directory / f"run-{directory[-4:]}.wandb"
    path.parent.mkdir(parents=True)
    records = [wandb_log.run(1, directory[-4:], name, {})]
    records += [wandb_log.history(2, step, {LOSS: float(step)}) for step in range(first, first + rows)]
    path.write_bytes(wandb_log.log_of(records))
    return path


def test_offline_and_online_directories_of_a_tinyworlds_run_are_found(tmp_path: Path, here: Path) -> None:
    root = cases.healthy(tmp_path / "run")
    wandb_run(root, "offline-run-20260101_000000-old0", "dynamics_before", 0, 5)
    wandb_run(root, "offline-run-20260102_040000-aaaa", "dynamics_1", 0, 30)
    wandb_run(root, "run-20260102_050000-bbbb", "dynamics_2", 20, 20)  # resumed at 20
    wandb_run(root, "run-20260102_033000-cccc", "video_tokenizer", 0, 9)
    (root / "wandb" / "latest-run").symlink_to("run-20260102_050000-bbbb")
    assert invoke(root / "results" / cases.RUN_NAME).exit_code == 0
    _, values = exported(here / "Logs", "dynamics", "bbbb")
    assert [row["_step"] for row in values] == list(range(40))
    assert len(exported(here / "Logs", "video_tokenizer", "cccc")[1]) == 9
    assert len(list((here / "Logs").iterdir())) == 4
    for path in (root / "wandb", root / "wandb" / "run-20260102_050000-bbbb"):
        shutil.rmtree(here / "Logs")
        assert invoke(path).exit_code == 0
        assert exported(here / "Logs", "dynamics", "bbbb")[1][-1]["_step"] == 39


def test_a_damaged_file_is_exported_up_to_the_damage_which_is_told(tmp_path: Path, here: Path) -> None:
    whole = (FIXTURES / "wandb_0.31.wandb").read_bytes()
    broken = tmp_path / "run.wandb"
    broken.write_bytes(whole[:20_000])
    found = invoke(broken)
    assert found.exit_code == 0
    assert "ends inside the record at byte" in found.stderr
    assert "the rows before it are exported" in found.stderr
    assert 10 < len(next((here / "Logs").glob("*.csv")).read_text().splitlines()) < 60


def test_a_file_that_says_nothing_does_not_keep_the_others_from_being_exported(
    tmp_path: Path, here: Path
) -> None:
    wandb_run(tmp_path, "offline-run-20260102_040000-aaaa", "dynamics_1", 0, 30)
    wandb_run(tmp_path, "offline-run-20260102_050000-bbbb", "dynamics_2", 0, 0)
    wandb_run(tmp_path, "offline-run-20260102_060000-cccc", "unnamed", 0, 5)
    found = invoke(tmp_path)
    assert found.exit_code == 0
    assert len(exported(here / "Logs", "dynamics", "aaaa")[1]) == 30
    told = found.stderr.splitlines()
    assert len(told) == 2
    assert "run-bbbb.wandb: the history has no rows" in told[0]
    assert "run-cccc.wandb: of which stage?" in told[1]


def test_a_run_id_names_no_directory(tmp_path: Path, here: Path) -> None:
    path = tmp_path / "run.wandb"
    rows = [wandb_log.run(1, "../../out", "dynamics", {}), wandb_log.history(2, 0, {LOSS: 1.0})]
    path.write_bytes(wandb_log.log_of(rows))
    assert invoke(path).exit_code == 0
    assert len(exported(here / "Logs", "dynamics", "out")[1]) == 1


def test_values_as_only_a_foreign_run_logs_them_are_exported(tmp_path: Path, here: Path) -> None:
    path = tmp_path / "run.wandb"
    odd = {LOSS: 2.0, "text": "a\rb\nc\ud800", "many": [{"x": math.nan}]}
    rows = [wandb_log.history(2, 0, {LOSS: 1.0}), wandb_log.history(3, 1, odd)]
    rows.append(wandb_log.history(4, 2, {LOSS: 3.0}).replace(b"\x82\x01\x012", b"\x82\x01\x019"))
    path.write_bytes(wandb_log.log_of([wandb_log.run(1, "abcd", "dynamics", {}), *rows]))
    assert invoke(path).exit_code == 0
    values = exported(here / "Logs", "dynamics", "abcd")[1]
    assert (values[1]["text"], values[1]["many"]) == (odd["text"], [{"x": "NaN"}])
    back = list(csv_rows(here / "Logs" / "dynamics_history_abcd_latest.csv"))
    assert [row["_step"] for row in back] == [0, 1, 9]
    assert back[1]["text"] == "a\rb\nc\\ud800"


def test_a_step_beyond_all_numbers_is_no_step() -> None:
    assert number({"_step": 10**400}, "_step") is None
    assert number({"_step": 10}, "_step") == 10


def test_a_csv_can_be_exported_too_and_a_torn_last_row_is_left_out(tmp_path: Path, here: Path) -> None:
    path = cases.write_csv(tmp_path / "dynamics.csv", table(0, 10, 6))
    with path.open("a") as stream:
        stream.write("10,0.")
    assert invoke(path).exit_code == 0
    assert len(exported(here / "Logs", "dynamics", "dynamics")[1]) == 10


def test_what_cannot_be_exported_is_an_error_that_says_why(tmp_path: Path) -> None:
    other = tmp_path / "history.json"
    other.write_text("[]")
    unnamed = tmp_path / "unnamed.wandb"
    unnamed.write_bytes(wandb_log.log_of([wandb_log.history(1, 0, {LOSS: 1.0})]))
    (tmp_path / "file").write_text("")
    for words, message in (
        ([tmp_path / "nowhere"], "no such file or directory, and it is no run id"),
        ([cases.RUN], "no bundle of it"),
        ([], "no bundle of it"),
        ([other], r".wandb and .csv files can be exported"),
        ([tmp_path / "here"], "no history of any stage"),
        ([unnamed], "of which stage? Name this file alone, with --stage"),
        ([unnamed, "--stage", "dynamics", "--out", tmp_path / "file"], "file"),
    ):
        found = invoke(*words)
        assert found.exit_code != 0
        assert message in str(found.exception)
    assert invoke(unnamed, "--stage", "dynamics").exit_code == 0


@pytest.mark.parametrize("words", [["history", "export", "x"], ["watch", "--path", "x"]])
def test_without_numpy_the_package_to_install_is_named(words: list[str]) -> None:
    code = "import sys; sys.modules['numpy'] = None; from services.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (
        2, "worldloop: numpy is missing: pip install 'worldloop[monitor]'\n",
    )  # fmt: skip


# --- writing ----------------------------------------------------------------------------------------------


def test_rows_are_written_one_at_a_time_and_an_old_export_stands_until_the_new_one_is_whole(
    here: Path,
) -> None:
    path = here / "x.csv"
    path.write_text("old")
    seen: list[tuple[str, bool]] = []

    def rows() -> Any:
        for step in range(3):
            temporary = [each for each in here.iterdir() if each != path]
            seen.append((path.read_text(), bool(temporary)))
            yield {"_step": step, "a": step / 2}

    assert write_exports(rows, {"csv": path}) == 3
    assert seen == [("old", False)] * 3 + [("old", True)] * 3
    assert path.read_text() == "_step,a\n0,0.0\n1,0.5\n2,1.0\n"
    assert list(here.iterdir()) == [path]


def test_a_disk_that_refuses_leaves_nothing_behind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = here / "x.json"

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_exports(lambda: iter([{"_step": 1}]), {"json": path})
    assert list(here.iterdir()) == []


def test_no_rows_are_an_empty_list_and_a_header(tmp_path: Path) -> None:
    write_exports(lambda: iter(()), {"csv": tmp_path / "x.csv", "json": tmp_path / "x.json"})
    assert (tmp_path / "x.csv").read_text() == "_step\n"
    assert json.loads((tmp_path / "x.json").read_text()) == []


def test_numbers_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    row = {"_step": 1, "a": math.nan, "b": -math.inf, "c": [1.0, math.inf], "d": None, "e": True}
    write_exports(lambda: iter([row]), {"csv": tmp_path / "x.csv", "json": tmp_path / "x.json"})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == [
        {"_step": 1, "a": "NaN", "b": "-Infinity", "c": [1.0, "Infinity"], "d": None, "e": True}
    ]
    (back,) = csv_rows(tmp_path / "x.csv")
    assert str(back["a"]) == "nan"
    assert (back["_step"], back["b"], back["e"], "d" in back) == (1, -math.inf, "true", False)
