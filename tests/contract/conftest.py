"""Both implementations of the bus, for one suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Bus
from shared.bus.wire import Envelope

Connect = Callable[..., Awaitable[Bus]]
PutRaw = Callable[[Envelope], Awaitable[None]]


@pytest.fixture(params=["memory", "jetstream"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Connects to one bus, as often as wanted: `await connect("trainer")`."""
    made: list[Bus] = []
    broker = Broker()
    server = request.getfixturevalue("fresh_nats_server") if request.param == "jetstream" else None

    async def new(source: str = "cli") -> Bus:
        bus: Bus = (
            MemoryBus(source, broker=broker)
            if server is None
            else await JetStreamBus.connect(server.url, source=source)
        )
        made.append(bus)
        return bus

    yield new
    for bus in made:
        await bus.close()


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    return await connect()


@pytest.fixture
def put_raw(bus: Bus) -> PutRaw:
    """Puts bytes of a stranger on the bus."""

    async def put(envelope: Envelope) -> None:
        if isinstance(bus, MemoryBus):
            bus.broker.put(envelope)
        else:
            assert isinstance(bus, JetStreamBus)
            await bus._connection.js.publish(envelope.subject, envelope.data, headers=envelope.headers)

    return put
