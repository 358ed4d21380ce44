"""`--json` on every command that reads: one document on stdout and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from services import cli
from shared.errors import WorldloopError

Invoke = Callable[..., Result]

READS = (
    *("status", "watch", "events", "replay", "policy show", "diagnose", "gate", "infer", "play", "schema"),
    *("doctor", "data inspect", "checkpoints list", "checkpoints validate", "bundle list", "bundle verify"),
    *("monitor gpus", "notify show", "history export", "report all", "report loop", "report inference"),
    *("report retrospective", "report wandb", "report compare", "report git"),
)
"""What tells something; reports and exports are written, and told of."""
ACTS = (
    *("up", "down", "train", "pause", "resume", "stop", "retune", "data download", "data models"),
    *("data ingest", "data record", "checkpoints merge", "bundle move", "bundle prune", "notify test"),
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


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "show"),
        ("schema",),
        ("schema", "chunk_done"),
        ("schema", "page"),
        ("notify", "show"),
        ("bundle", "list"),
        ("monitor", "gpus"),
    ],
)
def test_stdout_is_one_json_document(worldloop: Invoke, place: Path, words: tuple[str, ...]) -> None:
    json.loads(worldloop(*words, "--json").stdout)
