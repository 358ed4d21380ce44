"""Output roots, run ids, and what a RUN argument means."""

from __future__ import annotations

import itertools
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.commands import places
from shared.errors import BundleError

SHIPPED = Path(__file__).parents[3] / "configs"


def test_the_output_root_comes_from_flag_environment_file_and_default_in_that_order(place: Path) -> None:
    environ = {"WORLDLOOP_OUTPUT_ROOT": "/env"}
    assert places.output_root(Path("/flag"), "/file", environ) == Path("/flag")
    assert places.output_root(None, "/file", environ) == Path("/env")
    assert places.output_root(None, "/file", {}) == Path("/file")
    assert places.output_root(None, None, {}) == place / "runs"


def test_a_bundle_root_of_the_environment_is_the_bundle_itself() -> None:
    assert places.bundle_of("20260102_030405", Path("/runs"), {}) == Path("/runs/20260102_030405")
    assert places.bundle_of("20260102_030405", Path("/runs"), {"RUN_BUNDLE_ROOT": "/here"}) == Path("/here")


def test_run_ids_of_one_second_are_numbered() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert list(itertools.islice(places.run_ids(now), 3)) == [
        "20260102_030405",
        "20260102_030405_2",
        "20260102_030405_3",
    ]
    assert places.run_name(now, "pong") == "2026_01_02_03_04_05_pong"


def test_bundles_are_listed_by_age_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("20260102_030405_10", "20260102_030405_2", "20260102_030405", "20260101_235959", "data"):
        (tmp_path / name).mkdir()
    assert [run.run_id for run in places.bundles(tmp_path)] == [
        "20260101_235959",
        "20260102_030405",
        "20260102_030405_2",
        "20260102_030405_10",
    ]


def test_a_run_is_named_by_id_or_by_path(tmp_path: Path) -> None:
    bundle = tmp_path / "20260102_030405"
    bundle.mkdir()
    assert places.find_run("20260102_030405", tmp_path) == places.RunRef("20260102_030405", bundle)
    assert places.find_run("20260102_030406", tmp_path) == places.RunRef("20260102_030406", None)
    assert places.find_run(str(bundle), Path("/elsewhere")) == places.RunRef("20260102_030405", bundle)
    with pytest.raises(BundleError, match="neither a run id"):
        places.find_run("yesterday", tmp_path)


def test_commands_look_where_training_yaml_puts_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SHIPPED, place / "configs")
    assert places.root(None) == place / "runs"
    training = place / "configs" / "training.yaml"
    training.write_text(training.read_text().replace("output_root: null", "output_root: elsewhere"))
    assert places.root(None) == place / "elsewhere"
    monkeypatch.setenv("WORLDLOOP_OUTPUT_ROOT", str(place / "named"))
    assert places.root(None) == place / "named"
    assert places.root(Path("given")) == place / "given"


def test_the_files_of_a_tinyworlds_checkout_are_not_asked(place: Path) -> None:
    (place / "configs").mkdir()
    (place / "configs" / "training.yaml").write_text("output_root: theirs\n")
    assert places.root(None) == place / "runs"
