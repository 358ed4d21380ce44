"""Reports as files of a bundle: their links, plots and what is gone."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from services.reporter.core.story import Outcome, Story, tell
from services.reporter.reports import write_reports
from shared.bundle import Bundle
from tests.unit.reporter.conftest import Log

PASSED = Outcome("passed", "the inference gate passed", degraded=False)


def story(log: Log) -> Story:
    found = tell(log.records)
    assert found is not None
    return found


def links(report: Path) -> list[Path]:
    targets = re.findall(r"\]\((\.\./[^)]+)\)", report.read_text())
    return [(report.parent / unquote(target)).resolve() for target in targets]


def write(kind: str, bundle: Bundle, found: Story) -> str:
    (written,) = write_reports(bundle, found, PASSED, [kind])
    assert written.path is not None, written.error
    return written.path


def test_a_written_report_links_its_plot_and_moves_with_the_bundle(
    log: Log, bundle: Bundle, tmp_path: Path
) -> None:
    log.begin().chunk(1, 0, 50).chunk(2, 50, 100)
    path = write("loop", bundle, story(log))
    assert path == "docs/action/auto-training-loop-report-2026_01_01_00_06_00.md"
    moved = bundle.root.rename(tmp_path / "elsewhere")
    plots = [target for target in links(moved / path) if target.suffix == ".png"]
    assert [plot.name for plot in plots] == ["dynamics_loss.png"]
    assert plots[0].is_relative_to(moved.resolve())
    assert plots[0].read_bytes().startswith(b"\x89PNG")
    assert all(target.exists() for target in links(moved / path))


def test_what_is_gone_is_said_to_be_gone_instead_of_linked(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 50).inference()
    for kind, step in (("loop", 49), ("retrospective", 49), ("inference", 99)):
        text = (bundle.root / write(kind, bundle, story(log))).read_text()
        gone = f"results/{bundle.run_name}/dynamics/checkpoints/dynamics_step_{step}"
        assert f"`{gone}` (no longer there)" in text
    assert "The picture `inference_results/inference_results_gt_vs_pred_1.png` is no longer there." in text


def test_what_a_later_attempt_moved_aside_is_linked_where_it_is(log: Log, bundle: Bundle) -> None:
    gate = {"decision": "restart_stage", "verdict": "retune", "reason": "gate_fail", "resume_step": 0}
    log.begin().chunk(1, 0, 50).chunk(2, 50, 100, gate=gate | {"resume_from": None}).chunk(3, 0, 50)
    aside = bundle.superseded("dynamics", 3) / "checkpoints" / "dynamics_step_49"
    now = bundle.checkpoint("dynamics", 50)
    for directory in (aside, now):
        directory.mkdir(parents=True)
    text = (bundle.root / write("loop", bundle, story(log))).read_text()
    first, third = (re.findall(rf"^- attempt {number}, .*$", text, re.MULTILINE)[0] for number in (1, 3))
    assert bundle.relative(aside) in first
    assert bundle.relative(now) in third


def test_a_missing_history_costs_the_plot_not_the_report(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 50, rows=False)
    text = (bundle.root / write("loop", bundle, story(log))).read_text()
    assert "No plot of the loss of dynamics: " in text
    assert "attempt_0001.csv" in text


def test_one_of_two_histories_is_drawn_and_the_other_named(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 50, rows=False).chunk(2, 50, 100)
    bundle.history("dynamics", 1).write_bytes(b"\xff\x00torn")
    bundle.history("dynamics", 2).unlink()
    log.chunk(3, 100, 150)
    text = (bundle.root / write("loop", bundle, story(log))).read_text()
    assert "dynamics_loss.png)" in text
    assert "Missing in it: Logs/history/dynamics/attempt_0002.csv: No such file or directory." in text


def test_an_unknown_kind_is_refused_by_name_and_costs_no_other(log: Log, bundle: Bundle) -> None:
    found = list(write_reports(bundle, story(log.begin()), PASSED, ["horoscope", "loop"]))
    assert [each.kind for each in found] == ["loop", "horoscope"]
    assert found[0].path is not None
    assert "horoscope: no such report" in str(found[1].error)
