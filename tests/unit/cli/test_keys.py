"""Keys are made once, kept by their owner alone, and renewed without touching the clients."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nkeys import from_seed
from typer.testing import Result

from services.keys import certificates, permissions, server_file
from services.keys import directory as keys
from services.keys.permissions import USERS
from shared.errors import ConfigurationError, UsageError

Invoke = Callable[..., Result]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(worldloop: Invoke, tmp_path: Path) -> Path:
    place = tmp_path / "keys"
    worldloop("keys", "init", "--dir", str(place), "--host", "nats", "--host", "192.0.2.7")
    return place


def test_init_makes_a_key_for_every_user_that_only_its_owner_can_read(made: Path) -> None:
    assert {path.stem for path in made.glob("*.nk")} == set(USERS)
    assert made.stat().st_mode & 0o777 == 0o700
    secret = [*made.glob("*.nk"), made / keys.CA_KEY, made / keys.SERVER_KEY]
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    seeds = {path.read_text() for path in made.glob("*.nk")}
    assert len(seeds) == len(USERS)


def test_the_servers_file_holds_public_keys_and_no_secret(made: Path) -> None:
    text = (made / keys.AUTH).read_text()
    for user in USERS:
        seed = keys.key_of(made, user).read_text().strip()
        assert seed not in text
        assert from_seed(bytearray(seed.encode())).public_key.decode() in text
    assert "DELETE" not in text
    assert "PURGE" not in text


def test_init_again_changes_nothing_and_replaces_what_was_taken_away(worldloop: Invoke, made: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    assert "nothing to make" in worldloop("keys", "init", "--dir", str(made), "--host", "nats").stdout
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    keys.key_of(made, "monitor").unlink()
    assert "monitor.nk" in worldloop("keys", "init", "--dir", str(made)).stdout
    changed = {path.name for path in made.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"monitor.nk", keys.AUTH}


def test_the_certificate_is_for_the_hosts_and_the_loopback_and_is_renewed_for_others(
    worldloop: Invoke, made: Path
) -> None:
    names = ("localhost", "127.0.0.1", "::1", "nats", "192.0.2.7")
    assert certificates.Certificate.read(made / keys.SERVER).hosts == names
    other = worldloop("keys", "init", "--dir", str(made), "--host", "elsewhere").exception
    assert isinstance(other, UsageError)
    assert f"keys renew --dir {made} --host nats --host 192.0.2.7 --host elsewhere`" in str(other)
    authority = (made / keys.CA).read_bytes()
    worldloop("keys", "renew", "--dir", str(made), "--host", "elsewhere")
    assert certificates.Certificate.read(made / keys.SERVER).hosts == (*certificates.ALWAYS, "elsewhere")
    assert (made / keys.CA).read_bytes() == authority
    ssl.create_default_context().load_cert_chain(made / keys.SERVER, made / keys.SERVER_KEY)


def test_a_host_may_be_written_in_other_ways(worldloop: Invoke, tmp_path: Path) -> None:
    again = ("keys", "init", "--dir", str(tmp_path), "--host", "Nats.Example.org", "--host", "2001:DB8:0::1")
    assert worldloop(*again).exit_code == 0
    assert worldloop(*again).exit_code == 0


def test_show_names_users_ends_and_problems_and_no_seed(
    worldloop: Invoke, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = worldloop("keys", "show", "--dir", str(made))
    assert shown.exit_code == 0
    assert "observer" in shown.stdout
    keys.key_of(made, "operator").chmod(0o644)
    keys.key_of(made, "trainer").unlink()
    keys.renew(made, (), NOW - timedelta(days=certificates.SERVER_DAYS))
    shown = worldloop("keys", "show", "--dir", str(made), "--json")
    assert shown.exit_code == 1
    for problem in (
        "operator.nk can be read by others",
        "trainer.nk is missing",
        "server.pem is valid until",
    ):
        assert problem in shown.stdout
    assert not any(path.read_text().strip() in shown.stdout for path in made.glob("*.nk"))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda place: keys.key_of(place, "monitor").write_text("SUNK"), ConfigurationError, "no nkey seed"),
        (lambda place: (place / keys.SERVER_KEY).unlink(), UsageError, "not the rest"),
    ],
)
def test_what_is_broken_is_named_and_never_shown(
    worldloop: Invoke, made: Path, change: Any, error: type[Exception], text: str
) -> None:
    change(made)
    failed = worldloop("keys", "init", "--dir", str(made)).exception
    assert isinstance(failed, error)
    assert text in str(failed)
    assert "SUNK" not in str(failed)


def test_without_the_authoritys_key_nothing_is_renewed(worldloop: Invoke, made: Path) -> None:
    (made / keys.CA_KEY).unlink()
    before = (made / keys.SERVER).read_bytes()
    assert isinstance(worldloop("keys", "renew", "--dir", str(made)).exception, ConfigurationError)
    assert (made / keys.SERVER).read_bytes() == before


@pytest.mark.parametrize("host", ["a b", "nats;rm", "-x", "../x", 'n"', ""])
def test_a_host_that_is_none_is_refused(worldloop: Invoke, tmp_path: Path, host: str) -> None:
    failed = worldloop("keys", "init", "--dir", str(tmp_path), f"--host={host}").exception
    assert isinstance(failed, UsageError)
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_users_is_the_same_for_the_same_keys() -> None:
    public = {user: f"U{user.upper()}" for user in USERS}
    assert server_file.text(public) == server_file.text(public)
    for user in USERS:
        allowed = permissions.of(user).publish
        assert len(set(allowed)) == len(allowed)
        assert not [subject for subject in allowed if subject in (">", "$JS.>", "$JS.API.>", "worldloop.>")]
