"""A labelled corpus of training histories: healthy ones, synthetic and recorded, and sick ones made of them.

A history is a list of chunks, each a table as the trainer writes it. All randomness comes from a seed.

Shapes of the healthy loss over all updates u of n, x = u / n:
    exponential   0.02 + 0.98 exp(-12 x)              a tokenizer's mean squared error
    power         0.3 + 6.6 (1 + 400 x)^-0.35         a cross entropy
    hump          exponential with a bump of 60 % while the rate is highest, over before a chunk is
    stairs        five plateaus, each 0.6 of the one before, joined within 2 % of the updates
    converged     falls to 0.4 within the first 5 %, then stays there for good
    rewarmed      power, with a second rise of the rate at half-way: up by 12 %, down again
Noise of single rows, multiplied with the loss:
    clean 0, gauss 3 %, small batch: lognormal with sigma 0.35, outliers: gauss 3 % and 2 % of rows 2 to 10
    times as high, slow: first-order autoregressive with 0.95 and a spread of 5 %
What healthy histories also have (wrinkles):
    plain; no clock; a clock that a relaunch set back; 20 % of the loss cells empty; single infinite rows, as
    a gradient scaler makes them; pauses for checkpoints; updates that take up to 1.5 times as long, and a
    while of 6 times; a spike that is over before the gate; every fifth update on record
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.monitor.core.history import LOSS, SECONDS, STEP, statistics
from shared.events import HistoryStats

Table = dict[str, NDArray[np.float64]]
RECORDED = Path(__file__).parents[2] / "fixtures" / "histories"

SHAPES = ("exponential", "power", "hump", "stairs", "converged", "rewarmed")
NOISES = ("clean", "gauss", "small batch", "outliers", "slow")
WRINKLES = (
    "plain",
    "no clock",
    "clock set back",
    "empty cells",
    "infinite rows",
    "pauses",
    "uneven pace",
    "spike absorbed",
    "every fifth",
)
CHUNK_LENGTHS = (120, 500, 2000)
CHUNKS = 4


@dataclass(frozen=True)
class History:
    """One stage's training, chunk by chunk."""

    name: str
    length: int
    """Updates to a gate."""
    chunks: tuple[Table, ...]

    def stats(self) -> list[HistoryStats]:
        """What the monitor measures at each gate."""
        return [
            statistics(
                table,
                file="Logs/history.csv",
                start_step=number * self.length,
                target_step=(number + 1) * self.length,
                frames_per_update=32,
            )
            for number, table in enumerate(self.chunks)
        ]


def healthy() -> Iterator[History]:
    """Every healthy history of the tests."""
    yield from synthetic()
    yield from recorded()


def synthetic(seed: int = 0) -> Iterator[History]:
    """6 shapes, 5 noises, 3 chunk lengths, 3 of the wrinkles each, in turn: 270; others for every seed."""
    place = 0
    for shape in SHAPES:
        for noise in NOISES:
            for length in CHUNK_LENGTHS:
                for _ in range(3):
                    yield make(shape, noise, length, WRINKLES[place % len(WRINKLES)], seed=seed + place)
                    place += 1


def recorded() -> Iterator[History]:
    """Two runs of the built-in trainer on a recorded game, three stages each; every second or fourth row."""
    for path in sorted(RECORDED.glob("*.csv")):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        tables = []
        for attempt in sorted({row["attempt"] for row in rows}):
            mine = [row for row in rows if row["attempt"] == attempt]
            tables.append(
                {name: np.array([float(row[name]) for row in mine]) for name in (STEP, LOSS, SECONDS)}
            )
        length = round((tables[0][STEP][-1] + 1) / 100) * 100
        yield History(f"recorded {path.stem}", length, tuple(tables))


def make(shape: str, noise: str, length: int, wrinkle: str = "plain", *, seed: int = 0) -> History:
    """One synthetic healthy history."""
    rng = np.random.default_rng(seed)
    total = CHUNKS * length
    steps = np.arange(total, dtype=np.float64)
    loss = curve(shape, steps / total, length / total) * factors(noise, total, rng)
    seconds = rng.lognormal(np.log(0.1), 0.05, total)
    seconds[0] *= 30  # compilation
    _wrinkle(wrinkle, loss, seconds, length, rng)
    chunks = []
    for start in range(0, total, length):
        part = slice(start, start + length, 5 if wrinkle == "every fifth" else 1)
        clock = np.cumsum(seconds[start : start + length])
        if wrinkle == "clock set back":
            clock[length // 2 :] -= clock[length // 2]
        table = {STEP: steps[part], LOSS: loss[part], SECONDS: clock[:: part.step]}
        if wrinkle == "no clock":
            del table[SECONDS]
        chunks.append(table)
    return History(f"{shape}, {noise}, {length}, {wrinkle}", length, tuple(chunks))


def curve(shape: str, x: NDArray[np.float64], chunk: float) -> NDArray[np.float64]:
    """The loss without noise, over the share of the target; `chunk` is the share of one chunk."""
    exponential = 0.02 + 0.98 * np.exp(-12 * x)
    power = 0.3 + 6.6 * (1 + 400 * x) ** -0.35
    match shape:
        case "exponential":
            return exponential
        case "power":
            return power
        case "hump":
            return exponential * (1 + 0.6 * np.exp(-(((x / chunk - 0.4) / 0.12) ** 2)))
        case "stairs":
            levels = sum(1 / (1 + np.exp(-(x - at) / 0.005)) for at in (0.05, 0.3, 0.5, 0.8))
            return np.asarray(0.6**levels)
        case "converged":
            return 0.4 + 0.6 * np.exp(-x / 0.01)
        case _:
            return power * (1 + 0.12 * np.clip((x - 0.5) / 0.05, 0, 1) * np.clip((0.85 - x) / 0.3, 0, 1))


def factors(noise: str, rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """What the loss of each row is multiplied with."""
    gauss = 1 + 0.03 * rng.normal(size=rows)
    match noise:
        case "clean":
            return np.ones(rows)
        case "small batch":
            return rng.lognormal(0, 0.35, rows)
        case "outliers":
            return np.where(rng.random(rows) < 0.02, rng.uniform(2, 10, rows), gauss)
        case "slow":
            drift = np.zeros(rows)
            for row in range(1, rows):
                drift[row] = 0.95 * drift[row - 1] + 0.05 * np.sqrt(1 - 0.95**2) * rng.normal()
            return gauss + drift
        case _:
            return gauss


def _wrinkle(
    wrinkle: str,
    loss: NDArray[np.float64],
    seconds: NDArray[np.float64],
    length: int,
    rng: np.random.Generator,
) -> None:
    rows = len(loss)
    match wrinkle:
        case "empty cells":
            loss[rng.random(rows) < 0.2] = np.nan
        case "infinite rows":
            loss[rng.choice(rows, rows // 200, replace=False)] = np.inf
            loss[length - 1] = np.inf  # even as the last one of a chunk
        case "pauses":
            seconds[:: max(1, length // 4)] += 20
        case "uneven pace":
            seconds *= rng.uniform(1, 1.5, rows)
            seconds[length + length // 2 : length + length // 2 + length // 8] *= (
                6  # a neighbour, for a while
            )
        case "spike absorbed":
            at = 2 * length + length // 3
            loss[at : at + max(4, length // 20)] *= 8
        case _:
            pass


# --- sick histories ---------------------------------------------------------------------------------------

STRENGTHS: dict[str, tuple[float, ...]] = {
    "non_finite": (1, 3, 20, 1000),
    "loss_spike": (1.2, 1.5, 2, 5),
    "divergence": (1.2, 1.5, 2, 5),
    "stagnation": (0.9, 0.98, 1.0),
    "throughput": (1.5, 2.5, 5),
    "throughput_of_stage": (1.5, 2.5, 5),
}
"""Sickness -> strengths: rows at the end, rise of the loss, what is left of it, time of an update."""
SURE: dict[str, float] = {
    "non_finite": 3,
    "loss_spike": 2,
    "divergence": 2,
    "stagnation": 0.98,
    "throughput": 2.5,
    "throughput_of_stage": 2.5,
}
"""From which strength on every case is to be caught, at a row noise of 3 %."""


def sick(sickness: str, strength: float, noise: str = "gauss") -> Iterator[History]:
    """Healthy histories of one kind of noise, made sick from the third chunk on (stagnation: the first)."""
    for place, (shape, length) in enumerate((shape, length) for shape in SHAPES for length in CHUNK_LENGTHS):
        well = make(shape, noise, length, seed=1000 + place)
        yield replace(
            well,
            name=f"{sickness} {strength:g}: {well.name}",
            chunks=tuple(
                infect(table, sickness, strength, number, well, noise)
                for number, table in enumerate(well.chunks)
            ),
        )


def infect(table: Table, sickness: str, strength: float, number: int, well: History, noise: str) -> Table:
    """One chunk of a sick history."""
    loss, clock = table[LOSS].copy(), table[SECONDS]
    rows = len(loss)
    if sickness == "stagnation":
        start = np.median(well.chunks[0][LOSS][:5])
        falls = 1 - (1 - strength) * (number * rows + np.arange(rows)) / (CHUNKS * rows)
        loss = start * falls * factors(noise, rows, np.random.default_rng(number))
    elif number < CHUNKS - 2:
        pass
    elif sickness == "non_finite":
        loss[-int(min(strength, rows)) :] = np.inf
    elif sickness == "loss_spike":
        loss[-rows // 8 :] *= strength
    elif sickness == "divergence":
        loss[rows // 2 :] = loss[rows // 2] * strength ** np.linspace(0, 1, rows - rows // 2)
    elif sickness == "throughput":
        passed = np.diff(clock, prepend=0.0)
        passed[rows // 2 :] *= strength
        clock = np.cumsum(passed)
    else:
        clock = clock * strength
    return {**table, LOSS: loss, SECONDS: clock}
