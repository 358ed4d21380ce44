"""Worlds for end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world for one test."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which one undisturbed run has passed."""
    world = World(tmp_path_factory.mktemp("finished"))
    world.run(*world.train())
    yield world
    world.close()
