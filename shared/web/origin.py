"""Who may talk to the server: pages that it served itself, under a name that is its own. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Container
from urllib.parse import urlsplit


def host_allowed(host: str | None, names: Container[str]) -> bool:
    """Whether a Host header names this server.

    A foreign page can have its own name resolve to this machine (DNS rebinding) and would then be of the same
    origin as this server; so a name counts only if it is ours. An address cannot be rebound.

    Args:
        host: `name[:port]`; the port is the forwarding's business.
        names: Lower-case names of this machine, besides `localhost`.
    """
    name = _name(host)
    return name is not None and (name == "localhost" or name in names or _is_address(name))


def origin_allowed(origin: str | None, host: str | None, names: Container[str]) -> bool:
    """Whether a WebSocket is opened by a page of this server: its Origin is where it was sent to."""
    if origin is None or host is None or not host_allowed(host, names):
        return False
    scheme, _, name = origin.lower().partition("://")
    return scheme in ("http", "https") and name == host.lower()


def _name(host: str | None) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
