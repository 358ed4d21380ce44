"""The page's web application: what `docs/live-page.md` lists under its HTTP interface.

A GET only reads. Whatever asks for something is a POST of JSON from a page of this very server. Nothing but
the empty page itself is had without the token.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files as resources
from typing import Any, cast, get_args

import structlog
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.reporter.page import files
from services.reporter.page.actions import Name, command
from services.reporter.page.board import MAX_LINES, Board, View
from services.reporter.page.door import Door
from services.reporter.page.headers import CHECKED, NEVER_KEPT
from services.reporter.page.histories import Histories
from services.reporter.page.incoming import RefusedError, body
from services.reporter.page.lines import Stream, plain
from shared.bus.protocol import Bus
from shared.errors import BundleError, BusError, WorldloopError
from shared.events import RUN_ID, STAGES, Stage
from shared.web.guesses import TooManyGuessesError

STATIC = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
MOST_POINTS = 20_000
WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)
READERS = 2
"""Histories that are read at a time."""

Handler = Callable[[Request], Awaitable[Any]]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Site:
    """What the routes work with."""

    board: Board
    bus: Bus
    door: Door
    histories: Histories = field(default_factory=Histories)
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    # --- reading ------------------------------------------------------------------------------------------

    async def asset(self, request: Request) -> Response:
        """The page itself and what it loads."""
        name = request.path_params.get("name") or "index.html"
        kind = STATIC.get("." + name.rpartition(".")[2])
        found = {each.name: each for each in resources(__package__).joinpath("static").iterdir()}.get(name)
        if kind is None or found is None:
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
        self.door.check_own_page(request)
        view, action = await self._view(request), request.path_params["action"]
        if action not in get_args(Name):
            raise RefusedError(404, f"{action}: no such action; one of {', '.join(get_args(Name))}")
        try:
            wish = command(view.fold.run_id, cast("Name", action), await body(request))
        except ValidationError as error:
            raise RefusedError.of(error) from None
        await self.bus.publish(wish)
        log.info("an operator asked on the page", run_id=wish.run_id, request=wish.name)
        return _json({"request_id": wish.request_id}, status=202)

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
            try:
                site.door.check_name(request)
                if not everybody:
                    site.door.check(request)
                return await handler(request)
            except RefusedError as refused:
                return _json({"error": refused.text}, status=refused.status)
            except TooManyGuessesError as error:
                return _json(
                    {"error": str(error)},
                    status=429,
                    headers=NEVER_KEPT | {"Retry-After": str(error.wait_sec)},
                )
            except BundleError as error:
                return _json({"error": str(error)}, status=404)
            except BusError as error:
                return _json({"error": str(error)}, status=503)
            except (WorldloopError, OSError) as error:
                log.warning("a request failed", path=request.scope["path"], problem=str(error))
                return _json({"error": str(error)}, status=500)

        return answer

    def get(path: str, handler: Handler, *, everybody: bool = False) -> Route:
        return Route(path, guarded(handler, everybody=everybody), methods=["GET"])

    def post(path: str, handler: Handler, *, everybody: bool = False) -> Route:
        return Route(path, guarded(handler, everybody=everybody), methods=["POST"])

    app = Starlette(
        routes=[
            get("/", site.asset, everybody=True),
            post("/api/session", site.door.login, everybody=True),
            get("/api/runs", site.runs),
            get("/api/runs/{run}", site.page),
            get("/api/runs/{run}/stream", site.stream),
            get("/api/runs/{run}/history/{stage}", site.history),
            get("/api/runs/{run}/files/{path:path}", site.file),
            post("/api/runs/{run}/actions/{action}", site.act),
            get("/{name}", site.asset, everybody=True),
        ]
    )
    app.router.redirect_slashes = False  # an address with one more names nothing, whatever its query is
    return app


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] = NEVER_KEPT) -> Response:
    return Response(plain(value), status, headers=headers, media_type="application/json")


def _whole(text: str | None, name: str) -> int | None:
    if text is None or text == "":
        return None
    if not WHOLE.fullmatch(text):
        raise RefusedError(400, f"{name}: {text[:20]!r} is no whole number of at most 15 digits")
    return int(text)
