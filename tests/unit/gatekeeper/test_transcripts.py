"""The golden transcripts are what the decision logic plays."""

from __future__ import annotations

import os

import pytest

from tests.unit.gatekeeper.rows import TRANSCRIPTS
from tests.unit.gatekeeper.transcripts import FOLDER, INDEX, Transcript, index

WRITE = os.environ.get("WORLDLOOP_WRITE_TRANSCRIPTS") == "1"


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda each: each.name)
def test_the_transcript_is_what_is_played(transcript: Transcript) -> None:
    path = FOLDER / f"{transcript.name}.md"
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(transcript.text)
    assert path.read_text() == transcript.text


def test_the_index_lists_every_transcript_and_there_are_no_others() -> None:
    if WRITE:
        INDEX.write_text(index(TRANSCRIPTS))
    assert INDEX.read_text() == index(TRANSCRIPTS)
    assert {path.stem for path in FOLDER.glob("*.md")} == {each.name for each in TRANSCRIPTS}
