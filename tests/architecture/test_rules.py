"""docs/rules.md tells the truth: every file, name and test it names exists, and every rule has both."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, list[str], list[str]]]:
    """Rule, where it is enforced, and its tests; of the tables that have these columns."""
    found = []
    for line in (ROOT / "docs" / "rules.md").read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0] not in ("rule", "---"):
            found.append((cells[0], CODE.findall(cells[2]), CODE.findall(cells[3])))
    return found


@functools.cache
def names(path: Path) -> set[str]:
    """What a module defines: functions, classes, `Class.method` and constants."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_there_are_rules_and_each_is_enforced_somewhere_and_tested() -> None:
    assert len(rows()) > 60
    assert [rule for rule, where, tests in rows() if not where or not tests] == []


@pytest.mark.parametrize("place", sorted({place for _, where, _ in rows() for place in where}))
def test_the_place_where_a_rule_is_enforced_exists(place: str) -> None:
    file, _, name = place.partition(":")
    assert (ROOT / file).is_file(), f"{file} is gone"
    assert not name or name in names(ROOT / file), f"{file} has no {name}"


@pytest.mark.parametrize("test", sorted({test for _, _, tests in rows() for test in tests}))
def test_the_test_of_a_rule_exists(test: str) -> None:
    file, _, name = test.partition("::")
    path = ROOT / file
    assert path.name.startswith("test_")
    assert path.is_file(), f"{file} is gone"
    assert name.startswith("test_")
    assert name in names(path), f"{file} has no {name}"
