"""Where the live page is served: its address, recorded in the state directory by the reporter."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

from shared.bundle import write_atomic
from shared.settings import Settings


def file(settings: Settings) -> Path:
    """The file with the address."""
    return settings.state_dir / "page.url"


def record(settings: Settings, url: str) -> None:
    """Say where the page is.

    Raises:
        OSError: The disk refused.
    """
    write_atomic(file(settings), url + "\n")


def forget(settings: Settings) -> None:
    """There is none."""
    file(settings).unlink(missing_ok=True)


def recorded(settings: Settings) -> str | None:
    """The page's address without its token; none if no reporter of this state directory has served one."""
    try:
        return file(settings).read_text(encoding="utf-8").strip() or None
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def address(settings: Settings) -> str | None:
    """The same for a person: with the token behind `#`, which a browser keeps to itself."""
    url = recorded(settings)
    if url is None or not settings.page_token:
        return url
    return f"{url}#token={quote(settings.page_token, safe='')}"


def last_port(settings: Settings) -> int | None:
    """The port it was served on last, so that open pages find it again."""
    url = recorded(settings)
    try:
        return urlsplit(url).port if url is not None else None
    except ValueError:
        return None
