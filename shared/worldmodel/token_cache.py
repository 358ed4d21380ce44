"""What the dynamics train on: tokens and actions of the training windows, computed once and kept on the disk.

A frame's tokens depend on the frames before it in the window and on its place there, so whole windows are
kept. On the CPU each window is encoded by itself: its tokens are the same bits whoever computes them, when,
and whatever else was asked for. So a cold, a half-filled, a full and no cache train the same weights. On a
GPU, where nothing promises the same bits, the missing windows of a batch are encoded together.

A file of records is named after all that its content depends on: the encoders' weights, the recording, the
shape of the windows, and the exact floats that this process makes of the first one. The last stands for the
device, its precision, the number of threads, the versions of torch and of our code: a process that computes
other bits reads another file.

Shapes: B windows, T frames, P patches of a frame; H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.datasets.frames import FramesDataset
from shared.datasets.records import Records, make_room
from shared.worldmodel.frames import to_float
from shared.worldmodel.latent_actions import LatentActions
from shared.worldmodel.video_tokenizer import VideoTokenizer

FORMAT = 1
SMALL = 1 << 16
"""Codes below this are kept in two bytes, others in four."""

Row = npt.NDArray[np.uint16] | npt.NDArray[np.int32]
"""A window's T * P tokens, frame by frame, then its T - 1 actions if there are any."""


class TokenCache:
    """Tokens and actions of a dataset's training windows.

    Args:
        dataset: Whose training windows.
        tokenizer: Frozen, in eval mode; tokens come back on its device.
        latent_actions: The same; none without actions.
        folder: Where files of records lie; several processes may use it at once.
        limit_gb: Room for all files there, least recently used ones go; 0 keeps nothing.
        report: Told, at most once, why nothing is kept: then windows are computed each time, with the same
            results.
    """

    def __init__(
        self,
        dataset: FramesDataset,
        tokenizer: VideoTokenizer,
        latent_actions: LatentActions | None,
        *,
        folder: Path,
        limit_gb: float,
        report: Callable[[str], None],
    ) -> None:
        self._dataset, self._tokenizer, self._latent_actions = dataset, tokenizer, latent_actions
        self._device = next(tokenizer.parameters()).device
        self._folder, self._report = folder, report
        codes = max(tokenizer.codes, latent_actions.n_actions if latent_actions is not None else 0)
        self._dtype = np.dtype(np.uint16 if codes <= SMALL else np.int32)
        self._records: Records | None = None
        if limit_gb > 0:
            self._open(int(limit_gb * 1e9))

    def take(self, windows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Tokens and actions of training windows.

        Args:
            windows: [B], numbers of `FramesDataset.batch`.

        Returns:
            Tokens, int64 [B, T, P], and the code of each transition, int64 [B, T-1], or none without actions.
        """
        rows: dict[int, Row] = {}
        missing: list[int] = []
        for window in windows.tolist():
            kept = self._kept(window)
            if kept is not None:
                rows[window] = kept
            elif window not in missing:
                missing.append(window)
        for group in self._groups(missing):
            for window, row in zip(group, self._computed(group), strict=True):
                rows[window] = row
                self._keep(window, row)
        taken = torch.from_numpy(np.stack([rows[window] for window in windows.tolist()]).astype(np.int64))
        taken = taken.to(self._device)
        frames = self._dataset.context_length
        transitions = 0 if self._latent_actions is None else frames - 1
        tokens_bx, codes_bt = taken.tensor_split([taken.shape[1] - transitions], 1)
        return tokens_bx.reshape(len(windows), frames, -1), codes_bt if transitions else None

    def close(self) -> None:
        """Keep nothing from here on."""
        if self._records is not None:
            self._records.close()
            self._records = None

    def _groups(self, windows: list[int]) -> Iterator[list[int]]:
        """Which windows are encoded together."""
        if self._device.type == "cpu":
            yield from ([window] for window in windows)
        elif windows:
            yield windows

    @torch.no_grad()
    def _computed(self, windows: list[int]) -> npt.NDArray[np.uint16] | npt.NDArray[np.int32]:
        frames_btchw = self._frames(windows)
        parts = [self._tokenizer.tokenize(frames_btchw).flatten(1)]
        if self._latent_actions is not None:
            parts.append(self._latent_actions.actions(frames_btchw))
        rows: npt.NDArray[np.uint16] | npt.NDArray[np.int32] = torch.cat(parts, 1).cpu().numpy()
        return rows.astype(self._dtype)

    def _frames(self, windows: list[int]) -> Tensor:
        return to_float(torch.from_numpy(self._dataset.batch(windows)).to(self._device))

    # --- records ------------------------------------------------------------------------------------------

    def _open(self, limit_bytes: int) -> None:
        size = self._computed([0]).nbytes
        path = self._folder / f"{self._key()}.records"
        try:
            problem = make_room(path, records=self._dataset.train_windows, size=size, limit_bytes=limit_bytes)
            if problem is None:
                self._records = Records(path, size)
        except OSError as error:
            problem = str(error)
        if problem is not None:
            self._give_up(problem)

    def _kept(self, window: int) -> Row | None:
        if self._records is None:
            return None
        try:
            record = self._records.read(window)
        except OSError as error:
            self._give_up(str(error))
            return None
        return None if record is None else np.frombuffer(record, self._dtype)

    def _keep(self, window: int, row: Row) -> None:
        if self._records is None:
            return
        try:
            self._records.write(window, row.tobytes())
        except OSError as error:
            self._give_up(str(error))

    def _give_up(self, problem: str) -> None:
        self.close()
        self._report(
            f"the token cache in {self._folder} is not used: {problem}. Tokens are computed for each update "
            "instead: the same results, more slowly. Make room there, raise token_cache_gb in dynamics.yaml, "
            "or name another place with WORLDLOOP_CACHE_DIR"
        )

    @torch.no_grad()
    def _key(self) -> str:
        dataset = self._dataset
        about = dataset.path.stat()  # the fingerprint is a sample
        facts = (
            FORMAT,
            dataset.fingerprint,
            about.st_size,
            about.st_mtime_ns,
            dataset.context_length,
            dataset.stride,
            self._tokenizer.codes,
            0 if self._latent_actions is None else self._latent_actions.n_actions,
        )
        digest = hashlib.sha256(repr(facts).encode())
        frames_btchw = self._frames([0])
        encoders: list[nn.Module] = [self._tokenizer.encoder]
        if self._latent_actions is not None:
            encoders.append(self._latent_actions.encoder)
        for encoder in encoders:
            for tensor in (*encoder.state_dict().values(), encoder(frames_btchw)):
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:32]
