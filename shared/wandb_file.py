"""Reader of `.wandb` files: what wandb writes locally while a run goes on, online or offline.

The file is a log in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/log_format.md): blocks
of 32 KiB, in them fragments with a header of 7 bytes (checksum, length, type) that make up records; no
fragment header begins in the last 6 bytes of a block. wandb differs in two things: the file begins with 7
bytes of its own (":W&B", magic, version), and the checksum is the plain CRC-32 of type and data, not
LevelDB's masked CRC-32C. Each record is a protobuf `Record` of `wandb.proto.wandb_internal_pb2`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import BundleError

BLOCK = 32 * 1024
FILE_HEADER, FRAGMENT_HEADER = struct.Struct("<4sHB"), struct.Struct("<IHB")
IDENT, MAGIC, VERSION = b":W&B", 0xBEE1, 0
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
SEEDS = tuple(zlib.crc32(bytes([kind])) for kind in range(5))
"""Checksum of each type byte, which the data's goes on from."""
STEP = "_step"


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
        self.config: dict[str, Any] = {}
        self.finished = False
        """The run's end is in the file; without it the run goes on or was killed."""
        self.damage: str | None = None
        """What is wrong with the file after the last row, none if nothing is: cut off, or a bad checksum."""

    def rows(self, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows of the history, as logged; nested keys are joined by dots, as wandb's exports do.

        A file that is still being written, cut off or damaged yields the rows before that place; `damage`
        says what was found there.

        Args:
            columns: Keys to decode, all if none; `_step` is always there.

        Raises:
            BundleError: The file is missing or no `.wandb` file, or wandb is not installed.
        """
        parse = _parser()
        try:
            with self.path.open("rb") as stream:
                try:
                    _check_header(self.path, stream)
                    for data in _records(stream):
                        row = self._take(parse(data), columns)
                        if row is not None:
                            yield row
                except _Damage as damage:
                    self.damage = str(damage)
                except json.JSONDecodeError as error:
                    self.damage = f"a value of a record is no JSON: {error}"
        except OSError as error:
            raise BundleError(f"{self.path}: the file cannot be read: {error.strerror}") from error

    def _take(self, record: Any, columns: Collection[str] | None) -> dict[str, Any] | None:
        match record.WhichOneof("record_type"):
            case "history":
                return _row(record.history, columns)
            case "run":
                self.run_id, self.name = record.run.run_id, record.run.display_name or None
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


def _parser() -> Any:
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise BundleError(
            ".wandb files cannot be read without wandb: pip install 'worldloop[trainer]'"
        ) from error

    def parse(data: bytes) -> Any:
        try:
            return wandb_internal_pb2.Record.FromString(data)
        except DecodeError as error:
            raise _Damage(f"a record of {len(data)} bytes is no record of wandb's: {error}") from error

    return parse


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
    """The records of a log whose header has been read.

    Raises:
        _Damage: The log ends inside a record, or is broken.
    """
    parts: list[bytes] = []
    start, at = 0, FILE_HEADER.size  # offsets in the file
    block = stream.read(BLOCK - at)
    while block:
        end, place = at + len(block), 0
        whole = end % BLOCK == 0
        while len(block) - place >= FRAGMENT_HEADER.size:
            checksum, length, kind = FRAGMENT_HEADER.unpack_from(block, place)
            offset, begin = at + place, place + FRAGMENT_HEADER.size
            data = block[begin : begin + length]
            if len(data) < length and not whole:
                raise _Damage(f"the file ends inside the record at byte {offset}")
            if not FULL <= kind <= LAST:
                raise _Damage(f"byte {offset} begins no record: type {kind}")
            if zlib.crc32(data, SEEDS[kind]) != checksum:
                raise _Damage(f"the checksum of the record at byte {offset} is wrong")
            if (kind in (FULL, FIRST)) == bool(parts):
                raise _Damage(f"the fragment at byte {offset} does not go on from the one before")
            place = begin + length
            start = offset if not parts else start
            parts.append(data)
            if kind in (FULL, LAST):
                yield b"".join(parts)
                parts = []
        if not whole and place < len(block):
            raise _Damage(f"the file ends inside the record at byte {at + place}")
        at, block = end, stream.read(BLOCK)
    if parts:
        raise _Damage(f"the file ends inside the record at byte {start}")


def _row(history: Any, columns: Collection[str] | None) -> dict[str, Any]:
    row: dict[str, Any] = {STEP: history.step.num}
    for item in history.item:
        key = _key(item)
        if columns is None or key in columns or key == STEP:
            value = json.loads(item.value_json)
            if isinstance(value, dict):
                _flatten(value, key, row)
            else:
                row[key] = value
    return row


def _key(item: Any) -> str:
    return str(item.key) or ".".join(item.nested_key)


def _flatten(value: dict[str, Any], prefix: str, row: dict[str, Any]) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict):
            _flatten(inner, f"{prefix}.{key}", row)
        else:
            row[f"{prefix}.{key}"] = inner
