"""The visual verdict of a gate: what the newest sheet's numbers say about the pictures' structure."""

from __future__ import annotations

from services.gatekeeper.config import Visual
from shared.events import Reason, Stage, VisualNumbers

CHECK = 7
VISUAL_NUMBERS = ("contrast", "flat_blocks", "striping", "edges", "noise", "frozen")


def visual_reason(stage: Stage, numbers: VisualNumbers, limits: Visual) -> Reason:
    """The verdict as one reason that names every number that failed.

    It is no check (number 0, `ok`) for a stage for which the visual verdict does not bind, and for a picture
    too young to be judged.
    """
    low = {"contrast": limits.min_contrast, "edges": limits.min_edges}
    high = {
        "flat_blocks": limits.max_flat_blocks,
        "striping": limits.max_striping,
        "noise": limits.max_noise,
        "frozen": limits.max_frozen,
    }
    measured = {name: float(getattr(numbers, name)) for name in VISUAL_NUMBERS}
    limits_of = low | high
    failed = [
        f"{name} {value:.3g} is {'below' if name in low else 'above'} {limits_of[name]:g}"
        for name, value in measured.items()
        if not (value >= low[name] if name in low else value <= high[name])
    ]
    young = numbers.step < limits.from_step
    binds = stage in limits.binds and not young
    text = "; ".join(failed) if failed else "the pictures keep their structure"
    excuse = f"not judged before update {limits.from_step}" if young else f"does not bind for {stage}"
    return Reason(
        check=CHECK if binds else 0,
        name="visual_structure",
        value=dict(measured),
        threshold=dict(limits_of),
        ok=not failed or not binds,
        text=text if binds or not failed else f"{text}; {excuse}",
    )
