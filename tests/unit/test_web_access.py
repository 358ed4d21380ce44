"""Who may: by the token, or by the cookie that a browser got for it; and where the token comes from."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.web import place
from shared.web.access import SESSION_SEC, Access
from shared.web.guesses import MOST_PEERS, MOST_WRONG, WAIT_SEC, Guesses, TooManyGuessesError

NOW = 1_800_000_000.0
HERE = "127.0.0.1"


def access(token: str = "secret", now: float = NOW) -> Access:
    return Access(token, lambda: now)


def test_a_server_without_a_token_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="lets everybody in"):
        access("")


@pytest.mark.parametrize("header", ["Bearer secret", "bearer  secret "])
def test_the_token_opens(header: str) -> None:
    assert access().granted(header, {}, HERE)


@pytest.mark.parametrize("header", [None, "", "secret", "Bearer", "Bearer ", "Bearer secre", "Basic secret"])
def test_nothing_else_does(header: str | None) -> None:
    assert not access().granted(header, {}, HERE)


def test_a_cookie_opens_until_its_time_also_after_a_restart() -> None:
    first = access()
    cookies = {first.cookie_name: first.cookie()}
    assert access(now=NOW + SESSION_SEC - 1).granted(None, cookies, HERE)
    assert not access(now=NOW + SESSION_SEC + 1).granted(None, cookies, HERE)


def test_a_cookie_of_another_token_opens_nothing() -> None:
    first, other = access(), access("another")
    assert first.cookie_name != other.cookie_name
    assert not other.granted(None, {other.cookie_name: first.cookie()}, HERE)


@pytest.mark.parametrize("change", ["", "-", "x", "9999999999-", "é-é"])
def test_a_forged_cookie_opens_nothing(change: str) -> None:
    assert not access().granted(None, {access().cookie_name: change}, HERE)


def test_a_cookie_with_a_later_end_opens_nothing() -> None:
    until, _, proof = access().cookie().partition("-")
    assert not access().granted(None, {access().cookie_name: f"{int(until) + 1}-{proof}"}, HERE)


# --- wrong tokens -----------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def try_wrong(guesses: Guesses, host: str, count: int = MOST_WRONG) -> None:
    for _ in range(count):
        guesses.check(host)
        guesses.wrong(host)


def test_an_address_that_has_guessed_often_waits_and_no_other_does() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    try_wrong(guesses, HERE)
    for _ in range(2):
        with pytest.raises(TooManyGuessesError, match=f"try again in {WAIT_SEC:.0f} s"):
            guesses.check(HERE)
    guesses.check("127.0.0.2")
    clock.now = WAIT_SEC
    try_wrong(guesses, HERE, MOST_WRONG)
    with pytest.raises(TooManyGuessesError):
        guesses.check(HERE)


def test_a_few_wrong_tokens_are_forgotten() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(5):
        try_wrong(guesses, HERE, MOST_WRONG - 1)
        clock.now += WAIT_SEC
    guesses.check(HERE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_a_host_is_one_however_many_addresses_it_has(one: str, other: str, same: bool) -> None:
    guesses = Guesses()
    try_wrong(guesses, one)
    if same:
        with pytest.raises(TooManyGuessesError):
            guesses.check(other)
    else:
        guesses.check(other)


def test_only_so_many_addresses_are_remembered() -> None:
    guesses = Guesses()
    for number in range(3 * MOST_PEERS):
        guesses.wrong(f"10.0.{number // 256}.{number % 256}")
    assert len(guesses._peers) == MOST_PEERS


def test_the_right_token_is_not_looked_at_after_many_wrong_ones_but_a_cookie_is_good() -> None:
    door = access()
    for _ in range(MOST_WRONG):
        assert not door.knows(b"guess", HERE)
    with pytest.raises(TooManyGuessesError):
        door.granted("Bearer secret", {}, HERE)
    assert door.granted("Bearer secret", {door.cookie_name: door.cookie()}, HERE)
    assert door.granted("Bearer secret", {}, "192.0.2.1")
    assert not door.granted(None, {}, HERE)


# --- where the token comes from ---------------------------------------------------------------------------


def test_a_token_of_our_own_is_long_kept_for_its_owner_alone_and_one_that_was_given_wins(
    tmp_path: Path,
) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    own = place.token(settings)
    assert len(own) >= 22
    assert place.token(settings) == own
    assert place.token(Settings(state_dir=tmp_path / "other")) != own
    place.record(settings, "http://127.0.0.1:8765/")
    for name in ("page-token", "page.url"):
        assert stat.S_IMODE((tmp_path / "state" / name).stat().st_mode) == 0o600
    given = Settings(state_dir=tmp_path / "state", page_token="a & b")
    assert place.token(given) == "a & b"
    assert place.address(given) == f"http://127.0.0.1:8765/#token={own}", "which the reporter asks for"
    place.record(given, "http://127.0.0.1:8765/")
    assert place.address(given) == "http://127.0.0.1:8765/#token=a%20%26%20b"
    assert place.address(settings) == "http://127.0.0.1:8765/"
    assert place.last_port(settings) == 8765
    assert sorted(each.name for each in (tmp_path / "state").iterdir()) == ["page-token", "page.url"]


def test_processes_that_begin_at_once_have_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    own = place.token(settings)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # each takes itself for the first
    assert place.token(settings) == own


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_token_file_that_holds_none_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page-token").write_bytes(content)
    with pytest.raises(ConfigurationError, match="page-token"):
        place.token(Settings(state_dir=tmp_path))
