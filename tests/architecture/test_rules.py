"""docs/rules.md tells the truth: every file, name and test it names exists, and every rule has both."""

from __future__ import annotations

import pytest

from tests.architecture.documents import CODE, ROOT, cells, missing, names

RULES = [
    (rule, CODE.findall(where), CODE.findall(tests))
    for rule, _, where, tests in cells("rules.md", columns=4)
    if rule != "rule"
]


def test_there_are_rules_and_each_is_enforced_somewhere_and_tested() -> None:
    assert len(RULES) > 60
    assert [rule for rule, where, tests in RULES if not where or not tests] == []


@pytest.mark.parametrize("place", sorted({place for _, where, _ in RULES for place in where}))
def test_the_place_where_a_rule_is_enforced_exists(place: str) -> None:
    file, _, name = place.partition(":")
    assert (ROOT / file).is_file(), f"{file} is gone"
    assert not name or name in names(ROOT / file), f"{file} has no {name}"


@pytest.mark.parametrize("test", sorted({test for _, _, tests in RULES for test in tests}))
def test_the_test_of_a_rule_exists(test: str) -> None:
    assert missing(test) is None
