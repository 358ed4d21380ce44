"""One host's part of a launch, without torch: `python tiny_node.py NODE_RANK HOST:PORT ENTRY`.

Only what the trainers see is real: the two parts make each step together over a connection at the endpoint,
and a part that loses it says what gloo says. A file `NodeFault` in the bundle has node 1 fail by itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

from services.trainer.wire import Ready
from services.trainer.worker.link import Link
from tests.integration.tiny_worker import train

FAULT = "NodeFault"
OVER = b"x"
PEER_GONE = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"


class Peer(socket.socket):
    """The connection to the other part."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As gloo reads: the end of the connection is an error."""
        data = super().recv(size, flags)
        if not data:
            raise ConnectionResetError
        return data


def main() -> None:
    """Meet the other part, then train or follow."""
    rank, (host, _, port) = int(sys.argv[1]), sys.argv[2].rpartition(":")
    link = Link.connect()
    with contextlib.suppress(OSError):
        with met(rank, (host, int(port))) as met_here:
            peer = Peer(fileno=met_here.detach())
        link.send(Ready(pids=[os.getpid()]))
        if rank:
            answer(peer)
            return
        while (run := link.next_run()) is not None:
            train(run, link, peer)
        peer.sendall(OVER)
        return
    sys.exit(PEER_GONE)


def met(rank: int, endpoint: tuple[str, int]) -> socket.socket:
    if rank == 0:
        with socket.create_server(endpoint) as server:
            return server.accept()[0]
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(endpoint)
        time.sleep(0.02)


def answer(peer: socket.socket) -> None:
    """Do node 1's part of each step."""
    fault = Path(os.environ["RUN_BUNDLE_ROOT"]) / FAULT
    while (step := peer.recv(1)) != OVER:
        if fault.exists():
            sys.exit("worldloop: this host has no recording")
        peer.sendall(step)


if __name__ == "__main__":
    main()
