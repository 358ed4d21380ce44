"""Device and number of processes."""

from __future__ import annotations

import pytest

from services.commands.machine import place
from shared.config import TrainingConfig
from shared.errors import UsageError


def test_auto_takes_the_gpus_where_there_are_some() -> None:
    assert place(TrainingConfig(), gpus=2, allow_single_gpu=False) == ("cuda", 2)
    assert place(TrainingConfig(), gpus=0, allow_single_gpu=False) == ("cpu", 2)


def test_fewer_gpus_than_processes_need_permission() -> None:
    with pytest.raises(UsageError, match=r"--nproc-per-node 2: only 1 GPU found; give --allow-single-gpu"):
        place(TrainingConfig(), gpus=1, allow_single_gpu=False)
    assert place(TrainingConfig(), gpus=1, allow_single_gpu=True) == ("cuda", 1)
    assert place(TrainingConfig(nproc_per_node=1), gpus=1, allow_single_gpu=False) == ("cuda", 1)


def test_the_count_does_not_matter_where_nothing_is_trained() -> None:
    assert place(TrainingConfig(), gpus=1, allow_single_gpu=False, check_count=False) == ("cuda", 2)


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="no usable GPU"):
        place(TrainingConfig(device="cuda"), gpus=0, allow_single_gpu=True)
    with pytest.raises(UsageError, match="no usable GPU"):
        place(TrainingConfig(device="cuda"), gpus=0, allow_single_gpu=False, check_count=False)
