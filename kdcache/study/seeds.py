"""Seeds as params.yaml writes them: a list, a number of seeds, or the first one and their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

MOST_SEEDS = 10_000


def listed(seeds: object) -> object:
    """The seeds that a short form stands for; anything else as it is.

    40 is 0 to 39, and {first: 100, count: 40} is 100 to 139. DVC writes the seeds of every stage into dvc.lock, and a
    list of 40 is a fifth of that file, which DVC reads and writes for each stage.

    Raises:
        ValueError: it looks like a short form, and is none.
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
    return list(range(first, first + count))


def in_short(seeds: Sequence[int]) -> Any:
    """The shortest form that `listed` reads as these seeds."""
    first, count = seeds[0], len(seeds)
    if list(seeds) != list(range(first, first + count)):
        return list(seeds)
    return count if first == 0 else {"first": first, "count": count}


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
