"""The files that `worldloop schema` publishes: by path, and what each holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from services.schemas import models
from services.schemas.asyncapi import document
from services.schemas.glossary import glossary

WIDTH = 110


def published(outputs: Mapping[str, type[BaseModel]], version: str) -> dict[str, str]:
    """Path in the directory -> text; the same for the same code.

    The JSON Schema of a message is in the AsyncAPI document, `components.schemas`.

    Args:
        outputs: Name -> model of what a command prints with `--json`.
        version: Of worldloop.
    """
    found = {"asyncapi.json": as_text(document(version)), "events.md": glossary()}
    return found | {f"outputs/{name}.json": as_text(models.schema_of(m)) for name, m in outputs.items()}


def as_text(schema: dict[str, Any]) -> str:
    """A schema as a file holds it: what fits into a line is one line."""
    return _lines(schema, "") + "\n"


def _lines(part: Any, indent: str) -> str:
    line = json.dumps(part, ensure_ascii=False)
    if len(indent + line) <= WIDTH or not isinstance(part, dict | list):
        return line
    inner = f"{indent} "
    if isinstance(part, dict):
        each = [f"{inner}{json.dumps(key)}: {_lines(value, inner)}" for key, value in part.items()]
        return "{\n" + ",\n".join(each) + f"\n{indent}}}"
    return "[\n" + ",\n".join(f"{inner}{_lines(value, inner)}" for value in part) + f"\n{indent}]"
