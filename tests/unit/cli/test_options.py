"""The flags of train: which keys they set, which need or exclude each other, what --help says of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from services import cli
from services.commands.config_files import Tree
from services.commands.options import KEYS, STAGE_KEYS, TrainOptions, flag_of
from services.commands.resolve import paths_of, resolve
from services.commands.schema import find
from shared.errors import UsageError

SHIPPED = Path(__file__).parents[3] / "configs"


def helps() -> dict[str, str]:
    parameters = inspect.signature(cli.train, eval_str=True).parameters
    return {
        name: parameter.annotation.__metadata__[0].help or ""
        for name, parameter in parameters.items()
        if hasattr(parameter.annotation, "__metadata__")
    }


def test_every_flag_sets_a_key_that_exists() -> None:
    assert [name for name, path in KEYS.items() if find(Tree, path) is None] == []
    assert [key for key in STAGE_KEYS.values() if find(Tree, ("dynamics", key)) is None] == []


@pytest.mark.parametrize("name", [name for name in KEYS if name != "sample_index"])
def test_help_names_the_key_and_the_default_of_a_flag(name: str) -> None:
    found = re.search(r"\(([\w.]+)(?:, default (.+))?\)", helps()[name])
    assert found is not None
    key, default = found.groups()
    assert KEYS[name] in paths_of(key)
    if default not in (None, "of the profile"):
        value: object = resolve(SHIPPED, "inference-safe")
        value = resolve(SHIPPED, "inference-safe").run if KEYS[name][0] != "policy" else value.policy  # type: ignore[attr-defined]
        for part in KEYS[name][1 if KEYS[name][0] == "policy" else 0 :]:
            value = getattr(value, part)
        assert str(value).lower().removesuffix(".0") == default


def test_every_option_is_a_flag_and_every_flag_an_option() -> None:
    options = {field.name for field in dataclasses.fields(TrainOptions)}
    assert helps().keys() - options == {"resume", "nats_url", "as_json"}
    assert options <= helps().keys()


def test_init_flags_and_the_target_go_to_the_stages_that_are_trained() -> None:
    one = TrainOptions(only_stage="video_tokenizer", init_batch_size=4, target_updates=9).settings()
    assert [(setting.path, setting.value, setting.origin) for setting in one] == [
        (("video_tokenizer", "n_updates"), 9, "--target-updates"),
        (("video_tokenizer", "batch_size_per_gpu"), 4, "--init-batch-size"),
    ]
    assert len(TrainOptions(init_learning_rate=1e-3).settings()) == 3


def test_a_flag_is_named_as_it_is_written() -> None:
    assert flag_of("gpu_util_threshold") == "--gpu-util-threshold"


def test_dynamics_alone_needs_the_checkpoints_of_the_other_two() -> None:
    with pytest.raises(UsageError, match="needs --video-checkpoint"):
        _ = TrainOptions(only_stage="dynamics", latent_checkpoint="x").checkpoints
    with pytest.raises(UsageError, match="needs --latent-checkpoint"):
        _ = TrainOptions(only_stage="dynamics", video_checkpoint="x").checkpoints


def test_only_a_run_with_dynamics_or_without_training_reaches_the_inference_gate() -> None:
    assert TrainOptions().inference
    assert TrainOptions(train_stage="none").inference
    assert TrainOptions(only_stage="dynamics").inference
    assert not TrainOptions(only_stage="latent_actions").inference


def test_flags_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        _ = TrainOptions(train_stage="none", only_stage="dynamics").stages
    with pytest.raises(UsageError, match="--dynamics-checkpoint plays no part"):
        _ = TrainOptions(only_stage="video_tokenizer", dynamics_checkpoint="x").checkpoints
