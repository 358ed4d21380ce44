"""Numbers that can be meant: finite, and none that a double cannot hold."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from pydantic import BaseModel

LARGEST = int(sys.float_info.max)
"""Of the integers."""


def not_finite(value: object) -> list[str] | None:
    """The path to the first number that arithmetic cannot be trusted with; none if there is none.

    JSON sets no limits; what all its readers share is the double (RFC 7493, 2.2).
    """
    items: Iterable[tuple[object, object]]
    match value:
        case str() | bool() | None:
            return None
        case float():
            return None if math.isfinite(value) else []
        case int():
            return None if -LARGEST <= value <= LARGEST else []
        case dict():
            items = value.items()
        case list() | tuple():
            items = enumerate(value)
        case BaseModel():
            items = vars(value).items()
        case _:
            return None
    for key, each in items:
        if (path := not_finite(each)) is not None:
            return [str(key), *path]
    return None
