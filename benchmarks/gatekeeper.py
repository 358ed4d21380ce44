"""What the gatekeeper's part of a gate costs: reading a long history, judging it, and folding a long log.

    python benchmarks/gatekeeper.py [--rows 1000000] [--events 100000]

Decision: a fresh process reads a CSV history of a stage that has trained in one chunk, takes the monitor's
statistics of it and judges the gate. Its time runs from before the file is opened to the decision; its memory
is the peak of the whole process, interpreter and libraries included.

Fold: a run of that many events as the services write them, with one gate after the other, late and repeated
evidence. `fold_100k_events_s` is the fold alone; decoding the same events from JSON is told beside it. The
cost of one event, median over 5 times 1,000 of them, is taken at the beginning of the log and at its end:
the same, if the fold is linear.

Names with `cpu` are the process's own time, which a busy machine does not change.

Last line: one JSON object with decide_1m_rows_s, decide_peak_mb, fold_100k_events_s and the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from services.gatekeeper.core.checks import examine
from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.state import Chunk, RunState
from services.monitor.core import history
from services.monitor.files import read_history
from shared.bus.journal import from_line, to_line
from shared.bus.protocol import Recorded
from shared.events import ArtifactEvidence, ContinueChunk
from tests.unit.gatekeeper.story import (
    HEALTHY,
    Outcome,
    Story,
    chunk_done,
    chunk_started,
    gpu_evidence,
    only,
    visual,
)

ROOT = Path(__file__).parents[1]
CHUNK = 10
KEPT = 10
"""Checkpoints that the trainer lists in the long log."""
WINDOW = 1000
"""Events over which the cost of one is taken."""


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the history")
    parser.add_argument("--events", type=int, default=100_000, help="events of the log")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes that decide")
    parser.add_argument("--decide", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decide is not None:
        print(json.dumps(decide(arguments.decide, arguments.rows)))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "attempt_0001.csv"
        write_history(path, arguments.rows)
        command = [sys.executable, __file__, "--rows", str(arguments.rows), "--decide", str(path)]
        runs = [json.loads(subprocess.check_output(command, cwd=ROOT)) for _ in range(arguments.repeats)]
    result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result |= folding(arguments.events)
    for name, value in result.items():
        print(f"{name:<28}{value:>12.3f}")
    print(json.dumps(result))


# --- from a history to a decision -------------------------------------------------------------------------


def write_history(path: Path, rows: int) -> None:
    """What a latent-action stage leaves: every column there is, at full precision."""
    random = np.random.default_rng(0)
    loss = 0.04 + 0.2 * np.exp(-np.arange(rows) / (rows / 8)) + random.normal(0, 0.004, rows)
    entropy = random.uniform(1.0, 1.3, rows)
    seconds = np.cumsum(random.uniform(0.1, 0.2, rows))
    header = "_step,train/loss,learning_rate/group_0,_runtime,attempt,action_entropy,unique_actions"
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"{header},latent_actions/codebook_usage\n")
        stream.writelines(
            f"{step},{loss[step]!s},{1e-4!s},{seconds[step]!s},1,{entropy[step]!s},4,1.0\n"
            for step in range(rows)
        )


def decide(path: Path, rows: int) -> dict[str, float]:
    """Read, measure, judge, in this process.

    Raises:
        AssertionError: The gate was not accepted: something else was measured than meant.
    """
    knobs = {"n_updates": rows}
    policy = {"chunk": {"video_tokenizer": rows, "latent_actions": rows, "dynamics": rows}}
    story = Story(only("latent_actions", config={"latent_actions": knobs}, policy=policy)).start().settle()
    chunk = story.state.chunk
    assert chunk is not None
    plan = chunk.plan
    stage = story.state.stages["latent_actions"]

    began, used = time.perf_counter(), time.process_time()
    numbers = history.statistics(
        read_history(path), file="Logs/history.csv", start_step=0, target_step=rows, frames_per_update=64
    )
    read, read_used = time.perf_counter(), time.process_time()
    artifacts = ArtifactEvidence(
        run_id=story.run_id,
        stage=plan.stage,
        attempt=plan.attempt,
        history=numbers,
        visual=visual(HEALTHY, step=rows),
    )
    done = chunk_done(plan, HEALTHY, rows, {rows: True})
    full = Chunk(plan, ContinueChunk, done=done, gpu=gpu_evidence(plan), artifacts=artifacts)
    findings = examine(stage, full, story.state.policy)
    ended, ended_used = time.perf_counter(), time.process_time()
    assert findings.failure is None, findings
    assert numbers.covered_steps == rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "decide_1m_rows_s": ended - began,
        "decide_cpu_s": ended_used - used,
        "verdict_ms": 1e3 * (ended - read),
        "statistics_cpu_s": read_used - used,
        "decide_peak_mb": peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
    }


# --- folding ----------------------------------------------------------------------------------------------


def folding(count: int) -> dict[str, float]:
    """Fold a long log from its beginning, and the same out of JSON."""
    log = long_log(count)
    lines = [to_line(recorded) for recorded in log]
    state, marks = RunState(log[0].message.run_id), [time.process_time()]
    began = time.perf_counter()
    for recorded in log:
        state = fold(state, recorded)
        if recorded.sequence % WINDOW == 0:
            marks.append(time.process_time())
    ended, used = time.perf_counter(), time.process_time()
    assert state.status == "running", state.status
    for line in lines:
        from_line(line)
    decoded, decoded_used = time.perf_counter(), time.process_time()
    windows = [1e6 * (later - earlier) / WINDOW for earlier, later in itertools.pairwise(marks)]
    return {
        "fold_100k_events_s": ended - began,
        "fold_cpu_s": used - marks[0],
        "decode_100k_events_s": decoded - ended,
        "decode_cpu_s": decoded_used - used,
        "fold_event_cpu_us_first": statistics.median(windows[:5]),
        "fold_event_cpu_us_last": statistics.median(windows[-5:]),
    }


def long_log(count: int) -> list[Recorded]:
    """One stage in as many chunks as it takes: one of three is refused, and an event of each comes twice.

    The trainer lists the newest checkpoints only, as if retention had deleted the others.
    """
    target = CHUNK * count
    policy = {"chunk": {"video_tokenizer": CHUNK, "latent_actions": CHUNK, "dynamics": CHUNK}}
    story = Story(only("video_tokenizer", config={"video_tokenizer": {"n_updates": target}}, policy=policy))
    story.start().settle()
    kept: dict[int, bool] = {}
    while len(story.log) < count:
        chunk = story.state.chunk
        assert chunk is not None
        plan = chunk.plan
        how = Outcome(loss=0.5) if plan.attempt % 3 == 0 else Outcome(loss=0.009)
        kept = {step: valid for step, valid in [*kept.items()][-KEPT:] if step <= plan.start_step}
        kept[plan.target_step] = True
        story.record(chunk_started(plan, how)).record(chunk_done(plan, how, plan.target_step, kept))
        story.measure(plan, how).record(gpu_evidence(plan, how)).settle()
    return story.log[:count]


if __name__ == "__main__":
    main()
