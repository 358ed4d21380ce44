"""The page's web application: what `docs/live-page.md` lists under its HTTP interface.

A GET only reads. Whatever asks for something is a POST of JSON from a page of this very server. If there is a
token, nothing but the empty page itself is had without it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from importlib.resources import files as resources
from typing import Annotated, Any, cast, get_args

import structlog
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.reporter.page import files
from services.reporter.page.actions import Name, command
from services.reporter.page.board import MAX_LINES, Board, View
from services.reporter.page.headers import CHECKED, NEVER_KEPT
from services.reporter.page.histories import Histories
from services.reporter.page.lines import Stream
from shared.bus.protocol import Bus
from shared.config import Config
from shared.errors import BundleError, BusError, WorldloopError
from shared.events import RUN_ID, STAGES, Stage
from shared.web.access import SESSION_SEC, Access
from shared.web.origin import host_allowed, origin_allowed

STATIC = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
MAX_BODY = 64 * 1024
MOST_POINTS = 20_000
WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)
READERS = 2
"""Histories that are read at a time."""
LOCKED = "the token is missing or wrong: `worldloop status` prints the address with it"

Handler = Callable[[Request], Awaitable[Any]]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RefusedError(Exception):
    """A request that is not answered with what it asks for.

    Args:
        status: HTTP status.
        text: Why, a sentence.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Login(Config):
    """What a browser sends once."""

    token: Annotated[str, Field(max_length=4096)]


@dataclass(slots=True)
class Site:
    """What the routes work with."""

    board: Board
    bus: Bus
    names: Container[str]
    """Names of this machine that a page may use for it, besides `localhost` and addresses."""
    access: Access
    histories: Histories = field(default_factory=Histories)
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    # --- reading ------------------------------------------------------------------------------------------

    async def asset(self, request: Request) -> Response:
        """The page itself and what it loads."""
        name = request.path_params.get("name") or "index.html"
        kind = STATIC.get("." + name.rpartition(".")[2])
        found = resources(__package__).joinpath("static", name)
        if kind is None or name.startswith(".") or not found.is_file():
            raise RefusedError(404, f"there is no {name} here")
        content = await asyncio.to_thread(found.read_bytes)
        return Response(content, media_type=kind, headers=CHECKED)

    async def runs(self, _: Request) -> Response:
        """All runs, newest first."""
        return _json([row.model_dump(mode="json") for row in await self.board.rows()])

    async def page(self, request: Request) -> Response:
        """A run."""
        return _json(self.board.page(await self._view(request)))

    async def stream(self, request: Request) -> ASGIApp:
        """A run as it goes."""
        view = await self._view(request)
        if self.board.lines >= MAX_LINES:
            raise RefusedError(503, f"{MAX_LINES} pages are open already; close some")
        line = self.board.join(view)
        return Stream(line, lambda: self.board.leave(view, line))

    async def history(self, request: Request) -> Response:
        """A column of a stage's history."""
        view, stage = await self._view(request), request.path_params["stage"]
        if stage not in STAGES:
            raise RefusedError(404, f"{stage} is no stage; one of {', '.join(STAGES)}")
        query = request.query_params
        bundle = await self.board.bundle(view.fold.run_id)
        superseded = view.fold.superseded(cast("Stage", stage))
        async with self.readers:
            found = await asyncio.to_thread(
                self.histories.read,
                bundle,
                cast("Stage", stage),
                query.get("column", "train/loss"),
                superseded,
                start=_whole(query.get("from"), "from"),
                end=_whole(query.get("to"), "to"),
                points=min(max(_whole(query.get("points"), "points") or 1500, 2), MOST_POINTS),
            )
        return _json(found)

    async def file(self, request: Request) -> Response:
        """A file of the bundle that the page names."""
        view = await self._view(request)
        bundle = await self.board.bundle(view.fold.run_id)
        page = view.fold.page(0.0)
        path, kind = await asyncio.to_thread(files.find, bundle, page, request.path_params["path"])
        about = await asyncio.to_thread(path.stat)
        tag = f'"{about.st_size:x}-{about.st_mtime_ns:x}"'
        headers = CHECKED | {"ETag": tag, "Content-Security-Policy": "default-src 'none'; sandbox"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return FileResponse(path, media_type=kind, headers=headers, stat_result=about)

    # --- asking -------------------------------------------------------------------------------------------

    async def act(self, request: Request) -> Response:
        """Send the gatekeeper what an operator asks for; the page shows what becomes of it."""
        self._from_own_page(request)
        view, action = await self._view(request), request.path_params["action"]
        if action not in get_args(Name):
            raise RefusedError(404, f"{action}: no such action; one of {', '.join(get_args(Name))}")
        try:
            wish = command(view.fold.run_id, cast("Name", action), await _body(request))
        except ValidationError as error:
            raise _invalid(error) from None
        await self.bus.publish(wish)
        log.info("an operator asked on the page", run_id=wish.run_id, request=wish.name)
        return _json({"request_id": wish.request_id}, status=202)

    async def session(self, request: Request) -> Response:
        """Give a browser that has the token the cookie it is known by."""
        self._from_own_page(request)
        try:
            login = Login.model_validate_json(await _body(request))
        except ValidationError as error:
            raise _invalid(error) from None
        if not self.access.knows(login.token.encode(errors="replace")):
            log.warning("a wrong token was given", client=request.client.host if request.client else None)
            raise RefusedError(401, LOCKED)
        answer = Response(status_code=204, headers=NEVER_KEPT)
        answer.set_cookie(
            self.access.cookie_name,
            self.access.cookie(),
            max_age=SESSION_SEC,
            path=None,  # as that of this request: whatever is below `api/`, behind any prefix
            secure=request.headers["origin"].lower().startswith("https:"),
            httponly=True,
            samesite="strict",
        )
        return answer

    def check(self, request: Request) -> None:
        """Whether a request may be answered at all.

        Raises:
            RefusedError: It comes from a page of another origin, or without the token.
        """
        origin, host = request.headers.get("origin"), request.headers.get("host")
        if origin is not None and not origin_allowed(origin, host, self.names):
            log.warning("refused a page of another origin", origin=origin)
            raise RefusedError(403, "only a page of this server may ask it")
        if not self.access.granted(request.headers.get("authorization"), request.cookies):
            raise RefusedError(401, LOCKED)

    def _from_own_page(self, request: Request) -> None:
        """What a browser adds to a request of this server's page, and to no other that it sends for one."""
        if not origin_allowed(request.headers.get("origin"), request.headers.get("host"), self.names):
            raise RefusedError(403, "only a page of this server may ask for something")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "expected application/json")

    async def _view(self, request: Request) -> View:
        run_id = request.path_params["run"]
        view = await self.board.view(run_id) if RUN_ID.fullmatch(run_id) else None
        if view is None:
            raise RefusedError(404, f"this server knows no run {run_id}")
        return view


def create_app(site: Site) -> Starlette:
    """Wire the application."""

    def guarded(handler: Handler, *, everybody: bool = False) -> Handler:
        async def answer(request: Request) -> Any:
            if not host_allowed(request.headers.get("host"), site.names):
                text = "not a name of this server; name it with WORLDLOOP_PAGE_HOST"
                return _json({"error": text}, status=403)
            try:
                if not everybody:
                    site.check(request)
                return await handler(request)
            except RefusedError as refused:
                return _json({"error": refused.text}, status=refused.status)
            except BundleError as error:
                return _json({"error": str(error)}, status=404)
            except BusError as error:
                return _json({"error": str(error)}, status=503)
            except (WorldloopError, OSError) as error:
                log.warning("a request failed", path=request.url.path, problem=str(error))
                return _json({"error": str(error)}, status=500)

        return answer

    def get(path: str, handler: Handler, *, everybody: bool = False) -> Route:
        return Route(path, guarded(handler, everybody=everybody), methods=["GET"])

    def post(path: str, handler: Handler, *, everybody: bool = False) -> Route:
        return Route(path, guarded(handler, everybody=everybody), methods=["POST"])

    return Starlette(
        routes=[
            get("/", site.asset, everybody=True),
            post("/api/session", site.session, everybody=True),
            get("/api/runs", site.runs),
            get("/api/runs/{run}", site.page),
            get("/api/runs/{run}/stream", site.stream),
            get("/api/runs/{run}/history/{stage}", site.history),
            get("/api/runs/{run}/files/{path:path}", site.file),
            post("/api/runs/{run}/actions/{action}", site.act),
            get("/{name}", site.asset, everybody=True),
        ]
    )


def _invalid(error: ValidationError) -> RefusedError:
    problem = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    return RefusedError(400, f"{key}: {problem['msg']}" if key else problem["msg"])


def _json(value: Any, *, status: int = 200) -> Response:
    text = (
        value.model_dump_json()
        if isinstance(value, BaseModel)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    return Response(text, status, headers=NEVER_KEPT, media_type="application/json")


async def _body(request: Request) -> bytes:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MAX_BODY:
            raise RefusedError(413, f"more than {MAX_BODY} bytes")
    return found


def _whole(text: str | None, name: str) -> int | None:
    if text is None or text == "":
        return None
    if not WHOLE.fullmatch(text):
        raise RefusedError(400, f"{name}: {text[:20]!r} is no whole number of at most 15 digits")
    return int(text)
