"""Which way the scripts of a checkout count their updates when they go on from a checkpoint.

`absolute`: `n_updates` is the update to reach; a resumed run goes on at the checkpoint's step + 1 and saves
its last update. `relative`, as the original repository: a resumed run loads weights, makes `n_updates` more
updates counted from 0, and saves every `log_interval` of them. Each stage's script has its own way. What its
source says is believed until a resumed launch shows otherwise: a relative one saves step 0 first, an absolute
one no step before the checkpoint's.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Literal

Dialect = Literal["absolute", "relative"]

TARGET = "n_updates"


def by_source(source: str) -> Dialect | None:
    """What a stage's script says: the range of the loop whose end is `n_updates`.

    Args:
        source: The script.

    Returns:
        `relative` for a range from 0, `absolute` for one from anything else; none without such a loop, or
        when several disagree.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    found = {
        _begins(call)
        for loop in ast.walk(tree)
        if isinstance(loop, ast.For)
        for call in ast.walk(loop.iter)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"
    } - {None}
    return found.pop() if len(found) == 1 else None


def by_steps(saved: Collection[int], start_step: int) -> Dialect | None:
    """What the step numbers show that a launch has saved.

    Args:
        saved: Numbers in the names of its checkpoints.
        start_step: Updates done in the checkpoint it went on from; 0 for a fresh start, which shows nothing.
    """
    if not saved or start_step == 0:
        return None
    return "relative" if min(saved) < start_step else "absolute"


def _begins(call: ast.Call) -> Dialect | None:
    """Where the range of a loop to `n_updates` begins; none for another range."""
    if not call.args:
        return None
    first, stop = (ast.Constant(0), call.args[0]) if len(call.args) == 1 else call.args[:2]
    if not any(_is_target(node) for node in ast.walk(stop)):
        return None
    return "relative" if isinstance(first, ast.Constant) and first.value == 0 else "absolute"


def _is_target(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.Attribute) and node.attr == TARGET)
        or (isinstance(node, ast.Name) and node.id == TARGET)
        or (isinstance(node, ast.Constant) and node.value == TARGET)
    )
