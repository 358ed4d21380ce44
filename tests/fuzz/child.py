"""`python -m tests.fuzz.child` reads the files named on its standard input and says what came of each.

A process of its own, because a C library may crash on a damaged file, or ask for all memory there is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fuzz import memory
from tests.fuzz.subjects import SUBJECTS


def main() -> None:
    for line in sys.stdin:
        name, path = line.rstrip("\n").split("\t")
        subject = SUBJECTS[name]
        try:
            with memory.bounded():
                subject.read(Path(path))
        except subject.refusal:
            print("refused", flush=True)
        except Exception as error:  # noqa: BLE001 - reported to the test, which fails
            print(f"raised {error!r}", flush=True)
        else:
            print("read", flush=True)


if __name__ == "__main__":
    main()
