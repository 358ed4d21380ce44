"""Whom the page's server answers: pages of its own, asked under its own name, and whoever has the token."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Annotated

import structlog
from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from services.reporter.page.headers import NEVER_KEPT
from services.reporter.page.incoming import RefusedError, body
from shared.config import Config
from shared.web.access import SESSION_SEC, Access
from shared.web.origin import host_allowed, origin_allowed

LOCKED = "the token is missing or wrong: `worldloop status` prints the address with it"
MOST_TOLD = 20
"""Foreign origins that the log names, each once: requests that are refused must not fill a disk."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Login(Config):
    """What a browser sends once."""

    token: Annotated[str, Field(max_length=4096)]


@dataclass(slots=True)
class Door:
    """Every request comes through here first."""

    names: Container[str]
    """Names of this machine that a page may use for it, besides `localhost` and addresses."""
    access: Access
    _foreign: set[str] = field(default_factory=set)

    def check_name(self, request: Request) -> None:
        """Whether it was sent to this server at all.

        Raises:
            RefusedError: Its Host is another's.
        """
        if not host_allowed(request.headers.get("host"), self.names):
            raise RefusedError(403, "not a name of this server; name it with WORLDLOOP_PAGE_HOST")

    def check(self, request: Request) -> None:
        """Whether it may be told anything of a run.

        Raises:
            RefusedError: It comes from a page of another origin, or without the token.
            TooManyGuessesError: As of `Access`.
        """
        origin = request.headers.get("origin")
        if origin is not None and not origin_allowed(origin, request.headers.get("host"), self.names):
            if origin not in self._foreign and len(self._foreign) < MOST_TOLD:
                self._foreign.add(origin)
                log.warning("refused a page of another origin", origin=origin)
            raise RefusedError(403, "only a page of this server may ask it")
        if not self.access.granted(request.headers.get("authorization"), request.cookies, _peer(request)):
            raise RefusedError(401, LOCKED)

    def check_own_page(self, request: Request) -> None:
        """Whether it has what a browser adds to a request of this server's page, and to no other.

        Raises:
            RefusedError: It has not.
        """
        if not origin_allowed(request.headers.get("origin"), request.headers.get("host"), self.names):
            raise RefusedError(403, "only a page of this server may ask for something")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "expected application/json")

    async def login(self, request: Request) -> Response:
        """Give a browser that has the token the cookie it is known by.

        Raises:
            RefusedError: It has not, or is no page of ours.
            TooManyGuessesError: As of `Access`.
        """
        self.check_own_page(request)
        try:
            login = Login.model_validate_json(await body(request))
        except ValidationError as error:
            raise RefusedError.of(error) from None
        if not self.access.knows(login.token.encode(errors="replace"), _peer(request)):
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


def _peer(request: Request) -> str:
    return request.client.host if request.client is not None else ""
