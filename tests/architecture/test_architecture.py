"""Rules of the codebase that a tool can hold: imports, the anatomy of services, what nobody may name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("trainer", "gatekeeper", "monitor", "inference", "reporter")
LIGHT = ("services.gatekeeper.main", "services.monitor.main", "services.reporter.main", "services.cli")
SKIPPED = {".git", ".venv", "runs", "data", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_import_contracts_hold() -> None:
    assert len(CONTRACTS) >= 5
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("module", LIGHT)
def test_what_must_start_fast_starts_without_torch(module: str) -> None:
    found = python(f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert found.returncode == 0, found.stderr or f"{module} imports torch"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_anatomy(service: str) -> None:
    package = ROOT / "services" / service
    for part in ("__init__.py", "config.py", "handlers.py", "main.py", "core/__init__.py"):
        assert (package / part).is_file(), f"services/{service}/{part} is missing"
    code = (
        f"import services.{service}.config as c, services.{service}.main as m\n"
        "from shared.config import Config\n"
        "assert issubclass(c.Policy, Config) and c.Policy() and callable(m.bootstrap)"
    )
    found = python(code)
    assert found.returncode == 0, found.stderr


def test_there_are_no_other_services() -> None:
    found = {path.parent.name for path in (ROOT / "services").glob("*/main.py")}
    assert found == set(SERVICES)


def test_importing_everything_starts_and_writes_nothing(tmp_path: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("services", "shared")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    code = (
        f"import sys, os, threading; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(tmp_path)!r})\n"
        f"import importlib; [importlib.import_module(name) for name in {modules!r}]\n"
        "assert not os.listdir(), os.listdir()\n"
        "assert [t.name for t in threading.enumerate() if not t.daemon] == ['MainThread']"
    )
    found = python(code)
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""


def test_every_module_says_what_it_owns() -> None:
    silent = [
        path.relative_to(ROOT)
        for package in ("services", "shared")
        for path in (ROOT / package).rglob("*.py")
        if path.read_text().strip() and not path.read_text().startswith('"""')
    ]
    assert silent == []


def test_nothing_names_the_place_where_it_was_written() -> None:
    foreign = ["/work/" + "shared", "../" + "shared"]
    named = []
    for path in ROOT.rglob("*"):
        if SKIPPED.isdisjoint(path.relative_to(ROOT).parts) and path.is_file():
            text = path.read_bytes()
            named += [f"{path.relative_to(ROOT)}: {word}" for word in foreign if word.encode() in text]
    assert named == []
