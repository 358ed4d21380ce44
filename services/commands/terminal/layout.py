"""Which parts of a run fit on the screen: the important ones always, the others as there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the view."""

    rank: int
    """The lower, the more important."""
    least: int
    """Lines below which it is left out."""
    good: int
    """Lines that say what matters."""
    most: int
    """Lines it can use."""
    draw: Callable[[int], list[Text]]
    """At most so many lines."""


def arrange(sections: Sequence[Section], height: int | None) -> list[Text]:
    """The lines of the sections, in their order.

    By rank each gets its least, then what is good; then a blank line comes between them, then they grow.

    Args:
        sections: From top to bottom.
        height: Lines there are; none is as many as wanted.
    """
    ranked = sorted((each for each in sections if each.most > 0), key=lambda each: each.rank)
    if height is None:
        height = sum(each.most + 1 for each in ranked)
    given: dict[int, int] = {}
    left = height
    for section in ranked:
        if section.least <= left:
            given[id(section)] = section.least
            left -= section.least
    shown = [section for section in ranked if id(section) in given]

    def grow(wanted: Callable[[Section], int]) -> None:
        nonlocal left
        for section in shown:
            more = min(left, max(0, wanted(section) - given[id(section)]))
            given[id(section)] += more
            left -= more

    grow(lambda section: section.good)
    spaced = left >= len(shown) - 1
    left -= len(shown) - 1 if spaced else 0
    grow(lambda section: section.most)
    lines: list[Text] = []
    for section in sections:
        drawn = section.draw(given[id(section)])[: given[id(section)]] if id(section) in given else []
        if drawn and lines and spaced:
            lines.append(Text())
        lines += drawn
    return lines


def some(lines: Sequence[Text], *, rank: int, least: int = 1, good: int | None = None) -> Section:
    """A section whose lines are told from the top as far as there is room."""
    most = len(lines)
    return Section(
        rank,
        min(least, most),
        min(most if good is None else good, most),
        most,
        lambda count: list(lines[:count]),
    )
