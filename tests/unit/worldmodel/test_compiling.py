"""`compile: true` on a machine that can compile, and on one that cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared.worldmodel.build import build_model
from shared.worldmodel.compiling import compile_model

CPU = torch.device("cpu")


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nmore lines")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes of this variable is undone."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Which modules were compiled, and how, on a machine whose compiler works."""
    calls: list[tuple[nn.Module, dict[str, Any]]] = []
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: calls.append((module, how)))
    return calls


def kinds(calls: list[tuple[nn.Module, dict[str, Any]]]) -> list[str]:
    return [type(module).__name__ for module, _ in calls]


def test_without_a_compiler_training_goes_on_uncompiled_and_says_so_once(
    tiny: Any,
    tmp_path: Path,
    compiled: list[tuple[nn.Module, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: refuse)
    said: list[str] = []
    compile_model(build_model("dynamics", tiny.config()), CPU, tmp_path, said.append)
    (told,) = said
    assert "no working C++ compiler found" in told
    assert "compile: false" in told
    assert "more lines" not in told
    assert not compiled


def test_parts_of_fixed_shapes_are_compiled_each_shape_on_its_own(
    tiny: Any, tmp_path: Path, compiled: list[tuple[nn.Module, dict[str, Any]]]
) -> None:
    said: list[str] = []
    config = tiny.config(embed_dim=32, num_heads=2, num_blocks=1)
    compile_model(build_model("dynamics", config), CPU, tmp_path, said.append)
    assert kinds(compiled) == ["SpatialAttention", "TemporalAttention", "FeedForward"]
    assert all(how["fullgraph"] and how["dynamic"] is False for _, how in compiled)
    assert not said


def test_narrow_heads_on_a_cpu_keep_the_attention_written_for_them(
    tiny: Any, tmp_path: Path, compiled: list[tuple[nn.Module, dict[str, Any]]]
) -> None:
    config = tiny.config(embed_dim=32, num_heads=4, num_blocks=1)
    compile_model(build_model("dynamics", config), CPU, tmp_path, pytest.fail)
    assert kinds(compiled) == ["TemporalAttention", "FeedForward"]


def test_experts_take_whatever_tokens_come_and_are_not_compiled(
    tiny: Any, tmp_path: Path, compiled: list[tuple[nn.Module, dict[str, Any]]]
) -> None:
    config = tiny.config(embed_dim=32, num_heads=2, num_blocks=1, use_moe=True)
    compile_model(build_model("dynamics", config), CPU, tmp_path, pytest.fail)
    assert kinds(compiled) == ["SpatialAttention", "TemporalAttention"]


def test_machine_code_goes_to_the_cache(
    tiny: Any, tmp_path: Path, compiled: list[tuple[nn.Module, dict[str, Any]]]
) -> None:
    compile_model(build_model("dynamics", tiny.config()), CPU, tmp_path, pytest.fail)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
