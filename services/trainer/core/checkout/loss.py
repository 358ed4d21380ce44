"""On which scale a stage's script logs its loss.

TinyWorlds divides the loss of each micro-batch by `gradient_accumulation_steps`, for its gradients, and logs
what it has then. A gate that compares chunks would see the loss fall when only the accumulation rose, and its
limits would mean something else for each accumulation: such a loss is multiplied back.
"""

from __future__ import annotations

import ast

DIVISOR = "gradient_accumulation_steps"


def is_divided(source: str) -> bool:
    """Whether a script logs a loss that it has divided by the accumulation.

    It does if it divides a variable so, in place or by assigning it anew, and a dictionary has that variable
    under a key that ends in `loss` and does not multiply it back.

    Args:
        source: The script.
    """
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return False
    divided = {name for node in nodes if (name := _divided(node)) is not None}
    return any(
        isinstance(key, ast.Constant)
        and str(key.value).endswith("loss")
        and not _names(value).isdisjoint(divided)
        and DIVISOR not in _names(value)
        for node in nodes
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
    )


def _divided(node: ast.AST) -> str | None:
    """The variable that a statement divides by the accumulation."""
    match node:
        case ast.AugAssign(target=ast.Name(id=name), op=ast.Div(), value=divisor):
            pass
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.BinOp(left=ast.Name(id=dividend), op=ast.Div(), right=divisor),
        ) if name == dividend:
            pass
        case _:
            return None
    return name if DIVISOR in _names(divisor) else None


def _names(node: ast.AST) -> set[str]:
    """Variables and attributes in an expression."""
    found = list(ast.walk(node))
    variables = {each.id for each in found if isinstance(each, ast.Name)}
    return variables | {each.attr for each in found if isinstance(each, ast.Attribute)}
