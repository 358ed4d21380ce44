"""Rows by id that remember which of them changed since somebody last asked."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar


class HasId(Protocol):
    """A row."""

    @property
    def id(self) -> str:
        """What a page replaces it by."""
        ...

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        """The row with some fields changed."""
        ...


R = TypeVar("R", bound=HasId)


class Table(Generic[R]):
    """Rows in the order in which they first came."""

    def __init__(self) -> None:
        self._rows: dict[str, R] = {}
        self._changed: dict[str, None] = {}

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._rows

    def put(self, row: R) -> None:
        """Add a row, or take it in place of the one with its id."""
        if self._rows.get(row.id) != row:
            self._rows[row.id] = row
            self._changed[row.id] = None

    def update(self, row_id: str, **fields: Any) -> None:
        """Change fields of a row."""
        self.put(self._rows[row_id].model_copy(update=fields))

    def get(self, row_id: str) -> R | None:
        """The row with that id."""
        return self._rows.get(row_id)

    @property
    def rows(self) -> list[R]:
        """All of them."""
        return list(self._rows.values())

    def take_changes(self) -> list[R]:
        """The rows that are new or have changed since this was last called; costs nothing for the others."""
        found = [self._rows[row_id] for row_id in self._changed]
        self._changed.clear()
        return found
