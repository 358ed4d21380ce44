"""What is random in training, as a function of seed, stage and update: there is nothing to restore."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def seed_of(*names: int | str) -> int:
    """A seed (63 bits) for what these names tell apart."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(slots=True)
class WindowOrder:
    """Which training windows each micro-batch takes: every epoch is a new permutation of all of them.

    An epoch's order takes 8 bytes a window (a 5 GB file of 64x64 frames: 3 MB) and is drawn once.
    """

    windows: int
    """Windows in the dataset."""
    seed: int
    _epochs: dict[int, Indices] = field(default_factory=dict)

    def take(self, start: int, count: int) -> Indices:
        """Windows `start` .. `start + count - 1` of the endless sequence of epochs."""
        places = np.arange(start, start + count, dtype=np.int64)
        epochs, offsets = np.divmod(places, self.windows)
        taken = np.empty(count, np.int64)
        for epoch in self._needed(int(epochs[0]), int(epochs[-1])):
            here = epochs == epoch
            taken[here] = self._epochs[epoch][offsets[here]]
        return taken

    def _needed(self, first: int, last: int) -> Iterator[int]:
        self._epochs = {epoch: order for epoch, order in self._epochs.items() if first <= epoch <= last}
        for epoch in range(first, last + 1):
            if epoch not in self._epochs:
                generator = np.random.default_rng(seed_of(self.seed, "epoch", epoch))
                self._epochs[epoch] = generator.permutation(self.windows)
            yield epoch
