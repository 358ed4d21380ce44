"""History rows out of the bytes of wandb's records, without making messages of them.

Nearly all of a `.wandb` file is rows: a `history` record for each, and `summary` records that say it again.
Making messages of them takes nearly all the time, so rows are cut out of the bytes of the wire format
(https://protobuf.dev/programming-guides/encoding), in the one form in which wandb writes them:

    record   num  field  length  body          the body ends with the record
    history  (0x0a length item)*  0x12 length step
    item     key or nested_key+  0x82 0x01  length  value as JSON

Every byte is accounted for, and a length is a single byte. Whatever looks different, as an item of more than
127 bytes does, is `Odd`, and its reader makes a message of it; so rows are what the messages say, if these
can be made and their values are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

STEP = "_step"
FIELDS = {
    ("Record", "num"): 1,
    ("Record", "history"): 2,
    ("HistoryRecord", "item"): 1,
    ("HistoryRecord", "step"): 2,
    ("HistoryStep", "num"): 1,
    ("HistoryItem", "key"): 1,
    ("HistoryItem", "nested_key"): 2,
    ("HistoryItem", "value_json"): 16,
}
"""Numbers of the fields that are cut out of the bytes; a reader compares them with the installed wandb's."""
BYTES = 2
"""Wire type of everything that has a length."""
NUM_TAG, ITEM_TAG, STEP_TAG, STEP_NUM_TAG, KEY_TAG, NESTED_TAG = 0x08, 0x0A, 0x12, 0x08, 0x0A, 0x12
VALUE_TAG = b"\x82\x01"
MORE = 0x80
"""Bit of a byte of a varint that is not its last."""

POINT = ord(".")
"""As a number, which is looked for in bytes three times as fast as another bytes object."""

Row = dict[str, Any]


class Odd(Exception):
    """Bytes of another form than wandb's usual one, or no record at all: only a message can tell."""


def body(record: bytes) -> tuple[int, int]:
    """The number of a record's field, and where its body begins; the body ends with the record.

    Raises:
        Odd: The record has more than `num` and this field, or is none.
    """
    try:
        at = 1
        while record[at] >= MORE:
            at += 1
        tag, at = record[at + 1], at + 2
        if tag >= MORE:
            tag, at = _varint(record, at - 1)
        length = record[at]
        if length < MORE:
            at += 1
        else:
            length, at = _varint(record, at)
        if at + length != len(record) or tag & 7 != BYTES or record[0] != NUM_TAG:
            raise Odd
    except IndexError:
        raise Odd from None
    return tag >> 3, at


class Heads(dict[bytes, tuple[str | None, int, int]]):
    """What stands before an item's value -> its name, none if it is not asked for, and the value's length.

    There are as many as there are names times lengths of values. Each is understood when it first comes up.

    Args:
        columns: Names to keep, all if none.
    """

    def __init__(self, columns: Collection[str] | None) -> None:
        super().__init__()
        self._columns = columns

    def __missing__(self, head: bytes) -> tuple[str | None, int, int]:
        if len(head) < 2 or head[0] != ITEM_TAG or head[1] >= MORE:
            raise Odd
        name, size = _name(head), head[1] + 2 - len(head) - len(VALUE_TAG) - 1
        asked = self._columns is None or name in self._columns or name == STEP
        self[head] = (name if asked else None, size, size + 1)
        return self[head]


def cut_row(history: bytes, heads: Heads) -> Row:
    """The row in the body of a history record, as logged; nested names are joined by dots.

    Raises:
        Odd: It has another form than wandb's usual one.
        ValueError: A value is no JSON.
    """
    row: Row = {}
    head, *pieces = history.split(VALUE_TAG)
    try:
        for piece in pieces:  # a value and what stands before the next one
            name, size, end = heads[head]
            if piece[0] != size:
                raise Odd
            if name is not None:
                text = piece[1:end]
                try:
                    row[name] = float(text) if POINT in text else int(text)
                except ValueError:
                    put(row, name, json.loads(text.decode()))
            head = piece[end:]
        step = _step(head)  # nothing is left of a head after a value that was cut short
    except IndexError:
        raise Odd from None
    row.setdefault(STEP, step)
    return row


def put(row: Row, name: str, value: Any) -> None:
    """Put a value into a row; of an object, each of its values under a name of its own."""
    if isinstance(value, dict):
        for key, inner in value.items():
            put(row, f"{name}.{key}", inner)
    else:
        row[name] = value


def _name(head: bytes) -> str:
    """The name that stands before a value."""
    parts, tags, at = [], [], 2
    while at < len(head):
        size, begin = head[at + 1], at + 2
        if size >= MORE or begin + size > len(head):
            raise Odd
        try:
            parts.append(head[begin : begin + size].decode())
        except UnicodeDecodeError:
            raise Odd from None
        tags.append(head[at])
        at = begin + size
    if tags != [KEY_TAG] and set(tags) != {NESTED_TAG}:
        raise Odd
    return ".".join(parts)


def _step(tail: bytes) -> int:
    """The step at the end of a history; one of 0 is left out on the wire."""
    if tail[0] != STEP_TAG or tail[1] != len(tail) - 2:
        raise Odd
    if len(tail) == 2:
        return 0
    number, end = _varint(tail, 3)
    if tail[2] != STEP_NUM_TAG or end != len(tail) or number >= 1 << 63:  # a negative one has its top bit set
        raise Odd
    return number


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte, lowest first, and where it ends.

    Raises:
        IndexError: The data end inside it.
        Odd: It is longer than any number is.
    """
    number = shift = 0
    while (byte := data[at]) >= MORE:
        number |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if shift > 63:
            raise Odd
    return number | byte << shift, at + 1
