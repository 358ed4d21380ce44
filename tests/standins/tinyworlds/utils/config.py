"""Configuration: stage file, then training.yaml, then key=value; a key that a schema lacks is an error."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

import yaml


class DeviceType(str, Enum):  # noqa: UP042 - as TinyWorlds has it
    CUDA = "cuda"
    CPU = "cpu"


@dataclass
class FSDPMixedPrecisionConfig:
    param_dtype: str = "bfloat16"
    reduce_dtype: str = "float32"


@dataclass
class DistributedConfig:
    use_ddp: bool = False
    use_fsdp: bool = False
    reshard_after_forward: bool = False
    fsdp_mixed_precision: FSDPMixedPrecisionConfig | None = field(default_factory=FSDPMixedPrecisionConfig)


@dataclass
class StageConfig:
    batch_size_per_gpu: int
    gradient_accumulation_steps: int
    n_updates: int
    learning_rate: float
    log_interval: int
    dataset: str
    context_length: int
    frame_size: int
    patch_size: int
    embed_dim: int
    num_heads: int
    hidden_dim: int
    num_blocks: int
    amp: bool
    tf32: bool
    compile: bool
    distributed: DistributedConfig
    nproc_per_node: int
    standalone: bool
    use_wandb: bool
    wandb_project: str
    checkpoint: str | None

    def check(self) -> None:
        several = self.distributed.use_ddp or self.distributed.use_fsdp
        if self.nproc_per_node > 1 and not several:
            raise ValueError(
                "nproc_per_node > 1 requires enabling distributed.use_ddp or distributed.use_fsdp."
            )
        if several and self.device != "cuda":
            raise ValueError("Distributed training (DDP/FSDP) requires device=cuda.")


@dataclass
class VideoTokenizerConfig(StageConfig):
    latent_dim: int
    num_bins: int
    device: DeviceType = DeviceType.CUDA
    fps: int | None = None
    preload_ratio: float | None = None


@dataclass
class LatentActionsConfig(StageConfig):
    n_actions: int
    device: DeviceType = DeviceType.CUDA
    fps: int | None = None
    preload_ratio: float | None = None


@dataclass
class DynamicsConfig(StageConfig):
    latent_dim: int
    num_bins: int
    n_actions: int
    use_actions: bool
    video_tokenizer_path: str | None
    latent_actions_path: str | None
    device: DeviceType = DeviceType.CUDA
    fps: int | None = None
    preload_ratio: float | None = None


@dataclass
class InferenceConfig:
    video_tokenizer_path: str | None
    latent_actions_path: str | None
    dynamics_path: str | None
    device: str
    generation_steps: int
    context_window: int
    fps: int
    temperature: float
    decode_steps: int
    use_actions: bool
    teacher_forced: bool
    use_latest_checkpoints: bool
    prediction_horizon: int
    dataset: str
    use_gt_actions: bool
    amp: bool
    tf32: bool
    compile: bool
    use_interactive_mode: bool
    seed: int | None = None
    sample_index: int | None = None
    preload_ratio: float | None = None


def load_stage_config_merged(schema: type[StageConfig], default_config_path: str) -> Any:
    given = _arguments(default_config_path)
    values = _read(given.config, schema)
    shared = yaml.safe_load(Path(given.training_config).read_text()) or {}
    values |= {key: value for key, value in shared.items() if key in _names(schema) and value is not None}
    args = _build(schema, values, given.overrides)
    args.check()
    return args


def load_config(schema: type[Any], default_config_path: str) -> Any:
    given = _arguments(default_config_path)
    return _build(schema, _read(given.config, schema), given.overrides)


def _arguments(default: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=default)
    parser.add_argument("--training_config", default="configs/training.yaml")
    parser.add_argument("overrides", nargs=argparse.REMAINDER)
    return parser.parse_args(sys.argv[1:])


def _names(schema: type[Any]) -> set[str]:
    return {each.name for each in fields(schema)}


def _read(path: str, schema: type[Any]) -> dict[str, Any]:
    values = yaml.safe_load(Path(path).read_text()) or {}
    _refuse(values.keys() - _names(schema), schema)
    return values


def _refuse(unknown: set[str], schema: type[Any]) -> None:
    if unknown:
        raise KeyError(f"Key '{min(unknown)}' not in '{schema.__name__}'")


def _build(schema: type[Any], values: dict[str, Any], overrides: list[str]) -> Any:
    for text in overrides:
        if "=" not in text:
            continue
        key, _, written = text.lstrip("-").partition("=")
        first, _, inner = key.partition(".")
        _refuse({first} - _names(schema), schema)
        if inner:
            _refuse({inner} - _names(DistributedConfig), DistributedConfig)
            values[first] = {**values.get(first, {}), inner: yaml.safe_load(written)}
        else:
            values[first] = yaml.safe_load(written)
    needed = {
        each.name for each in fields(schema) if each.default is MISSING and each.default_factory is MISSING
    }
    if missing := needed - values.keys():
        raise ValueError(f"Missing mandatory value: {min(missing)}")
    if "distributed" in values:
        values["distributed"] = DistributedConfig(**values["distributed"])
    if "device" in values and schema is not InferenceConfig:
        values["device"] = DeviceType(values["device"])
    if "learning_rate" in values:
        values["learning_rate"] = float(values["learning_rate"])
    return schema(**values)
