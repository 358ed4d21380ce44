"""Checkpoints: directories in TinyWorlds' form, written whole or not at all, read without running code.

`<stage>_step_<N>/` holds `model_state_dict.pt`, `optim_state_dict.pt` and `state.pt` under TinyWorlds' names,
keys and shapes (N counts updates from 0). Ours have a `manifest.json` with checksums beside them, and the key
`worldloop` in `state.pt` for what TinyWorlds does not know. Theirs have neither and are as welcome.
"""

from shared.worldmodel.checkpoints.finding import Newest, inspect_checkpoint, newest_valid
from shared.worldmodel.checkpoints.fit import architecture_of, check_same_architecture
from shared.worldmodel.checkpoints.form import FILES, MANIFEST, MODEL, OPTIMIZER, TINY, stage_of
from shared.worldmodel.checkpoints.reading import (
    Checkpoint,
    checked_weights,
    entries,
    is_index,
    load_checkpoint,
)
from shared.worldmodel.checkpoints.writing import save_checkpoint, write_file

__all__ = [
    "FILES",
    "MANIFEST",
    "MODEL",
    "OPTIMIZER",
    "TINY",
    "Checkpoint",
    "Newest",
    "architecture_of",
    "check_same_architecture",
    "checked_weights",
    "entries",
    "inspect_checkpoint",
    "is_index",
    "load_checkpoint",
    "newest_valid",
    "save_checkpoint",
    "stage_of",
    "write_file",
]
