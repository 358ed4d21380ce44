"""Whatever an inference test is asked to do: it answers, and says what was wrong with the question."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.inference.trial import run_trial
from shared.config import InferenceConfig
from shared.events import STAGES, EvaluateInference
from tests.fuzz import memory
from tests.fuzz.absurd import PATHS, documents
from tests.fuzz.effort import tries
from tests.unit.inference.conftest import RUN_ID, TinyRun, trained_in

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
CRASHED = re.compile(r"[\w.]*([Ee]rror|Exception): |out of memory")
"""How the answer begins when nobody foresaw the problem."""
SMALL = {"clips": 2, "decode_steps": 1, "generation_steps": 2, "device": "cpu"}
counts = st.sampled_from([1, 2, 3, 7, 300, 10**6, 2**31, 2**63])
EXTREME: dict[str, st.SearchStrategy[Any]] = {
    "use_actions": st.booleans(),
    "context_window": counts,
    "prediction_horizon": counts,
    "generation_steps": counts,
    "decode_steps": counts,
    "temperature": st.sampled_from([0.0, 5e-324, 1e300]),
    "clips": counts,
    "teacher_forced": st.booleans(),
    "sample_index": st.none() | st.sampled_from([0, -1, 299, 10**6, -(2**63), 2**63]),
    "seed": st.sampled_from([0, 1, 2**32, 2**63 - 1, 2**64 - 1]),
}
"""Settings that may be asked for, with values that nobody means."""
changes = st.one_of(
    st.lists(st.sampled_from(sorted(EXTREME)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: EXTREME[name] for name in names})
    ),
    st.sampled_from([[0], [3, 0], [10**6], [2**63]]).map(
        lambda codes: {"actions": "given", "action_codes": codes}
    ),
    st.dictionaries(st.sampled_from(sorted(InferenceConfig.model_fields)), documents, max_size=2),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run that can be tested; no test changes its files but for pictures."""
    return trained_in(tmp_path_factory.mktemp("trained"))


@tries(0.4)
@example(settings={}, checkpoints={}, policy={})
@example(settings={"decode_steps": 2**63}, checkpoints={}, policy={})
@example(settings={"temperature": 1e300, "decode_steps": 3}, checkpoints={}, policy={})
@given(
    settings=changes,
    checkpoints=st.just({}) | st.just({}) | st.dictionaries(st.sampled_from(STAGES), st.sampled_from(PATHS)),
    policy=st.just({}) | st.just({}) | documents,
)
def test_whatever_is_asked_is_answered(
    run: TinyRun, settings: dict[str, Any], checkpoints: dict[str, str], policy: Any
) -> None:
    document = {"run_id": RUN_ID, "inference_try": 1, "checkpoints": run.checkpoints | checkpoints}
    try:
        command = EvaluateInference.model_validate(document | {"settings": SMALL | settings})
    except ValidationError:
        return  # a dead letter: see test_messages.py
    spec = run.spec.model_copy(update={"policy": {"inference": policy}})
    with memory.bounded():
        done = run_trial(
            command, spec, run.bundle, cache_dir=run.bundle.root, now=NOON, cancelled=lambda: False
        )
    assert done.ok == (done.problem is None)
    assert CRASHED.match(done.problem or "") is None, done.problem
