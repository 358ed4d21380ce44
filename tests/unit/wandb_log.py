"""Writes `.wandb` files as wandb does: for benchmarks, and for tests that need each byte."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from shared.wandb_file import BLOCK, FILE_HEADER, FIRST, FRAGMENT_HEADER, FULL, IDENT, LAST, MAGIC, MIDDLE

HEADER = FILE_HEADER.pack(IDENT, MAGIC, 0)


def fragment(kind: int, data: bytes) -> bytes:
    return FRAGMENT_HEADER.pack(zlib.crc32(data, zlib.crc32(bytes([kind]))), len(data), kind) + data


class Log:
    """The bytes of a log as it grows."""

    def __init__(self) -> None:
        self.size = 0

    def header(self) -> bytes:
        self.size = len(HEADER)
        return HEADER

    def record(self, data: bytes) -> bytes:
        """A record in the fragments that the present place in the block asks for."""
        parts: list[bytes] = []
        left, begun = data, False
        while left or not begun:
            room = BLOCK - self.size % BLOCK
            if room < FRAGMENT_HEADER.size:
                parts.append(bytes(room))
                self.size += room
                continue
            piece, left = left[: room - FRAGMENT_HEADER.size], left[room - FRAGMENT_HEADER.size :]
            kind = (MIDDLE if left else LAST) if begun else (FIRST if left else FULL)
            begun = True
            parts.append(fragment(kind, piece))
            self.size += len(parts[-1])
        return b"".join(parts)


def log_of(records: Iterable[bytes]) -> bytes:
    """A whole file."""
    log = Log()
    return log.header() + b"".join(log.record(data) for data in records)


def history(number: int, step: int, values: Mapping[Any, Any]) -> bytes:
    """A `history` record; a tuple of names is a nested key."""
    from wandb.proto import wandb_internal_pb2 as wandb

    record = wandb.Record(num=number)
    record.history.step.num = step
    for name, value in {**values, "_step": step}.items():
        item = record.history.item.add(value_json=json.dumps(value))
        item.nested_key.extend([name] if isinstance(name, str) else name)
    return bytes(record.SerializeToString())


def summary(number: int, values: Mapping[str, Any]) -> bytes:
    """A `summary` record that says a row again."""
    from wandb.proto import wandb_internal_pb2 as wandb

    record = wandb.Record(num=number)
    for name, value in values.items():
        item = record.summary.update.add(value_json=json.dumps(value))
        item.nested_key.append(name)
    return bytes(record.SerializeToString())


def run(number: int, run_id: str, name: str, config: Mapping[str, Any], project: str = "") -> bytes:
    """The `run` record that a file begins with."""
    from wandb.proto import wandb_internal_pb2 as wandb

    record = wandb.Record(num=number)
    record.run.run_id, record.run.display_name, record.run.project = run_id, name, project
    for key, value in config.items():
        record.run.config.update.add(key=key, value_json=json.dumps(value))
    return bytes(record.SerializeToString())


def finish(number: int) -> bytes:
    """The `exit` record of a run that ended well."""
    from wandb.proto import wandb_internal_pb2 as wandb

    return bytes(wandb.Record(num=number, exit=wandb.RunExitRecord(exit_code=0)).SerializeToString())
