"""One player: what they asked for, where their world is, and what waits to be sent to them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from services.inference.play.controls import Controls
from services.inference.play.engine import State
from services.inference.play.movie import Movie

MOST_MAIL = 16
"""Messages that may wait for a player; one who leaves more lying is not there any more."""


class Session:
    """A player's session. The event loop alone calls its methods; `state` and `movie` are the decoder's.

    Args:
        controls: Their input.
        start: First of their seed frames.
        now: When they came, on the event loop's clock.
    """

    def __init__(self, controls: Controls, start: int, now: float) -> None:
        self.controls, self.start, self.heard = controls, start, now
        self.restart = True
        """The next frame is the seed frame."""
        self.recording = False
        """The player wants what comes to be recorded; the decoder clears it when a recording ends."""
        self.over = False
        """Nothing more is sent once the mail is empty."""
        self.number = 0
        """Of the next frame."""
        self.send_sec = 0.0
        """What handing the last frame to the socket took."""
        self.state: State | None = None
        self.movie: Movie | None = None
        self._mail: deque[str | bytes] = deque()
        self._frame: bytes | None = None
        self._wake = asyncio.Event()

    def tell(self, message: dict[str, Any] | bytes) -> None:
        """Send something that must arrive: a JSON object, or a binary message."""
        if len(self._mail) >= MOST_MAIL:
            self._mail.clear()
            self.over = True
        if self.over:
            return
        self._mail.append(message if isinstance(message, bytes) else json.dumps(message))
        self._wake.set()

    def show(self, frame: bytes) -> None:
        """Send a frame; one that still waits is dropped, so that a slow line shows what is now."""
        self._frame = frame
        self._wake.set()

    def end(self, reason: str, text: str) -> None:
        """End the session and tell the player why."""
        self.tell({"type": "ended", "reason": reason, "text": text})
        self.over = True

    async def outbox(self) -> AsyncIterator[str | bytes]:
        """What is to be sent, as it comes, until the session is over."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._mail:
                yield self._mail.popleft()
            if self.over:
                return
            if self._frame is not None:
                frame, self._frame = self._frame, None
                yield frame
