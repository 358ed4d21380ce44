"""What the numbers say about pictures: young ones are healthy, each collapse fails its own number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from services.gatekeeper.config import Visual
from services.monitor.core.covered import uncovered
from services.monitor.core.visual import numbers
from shared.events import VisualNumbers

Frames = NDArray[np.uint8]
SIZE = 64
LIMITS = Visual()


def scene() -> Frames:
    """[3, 4, 64, 64, 3]: banks, a river that bends, and sprites that move."""
    rows = np.arange(SIZE)
    frames = np.empty((3, 4, SIZE, SIZE, 3), dtype=np.uint8)
    for row in range(3):
        for frame in range(4):
            picture = np.full((SIZE, SIZE, 3), (60, 130, 50), dtype=np.uint8)
            left = (18 + 6 * np.sin((rows + 5 * frame + 20 * row) / 9)).astype(int)
            for y in rows:
                picture[y, left[y] : left[y] + 28] = (45, 50, 180)
            for sprite in range(4):
                y, x = (13 * sprite + 7 * frame) % 58, 20 + (9 * sprite + 3 * row) % 22
                picture[y : y + 5, x : x + 4] = (230, 210, 60)
            frames[row, frame] = picture
    return frames


def blurred(frames: Frames, sigma: float) -> Frames:
    return np.array(
        [
            [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(sigma))) for f in row]
            for row in frames
        ]
    )


def blocks(frames: Frames, side: int) -> Frames:
    rows, count, height, width, colours = frames.shape
    cut = frames.reshape(rows, count, height // side, side, width // side, side, colours)
    mean = cut.mean(axis=(3, 5), keepdims=True)
    return np.broadcast_to(mean, cut.shape).reshape(frames.shape).astype(np.uint8)


def stripes(frames: Frames, share: float) -> Frames:
    wave = np.where((np.arange(SIZE) // 4) % 2 == 0, 220, 40)[:, None, None]
    return ((1 - share) * frames + share * wave).astype(np.uint8)


def noisy(frames: Frames, spread: float) -> Frames:
    noise = np.random.default_rng(0).normal(0, spread, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def measured(generated: Frames, originals: Frames | None = None) -> VisualNumbers:
    return numbers(scene() if originals is None else originals, generated, sheet="s.png", step=1, fresh=True)


def failed(found: VisualNumbers) -> set[str]:
    """Numbers beyond the policy's default limits."""
    verdicts = {
        "contrast": found.contrast >= LIMITS.min_contrast,
        "flat_blocks": found.flat_blocks <= LIMITS.max_flat_blocks,
        "striping": found.striping <= LIMITS.max_striping,
        "edges": found.edges >= LIMITS.min_edges,
    }
    return {name for name, ok in verdicts.items() if not ok}


def test_a_perfect_copy_scores_perfectly() -> None:
    found = measured(scene())
    assert (found.contrast, found.flat_blocks, found.striping, found.edges) == (1, 0, 0, 1)
    assert found.frames == 12


YOUNG = {
    "slightly blurred": blurred(scene(), 1),
    "blurred": blurred(scene(), 2),
    "very blurred": blurred(scene(), 4),
    "blurred and noisy": noisy(blurred(scene(), 2), 12),
    "pale": (scene() * 0.5 + 60).astype(np.uint8),
    "moved": np.roll(scene(), (2, 2), axis=(2, 3)),
    "blurred and moved": np.roll(blurred(scene(), 2), (2, 2), axis=(2, 3)),
    "faint grid": stripes(blurred(scene(), 2), 0.08),
}


@pytest.mark.parametrize("name", YOUNG)
def test_young_but_healthy_pictures_pass(name: str) -> None:
    assert failed(measured(YOUNG[name])) == set()


COLLAPSED = {
    "one colour": (np.full_like(scene(), 90), {"contrast", "flat_blocks", "edges"}),
    "one colour with a little noise": (noisy(np.full_like(scene(), 90), 3), {"contrast", "edges"}),
    "flat blocks of 8": (blocks(scene(), 8), {"flat_blocks"}),
    "flat blocks of 4": (blocks(scene(), 4), {"flat_blocks"}),
    "stripes": (stripes(scene(), 1.0), {"striping", "edges"}),
    "stripes over the picture": (stripes(scene(), 0.6), {"striping"}),
    "stripes across": (stripes(scene(), 1.0).swapaxes(2, 3), {"striping", "edges"}),
    "noise": (np.random.default_rng(0).integers(0, 256, scene().shape, dtype=np.uint8), {"edges"}),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_collapsed_pictures_fail_by_their_own_number(name: str) -> None:
    generated, expected = COLLAPSED[name]
    assert failed(measured(generated)) >= expected


def masked(frames: Frames, share: float) -> Frames:
    """The last frame with patches of 8 greyed, as a dynamics sheet shows it."""
    hidden = np.random.default_rng(3).random((frames.shape[0], SIZE // 8, SIZE // 8)) < share
    covered = frames.copy()
    covered[:, -1][hidden.repeat(8, axis=1).repeat(8, axis=2)] = 128
    return covered


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("name", ["blurred", "moved"])
def test_masks_on_the_originals_do_not_count_against_young_pictures(share: float, name: str) -> None:
    originals = masked(scene(), share)
    found = measured(YOUNG[name], uncovered(originals, YOUNG[name]))
    assert failed(found) == set()
    assert found.edges > 1.5 * measured(YOUNG[name], originals).edges, "edges of masks are not the picture's"


def test_a_collapse_under_the_masks_is_seen() -> None:
    generated = scene()
    generated[:, -1] = 90
    originals = uncovered(masked(scene(), 0.95), generated)
    assert failed(measured(generated, originals)) >= {"contrast", "flat_blocks", "edges"}


def test_a_masked_place_comes_from_the_nearest_frame_that_shows_it() -> None:
    frames = np.stack([np.full((8, 8, 3), level, dtype=np.uint8) for level in (10, 20, 30, 128)])[None]
    frames[:, 2, :4] = 128
    found = uncovered(frames, np.zeros_like(frames))
    assert found[0, 3, 7, 7, 0] == 30
    assert found[0, 3, 0, 0, 0] == 20
    assert found[0, 2, 0, 0, 0] == 20


def test_what_no_frame_shows_is_not_compared() -> None:
    everywhere = np.full_like(scene(), 128)
    np.testing.assert_array_equal(uncovered(everywhere, scene()), scene())


def test_pictures_without_masks_stay_as_they_are() -> None:
    np.testing.assert_array_equal(uncovered(scene(), np.zeros_like(scene())), scene())


def test_one_collapsed_frame_position_is_not_averaged_away() -> None:
    generated = scene()
    generated[:, -1] = 90
    assert failed(measured(generated)) >= {"contrast", "flat_blocks", "edges"}


def test_detail_that_only_moved_is_not_flat() -> None:
    assert measured(np.roll(scene(), (4, 4), axis=(2, 3))).flat_blocks < 0.1


def test_stripes_that_the_original_has_are_no_fault() -> None:
    striped = stripes(scene(), 1.0)
    assert measured(striped, striped).striping == 0
    assert measured(blurred(striped, 1), striped).striping < 0.01


def test_originals_without_anything_to_see_cannot_be_failed() -> None:
    black = np.zeros_like(scene())
    found = measured(black, black)
    assert (found.contrast, found.flat_blocks, found.striping, found.edges) == (1, 0, 0, 1)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4, 3), (1, 1, 7, 9, 3), (2, 1, 3, 64, 3)])
def test_tiny_frames_are_measured_without_error(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = measured(picture, picture)
    assert (found.flat_blocks, found.striping) == (0, 0)
