"""Where a web server of ours listens, what its address is called, and by which names it may be asked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from shared.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what to recognize, not what to listen on
STALLED_SEC = 20
"""A client that takes nothing for so long is cut off: a line that broke, a page that does not read."""


def listen(host: str, ports: Iterable[int], *, cure: str) -> socket.socket:
    """A listening socket on the first of the ports that is free.

    Args:
        host: Address or name of an interface.
        ports: To try, in order; 0 takes any free one.
        cure: What to do when none can be had, a sentence's beginning without its full stop.

    Raises:
        UsageError: None is free, or the host is none of this machine's.
    """
    problem = OSError("no port to try")
    port = 0
    for port in ports:
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as error:
            problem = error
            if error.errno != errno.EADDRINUSE:
                break
        else:
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # whoever connects inherits it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * STALLED_SEC)
            return listener
    raise UsageError(
        f"cannot listen on {host} port {port} ({problem.strerror or problem}). {cure}"
    ) from problem


def address(listener: socket.socket) -> str:
    """The URL of a listening socket, as a browser on this machine or one that knows its name can open it."""
    host, port = listener.getsockname()[:2]
    if host in EVERYWHERE:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def own_names(host: str) -> set[str]:
    """What this machine may be called in a browser, where others can reach it."""
    if host in LOOPBACK:
        return set()
    return {name.lower() for name in (host, socket.gethostname(), socket.getfqdn())}
