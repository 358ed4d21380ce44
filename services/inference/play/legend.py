"""What the keys do: which action code each stands for, and what the recording tells about each code. Pure.

Shapes: N transitions of the recording, C action codes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Key = Literal["up", "left", "right", "down", "space"]
KEYS: tuple[Key, ...] = get_args(Key)
WORDS: dict[Key, str] = {
    "up": "UP|FORWARD",
    "left": "LEFT",
    "right": "RIGHT",
    "down": "DOWN|BACKWARD",
    "space": "FIRE|ATTACK|SHOOT|JUMP",
}
"""What the names of true actions say when they are a key's."""
TELLING = 0.1
"""How much more often than usual a code must go with a key's true actions to stand for that key."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Code:
    """One latent action."""

    code: int
    key: Key | None
    """Key that stands for it."""
    learned: bool
    """The recording's true actions say so; otherwise the key is only a way to reach the code."""
    share: float
    """Of the recording's transitions, 0..1."""
    change: float
    """Mean change of a pixel value in such a transition, 0..255."""


@dataclass(frozen=True, slots=True)
class Legend:
    """All codes, and the one in force while no key is held."""

    codes: tuple[Code, ...]
    idle: int


def read_legend(
    codes: Indices,
    change: npt.NDArray[np.float64],
    total: int,
    actions: Indices | None = None,
    names: Sequence[str] = (),
) -> Legend:
    """Find out what the codes are good for.

    With true actions, a key gets the code that goes with its actions more often than usual by the largest
    margin. Idle is the commonest code of those without a key. The others go to the keys that are left, the
    code that changes the picture most to the first.

    Args:
        codes: Inferred action of some transitions, [N].
        change: Mean change of a pixel value in them, [N].
        total: C.
        actions: True actions of the same transitions, [N], where the recording has them.
        names: Names of the true actions.
    """
    counts = np.bincount(codes, minlength=total)
    share = counts / max(len(codes), 1)
    moved = np.bincount(codes, change, minlength=total) / np.maximum(counts, 1)
    learned = {} if actions is None else _learned(codes, share, actions, names)
    free = [code for code in range(total) if code not in learned.values()]
    idle = max(free, key=lambda code: share[code]) if free else int(share.argmax())
    rest = sorted(
        (code for code in free if code != idle), key=lambda code: (counts[code] == 0, -moved[code], code)
    )
    keys: dict[Key, int] = (
        dict(zip((key for key in KEYS if key not in learned), rest, strict=False)) | learned
    )
    key_of = {code: key for key, code in keys.items()}
    return Legend(
        tuple(
            Code(code, key_of.get(code), code in learned.values(), float(share[code]), float(moved[code]))
            for code in range(total)
        ),
        idle,
    )


def _learned(
    codes: Indices, share: npt.NDArray[np.float64], actions: Indices, names: Sequence[str]
) -> dict[Key, int]:
    """The codes that go with the true actions of a key, each at most once, the clearest first."""
    margins: list[tuple[float, Key, int]] = []
    for key, words in WORDS.items():
        numbers = [number for number, name in enumerate(names) if re.search(words, name.upper())]
        with_key = codes[np.isin(actions, numbers)]
        if len(with_key):
            given = np.bincount(with_key, minlength=len(share)) / len(with_key)
            margins += [(float(margin), key, code) for code, margin in enumerate(given - share)]
    found: dict[Key, int] = {}
    for margin, key, code in sorted(margins, reverse=True):
        if margin >= TELLING and key not in found and code not in found.values():
            found[key] = code
    return found
