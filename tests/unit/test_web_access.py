"""Who may: by the token itself, or by the cookie that a browser got for it."""

from __future__ import annotations

import pytest

from shared.web.access import SESSION_SEC, Access

NOW = 1_800_000_000.0


def access(token: str | None = "secret", now: float = NOW) -> Access:
    return Access(token, lambda: now)


def test_without_a_token_everybody_may() -> None:
    assert access(None).granted(None, {})


@pytest.mark.parametrize("header", ["Bearer secret", "bearer  secret "])
def test_the_token_opens(header: str) -> None:
    assert access().granted(header, {})


@pytest.mark.parametrize("header", [None, "", "secret", "Bearer", "Bearer ", "Bearer secre", "Basic secret"])
def test_nothing_else_does(header: str | None) -> None:
    assert not access().granted(header, {})


def test_a_cookie_opens_until_its_time_also_after_a_restart() -> None:
    first = access()
    cookies = {first.cookie_name: first.cookie()}
    assert access(now=NOW + SESSION_SEC - 1).granted(None, cookies)
    assert not access(now=NOW + SESSION_SEC + 1).granted(None, cookies)


def test_a_cookie_of_another_token_opens_nothing() -> None:
    first, other = access(), access("another")
    assert first.cookie_name != other.cookie_name
    assert not other.granted(None, {other.cookie_name: first.cookie()})


@pytest.mark.parametrize("change", ["", "-", "x", "9999999999-", "é-é"])
def test_a_forged_cookie_opens_nothing(change: str) -> None:
    assert not access().granted(None, {access().cookie_name: change})


def test_a_cookie_with_a_later_end_opens_nothing() -> None:
    until, _, proof = access().cookie().partition("-")
    assert not access().granted(None, {access().cookie_name: f"{int(until) + 1}-{proof}"})
