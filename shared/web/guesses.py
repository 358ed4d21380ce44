"""How often an address may show a wrong token, so that nobody gets in by trying."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_WRONG = 10
"""Wrong tokens after which an address has to wait."""
WAIT_SEC = 60.0
"""How long; and how long after the first of them they are forgotten."""
MOST_PEERS = 1024
"""Addresses that are remembered; beyond, the one that was heard of first is forgotten."""

log = logging.getLogger(__name__)


class TooManyGuessesError(Exception):
    """An address has shown too many wrong tokens; the text is for whoever is there.

    Args:
        wait_sec: How long until it may show one again.
    """

    def __init__(self, wait_sec: float) -> None:
        self.wait_sec = max(1, round(wait_sec))
        super().__init__(f"too many wrong tokens came from your address: try again in {self.wait_sec} s")


@dataclass(slots=True)
class _Peer:
    until: float
    wrong: int = 0


class Guesses:
    """Counts wrong tokens by address: an IPv4 address, or the 2^64 that an IPv6 host may call its own.

    Args:
        clock: Seconds, rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def check(self, host: str) -> None:
        """Whether a host may show a token now.

        Raises:
            TooManyGuessesError: It has to wait.
        """
        peer = self._peers.get(_network(host))
        if peer is not None and peer.wrong >= MOST_WRONG and (wait := peer.until - self._clock()) > 0:
            raise TooManyGuessesError(wait)

    def wrong(self, host: str) -> None:
        """A host has shown a wrong token."""
        name, now = _network(host), self._clock()
        peer = self._peers.get(name)
        if peer is None or peer.until <= now:
            self._peers.pop(name, None)
            peer = self._peers[name] = _Peer(now + WAIT_SEC)
            if len(self._peers) > MOST_PEERS:
                self._peers.popitem(last=False)
        peer.wrong += 1
        if peer.wrong == MOST_WRONG:
            peer.until = now + WAIT_SEC
            log.warning("%d wrong tokens from %s: no more are looked at for %d s", MOST_WRONG, name, WAIT_SEC)


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a Unix socket has no address
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
