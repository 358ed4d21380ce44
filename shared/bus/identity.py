"""Who a process is to the NATS server: its nkey, its private inbox, and whom it trusts over TLS.

A key file `<user>.nk` holds one nkey seed; its stem is the user's name. Made by `worldloop keys init`.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError

_USER = re.compile(r"[a-z][a-z0-9_-]*")
SEED = re.compile(r"SU[A-Z2-7]{56}")
_MAKE = "Make keys with `worldloop keys init`, and see docs/security.md"


@dataclass(frozen=True, slots=True)
class Identity:
    """How to get in."""

    user: str | None = None
    """Name of the key's owner; none is a server that asks for no key."""
    key: Path | None = None
    """The file the seed is from."""
    seed: str | None = field(default=None, repr=False)
    ca: Path | None = None
    """Certificates of those who may vouch for the server; none: the system's."""

    @classmethod
    def read(cls, key: Path | None, ca: Path | None) -> Identity:
        """What WORLDLOOP_NATS_KEY and WORLDLOOP_NATS_CA name.

        Raises:
            ConfigurationError: A file is missing or not what it is to be; the seed is never told.
        """
        if ca is not None:
            _trust(ca)
        if key is None:
            return cls(ca=ca)
        seed = _text(key, "WORLDLOOP_NATS_KEY").strip()
        if not _USER.fullmatch(key.stem):
            problem = f"{key.stem!r} is no user's name, which a key file's stem is"
            raise ConfigurationError(
                str(key), "", problem, "Call it as `worldloop keys init` did, e.g. operator.nk"
            )
        if not SEED.fullmatch(seed):
            raise ConfigurationError(
                str(key), "", "holds no nkey seed of a user (SU and 56 characters)", _MAKE
            )
        return cls(key.stem, key, seed, ca)

    def options(self, url: str) -> dict[str, Any]:
        """What nats-py's `connect` needs of it."""
        found: dict[str, Any] = {}
        if self.user is not None:
            found |= {"nkeys_seed_str": self.seed, "inbox_prefix": inbox_prefix(self.user)}
        if self.ca is not None:
            found["tls"] = _trust(self.ca)
        if url.startswith("tls://"):  # the handshake comes first: nobody on the way can talk us out of it
            found |= {"tls_handshake_first": True, "tls": found.get("tls") or ssl.create_default_context()}
        return found


def inbox_prefix(user: str) -> str:
    """Where a user's answers arrive; the server lets nobody else listen there."""
    return f"_INBOX_{user}"


def shown(url: str) -> str:
    """An address for people and logs: without a password that may be in it."""
    return ",".join(re.sub(r"(?s)^([a-z]+://)?.*@", r"\1", part) for part in url.split(","))


def _trust(ca: Path) -> ssl.SSLContext:
    _text(ca, "WORLDLOOP_NATS_CA")
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError as error:
        raise ConfigurationError(
            str(ca), "", f"holds no certificates in PEM form ({error.reason})", _MAKE
        ) from error


def _text(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        problem = f"cannot be read ({error.strerror}), as {setting} asks"
        raise ConfigurationError(str(path), "", problem, _MAKE) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(str(path), "", "is no text", _MAKE) from error
