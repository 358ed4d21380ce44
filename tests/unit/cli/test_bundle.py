"""bundle list, verify, move and prune on the command line."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from services.bundles import move, prune
from services.bundles.journal import Places
from services.commands import bundle as command
from shared.bundle import Bundle
from shared.bus.memory import Broker, MemoryBus
from shared.errors import BundleError, UsageError
from shared.events import OperatorRequested
from tests.unit.bundles.conftest import RUN_NAME, write_checkpoint, write_run
from tests.unit.bundles.test_prune import Disk
from tests.unit.gatekeeper.story import RUN_ID, Outcome, Story

Invoke = Callable[..., Result]


@pytest.fixture
def bundle(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that passed, with a checkpoint that nobody needs."""
    root = write_run(place / "runs" / RUN_ID, Story())
    write_checkpoint(Bundle(root, RUN_NAME).checkpoint("dynamics", 2))
    monkeypatch.setattr(prune, "_inspect", lambda _, found: Disk(root, set()).look(found))
    return root


def running(story: Story) -> Story:
    story.outcomes = {("video_tokenizer", 1): Outcome(in_work=True)}
    return story.play()


def queued(story: Story) -> Story:
    story.ahead = ["20260101_000000"]
    return story.play()


def paused(story: Story) -> Story:
    return story.start().pause().play()


def test_the_list_says_how_far_each_run_came(bundle: Path, place: Path, worldloop: Invoke) -> None:
    write_run(place / "runs" / f"{RUN_ID}_2", running(Story(run_id=f"{RUN_ID}_2")))
    (place / "runs" / f"{RUN_ID}_3").mkdir()
    first, second, third = json.loads(worldloop("bundle", "list", "--json").stdout)
    assert (first["status"], first["complete"], first["running"]) == ("passed", True, False)
    assert first["stages"]["dynamics"] == {"step": 20, "target": 20, "completed": True}
    assert first["newest_checkpoint"] == f"results/{RUN_NAME}/dynamics/checkpoints/dynamics_step_19"
    assert first["size_bytes"] > 7 * 3 * 2000
    assert (second["status"], second["complete"], second["running"]) == ("running", False, True)
    assert third["status"] is None
    assert "cannot be read" in third["problem"]
    shown = worldloop("bundle", "list").stdout
    assert all(text in shown for text in (RUN_ID, "passed, complete", "dynamics 20/20 done", "unreadable"))


def test_without_its_reports_a_run_is_not_complete(bundle: Path, worldloop: Invoke) -> None:
    (bundle / "docs" / "action" / "loop.md").unlink()
    (row,) = json.loads(worldloop("bundle", "list", "--json").stdout)
    assert (row["status"], row["complete"]) == ("passed", False)


def test_verify_says_what_is_wrong_and_seals_only_what_is_right(bundle: Path, worldloop: Invoke) -> None:
    assert worldloop("bundle", "verify", RUN_ID).exit_code == 0
    (bundle / "docs" / "action" / "loop.md").unlink()
    result = worldloop("bundle", "verify", "--seal")
    assert result.exit_code == 1
    assert "docs/action/loop.md: is missing" in result.stdout
    assert "not sealed" in result.stdout
    found = json.loads(worldloop("bundle", "verify", str(bundle), "--json").stdout)
    assert not found["ok"]
    assert [fault["path"] for fault in found["faults"]] == ["docs/action/loop.md"]
    (bundle / "docs" / "action" / "loop.md").write_text("# again")
    assert json.loads(worldloop("bundle", "verify", "--seal", "--json").stdout)["sealed"]
    assert "came later" in worldloop("bundle", "verify").stdout


@pytest.mark.parametrize("state", [running, queued, paused])
@pytest.mark.parametrize("words", [("move", RUN_ID, "elsewhere"), ("prune", RUN_ID, "--yes")])
def test_a_run_that_goes_on_is_left_alone(
    place: Path, worldloop: Invoke, state: Callable[[Story], Story], words: tuple[str, ...]
) -> None:
    root = write_run(place / "runs" / RUN_ID, state(Story()))
    before = sorted(root.rglob("*"))
    result = worldloop("bundle", *words)
    assert isinstance(result.exception, UsageError)
    assert f"{RUN_ID} is {state.__name__}" in str(result.exception)
    assert f"worldloop stop {RUN_ID}" in str(result.exception)
    assert sorted(root.rglob("*")) == before


def test_the_server_may_know_that_a_run_goes_on(bundle: Path, server: Broker, worldloop: Invoke) -> None:
    async def resumed() -> None:
        story = Story()
        story.spec = story.spec.model_copy(update={"bundle": str(bundle)})
        bus = MemoryBus("gatekeeper", broker=server)
        for record in story.play().log:
            await bus.publish(record.message)
        await bus.publish(OperatorRequested(run_id=RUN_ID, request="resume_run", request_id="again"))

    asyncio.run(resumed())
    (row,) = json.loads(worldloop("bundle", "list", "--json").stdout)
    assert row["running"]
    result = worldloop("bundle", "move", RUN_ID, "elsewhere")
    assert isinstance(result.exception, UsageError)
    assert "says the server" in str(result.exception)


def test_a_move_goes_into_a_directory_that_is_there_or_takes_the_name(
    bundle: Path, place: Path, worldloop: Invoke
) -> None:
    (place / "archive").mkdir()
    result = worldloop("bundle", "move", RUN_ID, "archive")
    assert result.exit_code == 0
    assert "renamed to" in result.stdout
    assert not bundle.exists()
    assert worldloop("bundle", "verify", f"archive/{RUN_ID}").exit_code == 0
    assert worldloop("bundle", "move", f"archive/{RUN_ID}", "new/place").exit_code == 0
    assert worldloop("bundle", "verify", "new/place").exit_code == 0
    assert len(list((place / "new" / "place" / "docs" / "action").glob("asset-move-report-*"))) == 2


@pytest.mark.parametrize("to", ["archive", "new/place"])
def test_a_move_that_was_cut_goes_on_with_the_same_words(
    bundle: Path, place: Path, worldloop: Invoke, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    (place / "archive").mkdir()

    def dies(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(move._Move, "_rename", lambda *_: False)
        patch.setattr(move, "remove", dies)
        assert worldloop("bundle", "move", RUN_ID, to).exit_code == 130
    assert not bundle.exists()
    assert Places(bundle, place).aside.exists()
    result = worldloop("bundle", "move", RUN_ID, to)
    assert result.exit_code == 0, result.exception
    assert not Places(bundle, place).aside.exists()
    target = place / to if to != "archive" else place / to / RUN_ID
    assert worldloop("bundle", "verify", str(target)).exit_code == 0
    assert isinstance(worldloop("bundle", "move", RUN_ID, to).exception, BundleError)


def test_a_prune_says_what_it_frees_and_asks(bundle: Path, worldloop: Invoke) -> None:
    useless = Bundle(bundle, RUN_NAME).checkpoint("dynamics", 2)
    dry = worldloop("bundle", "prune", RUN_ID, "--keep-last", "1", "--dry-run")
    assert dry.exit_code == 0
    assert "dynamics_step_1  (older than the newest 1, nothing refers to it)" in dry.stdout
    asked = worldloop("bundle", "prune", RUN_ID, "--keep-last", "1")
    assert asked.exit_code == 2
    assert "say --yes" in asked.stderr
    assert useless.exists()
    told = json.loads(worldloop("bundle", "prune", RUN_ID, "--keep-last", "1", "--yes", "--json").stdout)
    assert told["deleted"]
    assert [each["path"].rpartition("/")[2] for each in told["removals"]] == ["dynamics_step_1"]
    assert told["frees_bytes"] >= 6000
    assert not useless.exists()
    assert worldloop("bundle", "verify", RUN_ID).exit_code == 0
    assert worldloop("bundle", "prune", RUN_ID).exit_code == 0


@pytest.mark.parametrize("answer", [True, False])
def test_at_a_terminal_the_answer_counts(
    bundle: Path, worldloop: Invoke, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    monkeypatch.setattr(command, "at_terminal", lambda: True)
    monkeypatch.setattr(command.typer, "confirm", lambda _: answer)
    assert worldloop("bundle", "prune", RUN_ID, "--keep-last", "1").exit_code == 0
    assert Bundle(bundle, RUN_NAME).checkpoint("dynamics", 2).exists() is not answer


def test_what_is_no_bundle_is_refused(place: Path, worldloop: Invoke) -> None:
    (place / "empty").mkdir()
    for words in (("verify", "empty"), ("move", "empty", "other"), ("prune", "empty"), ("move", RUN_ID, "x")):
        assert isinstance(worldloop("bundle", *words).exception, BundleError), words
    shutil.rmtree(place / "empty")
    assert "no bundles under" in worldloop("bundle", "list").stdout
