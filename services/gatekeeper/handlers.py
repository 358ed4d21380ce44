"""What the gatekeeper does with an operator's command: it enters the log, and all follows from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.gatekeeper.keeper import Keeper
from shared.events import Message, OperatorCommand
from shared.service import Handler


async def note(command: OperatorCommand, keeper: Keeper) -> list[Message]:
    """Append the wish, or its refusal, before the command is acked."""
    await keeper.request(command)
    return []


HANDLERS: Mapping[type[Message], Handler[Any, Keeper]] = {OperatorCommand: note}
