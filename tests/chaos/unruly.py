"""A broker that delivers what it must, as badly as it may: twice, out of order, late, and told once more."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from shared.bus.memory import Broker, _Item
from shared.bus.wire import Envelope

CHANCE = 0.3
LATEST_SEC = 20.0


@dataclass(slots=True)
class Unruly(Broker):
    """As `Broker`; what it does to whom is drawn from a seed."""

    dice: random.Random = field(default_factory=random.Random)
    did: dict[str, int] = field(
        default_factory=lambda: {"duplicated": 0, "reordered": 0, "delayed": 0, "told again": 0}
    )

    def put(self, envelope: Envelope) -> int:
        """See `Broker`."""
        fresh = envelope.headers["ce-id"] not in self.sequences
        sequence = Broker.put(self, envelope)
        if fresh and sequence:
            for queue in self.queues.values():
                if queue and queue[-1].envelope is envelope:
                    self._disturb(queue)
            if envelope.subject.split(".")[2] == "event" and self._happens("told again", CHANCE / 3):
                ident = envelope.headers["ce-id"]  # as after the server's window for duplicates
                self.sequences[f"{ident}, first"] = self.sequences.pop(ident)
                Broker.put(self, envelope)
        return sequence

    def _disturb(self, queue: list[_Item]) -> None:
        item = queue[-1]
        if self._happens("duplicated"):
            queue.append(_Item(item.sequence, item.envelope))
        if len(queue) > 1 and self._happens("reordered"):
            queue.insert(self.dice.randrange(len(queue) - 1), queue.pop())
        if self._happens("delayed"):
            item.due = asyncio.get_running_loop().time() + self.dice.uniform(0, LATEST_SEC)

    def _happens(self, what: str, chance: float = CHANCE) -> bool:
        if self.dice.random() >= chance:
            return False
        self.did[what] += 1
        return True
