"""Reads torch files without ever running code from them.

TinyWorlds pickles its configuration classes into `state.pt`; named stand-ins take their place. Whatever else
a file wants to import is refused by name. So is a small file that claims to be large (`claims`): tensors that
are only declared, and values made of each other over and over.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import CheckpointError
from shared.worldmodel.claims import check_claims

IMPORTED = re.compile(r"GLOBAL (\S+)")
MOST_VALUES = 200_000
"""In a file; a model of ours has thousands."""
NUMBERS = frozenset(
    (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    )
)
"""What tensors of weights and optimizers are made of."""
MOST_SHARED = 8
"""How many times the file's size its tensors may take together: weights that are tied share their storage."""


class DistributedConfig:
    """Stands in for TinyWorlds' `utils.config.DistributedConfig`."""


class FSDPMixedPrecisionConfig:
    """Stands in for TinyWorlds' `utils.config.FSDPMixedPrecisionConfig`."""


class DeviceType:
    """Stands in for TinyWorlds' `utils.config.DeviceType`, an enumeration of strings."""

    def __init__(self, value: str) -> None:
        self.value = value


STAND_INS = (DistributedConfig, FSDPMixedPrecisionConfig, DeviceType)


def load_file(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """What a torch file holds; stand-ins are turned into plain dicts and strings.

    Raises:
        CheckpointError: The file is missing, unreadable, broken or would run code; names it and what it would
            import.
    """
    torch.serialization.add_safe_globals([(cls, f"utils.config.{cls.__name__}") for cls in STAND_INS])
    try:
        size = check_claims(path)
        return _Reading(path, MOST_SHARED * size).plain(
            torch.load(path, map_location=map_location, weights_only=True)
        )
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except PermissionError as error:  # alone: a file that is cut is an OSError to torch
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes the reader fail in any way
        lines = str(error).splitlines()
        raise CheckpointError(f"{path} is damaged: {lines[0] if lines else type(error).__name__}") from error


def _refusal(path: Path, message: str) -> str:
    wanted = IMPORTED.search(message)
    if wanted:
        return (
            f"{path} is refused: it would import {wanted[1]}, and a checkpoint may hold tensors and plain "
            "values only. Do not trust this file; take another checkpoint"
        )
    reason = message.partition("WeightsUnpickler error:")[2].strip().splitlines()
    return f"{path} is damaged or no torch file: {reason[0] if reason else 'its pickle cannot be read'}"


class _Reading:
    """Makes plain values of what a file holds, as long as they are no more than it can hold.

    Args:
        path: The file.
        room: Bytes that its tensors may take together.
    """

    def __init__(self, path: Path, room: int) -> None:
        self._path, self._room, self._values = path, room, 0

    def plain(self, value: Any) -> Any:
        """A value without stand-ins.

        Raises:
            CheckpointError: There are too many, or a tensor is none of numbers that lie in the file.
        """
        self._values += 1
        if self._values > MOST_VALUES:
            raise CheckpointError(f"{self._path} is refused: it holds more than {MOST_VALUES} values")
        if isinstance(value, Tensor):
            return self._checked(value)
        if isinstance(value, DeviceType):
            return value.value
        if isinstance(value, STAND_INS):
            return {key: self.plain(inner) for key, inner in vars(value).items()}
        if isinstance(value, dict):
            return {key: self.plain(inner) for key, inner in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.plain(inner) for inner in value)
        return value

    def _checked(self, tensor: Tensor) -> Tensor:
        dense = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta
        if not dense or tensor.dtype not in NUMBERS:
            kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
            raise CheckpointError(f"{self._path} is refused: a tensor in it is no plain array ({kind})")
        self._room -= tensor.numel() * tensor.dtype.itemsize
        if self._room < 0:
            raise CheckpointError(
                f"{self._path} is refused: its tensors say to be more than {MOST_SHARED} times its size"
            )
        return tensor
