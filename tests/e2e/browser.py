"""A real Chromium for the tests of the live page; an error in the page's own code fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.needs import program

SLOW = 60_000
"""Milliseconds that a busy machine gets for anything."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = program("chromium", "chromium-browser", "google-chrome")
    expect.set_options(timeout=SLOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def blank(browser: Browser, **options: Any) -> Iterator[Page]:
    """A tab of a profile of its own."""
    context: BrowserContext = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(SLOW)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


@contextmanager
def tab(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A tab that shows the run."""
    with blank(browser, **options) as page:
        page.goto(url)
        page.wait_for_selector("body[data-state=shown]")
        yield page
