"""YAML that strangers may have written: nothing but plain values, and no more of them than the text has."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 4 << 20
"""Of a file; ours have a few thousand."""
MOST_KEYS = 10_000
"""Of a mapping. Merges of merges (`<<`) double it line by line."""


class Loader(yaml.SafeLoader):
    """SafeLoader that refuses mappings which merges blow up."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge `<<` into a mapping.

        Raises:
            ConstructorError: It has too many keys then.
        """
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            problem = f"merges make a mapping of more than {MOST_KEYS} keys"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def load(text: str | bytes, loader: type[Loader] = Loader) -> Any:
    """The value of a text.

    Raises:
        YAMLError: It is no YAML, or too large.
        ValueError, RecursionError: A value cannot be made, or lies too deep.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"it is larger than {MOST_BYTES >> 20} MB")
    return yaml.load(text, Loader=loader)  # noqa: S506 - a SafeLoader
