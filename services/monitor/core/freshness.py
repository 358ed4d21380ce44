"""When the silence of a channel is an alert: once per episode, and never counted from before a launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.monitor.core.chunks import Chunk
from shared.events import AlertRaised


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a channel has been silent."""

    channel: str
    since: float
    """Unix time of its last sign of life, or of when it began to be watched."""
    seconds: float
    limit: float

    @property
    def too_long(self) -> bool:
        """Beyond the limit."""
        return self.seconds > self.limit

    def text(self, of: str) -> str:
        """As a sentence."""
        return f"{self.channel}: silent for {self.seconds:.0f} s of {of}, limit {self.limit:.0f} s"


def silences(
    seen: Mapping[str, float | None], limits: Mapping[str, float], *, began: float, now: float
) -> list[Silence]:
    """The silence of each channel.

    Args:
        seen: Channel -> unix time of its last sign of life, none if there was none; no others are watched.
        limits: Channel -> seconds it may be silent.
        began: Unix time from which on silence counts.
        now: Unix time.
    """
    since = {channel: max(began, began if last is None else last) for channel, last in seen.items()}
    return [Silence(channel, at, now - at, limits[channel]) for channel, at in since.items()]


def alerts(
    chunk: Chunk, seen: Mapping[str, float | None], limits: Mapping[str, float], now: float
) -> list[AlertRaised]:
    """The alerts that are due for a running chunk.

    Args:
        chunk: Knows since when it runs and what was alerted before.
        seen: As for `silences`.
        limits: As for `silences`.
        now: Unix time.
    """
    return [
        AlertRaised(
            run_id=chunk.first.run_id,
            stage=chunk.first.stage,
            attempt=chunk.first.attempt,
            channel=silence.channel,
            silence_sec=round(silence.seconds, 3),
            limit_sec=silence.limit,
            detail=silence.text("a running chunk"),
            ordinal=chunk.alerts.get(silence.channel, 0) + 1,
        )
        for silence in silences(seen, limits, began=chunk.launched, now=now)
        if silence.too_long and silence.since > chunk.alerted.get(silence.channel, float("-inf"))
    ]
