"""The order of stages, worked out by hand on a small pipeline: a -> b -> d, a -> c -> d, and e by itself."""

from __future__ import annotations

from kdcache.repro.schedule import Schedule, State

ORDER = ["a", "b", "e", "c", "d"]
UPSTREAM: dict[str, set[str]] = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": set()}


def schedule(*changed: str) -> Schedule:
    return Schedule(ORDER, UPSTREAM, changed)


def test_a_stage_waits_for_all_before_it() -> None:
    found = schedule(*ORDER)
    assert found.ready() == ["a", "e"]  # a has the longer way to the end
    found.start("a")
    found.start("e")
    assert found.ready() == []
    assert found.finish("a", ok=True) == []
    assert found.ready() == ["b", "c"]
    found.start("c")
    found.finish("c", ok=True)
    assert found.ready() == ["b"]
    found.start("b")
    found.finish("b", ok=True)
    assert found.ready() == ["d"]


def test_stages_are_ready_together_when_they_wait_for_each_other_at_most() -> None:
    found = schedule(*ORDER)
    assert found.ready_together(["d", "c", "b", "a"]) == ["a", "b", "c", "d"]  # each after those before it
    assert found.ready_together(["a", "b", "d", "e"]) == [
        "a",
        "b",
        "e",
    ]  # c, which d waits for, is not among them
    assert found.ready_together(["b", "c", "d"]) == []
    found.start("a")
    assert found.ready_together(["b", "c", "d"]) == []
    found.finish("a", ok=True)
    assert found.ready_together(["b", "d"]) == ["b"]
    assert found.ready_together(["b", "c", "d"]) == ["b", "c", "d"]


def test_only_what_changed_and_what_comes_after_it_is_looked_at() -> None:
    found = schedule("c")
    assert found.having(State.WAITING) == ["c", "d"]
    assert found.having(State.FRESH) == ["a", "b", "e"]
    assert found.ready() == ["c"]
    assert schedule().ready() == []


def test_a_failure_drops_what_comes_after_it_and_nothing_else() -> None:
    found = schedule(*ORDER)
    found.start("a")
    found.finish("a", ok=True)
    found.start("b")
    assert found.finish("b", ok=False) == ["d"]
    assert found.ready() == ["c", "e"]
    found.start("c")
    assert found.finish("c", ok=True) == []
    assert found.ready() == ["e"]
    assert found.having(State.FAILED, State.DROPPED) == ["b", "d"]
    assert Schedule(["a", "b", "d"], {"a": [], "b": ["a"], "d": ["b"]}, "abd").finish("a", ok=False) == [
        "b",
        "d",
    ]


def test_a_stage_that_is_to_start_once_more_waits_again() -> None:
    found = schedule(*ORDER)
    found.start("a")
    found.wait_again("a")
    assert found.ready() == ["a", "e"]


def test_the_last_stages_are_those_that_nothing_waits_for() -> None:
    assert schedule(*ORDER).last == {"d", "e"}
