"""What of a server's address may be shown."""

from __future__ import annotations

import pytest

from shared.bus.identity import shown


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://me:secret@host:1", "nats://host:1"),
        ("nats://me:se@cret/x://y@host", "nats://host"),
        ("me:secret@host", "host"),
        ("nats://me:secret@one,tls://token@two", "nats://one,tls://two"),
    ],
)
def test_no_password_of_an_address_is_shown(url: str, seen: str) -> None:
    assert shown(url) == seen
