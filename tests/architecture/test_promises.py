"""docs/promises.md tells the truth: its sentences are the README's, and what tests them exists."""

from __future__ import annotations

import re

import pytest

from tests.architecture.documents import CODE, ROOT, cells, missing

README = " ".join((ROOT / "README.md").read_text().split())
_, *PROMISES = cells("promises.md", columns=2)


@pytest.mark.parametrize("promise", [promise for promise, _ in PROMISES])
def test_a_promise_is_the_readmes_own_words(promise: str) -> None:
    assert promise in README


@pytest.mark.parametrize("test", sorted({test for _, tests in PROMISES for test in CODE.findall(tests)}))
def test_what_tests_a_promise_exists(test: str) -> None:
    if test.startswith("make "):
        target = test.removeprefix("make ")
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert missing(test) is None


def test_no_promise_is_without_a_test() -> None:
    assert len(PROMISES) > 20
    assert [promise for promise, tests in PROMISES if not CODE.findall(tests)] == []
