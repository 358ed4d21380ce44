"""Worlds for end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.e2e.writes import Writes


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world for one test."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Writes]]:
    """A world in which one undisturbed run has passed, and what was written meanwhile."""
    world = World(tmp_path_factory.mktemp("finished"))
    unwatched = dict(world.environment)
    writes = Writes(world, tmp_path_factory.mktemp("watched"))
    try:
        world.run(*world.train())
        world.environment = unwatched  # what tests do in it later is not the run's
        yield world, writes
    finally:
        world.close()


@pytest.fixture(scope="session")
def finished(watched: tuple[World, Writes]) -> World:
    """A world in which one undisturbed run has passed."""
    return watched[0]


@pytest.fixture(scope="session")
def writes(watched: tuple[World, Writes]) -> Writes:
    """What was written in that world."""
    return watched[1]
