"""What a test needs of the machine: where it is missing the test is skipped, and the skip names it.

`WORLDLOOP_TEST_REQUIRE`, a comma list of such names, turns the skip into a failure: CI sets it, so that no
test is passed over there unnoticed.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(*names: str) -> str:
    """Path of the first of these programs that is here, or skip.

    Args:
        names: The same program under the names it goes by; the first is the one to require.
    """
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing(names[0])
    return path


def root() -> None:
    """Skip unless this process may start processes of other users."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        missing("root")


def missing(name: str) -> NoReturn:
    """Skip the test, or fail it where the name is required."""
    if name in os.environ.get("WORLDLOOP_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required (WORLDLOOP_TEST_REQUIRE) and is not here")
    pytest.skip(f"needs {name}, which is not here")
