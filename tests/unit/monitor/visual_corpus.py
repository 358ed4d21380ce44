"""A labelled corpus of picture sheets: what is healthy, what has collapsed, and how strongly.

Healthy are real game frames and honest reconstructions from their 50th update on, as long as they explain a
fifth of what their originals vary: before that there is no picture yet. Collapsed are the same sheets put
through a degradation. `weak` is what young models show as well, `strong` nobody would call a picture.

Games are split, not sheets: thresholds were chosen on `TUNING` alone, figures are claimed on `HELD_OUT`.

Shape legend: R rows, F original and G generated frames of a row, H = W pixels, C colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from services.gatekeeper.config import Visual
from services.gatekeeper.core.visual import visual_reason
from services.monitor.core.covered import plain, uncovered
from services.monitor.core.visual import numbers
from shared.events import STAGES, Stage, VisualNumbers

Pixels = NDArray[np.uint8]
Strength = Literal["weak", "medium", "strong"]

TUNING = (
    "Riverraid",
    "Pong",
    "Breakout",
    "MsPacman",
    "Asteroids",
    "Seaquest",
    "Skiing",
    "Boxing",
    "SpaceInvaders",
)
HELD_OUT = ("Enduro", "Freeway", "Qbert", "Frostbite", "Hero", "Alien")
EXPLAINS = 0.2
"""Share of the originals' variance that an honest reconstruction explains at least."""
STRENGTHS: tuple[Strength, ...] = ("weak", "medium", "strong")


@dataclass(frozen=True)
class Case:
    """A sheet and what is known about it."""

    name: str
    stage: Stage
    originals: Pixels
    """[R, F, H, W, 3]; dynamics: as the sheet shows them, with grey masks."""
    generated: Pixels
    """[R, G, H, W, 3]"""
    degradation: str = ""
    """Empty: healthy."""
    strength: Strength | None = None

    def measured(self) -> VisualNumbers:
        """Its numbers."""
        return numbers(
            self.stage, self.originals, self.generated, sheet=f"{self.name}.png", step=100, fresh=True
        )

    def verdict(self) -> tuple[bool, str]:
        """Whether the default policy calls it healthy, and the reason's text."""
        reason = visual_reason(self.stage, self.measured(), Visual(binds=STAGES))
        return reason.ok, reason.text

    @property
    def honest(self) -> bool:
        """Whether the generated frames are a picture of the originals at all, by pixels alone."""
        real, made = self._compared()
        spread = ((real - real.mean(axis=(2, 3), keepdims=True)) ** 2).mean()
        return bool(((real - made) ** 2).mean() < (1 - EXPLAINS) * spread)

    @property
    def moves(self) -> bool:
        """Whether something that the sheet shows moves, and nearly as much in the generated frames."""
        real, made = self._compared()
        shown = np.ones(real.shape[:4], np.bool_)
        if self.stage == "dynamics":
            shown = ~uncovered(self.originals).hidden
        always = np.asarray(shown.all(axis=1, keepdims=True))[..., None]
        real, made = (always * (part - part.mean(axis=1, keepdims=True)) for part in (real, made))
        whole = float((real**2).mean())
        enough = always.mean() > 0.1 and whole > 0.5**2
        return bool(enough and (real * made).mean() > 0.75 * whole)

    def _compared(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Originals and generated frames, alike where the sheet shows no original."""
        count = self.generated.shape[1]
        shown = uncovered(self.originals) if self.stage == "dynamics" else plain(self.originals)
        real = shown.frames[:, -count:]
        made = np.where(shown.unknown[:, -count:, ..., None], real, self.generated)
        return real.astype(np.float64), made.astype(np.float64)


def copies(game: str, frames: Pixels) -> Iterator[Case]:
    """Perfect and slightly blurred sheets of real frames [R, F, H, W, 3], one of each kind, all healthy."""
    for label, made in (("copy", frames), ("soft copy", blurred(frames, 1.0))):
        yield Case(f"{game} {label}", "video_tokenizer", frames, made)
        if frames.shape[1] > 1:
            yield Case(f"{game} {label}", "latent_actions", frames, made[:, 1:])
        yield Case(f"{game} {label}", "dynamics", masked(frames, last_only=True, share=0.5), made)
        yield Case(
            f"{game} {label}, all masked",
            "dynamics",
            masked(frames, last_only=False, share=0.7, grey=131),
            made,
        )


def collapsed(case: Case) -> Iterator[Case]:
    """Every degradation of a healthy sheet; of dynamics also with only the masked patches collapsed."""
    context = case.originals[:, :1] if case.generated.shape[1] < case.originals.shape[1] else None
    hidden = None
    if case.stage == "dynamics":
        hidden = uncovered(case.originals).hidden[:, -case.generated.shape[1] :, ..., None]
        if hidden.all() or not hidden.any():
            hidden = None
    for name, strength, made in degradations(case.generated):
        yield replace(case, generated=made, degradation=name, strength=strength)
        if hidden is not None:
            only_there = np.where(hidden, made, case.generated)
            yield replace(case, generated=only_there, degradation=f"{name}, masked only", strength=strength)
    if case.moves:
        held = (case.generated[:, :1] if context is None else context).astype(np.float64)
        for strength, share in zip(STRENGTHS, (0.25, 0.5, 1.0), strict=True):
            made = pixels((1 - share) * case.generated + share * held)
            yield replace(case, generated=made, degradation="frozen", strength=strength)


def degradations(frames: Pixels) -> Iterator[tuple[str, Strength, Pixels]]:
    """Name, strength and result of each way in which single frames [R, G, H, W, 3] can collapse."""
    random = np.random.default_rng(0)
    scale = frames.shape[2] // 64
    mean = frames.mean(axis=(2, 3), keepdims=True)
    for strength, faded, side, wave, spread, sigma in zip(
        STRENGTHS, (0.5, 0.8, 0.95), (2, 4, 8), (0.15, 0.35, 0.65), (12, 35, 80), (2, 5, 12), strict=True
    ):
        yield "near-constant", strength, pixels(mean + (1 - faded) * (frames - mean))
        yield "flat blocks", strength, blocks(frames, side * scale)
        for direction, period in (("across", 8), ("down", 4), ("diagonal", 8), ("across", 16)):
            stripes = pattern(frames.shape[2], direction, period * scale)
            name = f"stripes {direction}, period {period}"
            yield name, strength, pixels((1 - wave) * frames + wave * stripes)
        yield "noise", strength, pixels(frames + random.normal(0, spread, frames.shape))
        yield "lost edges", strength, blurred(frames, sigma * scale)
    yield "one colour", "strong", pixels(mean + random.normal(0, 2, frames.shape))
    yield "flat blocks of 16", "strong", blocks(frames, 16 * scale)
    yield "nothing but noise", "strong", random.integers(0, 256, frames.shape, dtype=np.uint8)
    yield "scrambled patches", "strong", scrambled(frames, 8 * scale, random)


def pixels(levels: NDArray[np.float64]) -> Pixels:
    """Levels of any range as uint8."""
    return np.clip(levels, 0, 255).astype(np.uint8)


def blurred(frames: Pixels, sigma: float) -> Pixels:
    """Gaussian blur, in pixels."""
    blur = ImageFilter.GaussianBlur(sigma)
    return np.array([[np.asarray(Image.fromarray(frame).filter(blur)) for frame in row] for row in frames])


def blocks(frames: Pixels, side: int) -> Pixels:
    """Each block of `side` pixels in its mean colour."""
    mean = _cut(frames, side).mean(axis=(3, 5), keepdims=True)
    return np.broadcast_to(mean, _cut(frames, side).shape).reshape(frames.shape).astype(np.uint8)


def scrambled(frames: Pixels, side: int, random: np.random.Generator) -> Pixels:
    """The patches of each frame in another order: what a model of random tokens makes."""
    patches = _cut(frames, side).transpose(0, 1, 2, 4, 3, 5, 6)  # [R, G, Y, X, side, side, C]
    rows, count, high, wide = patches.shape[:4]
    flat = patches.reshape(rows, count, high * wide, side, side, 3)
    mixed = np.stack([[frame[random.permutation(high * wide)] for frame in row] for row in flat])
    whole = mixed.reshape(patches.shape).transpose(0, 1, 2, 4, 3, 5, 6)
    return np.ascontiguousarray(whole.reshape(frames.shape))


def _cut(frames: Pixels, side: int) -> Pixels:
    rows, count, height, width, colours = frames.shape
    return frames.reshape(rows, count, height // side, side, width // side, side, colours)


def pattern(size: int, direction: str, period: int) -> NDArray[np.float64]:
    """Stripes [H, W, 1] of two levels."""
    down, across = np.mgrid[:size, :size]
    along = {"across": down, "down": across, "diagonal": down + across}[direction]
    return np.where((along // (period // 2)) % 2 == 0, 220.0, 40.0)[..., None]


def masked(frames: Pixels, *, last_only: bool, share: float, grey: int = 128) -> Pixels:
    """Frames with patches of an eighth of their size greyed: our dynamics sheets, or TinyWorlds'."""
    rows, count, size = frames.shape[:3]
    hidden = np.random.default_rng(3).random((rows, count, 8, 8)) < share
    if last_only:
        hidden[:, :-1] = False
    wide = hidden.repeat(size // 8, axis=2).repeat(size // 8, axis=3)
    return np.where(wide[..., None], np.uint8(grey), frames)


def tinyworlds_sheet(originals: Pixels, generated: Pixels) -> Image.Image:
    """The figure TinyWorlds would have drawn: white, two panels of tiles with black lines, enlarged by 4.34.

    Frames of 128 pixels are enlarged by half as much and smoothed, as its plotting library does below
    a factor of three. Fewer generated frames than originals are filled four a row, sequence after sequence.
    """
    tiles = generated
    if generated.shape[1] < originals.shape[1]:
        tiles = generated.reshape(-1, *generated.shape[2:])
        tiles = np.concatenate([tiles, np.zeros((-len(tiles) % 4, *tiles.shape[1:]), np.uint8)])
        tiles = tiles.reshape(-1, 4, *generated.shape[2:])
    panels = [_panel(part) for part in (originals, tiles)]
    sheet = Image.new("RGB", (sum(panel.width for panel in panels) + 60, panels[0].height + 62), "white")
    left = 15
    for panel in panels:
        sheet.paste(panel, (left, 46 + (panels[0].height - panel.height) // 2))
        left += panel.width + 30
    return sheet


def _panel(frames: Pixels) -> Image.Image:
    rows, count, size = frames.shape[:3]
    pitch = size + 2
    grid = np.zeros((rows * pitch + 2, count * pitch + 2, 3), np.uint8)
    for row in range(rows):
        for column in range(count):
            top, left = row * pitch + 2, column * pitch + 2
            grid[top : top + size, left : left + size] = frames[row, column]
    scale = 4.34 * 64 / size * min(1.0, 4 / rows)  # a tall panel is made to fit
    wide = (round(grid.shape[1] * scale), round(grid.shape[0] * scale))
    smooth = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BILINEAR
    return Image.fromarray(grid).resize(wide, smooth)
