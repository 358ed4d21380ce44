"""The live page of a large run in Chromium, from the reporter's page server and a real NATS server.

    python -m benchmarks.page [GATES] [POINTS]

The page server has a process of its own here, without the reporter's other work. The run's events lie in
NATS before it starts, and nobody has asked for the page yet. A browser opens it (`cold`: the events are read
and folded, the histories read for the first time), then another (`warm`). Then the run goes on: a gate in
every half second and telemetry as of two GPUs, while the list of gates is scrolled.

Last line: one JSON object. `shown_s`: from the request to a page that says how the run is, with its
first gates. `whole_s`: until the curve is drawn and every gate is in the list. `server_cpu_s`:
processor time of the server for that. `stall_ms`: the longest that another client, which asks all the
time, waited for the list of runs meanwhile. `frame_*_ms`: between two frames of the browser while it is
live. `latency_*_ms`: from publishing a gate until it is in the browser's list.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.async_api import Browser, Page, async_playwright

from services.reporter.page.server import open_page
from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Recorded
from shared.events import GpuSample, TrainProgress
from shared.service import Runs
from shared.settings import Settings
from tests.conftest import NatsServer
from tests.e2e.big_run import NAME, RUN, records, write_big_run
from tests.needs import program

LIVE_GATES = 20
EVERY_SEC = 0.5
WATCH = """
  window.seen = {frames: [], long: [], gates: {}};
  new PerformanceObserver((list) => list.getEntries().forEach((each) => seen.long.push(each.duration)))
    .observe({type: "longtask", buffered: true});
  addEventListener("DOMContentLoaded", () => {
    const whole = new MutationObserver(() => {
      if (Number(document.querySelector("#curve").dataset.points) > 100) seen.curve ??= performance.now();
      const rows = document.querySelectorAll("#gates > li");
      if (rows.length > 0) seen.first ??= performance.now();
      if (rows.length >= GATES) seen.rows ??= performance.now();
      seen.gates[rows[0]?.dataset.id] ??= Date.now();
    });
    whole.observe(document.querySelector("#gates"), {childList: true});
    whole.observe(document.querySelector("#curve"), {attributes: true});
  });
"""
OPENED = "() => seen.curve && seen.rows && performance.getEntriesByName('worldloop:shown').length > 0"
FIGURES = """() => ({
  shown: Math.max(performance.getEntriesByName("worldloop:shown")[0].startTime, seen.first),
  whole: Math.max(seen.curve, seen.rows), long: Math.max(0, ...seen.long)})"""
SCROLL = """() => {
  seen.frames = []; seen.long = [];
  let last = performance.now(); let at = 0;
  const list = document.querySelector("#gates");
  const frame = (now) => {
    seen.frames.push(now - last); last = now;
    at = (at + 40) % (list.scrollHeight - list.clientHeight); list.scrollTop = at;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""


async def opened(browser: Browser, address: str, gates: int) -> tuple[Page, dict[str, float]]:
    """A new browser profile with the page, and how long that took, in milliseconds."""
    context = await browser.new_context(viewport={"width": 1400, "height": 1000})
    page = await context.new_page()
    await page.add_init_script(WATCH.replace("GATES", str(gates)))
    await page.goto(address)
    await page.wait_for_function(OPENED, timeout=60_000)
    return page, await page.evaluate(FIGURES)


def asking(address: str) -> httpx.AsyncClient:
    """A client that shows the token in the address."""
    url, _, token = address.partition("#token=")
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


async def ask_all_the_time(address: str, waits: list[float]) -> None:
    """Another client, that asks for the list of runs again and again."""
    async with asking(address) as client:
        while True:
            began = time.perf_counter()
            await client.get("api/runs")
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)


async def weigh(address: str, sizes: list[int]) -> None:
    """Another browser's line: how large the patches are."""
    async with (
        asking(address) as client,
        client.stream("GET", f"api/runs/{RUN}/stream") as line,
    ):
        name = ""
        async for text in line.aiter_lines():
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: ") and name == "patch":
                sizes.append(len(text))


async def go_on(bus: JetStreamBus, coming: list[Recorded]) -> dict[str, float]:
    """Publish what comes, chunk by chunk; when each gate was published, unix time in milliseconds."""
    published = {}
    chunks = [coming[at : at + 5] for at in range(0, len(coming), 5)]
    for chunk in chunks:
        for record in chunk:
            await bus.publish(record.message)
        gate = chunk[-1].message
        published[f"{gate.stage}/{gate.attempt}"] = 1000 * time.time()  # type: ignore[attr-defined]
        for tick in range(4):
            for index in range(2):
                used = {"memory_bytes": 2**33, "memory_total_bytes": 2**36, "pids": [1]}
                await bus.publish(GpuSample(run_id=RUN, index=index, utilization=90 + tick, **used))
            speed = {"loss": 0.4, "learning_rate": 1e-4, "frames_per_sec": 560.0, "eta_sec": 60.0}
            steps = {"step": chunk[0].message.plan.start_step + tick + 1, "target_step": 9, "stage_target": 9}  # type: ignore[attr-defined]
            await bus.publish(
                TrainProgress(run_id=RUN, stage="dynamics", attempt=gate.attempt + 1, **steps, **speed)  # type: ignore[attr-defined]
            )
            await asyncio.sleep(EVERY_SEC / 4)
    return published


async def measure(directory: Path, gates: int, points: int) -> dict[str, float]:
    """All figures."""
    bundle = Bundle(write_big_run(directory / RUN, gates, points), NAME)
    told = records(bundle, gates + LIVE_GATES, max(2, points // gates))
    past, coming = told[: 2 + 5 * gates], told[2 + 5 * gates :]
    server = NatsServer(directory)
    server.start()
    bus = await JetStreamBus.connect(server.url, source="/worldloop/benchmark")
    for record in past:
        await bus.publish(record.message)
    state = directory / "state"
    own = {"WORLDLOOP_NATS_URL": server.url, "WORLDLOOP_STATE_DIR": str(state), "WORLDLOOP_PAGE_PORT": "0"}
    with (directory / "reporter.log").open("wb") as log:
        reporter = subprocess.Popen(  # noqa: ASYNC220 - it starts before anything else goes on
            [sys.executable, "-m", "benchmarks.page", "serve"], env=os.environ | own, stdout=log, stderr=log
        )
    try:
        while not (state / "page.url").exists():
            assert reporter.poll() is None, (directory / "reporter.log").read_text()
            await asyncio.sleep(0.05)
        address = (state / "page.url").read_text().strip()
        async with asking(address) as client:
            (await client.get("api/runs")).raise_for_status()
        return await _in_a_browser(address, psutil.Process(reporter.pid), bus, coming, gates)
    finally:
        await bus.close()
        reporter.terminate()
        reporter.wait(20)
        server.stop()


def worked(server: psutil.Process) -> float:
    """Processor seconds of the server so far."""
    return sum(server.cpu_times()[:2])


async def _in_a_browser(
    address: str, server: psutil.Process, bus: JetStreamBus, coming: list[Recorded], gates: int
) -> dict[str, float]:
    waits: list[float] = []
    sizes: list[int] = []
    path = program("chromium", "chromium-browser", "google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        other = asyncio.create_task(ask_all_the_time(address, waits))
        before = worked(server)
        first, cold = await opened(browser, address, gates)
        other.cancel()
        after_cold = worked(server)
        await first.close()
        page, warm = await opened(browser, address, gates)
        after_warm = worked(server)
        weighing = asyncio.create_task(weigh(address, sizes))
        await page.evaluate(SCROLL)
        published = await go_on(bus, coming)
        await page.wait_for_function(
            f"() => document.querySelectorAll('#gates > li').length === {gates + LIVE_GATES}"
        )
        seen: dict[str, Any] = await page.evaluate("() => seen")
        heap = await page.evaluate("() => performance.memory.usedJSHeapSize")
        weighing.cancel()
        await browser.close()
    frames = sorted(seen["frames"][5:])
    latencies = [seen["gates"][gate] - at for gate, at in published.items() if gate in seen["gates"]]
    return {
        "cold_shown_s": cold["shown"] / 1000,
        "cold_whole_s": cold["whole"] / 1000,
        "cold_server_cpu_s": after_cold - before,
        "stall_ms": 1000 * max(waits),
        "warm_shown_s": warm["shown"] / 1000,
        "warm_whole_s": warm["whole"] / 1000,
        "warm_server_cpu_s": after_warm - after_cold,
        "longest_task_opening_ms": max(cold["long"], warm["long"]),
        "longest_task_live_ms": max(seen["long"], default=0.0),
        "frame_p50_ms": statistics.median(frames),
        "frame_p99_ms": frames[int(0.99 * len(frames))],
        "latency_p50_ms": statistics.median(latencies),
        "latency_max_ms": max(latencies),
        "patch_p50_bytes": statistics.median(sizes),
        "patch_max_bytes": max(sizes),
        "heap_mb": heap / 2**20,
    }


def main(gates: int = 1000, points: int = 1_000_000) -> None:
    """Measure, print the table and, as the last line, JSON."""
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(measure(Path(directory), gates, points))
    print(f"{gates} gates, {points} history rows")
    for name, value in found.items():
        print(f"{name:<26} {value:12.2f}")
    print(
        json.dumps(
            {"gates": gates, "points": points} | {name: round(value, 3) for name, value in found.items()}
        )
    )


async def serve() -> None:
    """Be the page server, until killed."""
    settings = Settings()
    assert settings.nats_url is not None
    bus = await JetStreamBus.connect(settings.nats_url, source="/worldloop/reporter")
    page = open_page(bus, Runs(bus, settings), settings)
    assert page is not None
    await page.run()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main(*(int(text) for text in sys.argv[1:]))
