"""Commands that nothing came of, as sentences: their ids are for machines."""

from __future__ import annotations

from services.reporter.core.hostile import inline
from services.reporter.core.markdown import count_of
from shared.events import CommandTimedOut

CHUNK = {"start": "begin", "continue": "begin", "retune": "begin", "restart": "begin", "stop": "end"}
"""Name of a command to the trainer -> what it asks for."""
OTHERS = {"evaluate_inference": "answer with a test", "write_reports": "write all reports"}


def unanswered(event: CommandTimedOut) -> str:
    """What a service did not do, within which time and how often it was asked."""
    parts = event.command.split("/")  # run, stage, attempt, sending, name
    name = parts[-1]
    if name in CHUNK and len(parts) > 3:
        wanted = f"{CHUNK[name]} {inline(parts[1])} attempt {inline(parts[2])}"
    else:
        wanted = OTHERS.get(name, f"answer {inline(name)}")
    asked = count_of(event.retry + 1, "time") if event.retry else "once"
    service = "the inference service" if event.service == "inference" else f"the {event.service}"
    return f"{service} did not {wanted} within {event.waited_sec:.0f} s (asked {asked})"
