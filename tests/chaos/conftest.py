"""Deployments, and the count of what was done to them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.chaos.deployment import Deployment, Disk
from tests.chaos.tally import Tally

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how the test itself went, for the tally."""
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Faults of this test."""
    tally = Tally()
    yield tally
    tally.keep(right=request.node.stash.get(PASSED, False))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment to break."""
    world = Deployment(tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A deployment in which one stage's run has ended well that nobody disturbed."""
    world = Deployment(tmp_path_factory.mktemp("undisturbed"))
    return world.quiet(*world.one_stage())


@pytest.fixture(scope="session")
def undisturbed_whole(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The same of a run of all stages."""
    world = Deployment(tmp_path_factory.mktemp("whole"))
    return world.quiet(*world.train())


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], Disk]]:
    """Makes small disks over directories; skips where this process may not mount."""
    made: list[Disk] = []

    def make(place: Path, kilobytes: int) -> Disk:
        try:
            made.append(Disk(place, kilobytes))
        except OSError as error:
            needs.missing(f"the right to mount a tmpfs ({error})")
        return made[-1]

    yield make
    for disk in made:
        disk.away()
