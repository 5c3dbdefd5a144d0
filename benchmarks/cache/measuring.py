"""How everything here is measured: side by side, variants in turn, medians of paired ratios.

The variants of a comparison take turns, and each round begins with another one. So other work of the machine slows all
of them alike, and a ratio of two neighbours is more reliable than a ratio of two averages.
"""

from __future__ import annotations

import cProfile
import gc
import multiprocessing
import pstats
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Rates = dict[str, list[float]]  # rows/s of each variant, round by round

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """The command line's options: sizes, repeats, folders."""

    work: Path  # a folder for what is written, which the caller removes
    rows: int  # of the narrow cache (K = 3); everything else is in proportion
    repeats: int
    threads: int
    device: str
    teacher: Path
    student: Path
    minilm: Path | None
    quick: bool = False

    @property
    def wide_rows(self) -> int:
        """Of the wide cache (K = 1000)."""
        return max(self.rows // 2, 1)

    @property
    def file_rows(self) -> int:
        """The rows of the store with one file a row. They are few and stay in the page cache, which flatters it."""
        return min(self.rows // 5, 10_000)


@dataclass(frozen=True)
class Goal:
    """One row of the table: the goal, and what was measured, or why nothing could be."""

    what: str
    goal: str
    measured: float | None = None
    low: float | None = None  # of all rounds
    high: float | None = None
    unit: str = ""
    met: bool | None = None  # None: there is no goal, or nothing was measured
    reason: str = ""
    profile: list[str] = field(default_factory=list)  # where the time goes, for a missed goal


@dataclass(frozen=True)
class Measurement:
    """What one module measured."""

    goals: list[Goal]
    rates: dict[str, Rates] = field(default_factory=dict)  # by comparison
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def rates(
    variants: Mapping[str, Callable[[], int]], repeats: int, after: Callable[[], None] = lambda: None
) -> Rates:
    """Rows/s of each variant in each of `repeats` rounds, after one round that does not count.

    Args:
        variants: each does its work once and returns how many rows that were.
        after: runs after every variant, outside of the time.
    """
    names = list(variants)
    speeds: Rates = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = time.perf_counter()
            count = variants[name]()
            seconds = time.perf_counter() - start
            after()
            if turn:
                speeds[name].append(count / seconds)
    return speeds


def ratios(speeds: Rates, variant: str, against: str) -> list[float]:
    """Rows/s of a variant divided by those of another in the same round."""
    return [rate / rate_against for rate, rate_against in zip(speeds[variant], speeds[against], strict=True)]


def at_least(
    what: str, bound: float, values: Sequence[float], profile: Callable[[], Any] | None = None, unit: str = ""
) -> Goal:
    """A goal that the median of the values should reach; `profile` does the work once more if it does not."""
    return _goal(what, f"at least {bound:g}", statistics.median(values) >= bound, values, profile, unit)


def at_most(
    what: str, bound: float, values: Sequence[float], profile: Callable[[], Any] | None = None, unit: str = ""
) -> Goal:
    """A goal that the median of the values should not exceed."""
    return _goal(what, f"at most {bound:g}", statistics.median(values) <= bound, values, profile, unit)


def stated(what: str, values: Sequence[float], unit: str = "") -> Goal:
    """A number without a goal."""
    return _goal(what, "", None, values, None, unit)


def _goal(
    what: str,
    goal: str,
    met: bool | None,
    values: Sequence[float],
    profile: Callable[[], Any] | None,
    unit: str,
) -> Goal:
    lines = profiled(profile) if profile is not None and met is False else []
    median = statistics.median(values)
    return Goal(what, goal, median, min(values), max(values), unit, met, profile=lines)


def profiled(work: Callable[[], Any], top: int = 10) -> list[str]:
    """The functions that take most of the work's own time, without their folders. Other threads are not included."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values()) or 1.0
    ordered = sorted(stats.items(), key=lambda item: item[1][2], reverse=True)[:top]
    return [
        f"{100 * own / total:.0f}% {'' if file == '~' else Path(file).name + ' '}{_without_address(function)}, "
        f"{calls} calls"
        for (file, _, function), (_, calls, own, _, _) in ordered
    ]


def _without_address(function: str) -> str:
    return function.split(" at 0x")[0].strip("<>{}")


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new Python process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> int:
    """The peak memory of this process so far, in bytes.

    getrusage is not used: on Linux it includes the parent's memory at the start of this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peaky_logits(rows: int, classes: int, seed: int = 0) -> Logits:
    """float32 [rows, classes] like a good teacher's: normal, and one class far above the others.

    Their low bits are random, like those of real logits, so they do not compress.
    """
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes), dtype=np.float32)
    top = rng.integers(0, classes, rows)
    logits[np.arange(rows), top] += rng.normal(7, 2, rows).astype(np.float32)
    return logits


def row_hashes(rows: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    """uint64 [rows], random like real hashes."""
    return np.random.default_rng([seed, 1]).integers(0, 2**64, rows, dtype=np.uint64)
