"""Who plays while a game is recorded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shared.datasets.policies import Chosen, choose
from shared.errors import DatasetError

IMAGE = np.zeros((4, 4, 3), np.uint8)


def chosen(name: str, *, actions: int = 4, steps: int = 5, new_action: float = 0.25) -> Chosen:
    return choose(name, actions=actions, steps=steps, new_action=new_action)


def played(policy: Chosen, count: int, *, seed: int = 0) -> list[int]:
    chance = np.random.default_rng(seed)
    return [policy.play(IMAGE, 4, chance) for _ in range(count)]


def changes(actions: list[int]) -> int:
    return sum(a != b for a, b in pairwise(actions))


def test_random_play_takes_all_actions_and_sticky_play_holds_them() -> None:
    free, sticky = played(chosen("random"), 400), played(chosen("sticky-random"), 400)
    assert set(free) == set(sticky) == {0, 1, 2, 3}
    assert changes(free) > 2 * changes(sticky)
    assert played(chosen("random"), 400) == free
    assert changes(played(chosen("sticky-random", new_action=0.0), 50)) == 0


def test_a_file_of_actions_is_played_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_text("0 1 2\n3\n\n1\n")
    policy = chosen(str(path))
    assert played(policy, 5) == [0, 1, 2, 3, 1]
    assert policy.about["policy"] == "file plan.txt"
    assert len(str(policy.about["policy_sha256"])) == 64
    with pytest.raises(DatasetError, match="holds 5 actions"):
        played(policy, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 1 2\n4 0", r"plan\.txt, line 2: '4' is no action\. Write whole numbers 0\.\.3"),
        ("9" * 5000, "is no action"),
        ("0 -1 2 3 1", r"line 1: '-1' is no action"),
        ("up down", "'up' is no action"),
        ("0 1 2", "holds 3 actions, but at least 5 steps are to be played"),
        ("", "holds 0 actions"),
        ("\x80", "cannot be read as a file of actions"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=says):
        chosen(str(path))


FUNCTIONS = """
def third(image, count, chance):
    return 3 if image.mean() == 0 else 0

def drawn(image, count, chance):
    return chance.integers(count)

def beyond(image, count, chance):
    return count

def broken(image, count, chance):
    raise LookupError("no idea")

number = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_policies.py").write_text(FUNCTIONS)
    (tmp_path / "faulty_policies.py").write_text("1 / 0")
    (tmp_path / "ending_policies.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("module")
def test_a_function_of_a_module_here_plays() -> None:
    assert played(chosen("my_policies:third"), 3) == [3, 3, 3]
    assert set(played(chosen("my_policies:drawn"), 50)) == {0, 1, 2, 3}
    assert chosen("my_policies:third").about == {"policy": "my_policies:third"}


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:play", "module 'no_such_module' cannot be imported, ModuleNotFoundError"),
        ("faulty_policies:play", "module 'faulty_policies' cannot be imported, ZeroDivisionError"),
        ("ending_policies:play", "module 'ending_policies' cannot be imported, SystemExit"),
        ("my_policies:play", "my_policies has no function 'play'"),
        ("my_policies:number", "my_policies has no function 'number'"),
        ("my_policies:beyond", r"returned 4\. Return a whole number 0\.\.3"),
        ("my_policies:broken", "raised LookupError: no idea"),
        ("clever", r"clever: no such policy and no such file\. Name random, sticky-random, a file"),
    ],
)
def test_what_cannot_play_is_refused_by_name(name: str, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        played(chosen(name), 1)
