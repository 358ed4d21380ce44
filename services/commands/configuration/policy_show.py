"""`worldloop policy show`: every effective value of configuration and policy, and where it came from.

The values are what `worldloop train` with the same arguments would start with, by the same code; only the
machine was not looked at, so `auto` is still `auto`.
"""

from __future__ import annotations

import json
from typing import Any

from services.commands.configuration.dotted_keys import KeyPath, closest, leaves
from services.commands.configuration.files import Tree
from services.commands.configuration.resolve import Resolution, layer
from services.commands.terminal.output import say, say_json
from services.commands.training.options import TrainOptions
from services.commands.training.start import settle
from shared.errors import UsageError


def policy_show(options: TrainOptions, *, sections: list[str], as_json: bool) -> int:
    """Print all values, or those of some sections.

    Args:
        options: Profile, checkpoints and KEY=VALUE, as `train` takes them.
        sections: Beginnings of dotted keys; empty shows everything.
        as_json: One JSON object: key -> value, origin (flag, checkpoint, profile, file, default), source.

    Raises:
        WorldloopError: Something cannot be used; names the file or flag, the key, and the cure.
    """
    resolution = settle(options).resolution
    rows = {
        ".".join(path): {"value": value_at(resolution, path), "origin": layer(source), "source": source}
        for path in _chosen(sections)
        for source in [resolution.origins[".".join(path)]]
    }
    if as_json:
        say_json(json.dumps(rows, indent=2))
        return 0
    texts = [(key, json.dumps(row["value"]), row["origin"], row["source"]) for key, row in rows.items()]
    widths = [max(len(text[column]) for text in texts) for column in range(2)]
    for key, value, origin, source in texts:
        named = origin if source == origin else f"{origin}: {source.removeprefix(f'{origin} ')}"
        say(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {named}")
    return 0


def value_at(resolution: Resolution, path: KeyPath) -> Any:
    """The value at a path, as JSON has it."""
    found: Any = {
        **resolution.run.model_dump(mode="json"),
        "policy": resolution.policy.model_dump(mode="json"),
    }
    for part in path:
        found = found[part]
    return found


def _chosen(sections: list[str]) -> list[KeyPath]:
    known = leaves(Tree)
    for section in sections:
        if not any(_is_below(path, section) for path in known):
            options = [".".join(path[:end]) for path in known for end in range(1, len(path) + 1)]
            meant = closest(section, options)
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(Tree.model_fields)}"
            raise UsageError(f"--section {section}: no such section or key; {hint}")
    return [path for path in known if not sections or any(_is_below(path, section) for section in sections)]


def _is_below(path: KeyPath, section: str) -> bool:
    parts = tuple(section.split("."))
    return path[: len(parts)] == parts
