"""What goes to one browser: Server-Sent Events, bounded, and a fresh page for whoever falls behind."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from services.reporter.page.headers import SAFE
from shared.web.listen import STALLED_SEC

WAITING = 64
"""Events that may wait for a browser: a quarter of a minute of the busiest run."""
KEEP_ALIVE_SEC = 5.0
"""Silence after which a comment is sent, so that a line that broke is noticed."""


def encode(event: str, data: str) -> bytes:
    """One event; the data is JSON on one line."""
    return f"event: {event}\ndata: {data}\n\n".encode()


def plain(value: Any) -> str:
    """JSON on one line, as browsers read it: a number that is not finite is null."""
    return to_json(value, inf_nan_mode="null").decode()


class Line:
    """What waits for one browser.

    Args:
        fresh: Makes the event with the whole page, for a browser that has fallen behind.
    """

    def __init__(self, fresh: Callable[[], bytes]) -> None:
        self._fresh = fresh
        self._waiting: deque[bytes] = deque()
        self._behind = False
        self._over = False
        self._something = asyncio.Event()

    def put(self, event: bytes) -> None:
        """Send an event when the browser takes it; too many make it one fresh page."""
        if not self._behind:
            self._waiting.append(event)
            if len(self._waiting) > WAITING:
                self._waiting.clear()
                self._behind = True
        self._something.set()

    def close(self) -> None:
        """End it."""
        self._over = True
        self._something.set()

    async def take(self) -> bytes | None:
        """What is to be sent next: all that waits, or a comment after a while; none when it is over."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_SEC):
                await self._something.wait()
        except TimeoutError:
            return b": here\n\n"
        self._something.clear()
        if self._over:
            return None
        if self._behind:
            self._behind = False
            return self._fresh()
        events = b"".join(self._waiting)
        self._waiting.clear()
        return events


class Stream:
    """The HTTP response that a line is: ends with it, with the browser, or when nothing is taken for long.

    Args:
        line: What to send.
        left: Told when the response is over, however that came.
    """

    def __init__(self, line: Line, left: Callable[[], None]) -> None:
        self._line, self._left = line, left

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers = SAFE | {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        gone = asyncio.create_task(_gone(receive))
        gone.add_done_callback(lambda _: self._line.close())
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
                }
            )
            while (events := await self._line.take()) is not None:
                async with asyncio.timeout(STALLED_SEC):
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return  # takes nothing: the server closes the connection of a response that is not complete
        finally:
            gone.cancel()
            self._left()


async def _gone(receive: Receive) -> None:
    """Wait until the browser is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
