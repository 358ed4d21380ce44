"""What tests of the git evidence share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.needs import program
from tests.unit.reporter.git.repository import Repo


@pytest.fixture(autouse=True)
def _no_configuration_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    program("git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")
