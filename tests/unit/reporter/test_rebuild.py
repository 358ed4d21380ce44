"""Reports written again from a bundle: by `rebuild`, and by `worldloop report`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from services import cli
from services.reporter.core.story import Outcome, tell
from services.reporter.event_file import append_events
from services.reporter.page.static_page import write_page
from services.reporter.rebuild import rebuild
from services.reporter.reports import Written, write_reports
from shared.bundle import Bundle
from shared.errors import BundleError, UsageError
from shared.events import OperatorRequested, ReportWritten, RunFinished, RunResumed
from tests.unit.reporter.conftest import NAME, RUN, Log

OWN = ("loop", "retrospective", "inference")


@pytest.fixture(scope="module")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A run that has passed, its reports written as the reporter does."""
    bundle = Bundle(tmp_path_factory.mktemp("ended") / RUN, NAME)
    log = (
        Log(bundle)
        .begin(policy={"gatekeeper": {"required_reports": list(OWN)}})
        .chunk(1, 0, 50)
        .chunk(2, 50, 100)
    )
    log.inference()
    end(log, bundle, "passed")
    return log


@pytest.fixture
def ended(written_once: Log, bundle: Bundle) -> Log:
    """A copy of it for one test."""
    shutil.copytree(written_once.bundle.root, bundle.root)
    log = Log(bundle)
    log.records = list(written_once.records)
    return log


def end(log: Log, bundle: Bundle, status: str, ordinal: int = 1) -> None:
    story = tell(log.records)
    assert story is not None
    append_events(bundle.events, log.records)
    outcome = Outcome(status, "as it is", degraded=False)  # type: ignore[arg-type]
    for each in write_reports(bundle, story, outcome, OWN):
        event = ReportWritten(run_id=RUN, report=each.kind, path=each.path, ok=True, ordinal=ordinal)
        log.add(event, "/worldloop/reporter")
    reason: dict[str, Any] = {"degraded": False, "reason": "as it is", "ordinal": ordinal}
    log.add(RunFinished(run_id=RUN, status=status, **reason))
    bundle.events.unlink()
    append_events(bundle.events, log.records)


def test_a_run_of_another_version_has_its_reports_and_its_page(ended: Log, bundle: Bundle) -> None:
    sections = r'"(parameters|configuration|training|policy|gatekeeper)":\{(?=")'
    told = re.sub(sections, r'"\1":{"of_another_version":{},', bundle.events.read_text())
    assert told.count("of_another_version") > len(OWN)
    bundle.events.write_text(told)
    (found,) = rebuild(bundle.root)
    assert [(each.kind, each.error) for each in found.reports] == [(kind, None) for kind in (*OWN, "page")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["report", *arguments])


def test_what_was_lost_is_written_again_byte_for_byte_wherever_the_bundle_is(
    ended: Log, bundle: Bundle, tmp_path: Path
) -> None:
    write_page(bundle, ended.records)
    before = files(bundle.reports)
    assert sum(name.endswith(".png") for name in before) == 2
    moved = bundle.root.rename(tmp_path / "elsewhere")
    for path in (moved / "docs" / "action").glob("*.*"):
        path.write_text("lost")
    (found,) = rebuild(moved)
    assert [each.kind for each in found.reports] == [*OWN, "page"]
    assert files(moved / "docs" / "action") == before


def test_one_kind_alone_comes_out_the_same_with_its_links_to_the_others(ended: Log, bundle: Bundle) -> None:
    before = files(bundle.reports)
    for kind in OWN:
        rebuild(bundle.root, [kind])
        assert files(bundle.reports) == before


def test_each_ending_of_a_run_gets_its_reports(ended: Log, bundle: Bundle) -> None:
    ended.add(OperatorRequested(run_id=RUN, request="resume_run", request_id="1"))
    ended.add(RunResumed(run_id=RUN, by="operator", reason="asked"))
    ended.chunk(3, 100, 150)
    end(ended, bundle, "failed", ordinal=2)
    before = files(bundle.reports)
    found = rebuild(bundle.root)
    assert [each.outcome.status for each in found] == ["passed", "failed"]
    pages = {str(each.reports[-1].path).rpartition("/")[2] for each in found}
    assert pages == {f"run-page-{each.story.stamp}.html" for each in found}
    assert {name: data for name, data in files(bundle.reports).items() if name not in pages} == before


def test_a_run_that_goes_on_gets_reports_that_say_so(log: Log, bundle: Bundle) -> None:
    append_events(bundle.events, log.begin().chunk(1, 0, 50).records)
    (found,) = rebuild(bundle.root, ["loop"])
    text = (bundle.root / str(found.reports[0].path)).read_text()
    assert "**What happened.** The run has not ended" in text
    assert "| status | **running** |" in text


def test_a_run_that_trains_nothing_needs_no_loop_report(log: Log, bundle: Bundle) -> None:
    policy = {"gatekeeper": {"required_reports": list(OWN)}}
    append_events(bundle.events, log.begin(stages=(), policy=policy).inference().records)
    (found,) = rebuild(bundle.root)
    assert [each.kind for each in found.reports] == ["retrospective", "inference", "page"]


def test_a_bundle_without_a_run_is_refused(bundle: Bundle) -> None:
    bundle.logs.mkdir(parents=True)
    with pytest.raises(BundleError, match="cannot be read"):
        rebuild(bundle.root)
    bundle.events.write_text("")
    with pytest.raises(BundleError, match="do not say"):
        rebuild(bundle.root)


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ([], (*OWN, "page")),
        (["all"], (*OWN, "page")),
        (["loop"], ("loop",)),
        (["--kind", "loop", "--kind", "inference"], OWN[::2]),
    ],
)
def test_the_command_writes_all_or_what_is_named(
    ended: Log, bundle: Bundle, arguments: list[str], kinds: tuple[str, ...]
) -> None:
    done = run(*arguments, str(bundle.root), "--json")
    assert done.exit_code == 0, done.output
    (told,) = json.loads(done.stdout)["endings"]
    assert (told["run_id"], told["status"], told["problems"]) == (RUN, "passed", {})
    assert tuple(told["reports"]) == kinds


def test_without_a_run_the_newest_is_meant(ended: Log, bundle: Bundle) -> None:
    done = run("--output-root", str(bundle.root.parent))
    assert done.exit_code == 0, done.output
    assert re.search(rf"^{RUN} passed: as it is$", done.stdout, re.MULTILINE)


def test_a_kind_that_there_is_not_is_bad_usage(ended: Log, bundle: Bundle) -> None:
    done = run("--kind", "horoscope", str(bundle.root))
    assert isinstance(done.exception, UsageError)
    assert "horoscope" in str(done.exception)


def test_a_report_that_cannot_be_written_is_named_and_costs_no_other(ended: Log, bundle: Bundle) -> None:
    loop = next(bundle.reports.glob("auto-*.md"))
    loop.unlink()
    loop.mkdir()
    (loop / "in the way").touch()
    done = run(str(bundle.root), "--json")
    assert done.exit_code == 1
    (told,) = json.loads(done.stdout)["endings"]
    assert list(told["problems"]) == ["loop"]
    assert list(told["reports"]) == ["retrospective", "inference", "page"]


def test_a_writer_that_breaks_is_a_failed_report_and_no_traceback(
    ended: Log, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = tell(ended.records)
    assert story is not None
    monkeypatch.setattr(Bundle, "resolve", lambda *_: 1 / 0)
    outcome = Outcome("passed", "x", degraded=False)
    with capture_logs() as logs:
        (found,) = write_reports(bundle, story, outcome, ["loop"])
    assert found == Written("loop", None, "ZeroDivisionError: division by zero")
    assert [each["log_level"] for each in logs] == ["error"]
