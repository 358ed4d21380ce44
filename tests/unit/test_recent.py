"""What is remembered of things that can be had again."""

from __future__ import annotations

from shared.recent import Recent


def test_what_was_used_least_recently_is_let_go() -> None:
    kept = Recent[str, int](2)
    assert kept.put("a", 1) == 1
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert [kept.get(key) for key in "abc"] == [1, None, 3]
    kept.put("a", 4)
    kept.put("d", 5)
    assert ([kept.get(key) for key in "acd"], len(kept)) == ([4, None, 5], 2)
