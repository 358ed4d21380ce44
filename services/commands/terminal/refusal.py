"""What the operating system refuses, in words for people."""

from __future__ import annotations

import errno
import os

CURES = {
    errno.EACCES: "Run it in a directory that you may use, or as the user whose that is",
    errno.EPERM: "Run it as the user whose that is",
    errno.EROFS: "Name a place that can be written",
    errno.ENOSPC: "Make room there",
    errno.EDQUOT: "Make room there",
    errno.ENAMETOOLONG: "Give a shorter name",
    errno.EMFILE: "Raise the limit of open files: ulimit -n",
}
GONE = "the current directory is not there any more. Change to another"


def refusal(error: OSError) -> str:
    """The sentence for an error of the system: which file, why, and the cure if one is known."""
    if error.filename is None and error.errno == errno.ENOENT:  # only of `getcwd`
        return GONE
    place = (
        f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    )
    cure = f". {CURES[error.errno]}" if error.errno in CURES else ""
    return f"{place}{error.strerror or error}{cure}"
