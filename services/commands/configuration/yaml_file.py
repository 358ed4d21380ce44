"""Strict YAML: a mapping without duplicate keys, finite numbers, and `1e-3` is a number."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from shared import safe_yaml
from shared.errors import ConfigurationError


class _Loader(safe_yaml.Loader):
    """Loader that refuses duplicate keys and reads `1e-3` as a number (YAML 1.1 takes it for text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_mapping(path: Path, shown: str) -> dict[str, Any]:
    """The top-level mapping of a file; an empty file is an empty mapping.

    Args:
        path: File to read.
        shown: How errors name it.

    Raises:
        ConfigurationError: It cannot be read, is no YAML, has a key twice, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            shown, "", "the file does not exist", "Restore it or name another directory with --configs"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            shown, "", f"it cannot be read ({error})", "Make it a readable UTF-8 text file"
        ) from None
    found = _parse(text, shown)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigurationError(shown, "", "it holds no mapping", "Write one `key: value` per line")
    for key in found:
        if not isinstance(key, str):
            raise ConfigurationError(shown, str(key), "keys are names", "Put the key in quotes or correct it")
    return found


def read_value(text: str, shown: str) -> Any:
    """The value of a `KEY=VALUE`.

    Raises:
        ConfigurationError: The text is no YAML value.
    """
    return _parse(text, shown)


def _parse(text: str, shown: str) -> Any:
    try:
        return safe_yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigurationError(
            shown, "", f"{error.problem or error.context}{line}", "Correct the YAML"
        ) from None
    except RecursionError:
        raise ConfigurationError(shown, "", "it is nested too deeply", "Correct the YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(shown, "", f"it is no YAML ({error})", "Correct the YAML") from None
