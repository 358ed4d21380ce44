"""Arguments of any kind, for every command: an answer or a sentence on stderr, and a known exit code.

Each example has a directory of its own with a run, a recording, a history, links to nowhere and outside.
The stack is never started, and no command goes on for ever.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st

from services import cli, stack
from services.commands import connection
from shared.bus.jetstream import JetStreamBus
from shared.errors import BusError
from tests.fuzz.commands import answered
from tests.fuzz.effort import tries
from tests.fuzz.subjects import FIXTURES, HISTORY
from tests.unit.bundles.conftest import write_run
from tests.unit.gatekeeper.story import RUN_ID, Story

thoroughly = tries(2)
ALWAYS = {"watch": ("--once",), "play": ("--check",)}
"""What keeps a command from going on for ever."""
NAMES = (
    RUN_ID,
    f"runs/{RUN_ID}",
    "runs",
    "history.csv",
    "pong_frames.h5",
    "loop",
    "outside",
    "empty",
    "nowhere",
)
ODD = (
    "",
    " ",
    ".",
    "..",
    "../..",
    "a" * 5_000,
    "\n",
    "\udcff",
    "~nosuchuser/x",
    "/dev/null",
    "/dev/null/x",
)
WORDS = (
    *("--", "-", "-h", "--help", "--json", "--no-such", "=", "=1", "a=", "a=b=c", "learning_rate=1e-3"),
    *("learning_rate=nan", "a=[" * 400, "a=&a [*a]", "policy.x=1", "demo", "dynamics", "all", "true", "2025"),
    *("nats://127.0.0.1:9", "nats://[", "http://x", "tls://127.0.0.1:9", "file:x", "1e400", "-1", "9" * 400),
)


def commands(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, with its words."""
    if not hasattr(found, "commands"):
        yield path, found
    for name, each in getattr(found, "commands", {}).items():
        yield from commands(each, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(cli.app)))
del COMMANDS["doctor",]  # takes no arguments to speak of, and seconds
plain = st.text(st.characters(exclude_characters="/~\\\0", exclude_categories=()), max_size=6)
values = st.sampled_from(NAMES) | st.sampled_from(ODD) | st.sampled_from(WORDS) | plain
numbers = st.integers(-2, 3).map(str) | st.floats().map(str)


def invocations(words: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """A command with flags of its own, and values that may be good or not."""
    flags = [each for each in COMMANDS[words].params if each.opts[0].startswith("-")]

    def given_as(flag: Any) -> st.SearchStrategy[list[str]]:
        if getattr(flag, "is_flag", False):
            return st.just([flag.opts[0]])
        return (values | numbers).map(lambda value: [flag.opts[0], value])

    pieces = (values | st.just(RUN_ID)).map(lambda word: [word])
    if flags:
        pieces |= st.integers(0, len(flags) - 1).flatmap(lambda at: given_as(flags[at]))
    return st.lists(pieces, max_size=5).map(
        lambda found: [*words, *ALWAYS.get(words[0], ()), *(word for piece in found for word in piece)]
    )


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack is started, no server waited for, no machine asked but this one."""

    def no_stack(*_: Any, **__: Any) -> Any:
        raise BusError("no stack in this test")

    async def opened(found: connection.Server, **_: Any) -> JetStreamBus:
        return await JetStreamBus.connect(found.url, wait_sec=0.01, key=found.key, ca=found.ca)

    monkeypatch.setattr(stack, "up", no_stack)
    monkeypatch.setattr(connection, "_open", opened)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """What each example begins with."""
    made = tmp_path / "made"
    write_run(made / "runs" / RUN_ID, Story().play())
    (made / "empty").mkdir()
    (made / "loop").symlink_to("loop")
    (made / "outside").symlink_to("/proc")
    shutil.copyfile(HISTORY, made / "history.csv")
    shutil.copyfile(FIXTURES / "pong_frames.h5", made / "pong_frames.h5")
    return made


def test_a_command_answers_or_says_why_not(
    tmp_path: Path, world: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = psutil.Process().children()

    @thoroughly
    @example(["data", "inspect", ""])
    @given(st.sampled_from(sorted(COMMANDS)).flatmap(invocations))
    def one(arguments: list[str]) -> None:
        place = Path(tempfile.mkdtemp(dir=tmp_path)) / "a" / "b" / "c"
        shutil.copytree(world, place, symlinks=True)
        monkeypatch.chdir(place)
        monkeypatch.setenv("HOME", str(place))
        answered(arguments)

    one()
    assert psutil.Process().children() == before
