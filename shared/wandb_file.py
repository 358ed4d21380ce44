"""Reader of `.wandb` files: what wandb writes locally while a run goes on, online or offline.

The file is a log in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/log_format.md): blocks
of 32 KiB, in them fragments with a header of 7 bytes (checksum, length, type) that make up records; no
fragment header begins in the last 6 bytes of a block. wandb differs in two things: the file begins with 7
bytes of its own (":W&B", magic, version), and the checksum is the plain CRC-32 of type and data, not
LevelDB's masked CRC-32C. Each record is a protobuf `Record` of `wandb.proto.wandb_internal_pb2`.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import BundleError
from shared.wandb_rows import FIELDS, STEP, Heads, Odd, Row, body, cut_row, put

BLOCK = 32 * 1024
MOST_PARTS = 2048
"""Blocks that a record may go over: W&B's own have a few thousand bytes."""
FILE_HEADER, FRAGMENT_HEADER = struct.Struct("<4sHB"), struct.Struct("<IHB")
IDENT, MAGIC, VERSION = b":W&B", 0xBEE1, 0
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
QUIET_SEC = 1.0
"""Twice as long as wandb was ever seen to be late."""
SEEDS = tuple(zlib.crc32(bytes([kind])) for kind in range(5))
"""Checksum of each type byte, which the data's goes on from."""


class _Damage(Exception):
    """Why the log stops making sense, and where."""


class WandbFile:
    """A run's `.wandb` file, read front to back by `rows`.

    Everything but `path` is complete only when `rows` is exhausted; nothing is kept but what is named here.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id: str | None = None
        self.name: str | None = None
        """Display name."""
        self.project: str | None = None
        self.entity: str | None = None
        """Where W&B has the run; an entity is there only if it was named."""
        self.config: dict[str, Any] = {}
        self.finished = False
        """The run's end is in the file; without it the run goes on or was killed."""
        self.damage: str | None = None
        """What is wrong with the file after the last row, none if nothing is: cut off, or a bad checksum."""

    def rows(self, columns: Collection[str] | None = None) -> Iterator[Row]:
        """The rows of the history, as logged; nested keys are joined by dots, as wandb's exports do.

        A file that is still being written, cut off or damaged yields the rows before that place; `damage`
        says what was found there.

        Args:
            columns: Keys to decode, all if none; `_step` is always there.

        Raises:
            BundleError: The file is missing or no `.wandb` file, or wandb is not installed.
        """
        messages, heads = _Messages(), Heads(columns)
        self.finished, self.damage = False, None
        try:
            with self.path.open("rb") as stream:
                try:
                    _check_header(self.path, stream)
                    for data in _records(stream):
                        try:
                            row = self._cut(data, heads, messages)
                        except Odd:
                            row = self._take(messages.record(data), columns)
                        if row is not None:
                            yield row
                except _Damage as damage:
                    self.damage = str(damage)
                except (ValueError, RecursionError) as error:
                    self.damage = f"a value of a record is no JSON: {error}"
        except OSError as error:
            raise BundleError(f"{self.path}: the file cannot be read: {error.strerror}") from error

    def _cut(self, data: bytes, heads: Heads, messages: _Messages) -> Row | None:
        """The row of a record, none of one that says nothing here; `Odd` if only a message can tell."""
        field, begin = body(data)
        if field == messages.history:
            return cut_row(data[begin:], heads)
        if field in messages.told:
            raise Odd
        return None

    def _take(self, record: Any, columns: Collection[str] | None) -> Row | None:
        match record.WhichOneof("record_type"):
            case "history":
                return _row(record.history, columns)
            case "run":
                self.run_id, self.name = record.run.run_id, record.run.display_name or None
                self.project, self.entity = record.run.project or None, record.run.entity or None
                self._configure(record.run.config.update)
            case "config":
                self._configure(record.config.update)
            case "exit":
                self.finished = True
            case _:
                pass
        return None

    def _configure(self, items: Any) -> None:
        for item in items:
            self.config[_key(item)] = json.loads(item.value_json)


def ended(path: Path) -> bool:
    """Whether the run's end is in its file, from the file's last two blocks alone.

    Raises:
        BundleError: The file cannot be read, or wandb is not installed.
    """
    messages = _Messages()
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            before = (size - 1) // BLOCK - 1
            stream.seek(before * BLOCK if before > 0 else min(size, FILE_HEADER.size))
            with contextlib.suppress(_Damage):  # a torn end says that the run goes on
                return any(messages.field(data) == "exit" for data in _records(stream))
    except OSError as error:
        raise BundleError(f"{path}: the file cannot be read: {error.strerror}") from error
    return False


def wait_until_settled(path: Path, *, quiet_sec: float = QUIET_SEC, limit_sec: float = 10.0) -> bool:
    """Wait for the last rows of a run whose process has ended or has called `finish`.

    wandb writes its file in a process of its own, which is up to half a second late.

    Args:
        path: The file.
        quiet_sec: Without the run's end (it was killed), so long must nothing have been written.
        limit_sec: Longest wait.

    Returns:
        Whether the run's end is in the file.

    Raises:
        BundleError: The file cannot be read, or wandb is not installed.
    """
    began = time.monotonic()
    size, since = -1, began
    while not (done := ended(path)):
        now, before, size = time.monotonic(), size, path.stat().st_size
        since = now if size != before else since
        if now - since >= quiet_sec or now - began >= limit_sec:
            break
        time.sleep(min(0.05, quiet_sec))
    return done


class _Messages:
    """wandb's own message classes."""

    def __init__(self) -> None:
        try:
            from google.protobuf.message import DecodeError
            from wandb.proto import wandb_internal_pb2 as wandb
        except ImportError as error:
            raise BundleError(
                ".wandb files cannot be read without wandb: pip install 'worldloop[reporter]'"
            ) from error
        self._error, self._record = DecodeError, wandb.Record
        numbers = {
            (message, field): getattr(wandb, message).DESCRIPTOR.fields_by_name[field].number
            for message, field in FIELDS
        }
        fields = wandb.Record.DESCRIPTOR.fields_by_name
        self.history = fields["history"].number if numbers == FIELDS else None
        """Number of the field with a row; none if wandb has renumbered, and every row needs a message."""
        self.told = {fields[name].number: name for name in ("history", "run", "config", "exit")}
        """Of the records that say something here."""

    def record(self, data: bytes) -> Any:
        """The message in a record's bytes."""
        try:
            return self._record.FromString(data)
        except self._error as error:
            raise _Damage(f"a record of {len(data)} bytes is no record of wandb's: {error}") from error

    def field(self, data: bytes) -> str | None:
        """What kind of record it is; none for one that says nothing here."""
        try:
            return self.told.get(body(data)[0])
        except Odd:
            kind: str | None = self.record(data).WhichOneof("record_type")
            return kind


def _check_header(path: Path, stream: BinaryIO) -> None:
    found, expected = stream.read(FILE_HEADER.size), FILE_HEADER.pack(IDENT, MAGIC, VERSION)
    if len(found) < FILE_HEADER.size and expected.startswith(found):
        raise _Damage("the file ends inside its header")
    if found[:-1] != expected[:-1]:
        raise BundleError(f"{path}: no .wandb file: it begins with {found.hex()}, not {expected.hex()}")
    version = found[-1]
    if version != VERSION:
        raise BundleError(f"{path}: version {version} of the .wandb format; only {VERSION} is known")


def _records(stream: BinaryIO) -> Iterator[bytes]:
    """The records of a log from where its stream stands: after its header, or where a block begins.

    Raises:
        _Damage: The log ends inside a record, or is broken.
    """
    parts: list[bytes] = []
    start = at = stream.tell()  # offsets in the file
    entering = at % BLOCK == 0
    block = stream.read(BLOCK - at % BLOCK)
    while block:
        end, place = at + len(block), 0
        whole = end % BLOCK == 0
        while len(block) - place >= FRAGMENT_HEADER.size:
            checksum, length, kind = FRAGMENT_HEADER.unpack_from(block, place)
            offset, begin = at + place, place + FRAGMENT_HEADER.size
            data = block[begin : begin + length]
            if len(data) < length:
                how = f"the record at byte {offset} claims {length} bytes, more than its block has"
                raise _Damage(how if whole else f"the file ends inside the record at byte {offset}")
            if not FULL <= kind <= LAST:
                raise _Damage(f"byte {offset} begins no record: type {kind}")
            if zlib.crc32(data, SEEDS[kind]) != checksum:
                raise _Damage(f"the checksum of the record at byte {offset} is wrong")
            place = begin + length
            if kind == FULL and not parts:
                yield data
                continue
            if entering and kind in (MIDDLE, LAST):  # of a record that began in an earlier block
                entering = kind == MIDDLE
                continue
            if (kind in (FULL, FIRST)) == bool(parts):
                raise _Damage(f"the fragment at byte {offset} does not go on from the one before")
            start = offset if not parts else start
            parts.append(data)
            if len(parts) > MOST_PARTS:
                raise _Damage(f"the record at byte {start} has no end in {MOST_PARTS * BLOCK >> 20} MB")
            if kind == LAST:
                yield b"".join(parts)
                parts = []
        if not whole and place < len(block):
            raise _Damage(f"the file ends inside the record at byte {at + place}")
        at, block = end, stream.read(BLOCK - end % BLOCK)  # the file may have grown within its last block
    if parts:
        raise _Damage(f"the file ends inside the record at byte {start}")


def _row(history: Any, columns: Collection[str] | None) -> Row:
    row: Row = {STEP: history.step.num}
    for item in history.item:
        key = _key(item)
        if columns is None or key in columns or key == STEP:
            put(row, key, json.loads(item.value_json))
    return row


def _key(item: Any) -> str:
    return str(item.key) or ".".join(item.nested_key)
