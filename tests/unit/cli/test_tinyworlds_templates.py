"""docs/tinyworlds.md: every row of its table is a command line that works, with the documents' own flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click import Command
from rich.console import Console
from typer.main import get_command
from typer.testing import Result

from services import cli
from services.commands.training import train
from services.commands.training.options import FLAGS, paths
from services.reporter.core.page.fold import PageFold
from shared.bus.memory import Broker
from shared.bus.protocol import Bus
from shared.events import STAGES, OperatorCommand, RunSpec, Stage, StartRun
from tests.standins import checkouts
from tests.unit.cli.standin import checkout
from tests.unit.cli.test_given import save

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "tinyworlds.md"
RUN_NAME = "2026_01_01_00_00_00_pong"
LOOPS = ("auto_train_loop.py", "train_to_inference_loop.py")
GIVEN: dict[str, Stage] = {
    "video_checkpoint": "video_tokenizer",
    "latent_checkpoint": "latent_actions",
    "dynamics_checkpoint": "dynamics",
}
PLACES = ("python_exec", "torchrun", "dataset")
"""Flags that name a file, which the spec knows by its absolute path."""
Invoke = Callable[..., Result]


def rows() -> list[tuple[str, str]]:
    """The table: the documents' command, and ours."""
    lines = DOCUMENT.read_text().split("| the documents say | worldloop |")[1].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [(theirs, ours.strip("`")) for theirs, ours in cells]


ROWS = rows()
TRAIN = [row for row in ROWS if row[1].startswith("worldloop train ")]
OTHERS = [row[1] for row in ROWS if row not in TRAIN]
COMMANDS = get_command(cli.app)


def flags(words: list[str]) -> dict[str, str | None]:
    """Flag -> value, as both sides write them."""
    found: dict[str, str | None] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and len(word) > 2:
            found[word] = None if following.startswith("--") else following
    return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with data, two GPUs and a run of its own. No command writes into it."""
    root = checkout(tmp_path_factory.mktemp("templates") / "tinyworlds", gpus=2)
    (root / "data" / "zelda_frames.h5").symlink_to(checkouts.FRAMES)
    for stage in STAGES:
        save(root.parent, stage, run=root.name, hidden_dim=24, context_length=4)
    return root


@pytest.fixture
def theirs(repository: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """We are in the checkout, and runs go elsewhere."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("WORLDLOOP_OUTPUT_ROOT", str(place / "runs"))
    return repository


@pytest.fixture
def asked(server: Broker, monkeypatch: pytest.MonkeyPatch) -> list[OperatorCommand]:
    """What `train` asks for, in place of a run that follows."""
    sent: list[OperatorCommand] = []

    async def ask(_: Bus, command: OperatorCommand, __: Console) -> tuple[PageFold, bool]:
        sent.append(command)
        return PageFold(command.run_id), True

    monkeypatch.setattr(train, "ask_and_follow", ask)
    return sent


def filled(command: str) -> list[str]:
    """A command with the placeholders' places taken by what is there."""
    names = {"<RUN_BUNDLE_ROOT>": ".", "<run>": RUN_NAME}
    for stage, short in zip(STAGES, ("video", "latent", "dynamics"), strict=True):
        names[f"<{short}_ckpt_dir>"] = f"results/{RUN_NAME}/{stage}/checkpoints/{stage}_step_59"
    for name, value in names.items():
        command = command.replace(name, value)
    return shlex.split(command)[1:]


def test_the_table_has_the_documents_commands() -> None:
    assert len(TRAIN) >= 15
    assert len(OTHERS) >= 12
    assert {theirs.strip("`").split()[0] for theirs, _ in TRAIN} >= set(LOOPS)


@pytest.mark.parametrize(("template", "ours"), [row for row in TRAIN if row[0].strip("`").startswith(LOOPS)])
def test_a_training_loop_keeps_all_its_flags(template: str, ours: str) -> None:
    kept, wanted = flags(shlex.split(ours)), flags(shlex.split(template.strip("`")))
    assert {"--repo-root": ".", **wanted} == kept


@pytest.mark.parametrize("ours", [ours for _, ours in TRAIN])
def test_a_training_command_starts_the_run_that_it_names(
    ours: str, theirs: Path, asked: list[OperatorCommand], worldloop: Invoke
) -> None:
    before = checkouts.digest(theirs)
    result = worldloop(*filled(ours))
    assert result.exit_code == 0, result.exception
    (command,) = asked
    assert isinstance(command, StartRun)
    spec = command.spec
    assert spec.checkout is not None
    assert (spec.backend, spec.checkout.directory) == ("checkout", str(theirs))
    assert checkouts.digest(theirs) == before
    for flag, value in flags(filled(ours)).items():
        holds(spec, flag, value)


def holds(spec: RunSpec, flag: str, value: str | None) -> None:
    """Make sure that a flag stands in the spec of the run as it was given."""
    name = flag.removeprefix("--").replace("-", "_")
    if name == "only_stage":
        assert spec.stages == [value]
    if name == "train_stage":
        assert spec.stages == ([] if value == "none" else list(STAGES))
    if name in GIVEN:
        assert spec.given_steps[GIVEN[name]] == 60
    key = FLAGS[name].key if name in FLAGS else None
    if key is None or name in PLACES:
        return
    content = {**spec.configuration, "policy": spec.policy}
    for path in paths(key, spec.stages):
        found: Any = content
        for part in path:
            found = found[part]
        assert str(found).lower().removesuffix(".0") == (value or "true"), flag


@pytest.mark.parametrize("command", OTHERS)
def test_another_command_is_one_that_is_there_with_these_flags(command: str) -> None:
    words = filled(re.sub(r"<(\w+)>", r"\1", command))
    group: Any = COMMANDS
    while isinstance(getattr(group, "commands", None), dict):
        group = group.commands[words.pop(0)]
    found: Command = group
    assert found.make_context("worldloop", words).params
