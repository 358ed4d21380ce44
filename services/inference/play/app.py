"""The web application: the page, its two files, and the WebSocket. Everything it serves is in the package.

Whatever changes something goes over the WebSocket; a GET only reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Container
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.resources import files

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from services.inference.play.conductor import Conductor
from services.inference.play.config import PlayConfig
from services.inference.play.legend import Legend
from services.inference.play.messages import REQUEST, Token
from services.inference.play.session import Session
from shared.web.access import Access
from shared.web.guesses import TooManyGuessesError
from shared.web.origin import host_allowed, origin_allowed

log = logging.getLogger(__name__)

PAGE = {
    "/": ("index.html", "text/html"),
    "/play.css": ("play.css", "text/css"),
    "/play.js": ("play.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TOKEN_SEC = 10.0
"""How long a page gets to show the token."""
FORBIDDEN, INVALID, FULL, OVER = 1008, 1007, 1013, 1000
"""WebSocket close codes."""


def create_app(
    conductor: Conductor,
    config: PlayConfig,
    legend: Legend,
    *,
    size: int,
    most_steps: int,
    with_actions: bool,
    names: Container[str],
    on_failure: Callable[[Exception], None],
) -> Starlette:
    """Wire the application.

    Args:
        conductor: Serves the sessions; it runs as long as the application does.
        config: What the page says about the world.
        legend: What the keys do.
        size: Height and width of the frames, pixels.
        most_steps: Decoding steps after which nothing is left to decide.
        with_actions: Whether the dynamics takes any actions.
        names: Names of this machine that a page may use for it, besides `localhost` and addresses.
        on_failure: Told when decoding failed; nothing can be played then.
    """
    welcome = {
        "type": "welcome",
        "game": config.game,
        "run": config.run,
        "checkpoints": {stage: path.name for stage, path in config.checkpoints.items()},
        "size": size,
        "fps": config.fps,
        "most_steps": most_steps,
        "idle_sec": config.idle_sec,
        "codes": [asdict(code) for code in legend.codes],
        "idle": legend.idle,
        "with_actions": with_actions,
    }

    access = Access(config.token)

    def asset(name: str, kind: str) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def answer(request: HttpRequest) -> Response:
            if not host_allowed(request.headers.get("host"), names):
                return PlainTextResponse("Not a name of this server. Name it with --host.", 403)
            content = files(__package__).joinpath("page", name).read_bytes()
            return Response(content, media_type=kind, headers=HEADERS)

        return answer

    async def play(socket: WebSocket) -> None:
        if not origin_allowed(socket.headers.get("origin"), socket.headers.get("host"), names):
            log.warning("refused a page of another origin: %r", socket.headers.get("origin"))
            await socket.close(FORBIDDEN)
            return
        await socket.accept()
        if (text := await _locked(socket, access)) is not None:
            with suppress(WebSocketDisconnect, RuntimeError):  # it left instead of answering
                await socket.send_json({"type": "ended", "reason": "locked", "text": text})
                await socket.close(FORBIDDEN)
            return
        session = conductor.join(_now())
        if session is None:
            text = f"All {config.players} places are taken. Please try again in a while."
            await socket.send_json({"type": "ended", "reason": "full", "text": text})
            await socket.close(FULL)
            return
        session.tell(welcome)
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(_send(socket, session))
                await _receive(socket, session, conductor)
                if not session.over:  # otherwise the sender says so, and closes
                    sender.cancel()
        finally:
            conductor.leave(session)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(conductor.run())
        task.add_done_callback(lambda done: _report(done, on_failure))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    routes = [Route(path, asset(*found), methods=["GET"]) for path, found in PAGE.items()]
    app = Starlette(routes=[*routes, WebSocketRoute("/play", play)], lifespan=lifespan)
    app.router.redirect_slashes = False  # an address with one more names nothing, whatever its query is
    return app


async def _locked(socket: WebSocket, access: Access) -> str | None:
    """Ask a page for the token; why it may not play, if it may not."""
    refusal = "Only whoever has this server's token may play: open the address that it printed."
    await socket.send_json({"type": "locked"})
    try:
        async with asyncio.timeout(TOKEN_SEC):
            message = await socket.receive()
        shown = Token.model_validate_json(message.get("text") or "")
        host = socket.client.host if socket.client else ""
        return None if access.knows(shown.token.encode(errors="replace"), host) else refusal
    except (TimeoutError, ValidationError):
        return refusal
    except TooManyGuessesError as error:
        return f"The server refuses: {error}."


async def _receive(socket: WebSocket, session: Session, conductor: Conductor) -> None:
    """Take a player's requests until they leave, or send what no page of ours sends."""
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            conductor.take(session, REQUEST.validate_json(message.get("text") or ""), _now())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        session.end("invalid", f"The server does not understand this page: {problem}. Load it again.")


async def _send(socket: WebSocket, session: Session) -> None:
    """Send a player what waits for them, until their session is over."""
    try:
        async for message in session.outbox():
            began = _now()
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_text(message)
            session.send_sec = _now() - began
        await socket.close(OVER)
    except WebSocketDisconnect:
        return  # the player left, which the receiver sees as well


def _now() -> float:
    return asyncio.get_running_loop().time()


def _report(task: asyncio.Task[None], on_failure: Callable[[Exception], None]) -> None:
    if not task.cancelled() and isinstance(error := task.exception(), Exception):
        on_failure(error)
