"""Reads torch files without ever running code from them.

TinyWorlds pickles its configuration classes into `state.pt`; named stand-ins take their place. Whatever else
a file wants to import is refused by name.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from shared.errors import CheckpointError

IMPORTED = re.compile(r"GLOBAL (\S+)")


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
        return _plain(torch.load(path, map_location=map_location, weights_only=True))
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


def _plain(value: Any) -> Any:
    if isinstance(value, DeviceType):
        return value.value
    if isinstance(value, STAND_INS):
        return {key: _plain(inner) for key, inner in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(inner) for inner in value) if type(value) in (list, tuple) else value
    return value
