"""Manifests, and what events and reports name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from services.bundles.core.manifest import Fault, Manifest, differences, missing_or_changed, parse, to_bytes
from services.bundles.core.named import is_mentioned, links_of, mentioned

names = some.text(some.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)
digests = some.text("0123456789abcdef", min_size=64, max_size=64)


@given(some.dictionaries(names, digests), some.dictionaries(names, names))
def test_a_manifest_reads_back_whatever_the_names(files: dict[str, str], links: dict[str, str]) -> None:
    assert parse(to_bytes(Manifest(files, links))) == Manifest(files, links)


def test_a_line_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse(b"# a comment\nnonsense\n")


def test_what_differs_is_told_file_by_file() -> None:
    expected = Manifest({"a": "1" * 64, "b": "2" * 64}, {"l": "a"})
    found = Manifest({"b": "3" * 64, "c": "4" * 64}, {"l": "b"})
    faults = [Fault("a", "is missing"), Fault("b", "has another checksum"), Fault("l", "leads to b, not a")]
    assert missing_or_changed(expected, found) == faults
    assert differences(expected, found) == sorted([*faults, Fault("c", "is new")])


def test_a_report_speaks_of_checkpoints_by_name_or_of_superseded_ones_by_place() -> None:
    told = mentioned(
        "from `results/x/dynamics/checkpoints/dynamics_step_99`, dynamics_prediction_step_7.png and "
        "results/x/dynamics/superseded/3/checkpoints/dynamics_step_199."
    )
    assert told == {"dynamics_step_99", "superseded/3/checkpoints/dynamics_step_199"}
    assert is_mentioned("results/x/dynamics/checkpoints/dynamics_step_99", told)
    assert not is_mentioned("results/x/dynamics/checkpoints/dynamics_step_199", told)
    assert is_mentioned("results/x/dynamics/superseded/3/checkpoints/dynamics_step_199", told)
    assert not is_mentioned("results/x/dynamics/superseded/2/checkpoints/dynamics_step_199", told)
    assert not is_mentioned("results/x/dynamics/superseded/3/checkpoints/dynamics_step_99", told)


def test_links_are_those_that_lead_into_the_bundle() -> None:
    text = "[a](plots/a.png) ![b](../../b.png#x) [c](https://example.com) [d](#d) [e](<f.md>)"
    assert links_of(text) == ["plots/a.png", "../../b.png", "f.md"]
