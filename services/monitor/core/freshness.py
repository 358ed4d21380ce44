"""When the silence of a channel is an alert: once per episode, and never counted from before a launch."""

from __future__ import annotations

from collections.abc import Mapping

from services.monitor.core.chunks import Chunk
from shared.events import AlertRaised


def alerts(
    chunk: Chunk, seen: Mapping[str, float | None], limits: Mapping[str, float], now: float
) -> list[AlertRaised]:
    """The alerts that are due for a running chunk.

    Args:
        chunk: Knows since when it runs and what was alerted before.
        seen: Channel -> unix time of its last sign of life, none if there was none; no others are watched.
        limits: Channel -> seconds it may be silent.
        now: Unix time.
    """
    found = []
    for channel, last in seen.items():
        since = max(chunk.launched, last if last is not None else chunk.launched)
        silence, limit = now - since, limits[channel]
        if silence > limit and since > chunk.alerted.get(channel, float("-inf")):
            found.append(
                AlertRaised(
                    run_id=chunk.first.run_id,
                    stage=chunk.first.stage,
                    attempt=chunk.first.attempt,
                    channel=channel,
                    silence_sec=round(silence, 3),
                    limit_sec=limit,
                    detail=f"{channel}: silent for {silence:.0f} s of a running chunk, limit {limit:.0f} s",
                    ordinal=chunk.alerts.get(channel, 0) + 1,
                )
            )
    return found
