"""Sending to whatever Apprise reaches. The one place that imports it, and that handles URLs as text."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from services.reporter.core.notices import Text
from services.reporter.notify_file import CURE, NotifyFile
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

READ_SEC = 20.0
"""How long a service may take to answer, where its URL does not say (`?rto=`): Apprise's own 4 s make a slow
service one that is told again and again.
"""
SEND_SEC = 60.0
"""How long all requests of one message are waited for."""
MAX_PICTURE_BYTES = 4 * 2**20

_sending: ContextVar[bool] = ContextVar("worldloop_notify_sending", default=False)


class Recipient(Protocol):
    """A configured service."""

    @property
    def name(self) -> str:
        """The name in the notification file."""
        ...

    async def send(self, text: Text, picture: Path | None = None) -> str | None:
        """Send it.

        Returns:
            None once the service has taken it, else why not, without secrets.
        """
        ...


@dataclass(frozen=True, slots=True)
class AppriseRecipient:
    """A service behind an Apprise URL."""

    name: str
    kind: str
    """What it is: Slack, Email, JSON, ..."""
    masked: str
    """The URL's scheme and nothing else: host, path and query may each be the secret."""
    _plugin: NotifyBase = field(repr=False)
    _secrets: tuple[str, ...] = field(repr=False)
    _sending: list[threading.Thread] = field(default_factory=list, repr=False)
    """The thread of the last request: one of its own, so that a service that never answers takes none from
    others, and none keeps the reporter from ending."""

    async def send(self, text: Text, picture: Path | None = None) -> str | None:
        """See `Recipient`."""
        if any(thread.is_alive() for thread in self._sending):
            return "its last request has not come to an end"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def work() -> None:
            problem = self._send(text, picture)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(lambda: None if answer.done() else answer.set_result(problem))

        self._sending[:] = [threading.Thread(target=work, name=f"notify-{self.name}", daemon=True)]
        self._sending[0].start()
        try:
            return await asyncio.wait_for(answer, SEND_SEC)
        except TimeoutError:
            return f"no answer within {SEND_SEC:.0f} s"

    def _send(self, text: Text, picture: Path | None) -> str | None:
        import apprise

        service = apprise.Apprise(asset=self._plugin.asset)
        service.add(self._plugin)
        try:
            with _hushed():
                result = service.notify(
                    body=text.body,
                    title=text.title,
                    notify_type=apprise.NotifyType(text.level),
                    body_format=apprise.NotifyFormat.TEXT,
                    attach=[str(picture)]
                    if picture is not None and self._plugin.attachment_support
                    else None,
                )
        except Exception as error:  # noqa: BLE001 - each plugin has its own, and the text is all that matters
            return f"{type(error).__name__}: {_without(self._secrets, str(error))}"
        if result:
            return None
        said = [entry.message for entry in result.logs()]
        return _without(self._secrets, "; ".join(dict.fromkeys(said))) or f"{result.status.name.lower()}"


def recipients(file: NotifyFile, path: Path) -> list[AppriseRecipient]:
    """The services of a notification file.

    Args:
        file: What was read.
        path: Where from, for errors.

    Raises:
        ConfigurationError: Apprise is missing, or cannot use a URL; names the URL's key.
    """
    try:
        import apprise
    except ModuleNotFoundError:
        cure = "pip install 'worldloop[reporter]'"
        raise ConfigurationError(str(path), "", "the package apprise is missing", cure) from None
    # nothing on the disk; each request in the thread that makes it, as with a time limit it never is
    asset = apprise.AppriseAsset(
        app_id="worldloop",
        app_desc="worldloop",
        storage_mode="memory",
        async_mode=False,
        service_timeout=0,
    )
    return [_recipient(name, url.get_secret_value(), path, asset) for name, url in file.urls.items()]


def picture_of(path: Path | None) -> Path | None:
    """The file if it is there and small enough to attach."""
    if path is None or not path.is_file() or path.stat().st_size > MAX_PICTURE_BYTES:
        return None
    return path


def _recipient(name: str, url: str, path: Path, asset: AppriseAsset) -> AppriseRecipient:
    import apprise

    scheme = url.partition("://")[0] if "://" in url else ""
    secrets = _secrets(url)
    try:
        with _hushed():
            plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
    except Exception as error:  # noqa: BLE001 - each plugin has its own, and the text is all that matters
        problem = f"Apprise cannot use it: {_without(secrets, str(error)) or type(error).__name__}"
        raise ConfigurationError(str(path), f"urls.{name}", problem, CURE) from None
    if plugin is None:
        problem = "Apprise does not know this kind of URL, or misses a part of it"
        raise ConfigurationError(str(path), f"urls.{name}", problem, CURE)
    if plugin.socket_read_timeout == type(plugin).socket_read_timeout:
        plugin.socket_read_timeout = READ_SEC
    return AppriseRecipient(name, str(plugin.service_name), f"{scheme}://...", plugin, secrets)


def _secrets(url: str) -> tuple[str, ...]:
    """Every piece of a URL that could be a secret, as written and decoded, longest first."""
    rest = url.partition("://")[2]
    pieces = {each for text in (rest, unquote(rest)) for each in re.split(r"[/:@?&=#,+\s]", text)}
    return tuple(sorted((each for each in {*pieces, rest} if len(each) > 3), key=len, reverse=True))


def _without(secrets: Sequence[str], text: str) -> str:
    return re.sub("|".join(map(re.escape, secrets)), "***", text, flags=re.IGNORECASE) if secrets else text


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drop what libraries log inside, also in threads started inside: it may show a URL."""
    for handler in logging.getLogger().handlers:
        if _unless_sending not in handler.filters:
            handler.addFilter(_unless_sending)
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


def _unless_sending(record: logging.LogRecord) -> bool:  # noqa: ARG001 - a logging filter
    return not _sending.get()
