"""W&B's API, with the real `wandb.Api` against a server of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from services.reporter.wandb import api
from services.reporter.wandb.foreign import histories
from services.reporter.wandb_analysis import write_wandb
from shared.bundle import Bundle
from shared.errors import WorldloopError
from tests.unit.reporter.wandb_bundle import logged, request, went_to
from tests.unit.reporter.wandb_server import KEY, WandbServer, serving

if TYPE_CHECKING:
    from tests.unit.reporter.conftest import Log


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server, and an environment in which it is W&B."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("WANDB_ENTITY", "WANDB_PROJECT", "NETRC", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving(WandbServer()) as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running
    assert list(home.rglob("*")) == []


def rows(count: int, loss: float = 2.0) -> list[dict[str, Any]]:
    return [{"_step": step, "train/loss": loss, "_runtime": step / 10} for step in range(count)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_comes_page_by_page_and_each_run_says_what_is_wrong_with_it(
    server: WandbServer, tmp_path: Path
) -> None:
    server.runs = {
        "good": {"config": {"n_actions": 8}, "summary": {"best": 0.5}, "rows": rows(2500)},
        "bad": {"rows": [], "fails": True},
    }
    api.fetch({"good": "team/pong/good", "bad": "pong/bad", "none": "pong/none"}, tmp_path / "got")
    head, *found = lines(tmp_path / "got" / "good.jsonl")
    assert found == rows(2500)
    assert len(server.pages) == 3
    assert (head["config"], head["summary"], head["state"]) == ({"n_actions": 8}, {"best": 0.5}, "finished")
    assert head["url"].endswith("/team/pong/runs/good")
    missing, refused = (api.problem_of(tmp_path / "got" / f"{run}.jsonl") for run in ("none", "bad"))
    assert missing is not None
    assert "Could not find run" in missing
    assert refused is not None
    assert "no permission for ***" in refused
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "got").iterdir())


def test_whoever_is_silent_is_given_up_and_no_process_stays(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "python"
    silent.write_text(f"#!/bin/sh\nsleep 600 &\ntouch {tmp_path}/begun\nwait\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    api.fetch({"slow": "pong/slow"}, tmp_path, api.Limits(silence=0.5))
    assert (tmp_path / "begun").exists()
    assert api.problem_of(tmp_path / "slow.jsonl") == "W&B was silent for 0.5 s"
    assert [each for each in psutil.process_iter() if _asks_for_us(each)] == []


def test_the_process_that_asks_and_its_helper_end_when_whoever_started_it_is_gone(
    server: WandbServer, tmp_path: Path
) -> None:
    server.runs = {"slow": {"rows": rows(50), "hangs": True}}
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({"folder": str(tmp_path), "timeout": 20, "runs": {"slow": "pong/slow"}}))
    command = [sys.executable, "-m", "services.reporter.wandb.fetch", str(asked)]
    environment = os.environ | dict.fromkeys((*api.PLACES, "TMPDIR"), str(tmp_path))
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=api.ROOT, env=environment) as process:
        until(lambda: "HistoryPage slow" in server.asked)
        assert process.stdin is not None
        process.stdin.close()  # as the system does when its owner is killed
        assert process.wait(timeout=60) == 1
    until(lambda: not [each for each in psutil.process_iter() if _asks_for_us(each)])


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _asks_for_us(process: psutil.Process) -> bool:
    try:
        return process.pid != psutil.Process().pid and process.environ().get("WANDB_API_KEY") == KEY
    except psutil.Error:
        return False


def test_without_a_key_nobody_is_asked(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    api.fetch({"a": "pong/a"}, tmp_path / "got")
    assert api.problem_of(tmp_path / "got" / "a.jsonl") == f"there is no API key: {api.CURE}"
    assert server.asked == []


def test_a_process_that_cannot_ask_is_told_with_its_last_words(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\necho no wandb here, {KEY} >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    api.fetch({"a": "pong/a"}, tmp_path)
    said = api.problem_of(tmp_path / "a.jsonl")
    assert said == "the process that asks W&B ended with exit code 3: no wandb here, ***"


def test_a_report_takes_rows_configuration_and_summary_from_the_api_and_is_rebuilt_without_it(
    server: WandbServer, log: Log, bundle: Bundle
) -> None:
    log.begin().chunk(1, 0, 30)
    went_to(log, 1, "aaaa", logged(bundle, "aaaa", range(30), offline=False))
    server.runs = {"aaaa": {"config": {"n_actions": 8}, "summary": {"best": 0.25}, "rows": rows(30, 7.0)}}
    path = bundle.root / write_wandb(request(log), "api_only")
    found = json.loads(path.with_suffix(".json").read_text())["stages"]["dynamics"]
    assert (found["source"], found["rows"], found["config"]) == ("api", 30, {"n_actions": 8})
    assert (found["metrics"]["train/loss"]["final"], found["summary"]["best"]) == (7.0, 0.25)
    assert found["runs"][0].endswith("/me/pong/runs/aaaa")
    first = path.read_bytes()
    server.runs = {}
    write_wandb(request(log, again=True), "api_only")
    assert path.read_bytes() == first


class Answers:
    """What the API gives, without asking it: rows of each run, none for one that it lacks."""

    def __init__(self, **rows_of: list[dict[str, Any]] | None) -> None:
        self.rows_of, self.asked = rows_of, list[str]()

    def fetch(self, runs: Mapping[str, str], folder: Path, _: api.Limits) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for run, path in runs.items():
            self.asked.append(path)
            head: dict[str, Any] = {"url": path, "state": "finished", "config": {}, "summary": {}}
            found = self.rows_of[run]
            told = [{"problem": f"Could not find run {path}"}] if found is None else [head, *found]
            (folder / f"{run}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in told))


def test_a_run_that_the_api_lacks_is_read_from_its_file_and_the_report_says_why_again_and_again(
    log: Log, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(aaaa=None)
    monkeypatch.setattr(api, "fetch", answers.fetch)
    log.begin().chunk(1, 0, 30)
    place = logged(bundle, "aaaa", range(30))
    (bundle.root / place / "run-aaaa.wandb.synced").touch()
    went_to(log, 1, "aaaa", place)
    path = bundle.root / write_wandb(request(log))
    first = path.read_text()
    assert "W&B run aaaa: Could not find run" in first
    write_wandb(request(log, again=True))
    assert path.read_text() == first
    assert answers.asked == ["pong/aaaa"]
    with pytest.raises(WorldloopError, match="Could not find run"):
        write_wandb(request(log, again=True), "api_only")


def test_a_foreign_run_is_asked_for_where_its_file_says_it_is(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(aaaa=rows(12))
    monkeypatch.setattr(api, "fetch", answers.fetch)
    file = bundle.root / logged(bundle, "aaaa", range(5), offline=False) / "run-aaaa.wandb"
    (found,) = histories({"dynamics": [file]}, "api_first")
    assert (found.source, len(found.counted), found.files) == ("api", 12, [])
    assert answers.asked == ["pong/aaaa"]
    (local,) = histories({"dynamics": [file]}, "local_only")
    assert (local.source, len(local.counted), local.files) == ("local", 5, [str(file)])
