"""One connection to the NATS server: made as whom, kept over restarts, and what it says when it is refused.

Everything that goes to the server goes through `patiently`: it tries again while the server is away, and ends
with an error that says what to do when the server refuses. Trouble that passes by itself is not an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nats
import nats.errors
import structlog
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from shared.bus.identity import Identity, shown
from shared.bus.refusals import refusal, without_tls
from shared.errors import BusError

PATIENCE_SEC = 60.0
"""How long a call goes on trying while the server is away."""
REQUEST_SEC = 1.0
"""Wait for one answer of the server."""
PING_SEC = 10
"""Between pings. Two without an answer, and another server is tried: a cut cable tells nobody that it is."""
RETRY_SEC = 0.1
WITHOUT_TLS = 3
"""Attempts at a TLS address without TLS after which the server is taken to have none."""

TRANSIENT = (
    TimeoutError,
    NoStreamResponseError,
    ServiceUnavailableError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
)
"""What passes when the server is back."""
_FORBIDDEN = re.compile(r'permissions violation for \w+ to "([^"]+)"', re.IGNORECASE)

T = TypeVar("T")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Connection:
    """The client, and what is known of the server.

    Args:
        url: The server, or several of a cluster separated by commas.
        source: Service (or cli) that connects: the connection's name on the server.
        identity: As whom.
    """

    def __init__(self, url: str, source: str, identity: Identity) -> None:
        self._address, self.source, self.identity = url, source, identity
        self.url = shown(url)
        """The address, for people."""
        self.nc: Any = nats.NATS()
        self.js: Any = self.nc.jetstream(timeout=REQUEST_SEC)
        self.number = 0
        """Rises with every reconnection."""
        self.problem = ""
        """The last trouble, in brackets, for a sentence about a server that does not answer."""
        self.make_again: Callable[[], Awaitable[None]] | None = None
        """Makes what a server forgets when it starts anew: streams in its memory."""
        self._making: asyncio.Task[None] | None = None
        self._stumble: asyncio.Future[str | None] | None = None
        """While the first connection is made: done when it cannot be; why, if no other will be either."""
        self._without_tls = 0
        self._forbidden: set[str] = set()
        self._warned: dict[str, str] = {}
        self._closing = False

    async def open(self) -> None:
        """Connect; waits for a server that is not there.

        Raises:
            BusError: The server refuses us or is not to be trusted, which waiting does not change.
        """
        while not await self._opened():
            self.nc = nats.NATS()
            self.js = self.nc.jetstream(timeout=REQUEST_SEC)
            await asyncio.sleep(RETRY_SEC)

    async def _opened(self) -> bool:
        """Whether this client has connected; if not, the next one may.

        Raises:
            BusError: As of `open`.
        """
        self._stumble = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(
            self.nc.connect(
                self._address.split(","),
                name=f"worldloop {self.source}",
                connect_timeout=2,
                ping_interval=PING_SEC,
                reconnect_time_wait=RETRY_SEC,
                max_reconnect_attempts=-1,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                **self.identity.options(self._address),
            )
        )
        opened = False
        try:
            await asyncio.wait((connecting, self._stumble), return_when=asyncio.FIRST_COMPLETED)
            if not self._stumble.done():
                await connecting
                opened = True
            elif (refused := self._stumble.result()) is not None:
                raise BusError(refused)
        except (nats.errors.Error, OSError, ValueError) as error:
            raise BusError(f"cannot connect to NATS at {self.url}: {error}. Check the address") from error
        finally:
            self._stumble = None
            if not opened:
                await _abandon(self.nc, connecting)
        return opened

    async def close(self) -> None:
        """Let go of it; what was sent is still delivered."""
        self._closing = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        if self.nc.is_connected:
            with contextlib.suppress(
                nats.errors.Error, TimeoutError
            ):  # closing loses nothing that was promised
                await self.nc.flush(timeout=1)
        with contextlib.suppress(AssertionError):  # of a client that refused its address: none is open
            await self.nc.close()
        await _cut(self.nc)

    async def patiently(self, call: Callable[[], Awaitable[T]], on: str = "") -> T:
        """Call, and call again while the server is away.

        Args:
            call: What to do.
            on: The subject it publishes on, or the beginning of it.

        Raises:
            BusError: It stayed away for `PATIENCE_SEC`, the connection is closed for good, or this user may
                not do it.
            APIError: The server's answer is no.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_SEC
        while True:
            try:
                return await faithful(call())
            except TRANSIENT as error:
                problem = error
            except APIError:
                raise
            except nats.errors.Error as error:
                raise BusError(f"the NATS client refuses: {error}") from error
            self.check_allowed(on)
            if self.nc.is_closed or asyncio.get_running_loop().time() > deadline:
                raise BusError(f"the NATS server at {self.url} does not answer: {problem}") from problem
            await asyncio.sleep(RETRY_SEC)

    async def recover(self, what: str, error: Exception, on: str = "") -> None:
        """Wait a moment before a reader is made again.

        Args:
            what: The reader, for the log.
            error: Why it ended.
            on: The beginning of the subjects it asks on.

        Raises:
            BusError: The connection is closed for good, or waiting would not help: the server's answer is no,
                or this user may not do it.
        """
        if self.nc.is_closed:
            raise BusError(f"the connection to NATS at {self.url} is closed") from error
        self.check_allowed(on)
        if isinstance(error, APIError) and not isinstance(error, TRANSIENT):
            if (error.code or 0) == 400:
                raise BusError(
                    f"{what} at {self.url}: NATS refuses: {error.description}. Another program or version "
                    "made it differently: end that one, or remove what it made"
                ) from error
            if self._warned.get(what) != str(error):  # it may pass, but nobody should have to guess
                self._warned[what] = str(error)
                log.warning("NATS refuses a reader; trying again", reader=what, problem=error.description)
        else:
            log.debug("a reader is made again", reader=what, problem=str(error))
        await asyncio.sleep(RETRY_SEC)

    def check_allowed(self, on: str) -> None:
        """Say so if the server has refused this user a subject.

        Args:
            on: The subject, or the beginning of it up to a dot.

        Raises:
            BusError: It has.
        """
        asked = on.lower()
        if on and any(subject == asked or subject.startswith(f"{asked}.") for subject in self._forbidden):
            raise BusError(
                f"the NATS server at {self.url} does not allow {self._who()} to publish on {on}. Another key "
                "may be needed (WORLDLOOP_NATS_KEY), or the server has the nats-auth.conf of another "
                "version: run `worldloop keys init` again and reload it"
            )

    # --- what the client tells ------------------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        told = f" ({error})" if str(error) else ""
        refused = self._refused(error)
        # nats-py waits for ever for a first connection to close that failed within TLS (fact: 2.16.0)
        if self._stumble is not None and (refused is not None or self._within_tls(error)):
            self.problem = told
            if not self._stumble.done():
                self._stumble.set_result(refused)
            return
        forbidden = _FORBIDDEN.search(str(error))
        if forbidden is not None:
            new = forbidden[1] not in self._forbidden
            self._forbidden.add(forbidden[1])  # in lower case, as nats-py gives it
            if new:
                log.error("NATS does not allow it", user=self.identity.user, subject=forbidden[1])
        elif told != self.problem:
            if refused is not None:
                log.error("NATS refuses us", problem=refused)
            else:
                log.debug("NATS trouble", problem=str(error))
        self.problem = told

    def _within_tls(self, error: Exception) -> bool:
        """Whether it may have happened in the handshake."""
        return isinstance(error, ssl.SSLError) or (
            self._address.startswith("tls://") and isinstance(error, OSError | TimeoutError)
        )

    def _refused(self, error: Exception) -> str | None:
        """See `refusal`; a server is taken to have no TLS only after several attempts."""
        self._without_tls += without_tls(error)
        if without_tls(error) and self._without_tls < WITHOUT_TLS:
            return None
        return refusal(error, self.url, self.identity)

    def _who(self) -> str:
        return f"the user {self.identity.user}" if self.identity.user else "us"

    async def _on_disconnected(self) -> None:
        if not self._closing:
            log.warning("lost the NATS server; trying to reconnect", url=self.url)

    async def _on_reconnected(self) -> None:
        self.number += 1
        log.info("connected to the NATS server again", url=self.url)
        if self.make_again is not None:  # beside it: what it asks the server is answered when this is over
            self._making = asyncio.create_task(self._make_again(self.make_again))

    async def _make_again(self, make: Callable[[], Awaitable[None]]) -> None:
        try:
            await self.patiently(make)
        except (BusError, APIError) as error:
            log.error("the streams cannot be made again", url=self.url, problem=str(error))  # noqa: TRY400

    async def _on_closed(self) -> None:
        if not self._closing:
            log.error("the NATS connection is closed for good", url=self.url)


async def _abandon(client: Any, connecting: asyncio.Future[None]) -> None:
    """End a client's first attempt; whatever came of it, no socket stays open.

    Its own `close` would wait for the end of a handshake that has none.
    """
    while not connecting.done():  # a cancellation may be forgotten, see `faithful`
        connecting.cancel()
        await asyncio.wait((connecting,), timeout=RETRY_SEC)
    await asyncio.gather(connecting, return_exceptions=True)
    if client.is_connected:
        await client.close()
    await _cut(client)


async def _cut(client: Any) -> None:
    """Close what a client that is done with may have left open: a socket that came as it was told to stop."""
    for name in ("_bare_io_writer", "_io_writer"):
        if (writer := getattr(client._transport, name, None)) is not None:
            writer.transport.abort()
    await asyncio.sleep(0)  # the loop closes it in its next turn


async def faithful(call: Awaitable[T]) -> T:
    """The call's result, or the cancellation that met it.

    Before Python 3.12 `asyncio.wait_for`, on which nats-py is built, forgets a cancellation that comes
    together with the answer; a task that is cancelled once would go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    result = await call
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result


async def unsubscribe(subscription: Any) -> None:
    """End a subscription; none is fine."""
    if subscription is not None:
        with contextlib.suppress(nats.errors.Error, OSError):  # the connection went first
            await subscription.unsubscribe()
