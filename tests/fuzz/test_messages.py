"""Whatever arrives on a subject becomes a message of ours or a clear error, which a dead letter holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.bus.wire import decode
from shared.errors import MessageError
from shared.events import MESSAGES, CheckpointInfo, subject
from tests.fuzz.effort import tries
from tests.fuzz.mutants import after, damages

RUN = "20260101_000000"
ODD = ("../../etc", "/etc/passwd", "a/../../b", "\0", "CON", "", " ", "9" * 400, "2026-13-45", "\ud800")
thoroughly = tries(8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(ODD)
    | st.sampled_from(["video_tokenizer", "latent_actions", "dynamics", "trainer", RUN, "completed"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def arrivals(kind: tuple[str, str]) -> st.SearchStrategy[tuple[str, bytes]]:
    """A message's subject, and objects with its fields and values of any kind, or other bytes."""
    fields = dict.fromkeys(MESSAGES[kind].model_fields, values) | {"run_id": st.just(RUN)}
    objects: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional=fields | {"unknown": values})
    lines = objects.map(lambda found: json.dumps(found).encode())
    damaged = st.builds(after, damages(), lines)
    return st.tuples(st.just(f"worldloop.{RUN}.{'.'.join(kind)}"), lines | damaged)


@thoroughly
@given(st.sampled_from(sorted(MESSAGES)).flatmap(arrivals))
def test_bytes_become_a_message_or_a_clear_error(arrival: tuple[str, bytes]) -> None:
    on_subject, data = arrival
    try:
        message = decode(on_subject, data)
    except MessageError as error:
        problem = str(error)
        assert len(problem) < 20_000, "a dead letter has to fit into a message"
    else:
        assert subject(message) == on_subject
        assert decode(on_subject, message.model_dump_json().encode()) == message


@pytest.mark.parametrize("path", ["n" * 256, "é" * 128, "/".join(["d" * 200] * 11)])
def test_a_path_that_no_file_can_have_is_no_path(path: str) -> None:
    with pytest.raises(ValidationError, match="no path inside the bundle"):
        CheckpointInfo(path=path, step=1, valid=True)
