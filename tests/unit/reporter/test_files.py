"""The event file, the exports, the lineage behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.reporter.core.lineage import lineage
from services.reporter.core.story import tell
from services.reporter.event_file import append_events, last_sequence
from services.reporter.exports import gate_export, read_rows, write_config, write_gate_export
from shared.bundle import Bundle
from shared.bus.journal import last_event, read_journal
from shared.history_export import number

RUN = "20260101_000000"
Log = Any


def test_events_are_appended_in_order_and_read_back(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 5)
    assert last_sequence(bundle.events) == 0
    append_events(bundle.events, log.records[:2])
    assert last_sequence(bundle.events) == 2
    append_events(bundle.events, log.records[2:])
    append_events(bundle.events, [])
    assert [record.message for record in read_journal(bundle.events)] == [
        record.message for record in log.records
    ]
    line = json.loads(bundle.events.read_text().splitlines()[0])
    assert (line["specversion"], line["sequence"], line["type"]) == ("1.0", 1, "worldloop.event.run_started")


@pytest.mark.parametrize(
    "torn", [b"{", b'{"specversion":"1.0"}', b'{"specversion":"1.0"}\n', b"\0" * 9, b"\xff\n"]
)
def test_a_torn_end_is_cut_off(log: Log, bundle: Bundle, torn: bytes) -> None:
    log.begin().chunk(1, 0, 5)
    append_events(bundle.events, log.records[:3])
    whole = bundle.events.read_bytes()
    bundle.events.write_bytes(whole + torn)
    assert last_sequence(bundle.events) == 3
    assert bundle.events.read_bytes() == whole


def test_a_whole_line_that_only_another_version_understands_is_kept(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 5)
    append_events(bundle.events, log.records[:3])
    *_, last = bundle.events.read_text().splitlines()
    line = json.loads(last) | {"subject": f"worldloop.{RUN}.event.of_tomorrow", "sequence": 9, "data": {}}
    with bundle.events.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    whole = bundle.events.read_bytes()
    assert last_sequence(bundle.events) == 9
    assert bundle.events.read_bytes() == whole


def test_every_torn_end_of_the_file_is_repaired(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 5)
    append_events(bundle.events, log.records)
    whole = bundle.events.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (*range(0, len(whole), 97), *(end - 1 for end in ends)):
        bundle.events.write_bytes(whole[:cut])
        assert last_sequence(bundle.events) == sum(end <= cut for end in ends)


def test_a_line_longer_than_a_block_is_found(
    log: Log, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.journal.TAIL_BYTES", 7)
    log.begin().chunk(1, 0, 5)
    append_events(bundle.events, log.records)
    assert last_sequence(bundle.events) == len(log.records)


def test_the_last_event_is_the_last_whole_line(log: Log, bundle: Bundle) -> None:
    assert last_event(bundle.events) is None
    log.begin().chunk(1, 0, 5)
    append_events(bundle.events, log.records)
    with bundle.events.open("a") as stream:
        stream.write('{"being": "writ')
    found = last_event(bundle.events)
    assert found is not None
    assert found.sequence == log.records[-1].sequence


def pieces(log: Log) -> list[tuple[int, int, int]]:
    found = tell(log.records)
    assert found is not None
    return [(piece.attempt, piece.start, piece.end) for piece in lineage(found.of("dynamics"))]


FAILED = {"decision": "retune", "verdict": "retune", "reason": "gate_fail", "accepted_checkpoint": None}


def test_the_lineage_of_healthy_chunks_is_all_of_them(log: Log) -> None:
    log.begin().chunk(1, 0, 10).chunk(2, 10, 20)
    assert pieces(log) == [(1, 0, 10), (2, 10, 20)]


def test_a_failed_chunk_that_is_run_again_does_not_count(log: Log) -> None:
    log.begin().chunk(1, 0, 10).chunk(2, 10, 20, gate=FAILED | {"resume_step": 10})
    assert pieces(log) == [(1, 0, 10)]
    log.chunk(3, 10, 20)
    assert pieces(log) == [(1, 0, 10), (3, 10, 20)]


def test_of_a_chunk_that_ran_out_of_memory_the_part_before_its_checkpoint_counts(log: Log) -> None:
    log.begin().chunk(1, 0, 10, gate=FAILED | {"reason": "oom", "resume_step": 7}).chunk(2, 7, 10)
    assert pieces(log) == [(1, 0, 7), (2, 7, 10)]


def test_a_restart_drops_what_came_after_the_best_checkpoint(log: Log) -> None:
    restart = FAILED | {"decision": "restart_stage", "resume_step": 10}
    log.begin().chunk(1, 0, 10).chunk(2, 10, 20).chunk(3, 20, 30, gate=restart).chunk(4, 10, 20)
    assert pieces(log) == [(1, 0, 10), (4, 10, 20)]


def test_an_attempt_that_began_before_an_accepted_step_replaces_what_followed(log: Log) -> None:
    log.begin().chunk(1, 0, 10).chunk(2, 5, 10)
    assert pieces(log) == [(1, 0, 5), (2, 5, 10)]


def test_rows_are_read_within_their_updates_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("_step,train/loss\n0,1\n1,nan\n2,3\n3,4\nx,5\n1,0.")
    rows = list(read_rows(path, 1, 3))
    assert (str(rows[0]["train/loss"]), rows[1]["train/loss"]) == ("nan", 3)
    assert [number(row, "train/loss") for row in rows] == [None, 3]


def test_the_export_holds_the_lineages_rows(log: Log, bundle: Bundle) -> None:
    log.begin().chunk(1, 0, 3).chunk(2, 3, 6, gate=FAILED | {"resume_step": 3}).chunk(3, 3, 5)
    found = tell(log.records)
    assert found is not None
    write_gate_export(bundle, RUN, "dynamics", lineage(found.of("dynamics")))
    path = gate_export(bundle, RUN, "dynamics")
    assert path.name == f"dynamics_history_{RUN}_gate.csv"
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == [
        "_step",
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    rows = json.loads(path.with_suffix(".json").read_text())
    assert rows[3] == {"_step": 3, "train/loss": 1 / 6}


def test_the_configuration_says_where_values_came_from(log: Log, bundle: Bundle) -> None:
    log.begin()
    write_config(bundle, RUN, log.records[0].message.spec)
    run = yaml.safe_load((bundle.config / "run.yaml").read_text())
    assert (run["run_id"], run["profile"], run["stages"]) == (RUN, "demo", ["dynamics"])
    assert run["configuration"]["training"]["patch_size"] == 4
    assert yaml.safe_load((bundle.config / "policy.yaml").read_text()) == {"gatekeeper": {"max_retries": 5}}
    assert yaml.safe_load((bundle.config / "origins.yaml").read_text()) == {
        "training.seed": "configs/training.yaml"
    }
