"""The files that `worldloop schema` publishes: by path, and what each holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from services.schemas import models
from services.schemas.asyncapi import document
from services.schemas.glossary import glossary


def published(outputs: Mapping[str, type[BaseModel]], version: str) -> dict[str, str]:
    """Path in the directory -> text; the same for the same code.

    Args:
        outputs: Name -> model of what a command prints with `--json`.
        version: Of worldloop.
    """
    found = {"asyncapi.json": as_text(document(version)), "events.md": glossary()}
    found |= {f"messages/{models.key_of(m)}.json": as_text(models.schema_of(m)) for m in models.messages()}
    return found | {f"outputs/{name}.json": as_text(models.schema_of(m)) for name, m in outputs.items()}


def as_text(schema: dict[str, Any]) -> str:
    """A schema as a file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
