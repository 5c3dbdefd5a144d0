"""Rates over many repetitions, with their Monte-Carlo errors, from seeds that depend on names only."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from simulation.procedure import Array, Mask

SEED = 20230502
CHUNK = 1000  # repetitions drawn at once: some ten megabytes of scores at most

# (rng, repetitions) -> the answer in each repetition, 0..1; NaN where the question has none
Question = Callable[[Generator, int], Mapping[str, Array | Mask]]


@dataclass(frozen=True)
class Rate:
    """A mean over repetitions; `error` is its standard error, never below 1 / repetitions."""

    value: float
    error: float
    repetitions: int


def rates(question: Question, repetitions: int, name: str) -> dict[str, Rate]:
    """Ask the question in `repetitions` studies. Equal names give equal numbers, whatever other questions are asked."""
    answers = [question(*chunk) for chunk in _chunks(repetitions, name)]
    return {
        key: _rate(np.concatenate([np.asarray(a[key], dtype=float) for a in answers])) for key in answers[0]
    }


def _chunks(repetitions: int, name: str) -> Iterator[tuple[Generator, int]]:
    for place, start in enumerate(range(0, repetitions, CHUNK)):
        rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), place])
        yield rng, min(CHUNK, repetitions - start)


def _rate(values: Array) -> Rate:
    """The rate. Repetitions are independent; the tasks and regularizers within one need not be."""
    known = values[~np.isnan(values)]
    error = float(known.std(ddof=1)) / math.sqrt(known.size)
    return Rate(float(known.mean()), max(error, 1 / known.size), known.size)
