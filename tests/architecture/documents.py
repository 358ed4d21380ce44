"""The tables of the documents, and whether the tests that they name exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`]+)`")


def cells(document: str, *, columns: int) -> list[list[str]]:
    """The rows of all tables of a file of docs/ that have so many columns, without the ruled line."""
    lines = (ROOT / "docs" / document).read_text().splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if len(row) == columns and set(row[0]) != {"-"}]


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


def missing(test: str) -> str | None:
    """Why a test `file::name` is none that pytest would run; None if it is one."""
    file, _, name = test.partition("::")
    path = ROOT / file
    if not path.is_file():
        return f"{file} is gone"
    if not path.name.startswith("test_") or not name.startswith("test_"):
        return f"{test} is no test"
    return None if name in names(path) else f"{file} has no {name}"
