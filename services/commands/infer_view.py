"""What `worldloop infer` found, as lines for people; the document itself is its `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WITH_INTERVAL = ("mse", "skill", "psnr", "ssim", "delta_psnr")
WITHOUT_INTERVAL = (
    "mse_standard",
    "persistence_mse",
    "mean_frame_mse",
    "tokenizer_mse",
    "motion_ratio",
    "seen_share",
)


def lines_of_test(found: Mapping[str, Any]) -> Iterator[str]:
    """A test's document, for a terminal."""
    held_out = "held-out" if found["held_out"] else "NOT held-out"
    what = f"{found['clips']} {held_out} clips, {found['mode']}, actions {found['actions']}"
    yield f"{'passed' if found['passed'] else 'FAILED'}  {found['run']}  {what}, {found['seconds']:.1f} s"
    for stage, path in found["checkpoints"].items():
        yield f"  {stage:<16} {path}"
    for reason in found["reasons"]:
        yield f"  {'ok' if reason['ok'] else 'FAILED':<6} {reason['text']}"
    if found["mse"] is not None:
        yield ""
        yield f"  {'':<16} {'mean':>10}   95 %"
        for name in WITH_INTERVAL:
            yield _with_interval(name, found)
        for name in WITHOUT_INTERVAL:
            yield f"  {name:<16} {_number(found[name]):>10}"
        yield f"  {'actions in use':<16} {found['actions_in_use']:>10} of {found['actions_total']}"
        yield ""
        yield from _table(found)
    for text in found["advice"]:
        yield f"! {text}"
    if found["video_problem"] is not None:
        yield f"! no film: {found['video_problem']}"
    for kind in ("picture", "video", "preview"):
        if found[kind] is not None:
            yield f"  {kind:<8} {found[kind]}"


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    columns = {
        "mse": found["mse_per_frame"],
        "persistence": found["persistence_per_frame"],
        "skill": found["skill_per_frame"],
        "psnr": found["psnr_per_frame"],
        "ssim": found["ssim_per_frame"],
        "tokenizer": found["tokenizer_per_frame"],
    }
    yield f"  frame {''.join(f'{name:>12}' for name in columns)}"
    for frame in range(len(found["mse_per_frame"])):
        cells = (_number(values[frame] if values else None) for values in columns.values())
        yield f"  {frame + 1:>5} {''.join(f'{cell:>12}' for cell in cells)}"


def lines_of_comparison(found: Mapping[str, Any]) -> Iterator[str]:
    """A comparison's document, likewise."""
    held_out = "held-out" if found["held_out"] else "NOT held-out"
    yield f"{found['frames']} {held_out} frames in {found['windows']} windows of {found['dataset']}"
    for name, key in (("A", "a"), ("B", "b"), ("B - A", "difference")):
        yield f"{name:<6} {found[key].get('checkpoint', '')}"
        for number in ("mse", "psnr", "ssim"):
            yield _with_interval(number, found[key])
    word = {"a": "A is better", "b": "B is better", None: "no difference beyond doubt"}[found["better"]]
    yield f"{word}, by MSE"
    yield f"  picture  {found['picture']}"


def _with_interval(name: str, values: Mapping[str, Any]) -> str:
    low, high = values[f"{name}_low"], values[f"{name}_high"]
    interval = "" if low is None else f"   {_number(low)} to {_number(high)}"
    return f"  {name:<16} {_number(values[name]):>10}{interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
