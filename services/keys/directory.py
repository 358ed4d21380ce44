"""A directory of keys: what lies there, made once and never overwritten but by `renew`.

======================  ======================================================================================
`<user>.nk`             nkey seed of a user; secret, for that user's processes alone
`ca.pem`                whom clients trust
`ca-key.pem`            makes server certificates; secret, needed again only by `renew`
`server.pem`            certificate of the NATS server
`server-key.pem`        its private key; secret, for the server alone
`nats-auth.conf`        users and allow-lists, for the server; made anew from the seeds each time
======================  ======================================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from services.keys import permissions, seeds, server_file
from shared.bundle import write_atomic
from shared.errors import ConfigurationError, UsageError

AUTH = "nats-auth.conf"
CA, CA_KEY, SERVER, SERVER_KEY = "ca.pem", "ca-key.pem", "server.pem", "server-key.pem"
_HOST = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.:_-]*[A-Za-z0-9])?")


def key_of(directory: Path, user: str) -> Path:
    """Where a user's seed lies."""
    return directory / f"{user}.nk"


def make_users(directory: Path) -> list[str]:
    """Make the seeds that are missing, and the server's file of users from all of them.

    Returns:
        The users whose seed is new.

    Raises:
        ConfigurationError: A seed that is there cannot be read.
        OSError: The directory cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = [user for user in permissions.USERS if not key_of(directory, user).exists()]
    for user in new:
        _write_secret(key_of(directory, user), seeds.new_seed() + "\n")
    public = {user: public_key(directory, user) for user in permissions.USERS}
    text = server_file.text(public)
    auth = directory / AUTH
    if not auth.exists() or auth.read_text(encoding="utf-8") != text:
        write_atomic(auth, text)
    return new


def make_certificates(directory: Path, hosts: Sequence[str], now: datetime) -> bool:
    """Make the authority and the server's certificate unless they are there.

    Args:
        directory: As of `make_users`.
        hosts: Names and addresses of the server.
        now: UTC.

    Returns:
        Whether they were made.

    Raises:
        UsageError: The certificate that is there is not for all of `hosts`; only some of the files are there.
        ConfigurationError: It is no certificate.
    """
    from services.keys import certificates

    there = [name for name in (CA, SERVER, SERVER_KEY) if (directory / name).exists()]
    if len(there) == 3:
        names = certificates.Certificate.read(directory / SERVER).hosts
        if missing := [host for host in hosts if certificates.known_as(host) not in names]:
            wanted = [name for name in names if name not in certificates.ALWAYS] + missing
            raise UsageError(
                f"{directory / SERVER} is there already, but not for {', '.join(missing)}. "
                f"`worldloop keys renew --dir {directory} {' '.join(f'--host {host}' for host in wanted)}` "
                "makes a new one"
            )
        return False
    if there:
        raise UsageError(
            f"{directory} has {', '.join(there)} but not the rest: move them away, or complete them"
        )
    authority, key = certificates.new_authority(now)
    _write_secret(directory / CA_KEY, key)
    _issue(directory, authority, key, hosts, now)
    write_atomic(directory / CA, authority)
    return True


def renew(directory: Path, hosts: Sequence[str], now: datetime) -> tuple[str, ...]:
    """A new certificate for the server, from the authority that clients trust already.

    Args:
        directory: Has `ca.pem` and `ca-key.pem`.
        hosts: Names and addresses of the server; none keeps those of the old certificate.
        now: UTC.

    Returns:
        The names it is for.

    Raises:
        ConfigurationError: The authority is not there or cannot be read.
    """
    from services.keys import certificates

    old = directory / SERVER
    if not hosts and old.exists():
        hosts = certificates.Certificate.read(old).hosts
    try:
        authority, key = (directory / CA).read_bytes(), (directory / CA_KEY).read_bytes()
        _issue(directory, authority, key, hosts, now)
    except (OSError, ValueError, TypeError) as error:  # TypeError: the key asks for a password
        cure = "Run it where `worldloop keys init` made them, or make all anew in an empty directory"
        raise ConfigurationError(str(directory), "", f"no authority to renew with ({error})", cure) from error
    return certificates.Certificate.read(old).hosts


def public_key(directory: Path, user: str) -> str:
    """The public half of a user's seed.

    Raises:
        ConfigurationError: There is none, or it is not readable as one.
    """
    path = key_of(directory, user)
    try:
        return seeds.public(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        cure = "Remove it and run `worldloop keys init` again: that makes a new one"
        raise ConfigurationError(str(path), "", f"holds no nkey seed ({error})", cure) from None


def check_hosts(hosts: Sequence[str]) -> None:
    """Refuse what is no name or address.

    Raises:
        UsageError: Names the first one.
    """
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UsageError(f"--host {host!r} is neither a name nor an address")


def _issue(directory: Path, authority: bytes, key: bytes, hosts: Sequence[str], now: datetime) -> None:
    from services.keys import certificates

    certificate, server_key = certificates.new_server(authority, key, hosts, now)
    (directory / SERVER_KEY).unlink(missing_ok=True)
    _write_secret(directory / SERVER_KEY, server_key)
    write_atomic(directory / SERVER, certificate)


def _write_secret(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner reads, and that was not there."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
