"""How fast the rows of a `.wandb` file are read, against a reader that makes a message of every record.

Writes a file as wandb 0.31 does while TinyWorlds trains: for each update a `history` record with the stage's
figures, and `summary` records that say them again, in the log's blocks. Then reads it on one thread with all
columns decoded, and with those that a gate needs; the best of several times. Items are those of the rows.

Last line: JSON with `mb_per_s` and `items_per_s` of the reader, and `speedup` over the messages.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as wandb

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.monitor.core.history import COLUMNS
from shared.wandb_file import WandbFile, _records, _row
from tests.unit.wandb_log import HEADER, Log, finish, history, run, summary

REPEATS = 5


def main() -> None:
    """Write, read, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=60_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.wandb"
        size = write(path, arguments.rows) / 1e6
        assert list(WandbFile(path).rows()) == list(by_messages(path)), "the two readers disagree"
        items = sum(len(row) for row in WandbFile(path).rows())
        found = {
            "all columns": best(lambda: WandbFile(path).rows()),
            "columns of a gate": best(lambda: WandbFile(path).rows(COLUMNS)),
            "messages": best(lambda: by_messages(path)),
        }
    for name, seconds in found.items():
        print(f"{name:>18}: {seconds:6.3f} s  {size / seconds:6.1f} MB/s  {items / seconds:12,.0f} items/s")
    seconds = found["all columns"]
    figures = {
        "mb_per_s": round(size / seconds, 1),
        "items_per_s": round(items / seconds),
        "gate_mb_per_s": round(size / found["columns of a gate"], 1),
        "speedup": round(found["messages"] / seconds, 1),
    }
    print(json.dumps(figures))


def write(path: Path, rows: int) -> int:
    """Write a run of dynamics with so many updates; returns its bytes."""
    draw, log, number = random.Random(0), Log(), 1
    with path.open("wb") as stream:
        stream.write(log.header())
        stream.write(log.record(run(number, "abcd1234", "pong/dynamics", {"n_updates": rows})))
        for step in range(rows):
            row = {
                "train/loss": 7 * draw.random(),
                "action_entropy": draw.random(),
                "unique_actions": draw.randint(1, 8),
                "latent_actions/codebook_usage": draw.random(),
                "learning_rate/group_0": draw.random() * 1e-3,
                "system/gpu_memory_allocated": draw.random() * 1e4,
                "grad_norm": 3 * draw.random(),
                "_timestamp": 1.79e9 + draw.random() * 1e6,
                "_runtime": step * 0.05 + draw.random(),
            }
            number += 3
            stream.write(log.record(history(number, step, row)))
            stream.write(log.record(summary(number + 1, {"_runtime": row["_runtime"]})))
            stream.write(log.record(summary(number + 2, row)))
        stream.write(log.record(finish(number + 3)))
    return log.size


def best(read: Callable[[], Iterator[Any]]) -> float:
    """CPU seconds to read all rows, the least of several times: a shared core would only count in others."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _row_read in read():
            pass
        times.append(time.process_time() - began)
    return min(times)


def by_messages(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, each record a message first."""
    with path.open("rb") as stream:
        stream.read(len(HEADER))
        for data in _records(stream):
            record = wandb.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                yield _row(record.history, None)


if __name__ == "__main__":
    main()
