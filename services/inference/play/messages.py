"""What goes over the WebSocket.

From the page: one JSON object with a `type`, as below. To the page: JSON objects with a `type` (`locked`:
show the token first; `welcome`, `notice`, `ended`), and binary messages: the length of a JSON header as
uint32, big-endian, the header, then a PNG (`type` is `frame`) or an mp4 (`type` is `recording`).
"""

from __future__ import annotations

import json
import struct
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from shared.config import Config

LARGEST = 1024
"""Bytes of a message from the page, at most."""


class Token(Config):
    """The answer to `locked`."""

    type: Literal["token"]
    token: str = Field(repr=False)


class Press(Config):
    """Hold an action down."""

    type: Literal["press"]
    code: Annotated[int, Field(ge=0)]


class Release(Config):
    """Hold nothing any more."""

    type: Literal["release"]


class Reset(Config):
    """Begin again at the seed frames."""

    type: Literal["reset"]


class NewSeed(Config):
    """Begin at other seed frames."""

    type: Literal["new_seed"]


class Record(Config):
    """Begin to record the session, or end it and send the mp4."""

    type: Literal["record"]
    on: bool


Request = Press | Release | Reset | NewSeed | Record
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])


def binary(header: dict[str, Any], payload: bytes) -> bytes:
    """A binary message."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("!I", len(head)) + head + payload


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a binary message."""
    (length,) = struct.unpack_from("!I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]
