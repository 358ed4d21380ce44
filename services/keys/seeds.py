"""nkeys: the Ed25519 key pairs by which NATS knows its users. The server gets the public half alone."""

from __future__ import annotations

import secrets

import nkeys

from shared.bus.identity import SEED


def new_seed() -> str:
    """A new user's seed, `SU...`: the secret half."""
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()


def public(seed: str) -> str:
    """The public half of a seed, `U...`.

    Raises:
        ValueError: It is none; the text does not show it.
    """
    if not SEED.fullmatch(seed.strip()):
        raise ValueError("expected SU and 56 characters")
    return bytes(nkeys.from_seed(bytearray(seed.strip().encode())).public_key).decode()
