"""Who plays while a game is recorded: chance, a file of actions, or a function of somebody's own.

A policy is asked before every step for the number of an action, `policy(image, actions, chance)`: what the
game shows (uint8 [height, width, 3]), how many actions there are, and the recording's seeded generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.datasets.imports import named_module
from shared.datasets.mapping import Frames
from shared.errors import DatasetError

Policy = Callable[[Frames, int, np.random.Generator], int]
STICKY = "sticky-random"
CHOICES = f"random, {STICKY}, a file of actions (whole numbers), or module:function"


class Chosen(NamedTuple):
    """A policy, and what its recording says about it."""

    play: Policy
    about: dict[str, str | float]


def choose(name: str, *, actions: int, steps: int, new_action: float) -> Chosen:
    """The policy of a name.

    Args:
        name: `random` (a new action before every step), `sticky-random` (one with probability `new_action`,
            else the last again), a text file with one action per step, or `module:function`, looked for
            in the current directory too.
        actions: Actions the game has.
        steps: Steps that will be asked for.
        new_action: For `sticky-random`.

    Raises:
        DatasetError: There is no such policy, or the file does not fit the game.
    """
    if name == "random":
        return Chosen(lambda _, count, chance: int(chance.integers(count)), {"policy": name})
    if name == STICKY:
        return Chosen(_sticky(new_action), {"policy": name, "new_action": new_action})
    if Path(name).is_file():
        return _from_file(Path(name), actions=actions, steps=steps)
    if ":" in name:
        return Chosen(_from_function(name), {"policy": name})
    raise DatasetError(f"{name}: no such policy and no such file. Name {CHOICES}")


def _sticky(new_action: float) -> Policy:
    held: int | None = None

    def play(_: Frames, count: int, chance: np.random.Generator) -> int:
        nonlocal held
        if held is None:
            held = int(chance.integers(count))
        if chance.random() < new_action:
            held = int(chance.integers(count))
        return held

    return play


def _from_file(path: Path, *, actions: int, steps: int) -> Chosen:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a file of actions ({error})") from error
    known = {str(action): action for action in range(actions)}
    planned = []
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.split():
            if word not in known:
                raise DatasetError(
                    f"{path}, line {number}: {word!r} is no action. Write whole numbers 0..{actions - 1}, "
                    "one per step"
                )
            planned.append(known[word])
    too_few = DatasetError(
        f"{path}: holds {len(planned)} actions, but at least {steps} steps are to be played (frames times "
        "--keep-every, and the steps that end an episode unseen). Add actions or record fewer frames"
    )
    if len(planned) < steps:
        raise too_few
    left = iter(planned)

    def play(*_: object) -> int:
        action = next(left, None)
        if action is None:
            raise too_few
        return action

    digest = hashlib.sha256(text.encode()).hexdigest()
    return Chosen(play, {"policy": f"file {path.name}", "policy_sha256": digest})


def _from_function(name: str) -> Policy:
    module_name, _, function_name = name.partition(":")
    module = named_module(module_name, wanted=name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DatasetError(f"{name}: {module_name} has no function {function_name!r}")

    def play(image: Frames, count: int, chance: np.random.Generator) -> int:
        try:
            action = function(image, count, chance)
        except Exception as error:
            raise DatasetError(f"{name}: raised {type(error).__name__}: {error}") from error
        if not isinstance(action, int | np.integer) or not 0 <= action < count:
            raise DatasetError(f"{name}: returned {action!r}. Return a whole number 0..{count - 1}")
        return int(action)

    return play
