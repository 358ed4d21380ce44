"""Where a dotted key leads in a schema of nested pydantic models and mappings."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it came from."""

    path: KeyPath
    """From the root: ("dynamics", "learning_rate")."""
    value: Any
    origin: str
    """File, profile or flag, as people know it."""
    key: str
    """The key as it is written there."""
    file: str | None = None
    """The file it came from, where `origin` does not say."""

    @property
    def source(self) -> str:
        """How errors name where it came from."""
        return self.file or self.origin


def child(annotation: Any, part: str) -> Any | None:
    """The type one step further, none if the schema has no such key."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            if part in option.model_fields:
                return option.model_fields[part].annotation
        elif get_origin(option) in {dict, Mapping}:
            key, value = get_args(option)
            names = _literals(key)
            if names is None or part in names:
                return value
    return None


def find(root: Any, path: KeyPath) -> Any | None:
    """The type at a path, none if the schema has no such path."""
    for part in path:
        root = child(root, part)
        if root is None:
            return None
    return root


def names(annotation: Any) -> list[str] | None:
    """Keys below a type; none if it is a plain value, empty if it takes any key."""
    found: list[str] | None = None
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            found = [*(found or []), *option.model_fields]
        elif get_origin(option) in {dict, Mapping}:
            found = [*(found or []), *(_literals(get_args(option)[0]) or [])]
    return found


def leaves(annotation: Any, prefix: KeyPath = ()) -> list[KeyPath]:
    """All paths that end at a plain value (or at a mapping with free keys)."""
    below = names(annotation)
    if not below:
        return [prefix]
    return [leaf for name in below for leaf in leaves(child(annotation, name), (*prefix, name))]


def closest(wrong: str, options: list[str]) -> str | None:
    """What was probably meant."""
    found = difflib.get_close_matches(wrong, sorted(set(options)), n=1)
    return found[0] if found else None


def _options(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return tuple(option for member in get_args(annotation) for option in _options(member))
    return (annotation,)


def _literals(annotation: Any) -> list[str] | None:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return None
