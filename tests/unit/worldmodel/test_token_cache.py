"""The token cache: the same bits from everywhere, computed once, and never in the way."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from shared.config import StageConfig
from shared.datasets.frames import FramesDataset
from shared.worldmodel.build import build_model
from shared.worldmodel.frames import to_float
from shared.worldmodel.token_cache import TokenCache

FRAMES = 40
ALL = np.arange(FRAMES - 3)


class World:
    """A recording of noise, models to read it with, and a folder for caches."""

    def __init__(self, root: Path, config: StageConfig) -> None:
        self.root, self.reports = root, list[str]()
        self.tokenizer = build_model("video_tokenizer", config).eval()
        self.latent_actions = build_model("latent_actions", config).eval()
        self.record(seed=0)

    def record(self, *, seed: int) -> None:
        frames = np.random.default_rng(seed).integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)
        frames[:7] = frames[0]  # games begin with a still picture: the first window says little
        with h5py.File(self.root / f"{seed}.h5", "w") as file:
            file["frames"] = frames
        self.open(seed=seed, fps=60)

    def open(self, *, seed: int, fps: int) -> None:
        self.dataset = FramesDataset.open(
            self.root / f"{seed}.h5",
            context_length=4,
            fps=fps,
            held_out_ratio=0,
            cache_dir=self.root / "cache",
        )

    def cache(self, *, actions: bool = True, limit_gb: float = 1.0) -> TokenCache:
        return TokenCache(
            self.dataset,
            self.tokenizer,
            self.latent_actions if actions else None,
            folder=self.root / "tokens",
            limit_gb=limit_gb,
            report=self.reports.append,
        )

    def truth(self, window: int) -> tuple[torch.Tensor, torch.Tensor]:
        frames = to_float(torch.from_numpy(self.dataset.batch([window])))
        return self.tokenizer.tokenize(frames)[0], self.latent_actions.actions(frames)[0]

    def files(self) -> set[str]:
        return {path.name for path in (self.root / "tokens").iterdir()}


@pytest.fixture
def world(tiny, tmp_path: Path) -> World:
    return World(tmp_path, tiny.config())


def check(cache: TokenCache, world: World, windows: np.ndarray, *, actions: bool = True) -> None:
    tokens, codes = cache.take(windows)
    assert (tokens.dtype, tokens.shape) == (torch.int64, (len(windows), 4, 16))
    for row, window in enumerate(windows.tolist()):
        true_tokens, true_codes = world.truth(window)
        assert torch.equal(tokens[row], true_tokens)
        assert codes is None or torch.equal(codes[row], true_codes)
    assert (codes is not None) is actions


@contextmanager
def nobody_computes(world: World) -> Iterator[None]:
    def forbidden(*_: object) -> None:
        raise AssertionError("a window was encoded")

    hook = world.tokenizer.encoder.register_forward_pre_hook(forbidden)
    yield
    hook.remove()


def test_cold_half_filled_full_and_without_records_the_tokens_are_the_same(world: World) -> None:
    shuffled = np.random.default_rng(0).permutation(ALL)
    cold = world.cache()
    check(cold, world, shuffled[:15])
    cold.close()
    half = world.cache()
    with nobody_computes(world):
        half.take(shuffled[:15])
    check(half, world, ALL)
    check(world.cache(limit_gb=0), world, ALL)
    full = world.cache()
    with nobody_computes(world):
        full.take(ALL)
    check(full, world, np.array([7, 3, 7]))
    assert world.reports == []
    assert len(world.files()) == 1


def test_on_the_cpu_each_window_is_encoded_by_itself_and_once(world: World) -> None:
    cache, sizes = world.cache(), list[int]()
    world.tokenizer.encoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    cache.take(np.array([4, 9, 4, 9, 1]))
    cache.take(np.array([1, 2]))
    assert sizes == [1] * 4


def test_two_that_fill_the_same_windows_at_once_do_no_harm(world: World) -> None:
    ours, theirs = world.cache(), world.cache()
    check(ours, world, ALL[:20])
    check(theirs, world, ALL[10:])
    with nobody_computes(world):
        ours.take(ALL)


def test_without_actions_there_are_none(world: World) -> None:
    check(world.cache(actions=False), world, ALL[:4], actions=False)
    cache = world.cache(actions=False)
    check(cache, world, ALL[:4], actions=False)
    check(world.cache(), world, ALL[:4])


def test_codes_beyond_two_bytes_come_back_whole(tiny, tmp_path: Path) -> None:
    world = World(tmp_path, tiny.config(latent_dim=17, num_bins=2))
    check(world.cache(), world, ALL[:6])
    check(world.cache(), world, ALL[:6])
    tokens, _ = world.cache().take(ALL[:6])
    assert tokens.max() > 1 << 16


def other_tokenizer(world: World) -> None:
    with torch.no_grad():
        world.tokenizer.encoder.latent_head[1].bias[0] += 1e-3


def other_latent_actions(world: World) -> None:
    with torch.no_grad():
        world.latent_actions.encoder.action_head[3].bias[0] += 1e-3


def other_recording(world: World) -> None:
    world.record(seed=1)


def other_stride(world: World) -> None:
    world.open(seed=0, fps=30)


def recorded_anew(world: World) -> None:
    """In frames that the fingerprint's sample may not take."""
    world.record(seed=0)


def other_bits(world: World) -> None:
    """As another processor or version would compute, or the same with more threads."""
    world.tokenizer.encoder.register_forward_hook(lambda _module, _given, output: output * (1 + 1e-7))


@pytest.mark.parametrize(
    "change",
    [other_tokenizer, other_latent_actions, other_recording, other_stride, recorded_anew, other_bits],
    ids=lambda change: change.__name__,
)
def test_what_tokens_depend_on_decides_which_file_is_read(
    world: World, change: Callable[[World], None]
) -> None:
    check(world.cache(), world, ALL[:5])
    before = world.files()
    change(world)
    check(world.cache(), world, ALL[:5])
    assert len(world.files()) == len(before) + 1


def test_weights_count_even_where_the_first_window_does_not_show_them(world: World) -> None:
    network = world.tokenizer.encoder.transformer.blocks[0].ffn
    with torch.no_grad():
        network.w_o.weight[:, 0] = 0
    world.cache()
    with torch.no_grad():
        network.w_v.weight[0] += 1
    world.cache()
    assert len(world.files()) == 2


def test_a_folder_that_cannot_be_written_is_reported_and_the_tokens_are_the_same(world: World) -> None:
    (world.root / "tokens").touch()
    cache = world.cache()
    check(cache, world, ALL[:5])
    check(cache, world, ALL[:5])
    (report,) = world.reports
    assert "is not used: " in report
    assert "the same results, more slowly" in report
    assert "token_cache_gb" in report


def test_tokens_beyond_the_limit_are_reported_and_the_tokens_are_the_same(world: World) -> None:
    check(world.cache(limit_gb=1e-6), world, ALL[:5])
    (report,) = world.reports
    assert "it needs 0.0 GB, and 0.0 GB are allowed" in report
    assert world.files() == set()


def test_a_disk_that_fills_up_is_reported_once_and_the_tokens_are_the_same(world: World) -> None:
    cache = world.cache()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # an error at the next byte, as on a full disk
    try:
        check(cache, world, ALL)
        check(cache, world, ALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (report,) = world.reports
    assert "No space left" in report
    check(world.cache(), world, ALL)  # what was written in part is not taken
