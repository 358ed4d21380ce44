"""What the numbers say about pictures: young ones are healthy, each collapse fails its own number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from services.gatekeeper.config import Visual
from services.gatekeeper.core.visual import VISUAL_NUMBERS, visual_reason
from services.monitor.core.covered import plain, uncovered
from services.monitor.core.visual import numbers
from shared.events import Stage, VisualNumbers

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
            for y in range(SIZE):
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


def diagonal(frames: Frames) -> Frames:
    down, across = np.mgrid[:SIZE, :SIZE]
    wave = np.where(((down + across) // 4) % 2 == 0, 220, 40)[..., None]
    return (0.4 * frames + 0.6 * wave).astype(np.uint8)


def noisy(frames: Frames, spread: float) -> Frames:
    noise = np.random.default_rng(0).normal(0, spread, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def measured(
    generated: Frames, originals: Frames | None = None, stage: Stage = "video_tokenizer"
) -> VisualNumbers:
    shown = scene() if originals is None else originals
    return numbers(stage, shown, generated, sheet="s.png", step=100, fresh=True)


def failed(found: VisualNumbers) -> set[str]:
    """Numbers beyond the policy's default limits, as the verdict names them."""
    reason = visual_reason("dynamics", found, LIMITS)
    named = {part.split()[0] for part in reason.text.split("; ")} if not reason.ok else set()
    assert reason.ok == (not named)
    return named


def test_numbers_at_their_limits_pass() -> None:
    at_limits = {name.partition("_")[2]: value for name, value in LIMITS.model_dump().items()}
    known = {name: value for name, value in at_limits.items() if name in VISUAL_NUMBERS}
    assert len(known) == 6
    assert failed(measured(scene()).model_copy(update=known)) == set()


def test_a_picture_of_the_first_updates_is_measured_but_not_judged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, scene().shape, dtype=np.uint8)
    found = measured(noise)
    for step, ok in ((LIMITS.from_step - 1, True), (LIMITS.from_step, False)):
        reason = visual_reason("dynamics", found.model_copy(update={"step": step}), LIMITS)
        assert reason.ok == ok
        assert "noise" in reason.text
        assert (reason.check == 0) == ok


def test_a_perfect_copy_scores_perfectly() -> None:
    found = measured(scene())
    assert (found.contrast, found.edges) == (1, 1)
    assert (found.flat_blocks, found.striping, found.noise) == (0, 0, 0)
    assert found.frozen < 1e-6
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
    "noise": (np.random.default_rng(0).integers(0, 256, scene().shape, dtype=np.uint8), {"edges", "noise"}),
    "much noise over the picture": (noisy(scene(), 90), {"noise"}),
    "diagonal stripes": (diagonal(scene()), {"striping"}),
    "very much blurred": (blurred(scene(), 12), {"edges"}),
    "the first frame for ever": (scene()[:, :1].repeat(4, axis=1), {"frozen"}),
    "the third frame for ever": (scene()[:, 2:3].repeat(4, axis=1), {"frozen"}),
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
    found = measured(YOUNG[name], masked(scene(), share), "dynamics")
    assert failed(found) == set()


UNDER_MASKS = {
    "one colour": (np.full_like(scene(), 90), {"contrast", "flat_blocks", "edges"}),
    "flat blocks of 8": (blocks(scene(), 8), {"flat_blocks"}),
    "noise": (noisy(scene(), 90), {"noise"}),
    "stripes": (stripes(scene(), 0.6), {"striping"}),
}


@pytest.mark.parametrize("name", UNDER_MASKS)
def test_a_collapse_of_the_masked_patches_alone_is_seen(name: str) -> None:
    made, expected = UNDER_MASKS[name]
    originals = masked(scene(), 0.5)
    hidden = uncovered(originals).hidden[..., None]
    found = measured(np.where(hidden, made, scene()), originals, "dynamics")
    assert failed(found) >= expected


def test_a_masked_place_comes_from_the_nearest_frame_that_shows_it() -> None:
    frames = np.stack([np.full((8, 8, 3), level, dtype=np.uint8) for level in (10, 20, 30, 128)])[None]
    frames[:, 2, :4] = 128
    found = uncovered(frames)
    assert found.frames[0, 3, 7, 7, 0] == 30
    assert found.frames[0, 3, 0, 0, 0] == 20
    assert found.frames[0, 2, 0, 0, 0] == 20
    assert found.hidden[0, :, 0, 0].tolist() == [False, False, True, True]
    assert not found.unknown.any()
    frames[:, 0] = 128
    assert uncovered(frames).frames[0, 0, 7, 7, 0] == 20, "a later frame, where there is none before"


def test_what_no_frame_shows_is_not_compared() -> None:
    everywhere = np.full_like(scene(), 128)
    assert uncovered(everywhere).unknown.all()
    assert failed(measured(noisy(scene(), 90), everywhere, "dynamics")) == set()
    partly = scene()
    partly[:, :, :32] = 128
    half_bad = scene()
    half_bad[:, :, :32] = 90
    assert failed(measured(half_bad, partly, "dynamics")) == set()


def test_pictures_without_masks_stay_as_they_are() -> None:
    np.testing.assert_array_equal(uncovered(scene()).frames, scene())
    assert not uncovered(scene()).hidden.any()
    assert measured(scene(), stage="dynamics") == measured(scene())


def test_grey_pictures_of_another_stage_have_no_masks() -> None:
    assert not plain(np.full_like(scene(), 128)).hidden.any()


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
    assert failed(found) == set()
    assert failed(measured(noisy(black, 1), black)) == set()


def test_one_collapsed_row_is_not_averaged_away() -> None:
    generated = scene()
    generated[1] = 90
    assert failed(measured(generated)) >= {"contrast", "flat_blocks", "edges"}


def test_a_row_that_fades_to_black_does_not_count_against_the_others() -> None:
    originals = scene()
    originals[1] = 0
    assert failed(measured(blurred(originals, 2), originals)) == set()
    fading = (scene() * np.array([1, 0.5, 0.1, 0])[None, :, None, None, None]).astype(np.uint8)
    assert failed(measured(blurred(fading, 2), fading)) == set()


def test_pictures_that_stand_still_are_not_frozen() -> None:
    still = scene()[:, :1].repeat(4, axis=1)
    assert measured(still, still).frozen == 0
    assert failed(measured(blurred(still, 2), still)) == set()
    trembling = still.copy()
    trembling[:, 1::2, 20, 20:24] += 8
    assert measured(still, trembling).frozen == 0


def test_a_young_model_without_the_moving_sprites_is_not_frozen() -> None:
    rest = np.median(scene(), axis=1, keepdims=True).repeat(4, axis=1).astype(np.uint8)
    assert measured(blurred(rest, 1)).frozen < LIMITS.max_frozen


def test_missing_sprites_of_a_game_that_flickers_are_not_frozen() -> None:
    empty = np.median(scene(), axis=1, keepdims=True).repeat(4, axis=1).astype(np.uint8)
    flickering = empty.copy()
    flickering[:, ::2, 20:30, 20:30] = (230, 210, 60)
    assert measured(empty, flickering).frozen < LIMITS.max_frozen
    assert measured(flickering[:, :1].repeat(4, axis=1), flickering).frozen > LIMITS.max_frozen


def test_a_sheet_that_shows_next_to_no_motion_is_not_frozen() -> None:
    random = np.random.default_rng(3)
    frames = random.integers(0, 256, (3, 4, 32, 32, 3), dtype=np.uint8).repeat(2, axis=2).repeat(2, axis=3)
    hidden = (random.random((3, 4, 8, 8)) < 0.7).repeat(8, axis=2).repeat(8, axis=3)
    originals = np.where(hidden[..., None], np.uint8(128), frames)
    assert measured(frames[:, :1].repeat(4, axis=1), frames).frozen > LIMITS.max_frozen
    assert measured(frames[:, :1].repeat(4, axis=1), originals, "dynamics").frozen == 0


def test_predicting_the_frame_before_is_lag_and_not_frozen() -> None:
    assert measured(scene()[:, :-1], stage="latent_actions").frozen < LIMITS.max_frozen


def test_repeating_the_frame_before_the_first_predicted_one_is_frozen() -> None:
    assert measured(scene()[:, :1].repeat(3, axis=1), stage="latent_actions").frozen > 0.85


def test_one_frame_a_row_is_measured_without_motion() -> None:
    single = scene()[:, :1]
    assert failed(measured(blurred(single, 2), single)) == set()
    assert measured(single, single).frozen == 0
    assert failed(measured(np.full_like(single, 90), single)) >= {"contrast", "edges"}


def test_grey_games_are_measured_as_coloured_ones() -> None:
    grey = scene().mean(axis=-1, keepdims=True).repeat(3, axis=-1).astype(np.uint8)
    assert failed(measured(blurred(grey, 2), grey)) == set()
    assert "flat_blocks" in failed(measured(blocks(grey, 8), grey))


def test_a_pale_game_is_judged_by_its_own_contrast() -> None:
    pale = (scene() * 0.15 + 100).astype(np.uint8)
    assert failed(measured(blurred(pale, 2), pale)) == set()
    assert failed(measured(np.full_like(pale, 110), pale)) >= {"contrast", "edges"}


def test_large_frames_give_the_numbers_of_small_ones() -> None:
    made, originals = (frames.repeat(2, axis=2).repeat(2, axis=3) for frames in (noisy(scene(), 30), scene()))
    assert measured(made, originals) == measured(noisy(scene(), 30))


@pytest.mark.parametrize("shape", [(1, 1, 4, 4, 3), (1, 1, 7, 9, 3), (2, 1, 3, 64, 3)])
def test_tiny_frames_are_measured_without_error(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = measured(picture, picture)
    assert failed(found) == set()
