"""How right the row-by-row statistics are, on simulated studies whose truth is known.

`python -m benchmarks.rows` prints one JSON line a mixture (half a minute of one core). A study is 277 validation rows
and 5 matched seeds of two sides that are equally good on average. A row is right when a latent number is above -1: the
row's own, +- half of the row's preference for a side, +- half of the seed's, and luck. Sizes are given as sds.
docs/statistics.md quotes the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kdcache.statistics import examples

ROWS, SEEDS, STUDIES, RESAMPLES, ALPHA = 277, 5, 400, 400, 0.05
# of a seed, of a row (each for one side), and of a seed on a row
MIXTURES = ((0.0, 0.5, 0.3), (0.0, 0.0, 0.5), (0.1, 0.2, 0.6), (0.2, 0.5, 0.3), (0.5, 0.2, 0.3))

Right = NDArray[np.bool_]


def study(rng: np.random.Generator, of_seed: float, of_row: float, luck: float) -> tuple[Right, Right]:
    """Whether each side is right, [SEEDS, ROWS]."""
    own, row, seed = (
        rng.normal(size=ROWS),
        rng.normal(size=ROWS) * of_row,
        rng.normal(size=(SEEDS, 1)) * of_seed,
    )
    a = own + (row + seed) / 2 + rng.normal(size=(SEEDS, ROWS)) * luck > -1
    b = own - (row + seed) / 2 + rng.normal(size=(SEEDS, ROWS)) * luck > -1
    return a, b


def answers(a: Right, b: Right) -> dict[str, float]:
    """What the library says of one study, and what two simpler ways say; the truth is a difference of 0."""
    found = examples.row_intervals("accuracy", np.ones(ROWS, dtype=bool), a, b, 1 - ALPHA, RESAMPLES)
    counts = examples.mcnemar(a, b)
    fewer, either = min(counts.gained.sum(), counts.lost.sum()), (counts.gained + counts.lost).sum()
    low, high = pigeonhole(a, b)
    return {
        "difference": found.difference,
        "variance_rows": found.sd_rows**2,
        "variance_seeds": (found.sd_seeds or 0.0) ** 2,
        "variance_total": (found.sd_total or 0.0) ** 2,
        "covered": float((found.total_low or 0.0) <= 0 <= (found.total_high or 0.0)),
        "covered_pigeonhole": float(low <= 0 <= high),
        "rejected_row_test": float(examples.row_test(a, b) <= ALPHA),
        "rejected_pooled_binomial": float(min(1.0, 2 * stats.binom.cdf(fewer, either, 0.5)) <= ALPHA),
    }


def pigeonhole(a: Right, b: Right) -> tuple[float, float]:
    """Percentile interval of redrawing seeds and rows at once (Owen 2007)."""
    rng, d = np.random.default_rng(0), a.astype(float) - b
    draws = [
        d[np.ix_(rng.integers(0, SEEDS, SEEDS), rng.integers(0, ROWS, ROWS))].mean() for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def results() -> Iterator[dict[str, Any]]:
    for number, mixture in enumerate(MIXTURES):
        rng = np.random.default_rng(number)
        found = [answers(*study(rng, *mixture)) for _ in range(STUDIES)]
        column = {name: np.array([one[name] for one in found]) for name in found[0]}
        means = {
            name: round(float(values.mean()), 4) for name, values in column.items() if name != "difference"
        }
        sds = {
            name.replace("variance", "sd"): round(value**0.5, 3)
            for name, value in means.items()
            if "var" in name
        }
        shares = {name: value for name, value in means.items() if "var" not in name}
        yield {
            **dict(zip(("of_seed", "of_row", "luck"), mixture, strict=True)),
            "studies": STUDIES, "true_sd": round(float(column["difference"].std()), 3), **sds, **shares,
        }  # fmt: skip


if __name__ == "__main__":
    for line in results():
        print(json.dumps(line), flush=True)
