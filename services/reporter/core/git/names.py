"""What the files of a past commit are called now: renames, followed along every parent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

Then = Mapping[bytes, bytes | None]
"""Name then -> name now, where they differ; none: the file has no name now that counts."""


class Names:
    """Walks from HEAD to the roots, children before parents.

    A path that exists now is the same path at all times, also before it was deleted and put back, except
    where the file that had its name went on under another one.

    Args:
        now: The paths at HEAD that count.
    """

    def __init__(self, now: Collection[bytes]) -> None:
        self._now = frozenset(now)
        self._then: dict[str, Then] = {}
        self.former: dict[bytes, set[bytes]] = {}
        """Path now -> other names it had."""

    def leave(self, commit: str) -> Then:
        """The names at a commit all of whose children were seen."""
        return self._then.pop(commit, {})

    def enter(self, parent: str, then: Then, renames: Iterable[tuple[bytes, bytes]]) -> None:
        """Go on to a parent.

        Args:
            parent: The commit.
            then: Names at the child.
            renames: Name in the parent, name in the child.
        """
        before = dict(then)
        for _, new in renames:
            before.pop(new, None)
        for old, new in renames:
            before[old] = now = self.name(then, new)
            if now is not None and now != old:
                self.former.setdefault(now, set()).add(old)
        known = self._then.get(parent)
        self._then[parent] = before if known is None else self._both(known, before)

    def name(self, then: Then, path: bytes) -> bytes | None:
        """What a path is called now; none if it is not there any more."""
        now = then.get(path, path)
        return now if now in self._now else None

    def _both(self, one: Then, other: Then) -> Then:
        """Two children may call a file differently: the one that is there now holds."""
        if one == other:
            return one
        return {
            path: next(filter(None, (self.name(one, path), self.name(other, path))), None)
            for path in sorted({*one, *other})
        }
