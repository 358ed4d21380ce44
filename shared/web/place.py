"""Where the live page is and what opens it, kept in the state directory for its owner alone.

========================  ====================================================================================
`page.url`                address, recorded by the reporter; with the token if it is the one below
`page-token`              random token of this state directory, made when a page first needs one
========================  ====================================================================================

A token that was given (`WORLDLOOP_PAGE_TOKEN`) wins, and is written nowhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from urllib.parse import quote, urlsplit

from shared.errors import ConfigurationError
from shared.settings import Settings

TOKEN_BYTES = 16
"""Of chance: 128 bits cannot be guessed."""


def token(settings: Settings) -> str:
    """What our web pages ask for: the token that was given, else this state directory's.

    Raises:
        ConfigurationError: There can be none, so no page may be served.
    """
    if settings.page_token:
        return settings.page_token
    path = settings.state_dir / "page-token"
    try:
        if not path.exists():
            _make(path)
        kept = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        cure = "Make the state directory writable, or set WORLDLOOP_PAGE_TOKEN"
        raise ConfigurationError(
            str(path), "", f"the web pages' token is not to be had ({error})", cure
        ) from error
    if not kept:
        raise ConfigurationError(str(path), "", "holds no token", "Remove it: a new one is made then")
    return kept


def with_token(url: str, shown: str) -> str:
    """An address for a person: with the token behind `#`, which a browser keeps to itself."""
    return f"{url}#token={quote(shown, safe='')}"


def record(settings: Settings, url: str) -> None:
    """Say where the page is.

    Raises:
        OSError: The disk refused.
        ConfigurationError: As of `token`.
    """
    path = _file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    address = url if settings.page_token else with_token(url, token(settings))
    _private(path, address + "\n").replace(path)


def forget(settings: Settings) -> None:
    """There is none."""
    _file(settings).unlink(missing_ok=True)


def address(settings: Settings) -> str | None:
    """The page's address for a person; none if no reporter of this state directory has served one.

    A token that was given to the reporter is in it only if this process was given one, too.
    """
    url = _recorded(settings)
    if url is None or urlsplit(url).fragment or not settings.page_token:
        return url
    return with_token(url, settings.page_token)


def last_port(settings: Settings) -> int | None:
    """The port it was served on last, so that open pages find it again."""
    url = _recorded(settings)
    try:
        return urlsplit(url).port if url is not None else None
    except ValueError:
        return None


def _file(settings: Settings) -> Path:
    return settings.state_dir / "page.url"


def _recorded(settings: Settings) -> str | None:
    try:
        return _file(settings).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):  # nobody has served one, or it is not for us
        return None


def _make(path: Path) -> None:
    """Make the token; of several processes that try at once, one does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = _private(path, secrets.token_urlsafe(TOKEN_BYTES) + "\n")
    with contextlib.suppress(FileExistsError):
        os.link(new, path)
    new.unlink()


def _private(path: Path, content: str) -> Path:
    """A whole file beside `path` that its owner alone may read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that had our number and died
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return temporary
