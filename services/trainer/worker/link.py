"""A host's first rank and its trainer: when the connection is lost the trainer has died, and the rank ends.

Plans and reports are rank 0's alone; the first ranks of other hosts only live and die by theirs.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable

from services.trainer.wire import CONTROL, ORDER, Exit, Hello, Order, Report, Run, Stop, line

LOST = 3
"""Exit code of a rank whose trainer has died; the ranks that wait for it fail in their next collective."""


class Link:
    """Plans come in, reports go out.

    A thread reads, so that a stop is known at once and the trainer's death ends the process even inside a
    long computation.

    Args:
        connection: To the trainer.
        lost: Called when it is lost; by default the process ends at once.
    """

    def __init__(
        self, connection: socket.socket, *, lost: Callable[[], None] = lambda: os._exit(LOST)
    ) -> None:
        self._connection, self._lost = connection, lost
        self._orders: queue.SimpleQueue[Run | Exit] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._read, daemon=True, name="link").start()

    @classmethod
    def connect(cls) -> Link:
        """Connect to the trainer that launched this process, as the environment says."""
        port, _, token = os.environ[CONTROL].partition(":")
        connection = socket.create_connection(("127.0.0.1", int(port)))
        # the last reports of a chunk follow each other closely: none waits for the one before to be acked
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = cls(connection)
        link.send(Hello(token=token))
        return link

    def next_run(self) -> Run | None:
        """Wait for the next plan; none when there will be no more."""
        order = self._orders.get()
        return order if isinstance(order, Run) else None

    @property
    def stop_asked(self) -> bool:
        """Whether the trainer wants the current chunk to end."""
        return self._stop.is_set()

    def send(self, report: Report) -> None:
        """Tell the trainer."""
        try:
            self._connection.sendall(line(report))
        except OSError:
            self._lost()

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for text in lines:
                    self._take(ORDER.validate_json(text))
        except OSError:
            pass  # the same as the end of the stream
        finally:
            self._lost()

    def _take(self, order: Order) -> None:
        if isinstance(order, Stop):
            self._stop.set()
        else:
            self._stop.clear()
            self._orders.put(order)
