"""How far a move has come: the hidden names it uses, the journal beside its target, and who works on it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from services.bundles.core.manifest import Manifest, parse
from shared.bundle import write_atomic
from shared.config import Config
from shared.errors import BundleError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Journal(Config):
    """How far a move has come."""

    run_id: str
    source: str
    target: str
    stamp: str
    way: Literal["renamed", "copied"] = "copied"
    deleting: bool = False
    """All was verified, also what is being deleted: the source under its hidden name."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a move works: its two ends, and hidden names beside them."""

    source: Path
    target: Path

    @property
    def staging(self) -> Path:
        """The directory of a move that is on its way."""
        return self.target.with_name(f".{self.target.name}.moving")

    @property
    def copied(self) -> Path:
        """The copy until it is whole."""
        return self.staging / "bundle"

    @property
    def manifest(self) -> Path:
        """Checksums of all that was verified."""
        return self.staging / "manifest.txt"

    @property
    def done(self) -> Path:
        """The directory of a move when only its own removal is left to do."""
        return self.staging.with_name(f"{self.staging.name}.done")

    @property
    def aside(self) -> Path:
        """The source's name while it is being deleted."""
        return self.source.with_name(f".{self.source.name}.moved")

    def journal(self) -> Journal | None:
        """The journal of a move to the target; none if there is none on its way.

        Raises:
            BundleError: It cannot be read.
        """
        path = self.staging / "move.json"
        try:
            return Journal.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValidationError, OSError) as error:
            raise BundleError(f"{path} cannot be read ({error}): remove {self.staging}") from error

    def write(self, journal: Journal) -> None:
        """Write it, durable."""
        write_atomic(self.staging / "move.json", journal.model_dump_json(indent=1))

    def verified(self) -> Manifest:
        """The manifest, once all of it was verified."""
        return parse(self.manifest.read_bytes())

    def is_of(self, journal: Journal) -> bool:
        """Whether a journal is that of this move."""
        return (journal.source, journal.target) == (str(self.source), str(self.target))


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """Keep other moves from and to a place away, by a hidden file beside it that goes afterwards.

    Raises:
        BundleError: Another move works there.
        OSError: Nothing can be written beside it.
    """
    path = place.with_name(f".{place.name}.lock")
    with contextlib.ExitStack() as held:
        while True:
            stream = held.enter_context(path.open("ab"))
            _lock(stream.fileno(), place)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                break  # else who held it has removed it meanwhile: this one keeps nobody away
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(descriptor: int, place: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BundleError(
            f"another `worldloop bundle move` is at work on {place}: wait for its end"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        # Without locks two moves disturb each other, but still delete nothing that was not verified.
