"""`--json` on every command that reads: one document on stdout and nothing else there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from services import cli
from shared.bundle import Bundle
from shared.errors import WorldloopError
from tests.unit.bundles.conftest import RUN_NAME, write_run
from tests.unit.gatekeeper.story import RUN_ID, Story

Invoke = Callable[..., Result]

ROOT = Path(__file__).parents[3]
HISTORY = ROOT / "tests" / "fixtures" / "histories" / "first_dynamics.csv"
SECOND = f"{RUN_ID}_2"

READS = (
    *("status", "watch", "events", "replay", "policy show", "diagnose", "gate", "infer", "play", "schema"),
    *("doctor", "data inspect", "checkpoints list", "checkpoints validate", "bundle list", "bundle verify"),
    *("monitor gpus", "notify show", "history export", "report all", "report loop", "report inference"),
    *("report retrospective", "report wandb", "report compare", "report git", "keys show"),
)
"""What tells something; reports and exports are written, and told of."""
ACTS = (
    *("up", "down", "train", "pause", "resume", "stop", "retune", "data download", "data models"),
    *("data ingest", "data record", "checkpoints merge", "bundle move", "bundle prune", "notify test"),
    *("keys init", "keys renew"),
)
MISSING: dict[str, tuple[str, ...]] = {
    "status": ("20200101_000000",),
    "watch": ("--path", "nowhere"),
    "events": ("20200101_000000",),
    "replay": ("nowhere",),
    "policy show": ("--profile", "nowhere"),
    "diagnose": ("nowhere",),
    "gate": ("nowhere.csv",),
    "infer": ("nowhere",),
    "play": ("--check", "20200101_000000"),
    "schema": ("nowhere",),
    "data inspect": ("nowhere.h5",),
    "checkpoints list": ("nowhere",),
    "checkpoints validate": ("nowhere",),
    "bundle verify": ("nowhere",),
    "keys show": ("--dir", "nowhere"),
    "history export": ("nowhere",),
    "report all": ("nowhere",),
    "report loop": ("nowhere",),
    "report inference": ("nowhere",),
    "report retrospective": ("nowhere",),
    "report wandb": ("nowhere",),
    "report compare": ("nowhere", "elsewhere"),
    "report git": ("nowhere",),
}
"""What each command says no to: a place that is not there."""


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command of the tree, by its words."""
    command = command if command is not None else typer.main.get_command(cli.app)
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from commands(child, (*path, name))
        else:
            yield " ".join((*path, name)), child


def test_every_command_is_known_to_read_or_to_act() -> None:
    assert sorted((*READS, *ACTS)) == sorted(name for name, _ in commands())


@pytest.mark.parametrize("name", READS)
def test_a_command_that_reads_has_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in dict(commands())[name].params)


@pytest.mark.parametrize("name", MISSING)
def test_an_error_leaves_stdout_empty_and_has_the_code_of_bad_input(
    worldloop: Invoke, place: Path, name: str
) -> None:
    result = worldloop(*name.split(), *MISSING[name], "--json")
    said = result.exception
    code = said.exit_code if isinstance(said, WorldloopError) else result.exit_code
    assert code == (3 if name == "diagnose" else 2), result.output
    if name != "play":  # its checklist is the answer, also where there is nothing to play
        assert result.stdout == ""


CALLED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("status", "watch", "events", "replay", "history export"), (RUN_ID,)),
    **dict.fromkeys(("checkpoints list", "checkpoints validate", "bundle verify"), (RUN_ID,)),
    **dict.fromkeys(("report all", "report loop", "report inference", "report retrospective"), (RUN_ID,)),
    **dict.fromkeys(("report wandb", "report git"), (RUN_ID,)),
    **dict.fromkeys(("policy show", "doctor", "schema", "bundle list", "monitor gpus", "notify show"), ()),
    "diagnose": (f"runs/{RUN_ID}",),
    "keys show": ("--dir", "keys"),
    "gate": ("history.csv", "--stage", "dynamics"),
    "play": ("--check", RUN_ID),
    "data inspect": ("pong_frames.h5",),
    "report compare": (RUN_ID, SECOND),
}
"""How each command is called where there are two runs, a recording and a history."""
CALLED_ELSEWHERE = {"infer": "tests/e2e/test_governance.py"}
"""What needs a model that was trained."""


def test_every_command_that_reads_is_called() -> None:
    assert sorted((*CALLED, *CALLED_ELSEWHERE)) == sorted(READS)
    for name, file in CALLED_ELSEWHERE.items():
        assert re.search(rf'json\.loads\(worldloop\("{name}",.*"--json"\)', (ROOT / file).read_text())


@pytest.fixture
def runs(place: Path, dataset: Path) -> None:
    """Two runs that passed, one with a history; a history for itself; a recording."""
    shutil.copy(HISTORY, place / "history.csv")
    for run_id in (RUN_ID, SECOND):
        write_run(place / "runs" / run_id, Story(run_id=run_id))
    history = Bundle(place / "runs" / RUN_ID, RUN_NAME).history("dynamics", 1)
    shutil.copy(HISTORY, history)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("name", CALLED)
def test_stdout_is_one_json_document(worldloop: Invoke, name: str) -> None:
    if name == "keys show":
        worldloop("keys", "init", "--dir", "keys")
    result = worldloop(*name.split(), *CALLED[name], "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    bad = 3 if name == "diagnose" else 2
    assert result.exit_code < bad, result.output  # 1: the answer is no, and JSON too
    documents = result.stdout.splitlines() if name == "events" else [result.stdout]  # of these one a line
    assert all(isinstance(json.loads(each), dict | list) for each in documents)
    assert documents


@pytest.mark.parametrize("words", [("chunk_done",), ("page",), ("command.trainer.start",)])
def test_a_schema_is_one_json_document(worldloop: Invoke, words: tuple[str, ...]) -> None:
    assert json.loads(worldloop("schema", *words, "--json").stdout)["properties"]
