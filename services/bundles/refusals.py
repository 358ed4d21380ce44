"""What a move refuses, before anything is made or when something has changed, in words for people."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from services.bundles.core.manifest import Fault, printable
from services.bundles.journal import Journal, Places
from services.bundles.run import EVENTS
from services.bundles.tree import Entry, is_full, scan
from shared.bundle import Bundle
from shared.errors import BundleError

ENOUGH = 5
"""So many paths are named in an error."""


def check_places(places: Places) -> list[Entry]:
    """Refuse what cannot be moved, before anything is made.

    Returns:
        What the source holds.

    Raises:
        BundleError: Why.
    """
    source, target = places.source, places.target
    for place in (source, target):
        if str(place).encode(errors="replace") != os.fsencode(place):
            raise BundleError(f"{printable(str(place))} is not UTF-8: rename that directory")
    if source.is_symlink():
        raise BundleError(f"{source} is a link to {source.resolve()}: name the bundle itself")
    if places.aside.exists():
        raise BundleError(
            f"{places.aside} is what a move of {source} that was cut had yet to delete: go on with that one, "
            "the same command again"
        )
    if not source.is_dir():
        there = f"; {target} is there" if target.exists() else ""
        raise BundleError(f"{source}: there is no such bundle{there}")
    if target.exists() or target.is_symlink():
        raise BundleError(f"{target} is there already, and nothing is overwritten: name another place")
    outside = target.resolve()
    if outside.is_relative_to(source.resolve()):
        raise BundleError(f"{target} lies inside the bundle itself: name another place")
    if around := next((each for each in outside.parents if (each / EVENTS).is_file()), None):
        raise BundleError(f"{target} lies inside another bundle, {around}: name another place")
    if not os.access(source.parent, os.W_OK | os.X_OK):
        raise BundleError(f"{source.parent} is write-protected: {source.name} could not be deleted there")
    Bundle(source, "").resolve("docs/action")  # the report of the move is written there
    return scan(source)


def check_same(place: Path, entries: Iterable[Entry]) -> None:
    """Make sure that nothing changed since a scan.

    Raises:
        BundleError: Something did.
    """
    if changed := sorted({each.path for each in {*entries} ^ {*scan(place)}}):
        shown = ", ".join(map(printable, changed[:ENOUGH])) + (", ..." if len(changed) > ENOUGH else "")
        raise BundleError(
            f"{place} was changed while it was moved ({shown}). Nothing was deleted; run the same command "
            "again when nothing writes there"
        )


def another(places: Places, journal: Journal) -> BundleError:
    """A move from elsewhere to the same target was cut."""
    return BundleError(
        f"{places.staging}: a move of {journal.source} to {journal.target} was cut; go on with "
        f"`worldloop bundle move {journal.source} {journal.target}`, or remove that directory"
    )


def not_what_was_verified(places: Places, what: str, faults: Sequence[Fault]) -> BundleError:
    """A place does not hold what the manifest says."""
    return BundleError(
        f"{what} is not what was verified: {told(faults)}. Nothing was deleted; {places.manifest} has the "
        f"checksums. Keep what you want of {places.source} and {places.target}, remove {places.staging}, and "
        "move again"
    )


def refused(error: OSError, source: Path) -> BundleError:
    """A disk or a permission."""
    place = printable(str(error.filename or source))
    if is_full(error):
        return BundleError(
            f"{place}: no room is left there. {source} is as it was; make room and run the same command "
            "again, it goes on where it was"
        )
    return BundleError(
        f"{place}: {error.strerror}. Nothing was deleted that is not verified in its new place; put that "
        "right, or name another place, and run the same command again"
    )


def told(faults: Sequence[Fault]) -> str:
    """The first faults in a line."""
    shown = ", ".join(f"{printable(path)} {problem}" for path, problem in faults[:ENOUGH])
    return shown + (f" and {len(faults) - ENOUGH} more" if len(faults) > ENOUGH else "")
