"""Modules that a person names: a policy of their own, an environment of their own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from shared.errors import DatasetError


def named_module(name: str, *, wanted: str) -> ModuleType:
    """Import a module; the current directory is looked in too.

    Args:
        name: Dotted name.
        wanted: What asked for it, for the error.

    Raises:
        DatasetError: There is no such module, or it fails as it is imported.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # it is anybody's code, perhaps a script
        raise DatasetError(
            f"{wanted}: module {name!r} cannot be imported, {type(error).__name__}: {error}. "
            f"Name one that Python finds, or that lies in {here}"
        ) from error
    finally:
        sys.path.remove(here)
