"""docs/security.md tells the truth: what it says is tested, is; and nothing is open that nobody opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import nats_server
from services.inference.play.config import PlayConfig
from shared.settings import Settings
from shared.web.listen import LOOPBACK
from tests.architecture.documents import CODE, cells, missing

_, *PROMISES = cells("security.md", columns=2)


@pytest.mark.parametrize("test", sorted({test for _, tests in PROMISES for test in CODE.findall(tests)}))
def test_what_tests_a_promise_exists(test: str) -> None:
    assert missing(test) is None


def test_no_promise_is_without_a_test() -> None:
    assert len(PROMISES) > 20
    assert [promise for promise, tests in PROMISES if not CODE.findall(tests)] == []


def test_everything_listens_on_the_loopback_interface_by_default(tmp_path: Path) -> None:
    assert Settings().page_host in LOOPBACK
    assert PlayConfig.model_fields["host"].default in LOOPBACK
    text = nats_server.configure(tmp_path, 4222).read_text()
    listening = [line for line in text.splitlines() if line.startswith(("listen", "http"))]
    assert listening == ['listen: "127.0.0.1:4222"']
