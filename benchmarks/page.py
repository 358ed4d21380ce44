"""The live page of a large run: how long until it can be shown, and how that compares with plain reading.

    python -m benchmarks.page [GATES] [POINTS]

Opening is everything that a browser waits for after the reporter has started: the events read and folded, the
page as JSON, and the curve of its stage thinned out. Plain reading is the same CSV files through `csv`, once.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

from services.reporter.core.page.fold import PageFold, fold_all
from services.reporter.page.histories import Histories
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from tests.e2e.big_run import NAME, RUN, write_big_run


def plain(bundle: Bundle) -> int:
    """Read every row of every file."""
    rows = 0
    for path in bundle.history("dynamics", 1).parent.glob("*.csv"):
        with path.open(newline="") as stream:
            rows += sum(1 for row in csv.DictReader(stream) if float(row["train/loss"]) >= 0)
    return rows


def main(gates: int, points: int) -> None:
    """Measure, print the table and, as the last line, JSON."""
    found: dict[str, float] = {}

    def measured(name: str, began: float) -> None:
        found[name] = time.perf_counter() - began

    with tempfile.TemporaryDirectory() as directory:
        bundle = Bundle(write_big_run(Path(directory), gates, points), NAME)
        began = time.perf_counter()
        records = read_journal(bundle.events)
        measured("read events", began)
        began = time.perf_counter()
        fold = fold_all(RUN, records)
        measured("fold", began)
        began = time.perf_counter()
        size = len(fold.page(0.0, live=True).model_dump_json())
        measured("page as JSON", began)
        histories, began = Histories(), time.perf_counter()
        histories.read(bundle, "dynamics", "train/loss", fold.superseded("dynamics"))
        measured("curve, first time", began)
        began = time.perf_counter()
        histories.read(bundle, "dynamics", "train/loss", {}, start=1, end=points // 10)
        measured("curve, zoomed", began)
        began = time.perf_counter()
        plain(bundle)
        measured("plain reading of the CSV files", began)
    small = PageFold(RUN)
    half = len(records) - 200
    costs = []
    for name, part in (("patch, first 100 messages", records[:100]), ("patch, last 100", records[half:])):
        if name.endswith("last 100"):
            for record in records[100:half]:
                small.take(record)
            small.patch(0.0)
        began = time.perf_counter()
        for record in part[:100]:
            small.take(record)
            json.dumps(small.patch(0.0))
        costs.append((time.perf_counter() - began) / 100)
        found[name] = costs[-1]
    opening = sum(found[name] for name in ("read events", "fold", "page as JSON", "curve, first time"))
    ratio = found["plain reading of the CSV files"] / found["curve, first time"]
    print(f"{gates} gates, {points} history rows, page of {size / 1e6:.1f} MB")
    for name, seconds in (*found.items(), ("opening, all together", opening)):
        print(f"{name:<32} {1000 * seconds:10.2f} ms")
    print(f"the curve is {ratio:.1f} times as fast as plain reading")
    result = {"gates": gates, "points": points, "opening_sec": opening, "curve_over_plain": ratio}
    print(json.dumps(result | {"patch_sec_first": costs[0], "patch_sec_last": costs[1]}))


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    main(*(numbers or [1000, 1_000_000]))
