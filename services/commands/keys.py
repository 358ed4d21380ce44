"""`worldloop keys`: make, show and renew what lets processes into the NATS server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import platformdirs

from services.commands.terminal.output import say, say_json
from services.keys import directory as keys
from services.keys.permissions import OBSERVER, OPERATOR, USERS
from shared.errors import ConfigurationError, UsageError

SOON = timedelta(days=30)
"""A certificate that ends within this is told of."""


def default_directory() -> Path:
    """Where keys lie unless a flag says otherwise."""
    return platformdirs.user_config_path("worldloop", appauthor=False) / "keys"


def init(directory: Path | None, hosts: Sequence[str]) -> int:
    """Make what is missing, and say what to do with it.

    Raises:
        UsageError: A host that is none, or certificates that are there for other hosts.
        ConfigurationError: The directory cannot be written, or a key in it cannot be read.
    """
    place = (directory or default_directory()).absolute()
    keys.check_hosts(hosts)
    try:
        new = keys.make_users(place)
        certificates = keys.make_certificates(place, hosts, datetime.now(UTC))
    except OSError as error:
        cure = "Give a directory that can be written with --dir"
        raise ConfigurationError(str(place), "", f"cannot be written ({error})", cure) from error
    made = [*(f"{user}.nk" for user in new), *([keys.CA, keys.SERVER] if certificates else [])]
    say(f"made in {place}: {', '.join(made)}" if made else f"nothing to make: {place} has it all")
    say(
        f"server: include {keys.AUTH} and use {keys.SERVER}, {keys.SERVER_KEY} (docs/security.md)\n"
        f"clients: WORLDLOOP_NATS_URL=tls://HOST:4222 WORLDLOOP_NATS_CA={place / keys.CA} "
        f"WORLDLOOP_NATS_KEY={keys.key_of(place, OPERATOR)}  (a service: its own .nk; tools: {OBSERVER}.nk)"
    )
    return 0


def show(directory: Path | None, *, as_json: bool) -> int:
    """Print users with their public keys, and the certificates; of seeds nothing.

    Raises:
        UsageError: There are no keys.
        ConfigurationError: One cannot be read.
    """
    from services.keys.certificates import Certificate

    place = (directory or default_directory()).absolute()
    present = [user for user in USERS if keys.key_of(place, user).exists()]
    if not present:
        raise UsageError(f"no keys in {place}: `worldloop keys init` makes them")
    problems = [f"{user}.nk is missing" for user in USERS if user not in present]
    problems += [f"{path} can be read by others: chmod 600" for path in _open(place)]
    found: dict[str, Any] = {"directory": str(place)}
    found["users"] = {user: keys.public_key(place, user) for user in present}
    for name in (keys.CA, keys.SERVER):
        if not (path := place / name).exists():
            continue
        certificate = Certificate.read(path)
        until, found[name] = certificate.until, {"valid_until": certificate.until.isoformat()}
        if name == keys.SERVER:
            found[name]["hosts"] = list(certificate.hosts)
        if until < datetime.now(UTC) + SOON:
            problems.append(f"{name} is valid until {until:%Y-%m-%d} only: `worldloop keys renew`")
    found["problems"] = problems
    if as_json:
        say_json(json.dumps(found, indent=2))
    else:
        say(_text(found))
    return 1 if problems else 0


def renew(directory: Path | None, hosts: Sequence[str]) -> int:
    """Make a new server certificate, and say what to do with it.

    Raises:
        UsageError: A host that is none.
        ConfigurationError: There is no authority to make it with.
    """
    place = (directory or default_directory()).absolute()
    keys.check_hosts(hosts)
    names = keys.renew(place, hosts, datetime.now(UTC))
    say(f"{place / keys.SERVER} is new, for {', '.join(names)}; make nats-server load it: SIGHUP")
    return 0


def _open(place: Path) -> list[Path]:
    """Secret files that more than their owner can read."""
    if os.name != "posix":
        return []
    secret = [*place.glob("*.nk"), place / keys.CA_KEY, place / keys.SERVER_KEY]
    return [path for path in secret if path.exists() and path.stat().st_mode & 0o077]


def _text(found: dict[str, Any]) -> str:
    lines = [found["directory"], *(f"  {user:<11} {key}" for user, key in found["users"].items())]
    for name in (keys.CA, keys.SERVER):
        if name in found:
            hosts = ", ".join(found[name].get("hosts", ()))
            lines.append(f"  {name:<11} until {found[name]['valid_until'][:10]}  {hosts}".rstrip())
    return "\n".join([*lines, *found["problems"]])
