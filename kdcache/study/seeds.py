"""The ways to write seeds in params.yaml: a list, a number of seeds, or the first seed and their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from kdcache.study.values import LARGEST_SEED
from kdcache.system.quoting import quoted

MOST_SEEDS = 10_000


def listed(seeds: object) -> object:
    """The list of seeds that a short form stands for; anything else is returned unchanged.

    40 means 0 to 39, and {first: 100, count: 40} means 100 to 139. Short forms keep dvc.lock small: DVC writes the
    seeds of every stage into it (a list of 40 is a fifth of the file), and reads and writes the file for each stage.

    Raises:
        ValueError: the value looks like a short form, but is not one; or its last seed is too large.
    """
    if isinstance(seeds, dict):
        first, count = (
            (seeds["first"], seeds["count"]) if seeds.keys() == {"first", "count"} else (None, None)
        )
    elif isinstance(seeds, int) and not isinstance(seeds, bool):
        first, count = 0, seeds
    else:
        return seeds
    if not (_is_whole(first) and _is_whole(count) and first >= 0 and 1 <= count <= MOST_SEEDS):
        raise ValueError(
            f"expected a list of seeds, their number, 1 to {MOST_SEEDS}, or {{first: 100, count: 40}}"
        )
    if first + count - 1 > LARGEST_SEED:
        raise ValueError(f"the last seed would be {quoted(first + count - 1)}, the largest is {LARGEST_SEED}")
    return list(range(first, first + count))


def in_short(seeds: Sequence[int]) -> Any:
    """The shortest form that `listed` reads as these seeds."""
    first, count = seeds[0], len(seeds)
    if list(seeds) != list(range(first, first + count)):
        return list(seeds)
    return count if first == 0 else {"first": first, "count": count}


def as_many(seeds: Sequence[int], count: int) -> str:
    """What to do to have `count` seeds that begin as these do: "write `seeds: {first: 100, count: 5}`"."""
    short = in_short(seeds)
    if isinstance(short, list):
        return f"list {count} seeds"
    form = str(count) if seeds[0] == 0 else f"{{first: {seeds[0]}, count: {count}}}"
    return f"write `seeds: {form}`"


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
