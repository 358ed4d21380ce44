"""Which keys a stage of a checkout takes, read off its source: one that a schema lacks is an error there."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

ALWAYS = frozenset(
    {
        "n_updates",
        "batch_size_per_gpu",
        "learning_rate",
        "gradient_accumulation_steps",
        "log_interval",
        "checkpoint",
        "device",
        "distributed.use_ddp",
        "nproc_per_node",
    }
)
"""What every stage of TinyWorlds takes; all that is known of one whose schema is not found."""


def imported_configs(script: str) -> dict[str, str]:
    """Classes that a stage's script imports and hands to a call, its schema among them: name -> module."""
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError):
        return {}
    nodes = list(ast.walk(tree))
    handed = {
        argument.id
        for node in nodes
        if isinstance(node, ast.Call)
        for argument in node.args
        if isinstance(argument, ast.Name)
    }
    return {
        alias.name: node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0
        for alias in node.names
        if (alias.asname or alias.name) in handed
    }


def keys_of(module: str, name: str) -> frozenset[str]:
    """Dotted keys of a configuration class: its annotated fields, its bases' and those of nested classes.

    Args:
        module: Source of the module that defines it.
        name: The class.

    Returns:
        Empty if the module defines no such class.
    """
    try:
        tree = ast.parse(module)
    except (SyntaxError, ValueError):
        return frozenset()
    return _keys({node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}, name)


def keys_of_file(content: Mapping[str, Any]) -> frozenset[str]:
    """Dotted keys of a configuration file, and those that every stage takes."""
    found = set(ALWAYS)
    for key, value in content.items():
        inner = value if isinstance(value, Mapping) else {}
        found |= {f"{key}.{nested}" for nested in inner} or {key}
    return frozenset(found)


def _keys(
    classes: Mapping[str, ast.ClassDef], name: str, seen: frozenset[str] = frozenset()
) -> frozenset[str]:
    if name not in classes or name in seen:
        return frozenset()
    found: set[str] = set()
    for base in classes[name].bases:
        if isinstance(base, ast.Name):
            found |= _keys(classes, base.id, seen | {name})
    for field in classes[name].body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            names = (node.id for node in ast.walk(field.annotation) if isinstance(node, ast.Name))
            nested = {inner for each in names for inner in _keys(classes, each, seen | {name})}
            found |= {f"{field.target.id}.{inner}" for inner in nested} or {field.target.id}
    return frozenset(found)
