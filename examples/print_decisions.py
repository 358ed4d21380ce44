"""Prints every gate decision, past and coming. Knows nothing of worldloop but a subject: nats-py is enough.

python examples/print_decisions.py nats://127.0.0.1:4222 observer.nk [ca.pem]

The address is what `worldloop up` prints; observer.nk lies in `keys` in its state directory, or where
`worldloop keys init` made it, with the ca.pem for a server at tls://.
"""

import asyncio
import contextlib
import json
import ssl
import sys

import nats
from nats.errors import TimeoutError as NothingNewError
from nats.js.errors import NotFoundError

DECISIONS = "worldloop.*.event.gate_decided"


async def main(url: str, key: str | None = None, ca: str | None = None) -> None:
    """Print a line per decision, for ever."""
    client = await nats.connect(
        url,
        nkeys_seed=key,
        inbox_prefix="_INBOX_observer",  # nobody else can listen to the answers we get
        tls=ssl.create_default_context(cafile=ca) if ca else None,
    )
    events, news, last = client.jetstream(), await client.subscribe(DECISIONS), 0
    while True:
        try:
            message = await events.get_msg("WORLDLOOP_EVENTS", seq=last + 1, subject=DECISIONS, next=True)
        except NotFoundError:
            with contextlib.suppress(NothingNewError):
                await news.next_msg(timeout=1)
            continue
        last, gate = message.seq, json.loads(message.data)
        print(
            *(gate[key] for key in ("run_id", "stage", "attempt", "gate_step", "verdict", "decision")),
            flush=True,
        )


asyncio.run(main(*sys.argv[1:]))
