"""Which action is in force: what a player holds down, or what was tapped since the last frame. Pure."""

from __future__ import annotations

from collections import deque

WAITING = 4
"""Taps that wait for a frame, at most; what was tapped longer ago has lost its meaning."""


class Controls:
    """One player's input, as it becomes one action code per frame.

    A tap shorter than a frame still acts on one frame.

    Args:
        idle: The code while nothing is held.
    """

    def __init__(self, idle: int) -> None:
        self._idle = idle
        self._held: int | None = None
        self._taps: deque[int] = deque(maxlen=WAITING)

    def press(self, code: int) -> None:
        """The player holds an action down from now on."""
        self._held = code
        self._taps.append(code)

    def release(self) -> None:
        """The player holds nothing any more."""
        self._held = None

    def take(self) -> int:
        """The action of the next frame."""
        if self._taps:
            return self._taps.popleft()
        return self._idle if self._held is None else self._held
