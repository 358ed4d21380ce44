"""A request's body, and a request that is refused."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.requests import Request

from shared.errors import complaints

MAX_BODY = 64 * 1024


class RefusedError(Exception):
    """A request that is not answered with what it asks for.

    Args:
        status: HTTP status.
        text: Why, a sentence.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    @classmethod
    def of(cls, error: ValidationError) -> RefusedError:
        """A body that is not what was expected; what was sent is not told back."""
        return cls(400, complaints(error)[0])


async def body(request: Request) -> bytes:
    """What was sent.

    Raises:
        RefusedError: It has more than `MAX_BODY` bytes.
    """
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MAX_BODY:
            raise RefusedError(413, f"more than {MAX_BODY} bytes")
    return found
