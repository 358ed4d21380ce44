"""An event loop whose time is not the world's: it jumps to the next timer whenever nobody has anything to do.

A minute of waiting costs nothing, and the same program runs the same way each time: threads are none, what is
given to one is done at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class AtOnce(ThreadPoolExecutor):
    """Does what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future


TICK_SEC = 1e-6
"""Looking at the clock takes time, too: who waits until it has moved on must not wait for ever."""


class _Selector(selectors.DefaultSelector):
    """Never waits: what would have been waited for has passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits, for nothing that will ever come"
        self.passed += max(timeout, TICK_SEC)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)
        self.set_default_executor(AtOnce())

    def time(self) -> float:
        return self._waits.passed
