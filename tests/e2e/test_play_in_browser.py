"""`worldloop play` as a player has it: a real server, a real Chromium, a TinyWorlds run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import blank, browser

__all__ = ["browser"]

FIXTURES = Path(__file__).parents[1] / "fixtures"
WORLD = FIXTURES / "golden" / "tinyworlds_run"
RECORDING = FIXTURES / "pong_frames.h5"
PIXELS = "() => [...document.querySelector('#frame').getContext('2d').getImageData(0, 0, 64, 64).data].join()"
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => window.seen.push(document.querySelector('#action').textContent))
    .observe(document.querySelector('#action'), {childList: true, characterData: true, subtree: true});
}"""
WATCH_SEEDS = """() => {
  window.seeds = [];
  const canvas = document.querySelector('#frame');
  new MutationObserver(() => window.seeds.push(canvas.dataset.seed))
    .observe(canvas, {attributes: true, attributeFilter: ['data-seed']});
}"""


class Server:
    """A `worldloop play` process that can be killed and started again on its port."""

    def __init__(self, state: Path) -> None:
        self.port, self.state = 0, state
        self.process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "services.cli", "play", str(WORLD), "--dataset", str(RECORDING)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--device", "cpu", "--json", "--players", "2"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "WORLDLOOP_STATE_DIR": str(self.state)},
        )
        assert self.process.stdout is not None
        self.url: str = json.loads(self.process.stdout.readline())["url"]
        self.port = urlsplit(self.url).port or 0

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("state"))
    yield server
    server.end()


@contextmanager
def tab(browser: Browser, server: Server, *, playing: bool = True, **options: Any) -> Iterator[Page]:
    """A tab with cookies and storage of its own, that plays."""
    with blank(browser, **options) as page:
        page.goto(server.url)
        if playing:
            frames(page, 1)
        yield page


def frames(page: Page, number: int) -> None:
    """Wait until the frame with this number is on the canvas, or a later one."""
    page.wait_for_function(
        "number => Number(document.querySelector('#frame').dataset.number) >= number", arg=number
    )


def more(page: Page, count: int = 2) -> None:
    """Wait for so many more frames."""
    frames(page, int(page.locator("#frame").get_attribute("data-number") or 0) + count)


def action(page: Page) -> Any:
    return expect(page.locator("#action"), "the action in force")


def codes(page: Page) -> tuple[int, int]:
    """The action of the up key, and the one while nothing is held."""
    up = page.locator("#pad [aria-label^='up']").get_attribute("data-code")
    text = page.locator("#keys").inner_text()
    return int(up or -1), int(text.rpartition("action ")[2].rstrip("."))


def test_frames_arrive_and_differ_and_their_time_is_shown(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        expect(page.locator("#game")).to_have_text("Pong")
        expect(page.locator("#state")).to_have_text("playing")
        pictures: set[str] = set()
        while len(pictures) < 3:
            pictures.add(page.evaluate(PIXELS))
            more(page)
        page.wait_for_function("() => Number(document.querySelector('#fps').textContent) > 0")
        for part in ("tokenize", "dynamics", "pixels", "encode", "send"):
            assert page.locator(f"#part-{part}").inner_text().endswith(" ms")
        assert float(page.locator("#part-dynamics").inner_text().split()[0]) > 0
        assert "steps" in page.locator("#pace").inner_text()


def test_keys_change_the_action_while_they_are_held(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        up, idle = codes(page)
        action(page).to_have_text(f"{idle} (idle)")
        for key in ("ArrowUp", "w"):
            page.keyboard.down(key)
            action(page).to_have_text(str(up))
            page.keyboard.up(key)
            action(page).to_have_text(f"{idle} (idle)")
        for digit in {0, 1, 2, 3} - {idle}:
            page.keyboard.down(str(digit))
            action(page).to_have_text(str(digit))
            expect(page.locator(f"#codes [data-code='{digit}']")).to_contain_class("on")
            page.keyboard.up(str(digit))
        action(page).to_have_text(f"{idle} (idle)")


def test_the_last_key_wins_and_leaving_the_window_releases_all(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        _, idle = codes(page)
        first, second = sorted({0, 1, 2, 3} - {idle})[:2]
        page.keyboard.down(str(first))
        page.keyboard.down(str(second))
        action(page).to_have_text(str(second))
        page.keyboard.up(str(second))
        action(page).to_have_text(str(first))
        page.evaluate("() => window.dispatchEvent(new Event('blur'))")
        action(page).to_have_text(f"{idle} (idle)")


def test_reset_shows_the_seed_frame_again_and_new_seed_another(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        canvas = page.locator("#frame")
        start = canvas.get_attribute("data-seed")
        page.evaluate(WATCH_SEEDS)
        page.keyboard.press("r")
        page.wait_for_function("() => window.seeds.length === 1")
        assert canvas.get_attribute("data-seed") == start
        for _ in range(8):
            page.locator("#new").click()
            more(page)
            if canvas.get_attribute("data-seed") != start:
                break
        assert canvas.get_attribute("data-seed") != start


def test_a_thumb_on_a_button_acts_as_long_as_it_stays(browser: Browser, server: Server) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with tab(browser, server, **phone) as page:
        up, idle = codes(page)
        page.evaluate(WATCH)
        page.locator("#pad [aria-label^='up']").tap()
        page.wait_for_function("up => window.seen.includes(up)", arg=str(up))  # a tap acts on a frame
        action(page).to_have_text(f"{idle} (idle)")
        page.locator("#pad [aria-label^='up']").scroll_into_view_if_needed()
        box = page.locator("#pad [aria-label^='up']").bounding_box()
        assert box is not None
        thumb = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        fingers = page.context.new_cdp_session(page)
        fingers.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [thumb]})
        action(page).to_have_text(str(up))
        more(page, 3)
        action(page).to_have_text(str(up))
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        action(page).to_have_text(f"{idle} (idle)")
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_the_page_can_be_played_with_the_keyboard_alone(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        _, idle = codes(page)
        other = min({0, 1, 2, 3} - {idle})
        button = page.locator(f"#codes [data-code='{other}']")
        button.focus()
        page.keyboard.press("Enter")
        action(page).to_have_text(str(other))  # stays in force: nobody can hold Enter and Tab
        expect(button).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Space")
        action(page).to_have_text(f"{idle} (idle)")
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button')].filter(
                 (each) => !(each.getAttribute('aria-label') || each.textContent).trim()).length"""
        )
        assert unnamed == 0


def test_two_tabs_do_not_disturb_each_other(browser: Browser, server: Server) -> None:
    with tab(browser, server) as one, tab(browser, server) as other:
        up, idle = codes(one)
        expect(one.locator("#players")).to_have_text("2")
        one.keyboard.down("ArrowUp")
        action(one).to_have_text(str(up))
        other.evaluate(WATCH)
        seed = one.locator("#frame").get_attribute("data-seed")
        other.locator("#new").click()
        more(other, 4)
        assert other.evaluate("() => window.seen") == []
        action(other).to_have_text(f"{idle} (idle)")
        action(one).to_have_text(str(up))
        assert one.locator("#frame").get_attribute("data-seed") == seed
        assert one.evaluate(PIXELS) != other.evaluate(PIXELS)


def test_one_tab_too_many_is_told_so_and_can_play_when_a_place_is_free(
    browser: Browser, server: Server
) -> None:
    with ExitStack() as leaving, tab(browser, server) as first:
        leaving.enter_context(tab(browser, server))
        with tab(browser, server, playing=False) as third:
            expect(third.locator("#veil-text")).to_have_text(
                "All 2 places are taken. Please try again in a while."
            )
            leaving.close()
            expect(first.locator("#players")).to_have_text("1")
            third.locator("#again").click()
            frames(third, 1)
            expect(third.locator("#veil")).to_be_hidden()


def test_a_recording_is_downloaded_as_mp4(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        page.locator("#record").click()
        expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
        more(page, 5)
        with page.expect_download() as download:
            page.keyboard.press("v")
        assert download.value.suggested_filename.startswith("pong_")
        with av.open(BytesIO(Path(download.value.path()).read_bytes())) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 5
        expect(page.locator("#notice a")).to_contain_text(".mp4")
        expect(page.locator("#record")).to_have_attribute("aria-pressed", "false")


def test_a_server_that_goes_away_is_said_and_recovered_from(browser: Browser, server: Server) -> None:
    with tab(browser, server) as page:
        assert server.end(signal.SIGINT) == 0  # in order, with a page open
        expect(page.locator("#state")).to_have_text("no server")
        expect(page.locator("#veil-text")).to_be_visible()
        server.start()
        expect(page.locator("#state")).to_have_text("playing")
        expect(page.locator("#veil")).to_be_hidden()
        frames(page, 2)
