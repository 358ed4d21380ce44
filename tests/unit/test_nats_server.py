"""The port of the embedded server: the same again, unless somebody else has it."""

from __future__ import annotations

import socket
from pathlib import Path

from services import nats_server


def test_the_port_of_the_last_time_is_found_again_unless_somebody_listens_there(tmp_path: Path) -> None:
    assert nats_server.last_port(tmp_path) is None
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        nats_server.configure(tmp_path, port)
        assert nats_server.last_port(tmp_path) is None
    assert nats_server.last_port(tmp_path) == port
