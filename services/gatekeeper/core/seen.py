"""A set of ids of which each event makes a new version, cheaply."""

from __future__ import annotations


class Seen:
    """A set of ids that only grows. `add` leaves the old set as it was, at the same cost however large it is.

    All versions share one table of ids in the order they came; a version is its first `size` entries.
    """

    __slots__ = ("_size", "_table")

    def __init__(self, table: dict[str, int] | None = None, size: int = 0) -> None:
        self._table = table if table is not None else {}
        self._size = size

    def __contains__(self, message_id: object) -> bool:
        return self._table.get(message_id, self._size) < self._size  # type: ignore[call-overload, no-any-return]

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and self._ids() == other._ids()

    def __hash__(self) -> int:
        return hash(self._size)

    def add(self, message_id: str) -> Seen:
        """This set and one more id."""
        table = self._table
        if len(table) != self._size:  # another version has grown from this one: leave it its table
            table = {known: place for known, place in table.items() if place < self._size}
        table[message_id] = self._size
        return Seen(table, self._size + 1)

    def _ids(self) -> set[str]:
        return {known for known, place in self._table.items() if place < self._size}
