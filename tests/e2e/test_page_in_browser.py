"""The live page in a real Chromium; a stand-in shows it what a real run would take days to come by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.e2e import pages
from tests.e2e.browser import browser, tab
from tests.e2e.page_stand import Stand

__all__ = ["browser"]
NO_OVERFLOW = "() => document.documentElement.scrollWidth <= window.innerWidth"


@contextmanager
def stand(page: Any = None, **options: Any) -> Iterator[Stand]:
    """A stand-in server for a document."""
    server = Stand(page if page is not None else pages.midway(), **options)
    try:
        yield server
    finally:
        server.close()


def view(page: Page) -> str:
    return page.locator("#curve").get_attribute("data-view") or ""


def drawn(page: Page) -> None:
    """Wait until the curve is on the canvas."""
    page.wait_for_function("() => Number(document.querySelector('#curve').dataset.points) > 100")


# --- what it shows ----------------------------------------------------------------------------------------


def test_the_page_says_in_words_how_the_run_is_what_it_does_and_what_needs_attention(
    browser: Browser,
) -> None:
    with stand() as server, tab(browser, server.url) as page:
        expect(page.locator("#status")).to_have_text("running")
        expect(page.locator("#phase")).to_contain_text("dynamics trains attempt 8")
        expect(page.locator("#figures")).to_contain_text("74.5 %")
        expect(page.locator("#attention")).to_contain_text("utilization below 1 %")
        expect(page.locator("#line")).to_have_text("live")
        expect(page).to_have_title(re.compile(r"running · dynamics 61 %"))
        dynamics = page.locator("[data-stage=dynamics].stage")
        expect(dynamics.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "36412")
        expect(dynamics).to_contain_text("1 of 5")
        dynamics.get_by_text("ladder: climbed 2 times").click()
        expect(dynamics).to_contain_text("learning_rate 3e-4 -> 6e-5 (attempt 4)")
        expect(dynamics).to_contain_text("halve the next chunk")
        drawn(page)
        expect(page.locator("#curve")).to_have_attribute("data-ghosts", "2")
        assert page.locator("#attempts .gone").count() == 2


def test_a_gate_opens_to_every_value_against_its_threshold_and_its_evidence(browser: Browser) -> None:
    with stand() as server, tab(browser, server.url) as page:
        expect(page.locator("#gates > li")).to_have_count(17)
        page.get_by_label("failed only").check()
        expect(page.locator("#gates > li:visible")).to_have_count(2)
        expect(page.locator("#gates-count")).to_have_text("2 of 17")
        page.locator("#gates > li:visible summary").first.click()
        inside = page.locator("#gates .inside")
        expect(inside.locator(".values .failed")).to_have_count(1)
        expect(inside.locator(".values .failed")).to_contain_text("0.5331")
        expect(inside.get_by_role("link", name="history")).to_have_attribute(
            "href", f"api/runs/{pages.RUN}/files/Logs/dynamics_history_{pages.RUN}_gate.csv"
        )
        expect(inside.get_by_text("dynamics_step_27999")).not_to_have_attribute("href", re.compile(""))


def test_what_changes_is_shown_and_what_a_person_opened_stays_open(browser: Browser) -> None:
    run = pages.midway()
    with stand(run) as server, tab(browser, server.url) as page:
        page.locator("[data-stage=dynamics].stage summary").click()
        page.locator("#gates summary").first.click()
        row = run.stages[2].model_copy(update={"step": 39_999, "loss": 0.4011})
        server.patch(
            stages=[row],
            phase="dynamics is at its gate",
            gates=[
                run.gates[-1].model_copy(update={"why": "judged again"}),
                pages.gate("dynamics", 8, 32000, 40000, pages.NOW),
            ],
        )
        expect(page.locator("#phase")).to_have_text("dynamics is at its gate")
        expect(page.locator("[data-stage=dynamics].stage")).to_contain_text("39,999")
        expect(page.locator("#gates > li")).to_have_count(18)
        expect(page.locator("#gates > li").nth(0)).to_contain_text("40,000")
        expect(page.locator("#gates > li").nth(1)).to_contain_text("judged again")
        expect(page.locator("#gates > li").nth(1).locator(".inside")).to_be_visible()
        expect(page.locator("[data-stage=dynamics].stage .ladder li").first).to_be_visible()
        drawn(page)
        server.say(
            "progress",
            {
                "stage": "dynamics",
                "attempt": 8,
                "step": 40_123,
                "loss": 0.39,
                "learning_rate": 1e-5,
                "frames_per_sec": 600.0,
            },
        )
        page.wait_for_function("() => document.querySelector('#curve').dataset.last === '40123'")
        expect(page.locator("[data-stage=dynamics].stage")).to_contain_text("40,123")


def test_hostile_names_and_messages_stay_text(browser: Browser) -> None:
    with stand(pages.hostile()) as server, tab(browser, server.url) as page:
        page.locator("#gates summary").first.click()
        expect(page.locator("#gates .verdict")).to_contain_text("<img src=x onerror=")
        page.get_by_role("button", name="Retune").click()
        expect(page.locator("#dialog")).to_contain_text("<script>")
        assert page.evaluate("() => window.owned") is None
        assert page.locator("[onerror]").count() == 0
        assert "\u202e" not in page.locator("body").inner_text()
        assert page.evaluate(NO_OVERFLOW)


def test_a_thousand_gates_are_all_there_and_patches_lose_none(browser: Browser) -> None:
    run = pages.big()
    with stand(run) as server, tab(browser, server.url) as page:
        expect(page.locator("#gates > li")).to_have_count(1000)
        expect(page.locator("#attempts > li")).to_have_count(1000)
        assert (
            page.evaluate(
                "() => new Set([...document.querySelectorAll('#gates > li')].map((each) => "
                "each.dataset.id)).size"
            )
            == 1000
        )
        for number in range(1001, 1013):
            server.patch(gates=[pages.gate("dynamics", number, 900_000, 901_000, pages.NOW + number)])
        expect(page.locator("#gates > li")).to_have_count(1012)
        expect(page.locator("#gates > li").first.locator("[data-name=attempt]")).to_have_text("1012")
        page.get_by_label("failed only").check()
        expect(page.locator("#gates > li:not([hidden])")).to_have_count(100)
        drawn(page)


# --- using it ---------------------------------------------------------------------------------------------


def test_the_curve_is_read_zoomed_and_led_to_its_gates_by_keyboard(browser: Browser) -> None:
    with stand() as server, tab(browser, server.url) as page:
        drawn(page)
        page.locator("#curve-box").focus()
        page.keyboard.press("Home")
        expect(page.locator("#curve-read")).to_contain_text("step 1")
        page.keyboard.press("PageUp")  # the newest gate, a failed one
        expect(page.locator("#curve-read")).to_contain_text(
            "gate: retune, two gates in a row lost their structure"
        )
        with page.expect_response(lambda response: "from=" in response.url):
            page.keyboard.press("+")
        page.wait_for_function("() => document.querySelector('#curve').dataset.view !== 'all'")
        low, high = (int(each) for each in view(page).split())
        assert 0 < low < 36_000 <= high
        assert f"from={low}" in server.histories[-1]
        page.keyboard.press("0")
        page.wait_for_function("() => document.querySelector('#curve').dataset.view === 'all'")
        page.keyboard.press("PageUp")
        page.keyboard.press("Enter")
        expect(page.locator("#gates details[open]")).to_have_count(1)
        expect(page.locator("#gates summary:focus")).to_have_count(1)


def test_the_curve_is_zoomed_by_dragging_and_shows_other_columns(browser: Browser) -> None:
    with stand() as server, tab(browser, server.url) as page:
        drawn(page)
        page.locator("#curve-box").scroll_into_view_if_needed()
        box = page.locator("#curve-box").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 150)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 150, steps=3)
        page.mouse.up()
        page.wait_for_function("() => document.querySelector('#curve').dataset.view !== 'all'")
        page.get_by_role("button", name="all steps").click()
        page.locator("#curve-column").select_option("learning_rate/group_0")
        expect(page.locator("#curve-read")).to_contain_text("learning rate")
        page.locator("#curve-stages").get_by_role("button", name="video tokenizer").click()
        page.wait_for_function(
            "at => at.dataset.last > 19000 && at.dataset.last <= 20000", arg=page.query_selector("#curve")
        )


def test_pictures_go_through_the_steps_by_keyboard_and_say_which_were_rolled_back(browser: Browser) -> None:
    with stand() as server, tab(browser, server.url) as page:
        slider = page.get_by_role("slider")
        expect(page.locator("#picture-text")).to_contain_text("step 36,000")
        expect(page.locator("#picture-text")).to_contain_text("rolled back")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#picture-text")).to_contain_text("step 32,000")
        expect(slider).to_have_attribute("aria-valuetext", "step 32,000, attempt 7")
        page.locator("#picture-stages").get_by_role("button", name="latent actions").click()
        expect(page.locator("#picture-text")).to_contain_text("step 10,000")
        page.wait_for_function("() => document.querySelector('#picture').naturalWidth > 0")


def test_an_action_is_asked_for_once_confirmed_and_a_refusal_is_shown(browser: Browser) -> None:
    with stand() as server, tab(browser, server.url) as page:
        assert page.locator("#actions button").all_inner_texts() == ["Pause …", "Stop …", "Retune …"]
        pause = page.get_by_role("button", name="Pause")
        pause.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#dialog")).to_contain_text("trained to its gate")
        page.keyboard.press("Escape")
        expect(page.locator("#dialog")).to_be_hidden()
        expect(pause).to_be_focused()
        assert server.asked == []
        page.keyboard.press("Enter")
        page.keyboard.type("lunch")
        page.keyboard.press("Enter")
        expect(page.locator("#answer")).to_have_text("Pause was asked for.")
        assert server.asked == [("pause", {"reason": "lunch"})]
        server.patch(requested=["pause at the gate"], actions=["resume", "stop"])
        expect(page.locator("#requested")).to_have_text("Asked for, not done yet: pause at the gate")
        expect(page.locator("#actions button")).to_have_count(2)
        server.refuse = (409, "the run is stopping already")
        page.get_by_role("button", name="Stop").click()
        page.locator("#dialog-yes").click()
        expect(page.get_by_role("alert")).to_have_text("Refused: the run is stopping already")
        page.get_by_role("button", name="Do nothing").click()
        expect(page.locator("#answer")).to_have_text("Refused: the run is stopping already")


def test_retune_sends_only_what_was_changed(browser: Browser) -> None:
    with stand() as server, tab(browser, server.url) as page:
        page.get_by_role("button", name="Retune").click()
        page.locator("#dialog-yes").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing is changed yet")
        page.locator("#dialog").get_by_label("learning rate").fill("5e-6")
        page.get_by_label("amp").select_option("false")
        page.locator("#dialog-yes").click()
        expect(page.locator("#answer")).to_have_text("Retune was asked for.")
        assert server.asked[-1] == (
            "retune",
            {"stage": "dynamics", "changes": {"learning_rate": 5e-6, "amp": False}},
        )


def test_narrow_and_dark_screens_show_all_of_it_and_everything_has_a_name(browser: Browser) -> None:
    phone: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "is_mobile": True,
        "color_scheme": "dark",
    }
    with stand() as server, tab(browser, server.url, **phone) as page:
        drawn(page)
        page.locator("#gates summary").nth(1).click()
        assert page.evaluate(NO_OVERFLOW)
        ground = "() => getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(15, 18, 22)"
        for theme, colour in (
            ("light", "rgb(243, 244, 246)"),
            ("dark", "rgb(15, 18, 22)"),
            ("auto", "rgb(15, 18, 22)"),
        ):
            page.locator("#theme").click()
            expect(page.locator("#theme")).to_have_text(f"theme: {theme}")
            assert page.evaluate(ground) == colour
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, [tabindex="0"]')].filter((each) =>
                 !(each.getAttribute('aria-label') || each.getAttribute('aria-labelledby')
                   || each.textContent.trim()
                   || each.labels?.length) && !each.closest('dialog')).map((each) => each.outerHTML)"""
        )
        assert unnamed == []


# --- the server, and none ---------------------------------------------------------------------------------


def test_a_server_that_went_away_is_said_and_the_page_goes_on_when_it_is_back(browser: Browser) -> None:
    run = pages.midway()
    with stand(run) as first, tab(browser, first.url) as page:
        drawn(page)
        page.locator("#gates summary").first.click()
        first.close()
        expect(page.locator("#line")).to_contain_text("reconnecting since")
        expect(page).to_have_title(re.compile(r"^\(no server\)"))
        page.get_by_role("button", name="Pause").click()
        page.locator("#dialog-yes").click()
        expect(page.get_by_role("alert")).to_have_text("The server does not answer: nothing was asked for.")
        with stand(run.model_copy(update={"phase": "the gate is decided"}), port=first.port):
            expect(page.locator("#line")).to_have_text("live")
            expect(page.locator("#phase")).to_have_text("the gate is decided")
