"""The live page in a real Chromium from its real server: real bundles, the token, a killed reporter."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from services import stack
from services.reporter.page.static_page import write_page
from services.stack_state import key_file
from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.bus.journal import read_journal
from shared.settings import Settings
from tests.e2e.big_run import RUN, write_big_run
from tests.e2e.browser import blank, browser, tab
from tests.e2e.page_server import TOKEN, serving
from tests.e2e.world import World

__all__ = ["browser"]


class Serving(threading.Thread):
    """The real server in a thread, for the bundle of a run."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.url = self.address = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()

    def __enter__(self) -> Serving:
        self.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self.join()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with serving([self.root]) as served:
            self.url, self.address = served.url, served.address
            self._ready.set()
            await self._end.wait()


def test_a_real_run_is_shown_by_the_real_server_with_its_curves_pictures_and_gates(
    browser: Browser, finished: World
) -> None:
    root = bundle_of(finished)
    with Serving(root) as server, tab(browser, server.address) as page:
        expect(page.locator("#status")).to_contain_text("passed")
        expect(page.locator("#stages .stage")).to_have_count(4)
        page.wait_for_function("() => Number(document.querySelector('#curve').dataset.points) > 0")
        page.wait_for_function("() => document.querySelector('#picture').naturalWidth > 0")
        decided = sum(
            each.message.name == "gate_decided" for each in read_journal(root / "Logs" / "events.jsonl")
        )
        expect(page.locator("#gates > li")).to_have_count(decided)
        expect(page.locator("#inference")).to_contain_text("passed")
        report = page.locator("#reports a").first
        answer = page.request.get(server.url + str(report.get_attribute("href")))
        assert answer.ok, answer.text()
        page.goto(f"{server.url}?run=20000101_000000")
        expect(page.locator("#empty")).to_contain_text("knows no run 20000101_000000")


def test_the_static_copy_works_from_a_moved_bundle_without_any_server(
    browser: Browser, finished: World, tmp_path: Path
) -> None:
    root = bundle_of(finished)
    moved = shutil.copytree(root, tmp_path / "else where" / root.name)
    told = read_journal(moved / "Logs" / "events.jsonl")
    path = write_page(Bundle(moved, finished_name(moved)), told)
    assert path is not None
    with tab(browser, (moved / path).as_uri()) as page:
        expect(page.locator("#line")).to_contain_text("static copy of")
        expect(page.locator("#status")).to_contain_text("passed")
        assert page.locator("#actions button").count() == 0
        page.wait_for_function("() => Number(document.querySelector('#curve').dataset.points) > 0")
        page.wait_for_function("() => document.querySelector('#picture').naturalWidth > 0")
        expect(page.locator("#about")).to_contain_text("nothing is updated")
        for link in page.locator("#reports a").all():
            assert (moved / path).parent.joinpath(str(link.get_attribute("href"))).resolve().is_file()


def bundle_of(world: World) -> Path:
    """The bundle of a world's only run."""
    (root,) = [each.parent.parent for each in world.directory.rglob("Logs/events.jsonl")]
    return root


def finished_name(root: Path) -> str:
    """The run's name: the only directory below `results`."""
    (name,) = [each.name for each in (root / "results").iterdir()]
    return name


# --- the token ------------------------------------------------------------------------------------------


def test_a_server_with_a_token_shows_nothing_until_it_is_given_and_then_asks_no_more(
    browser: Browser, tmp_path: Path
) -> None:
    root = write_big_run(tmp_path / RUN, gates=3, points=300)
    with Serving(root) as server, blank(browser) as page:
        page.goto(server.url)
        expect(page.locator("#door")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#door")).to_be_visible()
        expect(page.locator("#empty")).to_have_text("Nothing is shown without the token.")
        assert RUN not in page.content()
        page.locator("#door-token").fill("guess")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("Refused: the token is missing or wrong")
        page.locator("#door-token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#line")).to_have_text("live")
        expect(page.locator("#gates > li")).to_have_count(3)
        expect(page.locator("#door")).to_be_hidden()
        assert (
            page.evaluate("() => document.cookie + JSON.stringify([localStorage, sessionStorage])")
            == "[{},{}]"
        )
        (cookie,) = page.context.cookies(server.url + "api/")
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.reload()
        expect(page.locator("#gates > li")).to_have_count(3)
        page.get_by_role("button", name="Pause").click()
        page.locator("#dialog-yes").click()
        expect(page.locator("#answer")).to_have_text("Pause was asked for.")
        page.context.clear_cookies()
        page.get_by_role("button", name="Stop").click()
        page.locator("#dialog-yes").click()
        expect(page.locator("#door")).to_be_visible()


# --- the address ----------------------------------------------------------------------------------------


def cli(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def printed(text: str) -> str:
    """The address in it."""
    (line,) = [each for each in text.splitlines() if each.startswith("live page: ")]
    return line.removeprefix("live page: ")


def test_the_printed_address_opens_the_page_and_is_the_same_after_the_reporter_was_killed(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDLOOP_PAGE_TOKEN", "a & b")
    monkeypatch.setenv("WORLDLOOP_PAGE_PORT", "0")
    root = write_big_run(tmp_path / RUN, gates=2, points=40)
    settings, told = Settings(), read_journal(root / "Logs" / "events.jsonl")
    own = [each for each in told if each.message.name in ("run_started", "stage_started", "gate_decided")]
    reporter = (sys.executable, "-m", "services.reporter.main")

    async def publish(url: str) -> None:
        bus = await JetStreamBus.connect(url, source="gatekeeper", key=key_file(settings, "gatekeeper"))
        for record in own:
            await bus.publish(record.message)
        await bus.close()

    def in_a_thread(work: Callable[[], Any]) -> Any:  # this one has the browser's event loop
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    state = in_a_thread(lambda: stack.up(settings, commands={"reporter": reporter}))
    try:
        in_a_thread(lambda: asyncio.run(publish(state.url)))
        address = printed(cli("up"))
        assert address == printed(cli("status"))
        assert address.endswith("/#token=a%20%26%20b")
        with tab(browser, address) as page:
            assert "token" not in page.url
            expect(page.locator("#gates > li")).to_have_count(2)
            (child,) = [each for each in state.children if each.name == "reporter"]
            os.kill(child.pid, signal.SIGKILL)
            expect(page.locator("#line")).to_contain_text("reconnecting since")
            expect(page.locator("#line")).to_have_text("live")
            expect(page.locator("#gates > li")).to_have_count(2)
            expect(page.locator("#door")).to_be_hidden()
            page.get_by_role("button", name="Pause").click()
            page.locator("#dialog-yes").click()
            expect(page.locator("#answer")).to_have_text("Pause was asked for.")
        assert printed(cli("up")) == address
    finally:
        stack.down(settings)
