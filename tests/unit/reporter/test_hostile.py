"""Texts of others in reports."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from services.reporter.core.hostile import code, inline
from services.reporter.core.loop_report import loop_report
from services.reporter.core.markdown import table
from services.reporter.core.material import Material
from services.reporter.core.story import Outcome, Story, tell
from services.reporter.reports import write_reports
from shared.bundle import Bundle
from shared.events import AlertRaised, OperatorRequested
from tests.unit.reporter.conftest import RUN, Log

PASSED = Outcome("passed", "the inference gate passed", degraded=False)


def story(log: Log) -> Story:
    found = tell(log.records)
    assert found is not None
    return found


HOSTILE = (
    "<img src=x onerror=alert(1)> [x](http://evil) ![y](//evil) `c` | a \\| &#96; **b** _i_ \x1b[31m\u202e"
)


def test_nothing_of_others_becomes_markdown_or_html_in_any_report(log: Log, bundle: Bundle) -> None:
    reason = {
        "check": 6,
        "name": HOSTILE,
        "value": HOSTILE,
        "threshold": {HOSTILE: 1},
        "ok": False,
        "text": HOSTILE,
    }
    failed: dict[str, Any] = {
        "verdict": "retune",
        "decision": "retune",
        "reason": HOSTILE,
        "accepted_checkpoint": None,
    }
    failed |= {"reasons": [reason], "config_patch_applied": {HOSTILE: HOSTILE}, "recommendations": [HOSTILE]}
    log.begin(config={"training": {"dataset": HOSTILE}})
    first = log.records[0]
    named = first.message.spec.model_copy(update={"run_name": HOSTILE})
    log.records[0] = replace(first, message=first.message.model_copy(update={"spec": named}))
    log.chunk(1, 0, 50, gate=failed, rows=False).chunk(2, 0, 50, rows=False, dataset=HOSTILE)
    log.add(OperatorRequested(run_id=RUN, request="stop_run", request_id="1", arguments={HOSTILE: HOSTILE}))
    log.add(
        AlertRaised(
            run_id=RUN,
            stage="dynamics",
            attempt=1,
            channel=HOSTILE,
            silence_sec=9,
            limit_sec=5,
            detail=HOSTILE,
        )
    )
    log.inference(ok=False, problem=HOSTILE)
    outcome = Outcome("failed", HOSTILE, degraded=True)
    texts = ""
    for each in write_reports(bundle, story(log), outcome, ["loop", "retrospective", "inference", "wandb"]):
        assert each.path is not None, each.error
        texts += (bundle.root / each.path).read_text()
    spans = re.compile(r"`[^`\n|]*`")  # shown as they are
    for line in texts.splitlines():
        bare = spans.sub("", line)
        for bad in ("<img", "[x](", "![y]", "http:", "&#96; **", "**b**", " _i_", "\x1b", "\u202e", "`"):
            assert bad not in bare, line
    assert texts.count("onerror") > 20


def test_a_row_of_a_table_has_as_many_cells_as_its_head_whatever_is_in_it() -> None:
    for text in (HOSTILE, "a\\|b", "\\", "|", "`|`", "a\nb"):
        row = table(("one", "two"), [(code(text), inline(text))])[2]
        assert len(re.findall(r"(?<!\\)\|", row)) == 3
        assert "\\\\|" not in row


def test_text_from_outside_does_not_break_tables(log: Log) -> None:
    log.begin().chunk(1, 0, 50, dataset="a|b").chunk(2, 50, 100, dataset="c\nd")
    assert "| dynamics | 2 | `dataset` | a&#124;b | c d |" in loop_report(story(log), PASSED, Material())


@pytest.mark.parametrize(
    ("text", "within", "as_code"),
    [
        ("a`b|c\\", "a&#96;b&#124;c&#92;", "<code>a&#96;b&#124;c&#92;</code>"),
        ("&lt; R&D &#96;", "&amp;lt; R&D &amp;&#35;96;", "`&lt; R&D &#96;`"),
        ("gate_fail _x_ __init__", "gate_fail \\_x\\_ \\_\\_init\\_\\_", "`gate_fail _x_ __init__`"),
        ("two\nlines", "two lines", "<code>two lines</code>"),
        ("", "", "<code></code>"),
    ],
)
def test_texts_are_shown_as_they_are(text: str, within: str, as_code: str) -> None:
    assert (inline(text), code(text)) == (within, as_code)
