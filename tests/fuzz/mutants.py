"""Damage done to a valid file, as disks, networks and strangers do it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

MARKS = tuple(bytes([each]) for each in b"\0\xff\n\"'{[(,:-\\%")
WORDS = (
    b"&a",
    b"*a",
    b"!!python/none ",
    b"1e999",
    b"9" * 5000,
    b"NaN",
    b"null",
    b"../..",
    b"2026-02-30",
    b"\xed\xa0\x80",
)
NASTY = MARKS + WORDS
NESTED = (b"[", b"{", b'{"a":', b"(", b"- ")
LENGTHS = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x80" * 9 + b"\x01")
"""What a length or an offset becomes."""


@dataclass(frozen=True)
class Damage:
    """One change: `size` bytes at `place`, a share of the file in 0..1, become `bytes_`."""

    place: float
    size: int
    bytes_: bytes

    def done_to(self, content: bytes) -> bytes:
        at = int(self.place * len(content))
        return content[:at] + self.bytes_ + content[at + self.size :]


Damages = list[Damage] | bytes
"""Changes, one after the other, or bytes that never were such a file; short to look at."""


def damages() -> st.SearchStrategy[Damages]:
    """A few changes: cut, inserted, nested a thousand deep, lengths out of bounds; or other bytes."""
    inserted = st.one_of(
        st.binary(max_size=16),
        st.sampled_from(NASTY),
        st.sampled_from(LENGTHS),
        st.sampled_from(NESTED).map(lambda opening: opening * 1_200),
    )
    sizes = st.one_of(st.integers(0, 16), st.integers(0, 4096), st.just(2**31))
    changes = st.lists(st.builds(Damage, st.floats(0, 1), sizes, inserted), min_size=1, max_size=4)
    return st.one_of(changes, changes, st.binary(max_size=512))


def after(damage: Damages, valid: bytes) -> bytes:
    """What damage makes of a valid file."""
    if isinstance(damage, bytes):
        return damage
    for change in damage:
        valid = change.done_to(valid)
    return valid
