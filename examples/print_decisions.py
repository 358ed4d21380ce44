"""Prints every gate decision, past and coming. Knows nothing of worldloop but a subject: nats-py is enough.

python examples/print_decisions.py nats://127.0.0.1:4222        (the address is what `worldloop up` prints)
"""

import asyncio
import json
import sys

import nats


async def main(url: str) -> None:
    """Print a line per decision, for ever."""
    client = await nats.connect(url)
    gates = await client.jetstream().subscribe("worldloop.*.event.gate_decided", ordered_consumer=True)
    async for message in gates.messages:
        gate = json.loads(message.data)
        print(
            *(gate[key] for key in ("run_id", "stage", "attempt", "gate_step", "verdict", "decision")),
            flush=True,
        )


asyncio.run(main(sys.argv[1]))
