"""Where this host's ranks meet those of other hosts, and over which network interface they talk."""

from __future__ import annotations

import asyncio
import os
import socket

import psutil

from services.trainer.core.launch import Meeting
from services.trainer.wire import Run
from shared.config import StageConfig
from shared.errors import ConfigurationError

LOOPBACK = "lo"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What the libraries that carry gradients read; an operator's own value stands."""


async def meeting_of(run: Run, config: StageConfig, node_rank: int) -> Meeting | None:
    """This host's place in a launch that spans several; none for one that does not.

    Args:
        run: The launch.
        config: Its stage's.
        node_rank: This host's.

    Raises:
        ConfigurationError: No address of this host leads to the endpoint.
    """
    if config.nnodes == 1:
        return None
    assert config.rdzv_endpoint is not None
    try:
        address = await asyncio.to_thread(_address_towards, config.rdzv_endpoint)
    except OSError as error:
        raise ConfigurationError(
            "the plan",
            "rdzv_endpoint",
            f"{config.rdzv_endpoint} cannot be reached from {socket.gethostname()}: {error}",
            "Give host:port of node 0 as every host can reach it",
        ) from error
    name = f"{run.run_id}-{run.plan.stage}-{run.plan.attempt}-{run.launch}"  # part of a file's name, too
    return Meeting(config.nnodes, node_rank, config.rdzv_endpoint, name, address)


def interfaces(meeting: Meeting | None) -> dict[str, str]:
    """Environment that names the interface: the one towards the other hosts, the loopback without any."""
    found = psutil.net_if_addrs()
    if meeting is None:
        return {INTERFACES[0]: LOOPBACK} if LOOPBACK in found else {}
    ours = (name for name, all_of in found.items() for each in all_of if each.address == meeting.address)
    interface = next(ours, None)
    return {} if interface is None else {key: os.environ.get(key, interface) for key in INTERFACES}


def _address_towards(endpoint: str) -> str:
    """The address that packets from here to an endpoint bear; none is sent."""
    host, _, port = endpoint.rpartition(":")
    family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
