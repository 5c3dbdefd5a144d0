"""How right the row-by-row statistics (kdcache.statistics.rowwise) are, on simulated studies whose truth is known.

python -m simulation.rows               # some minutes on one core: docs/measured/statistics-rows.md and its numbers
python -m simulation.rows --page-only   # the page again, from the results that are there
python -m simulation.rows --quick       # whether it runs: prints the page, and keeps nothing

A study has 277 validation rows and 5 matched seeds, and two sides that are equally good on average. A row is right if a
latent number is above -1. This number is the sum of the row's own value, plus or minus half of the row's preference for
a side, plus or minus half of the seed's preference, and luck.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from kdcache.errors import KdcacheError
from kdcache.statistics import rowwise
from kdcache.system.devices import machine
from kdcache.system.files import write_atomically
from simulation.montecarlo import SEED, Question, Rate, rates
from simulation.procedure import Array
from simulation.questions import AT_MOST, COVERED, Goal
from stages import stage_errors

RESULTS, PAGE = Path("simulation/results/rows.json"), Path("docs/measured/statistics-rows.md")
ROWS, SEEDS, RESAMPLES, ALPHA = 277, 5, 400, 0.05
STUDIES, QUICK = 10_000, 10
# sds: of a seed, of a row (each for one side), and of a seed on a row
MIXTURES = ((0.0, 0.5, 0.3), (0.0, 0.0, 0.5), (0.1, 0.2, 0.6), (0.2, 0.5, 0.3), (0.5, 0.2, 0.3))

Mixture = tuple[float, float, float]
Right = NDArray[np.bool_]


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS}, without --quick")
    parser.add_argument("--page", type=Path, help=f"default: {PAGE}, without --quick, which prints it")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} studies: to see that it runs")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results")
    args = parser.parse_args(arguments)
    if not args.quick:
        args.results, args.page = args.results or RESULTS, args.page or PAGE
    known = args.results or RESULTS
    found = read(known) if args.page_only else simulate(QUICK if args.quick else STUDIES)
    if args.results and not args.page_only:
        write_atomically(args.results, f"{json.dumps(found, indent=1)}\n".encode())
    text = render(known.name, found)
    if args.page:
        write_atomically(args.page, text.encode())
    else:
        print(text)


def study(rng: Generator, of_seed: float, of_row: float, luck: float) -> tuple[Right, Right]:
    """Whether each side is right, [SEEDS, ROWS]."""
    own, row = rng.normal(size=ROWS), rng.normal(size=ROWS) * of_row
    seed = rng.normal(size=(SEEDS, 1)) * of_seed
    a = own + (row + seed) / 2 + rng.normal(size=(SEEDS, ROWS)) * luck > -1
    b = own - (row + seed) / 2 + rng.normal(size=(SEEDS, ROWS)) * luck > -1
    return a, b


def answers(a: Right, b: Right, weights: tuple[Array, Array]) -> dict[str, float]:
    """The library's answers for one study, and those of two simpler ways; the true difference is 0."""
    intervals = rowwise.row_intervals("accuracy", np.ones(ROWS, dtype=bool), a, b, 1 - ALPHA, RESAMPLES)
    counts = rowwise.mcnemar(a, b)
    return {
        "variance": intervals.difference**2,
        "variance_rows": intervals.sd_rows**2,
        "variance_seeds": (intervals.sd_seeds or 0.0) ** 2,
        "variance_total": (intervals.sd_total or 0.0) ** 2,
        "covered_rows": _covers(intervals.low, intervals.high),
        "covered_total": _covers(intervals.total_low, intervals.total_high),
        "covered_pigeonhole": _covers(*pigeonhole(a, b, *weights)),
        "rejected_rows": float(rowwise.row_test(a, b) <= ALPHA),
        "rejected_binomial": float(
            pooled_binomial(int(counts.gained.sum()), int(counts.lost.sum())) <= ALPHA
        ),
    }


def _covers(low: float | None, high: float | None) -> float:
    """Whether the interval holds the truth, 0; NaN without an interval."""
    return math.nan if low is None or high is None else float(low <= 0 <= high)


def pooled_binomial(gained: int, lost: int) -> float:
    """McNemar's p of discordant rows, added up over seeds as if every seed had other rows."""
    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def redrawn(rng: Generator, resamples: int = RESAMPLES) -> tuple[Array, Array]:
    """How often each seed [resamples, SEEDS] and each row [resamples, ROWS] is drawn, as a share of all draws."""
    seeds, rows = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in (SEEDS, ROWS))
    return seeds, rows


def pigeonhole(a: Right, b: Right, seeds: Array, rows: Array) -> tuple[float, float]:
    """Percentile interval of redrawing seeds and rows at once (Owen 2007), in fractions."""
    draws = ((seeds @ (a.astype(float) - b)) * rows).sum(axis=1)
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def asked(mixture: Mixture) -> Question:
    """The question that calls `answers` for many studies; a thousand share one set of redrawn seeds and rows."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        weights = redrawn(rng)
        each = [answers(*study(rng, *mixture), weights) for _ in range(repetitions)]
        return {name: np.array([answer[name] for answer in each]) for name in each[0]}

    return ask


def simulate(studies: int) -> dict[str, Any]:
    """The content of rows.json: facts, and for every mixture the means of `answers` with their errors."""
    started, mixtures = time.process_time(), []
    for mixture in tqdm(MIXTURES, unit="mixture", disable=None):
        rate_of = rates(asked(mixture), studies, f"rows/{mixture}")
        means = {name: {"value": rate.value, "error": rate.error} for name, rate in rate_of.items()}
        mixtures.append(dict(zip(("of_seed", "of_row", "luck"), mixture, strict=True)) | means)
    return {
        "made_by": "python -m simulation.rows", "date": date.today().isoformat(), "machine": machine(1),
        "seed": SEED, "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
        "cpu_seconds": round(time.process_time() - started, 1), "studies": studies, "mixtures": mixtures,
    }  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KdcacheError(f"{path}: no results ({error}); run `python -m simulation.rows`") from None
    return results


def render(file: str, results: dict[str, Any]) -> str:
    """The page as Markdown; `file`: the results' file name."""
    mixtures = results["mixtures"]
    paragraphs = [
        "# How right the row-by-row statistics are: a simulation study",
        f"*Generated by `{results['made_by']}`; do not edit. The numbers are in `simulation/results/{file}`.*",
        _wrapped(
            "This page checks the intervals and the test of examples.csv (section 'Row by row' of "
            f"[statistics.md](../statistics.md)). Each line has {results['studies']:,} made-up studies with {ROWS} "
            f"validation rows, {SEEDS} matched seeds, two sides that are equally good on average, and alpha {ALPHA}. "
            "A row is right if a latent number is above -1. This number is the sum of the row's own standard normal "
            "part, plus or minus half of the row's preference for a side and half of the seed's, and the luck of one "
            "model on one row. The first column has the sds of the seed's preference, the row's preference and the "
            f"luck. Bootstraps have {RESAMPLES} draws (the library's default is {rowwise.RESAMPLES:,}). Monte-Carlo "
            "standard errors are in parentheses."
        ),
        _wrapped(_made(results)),
        "## Standard errors, in points",
        _wrapped(
            "The true one is the sd of the difference over studies. The others are root mean squares of the library's "
            "estimates."
        ),
        _errors(mixtures),
        "## Intervals and tests, in percent",
        _wrapped(
            "*total* is `total_low` to `total_high`, for other seeds and other rows; *rows* is `rows_low` to "
            "`rows_high`, for these models on other rows; *row test* is `rows_p`. If the seed has a preference, the "
            "models of a study do differ. Then *rows* and *row test*, which take the models as given, should not "
            "answer 0, so they have no goal on those lines. Two simpler ways that are not used stand beside them: the "
            "percentile interval of redrawing seeds and rows at once (*pigeonhole*), and McNemar's test on the "
            "discordant rows of all seeds added up (*pooled McNemar*). The goals are a coverage of 93.5% to 96.5%, "
            "and at most 5% rejected, with three standard errors of allowance. A *wide* interval is safe but longer "
            "than necessary; a *narrow* one is too short."
        ),
        _shares(mixtures),
        _tally(mixtures),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _made(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    seconds = f"{results['cpu_seconds']:,.0f} s of CPU on {results['machine']}"
    return f"{results['date']}: {seconds}, {versions}, seed {results['seed']}."


def _line(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"


def _name(mixture: dict[str, Any]) -> str:
    return f"{mixture['of_seed']:g}, {mixture['of_row']:g}, {mixture['luck']:g}"


def _errors(mixtures: Sequence[dict[str, Any]]) -> str:
    names = ("variance", "variance_total", "variance_rows", "variance_seeds")
    lines = [
        _line(["seed, row, luck", "true", "`sd_total`", "`sd_rows`", "`sd_seeds`"]),
        _line(["---"] + 4 * ["---:"]),
    ]
    return "\n".join([*lines, *(_line([_name(m), *(_root(m[name]) for name in names)]) for m in mixtures)])


def _root(variance: dict[str, float]) -> str:
    """The root of a mean, and its standard error by the delta method."""
    sd = math.sqrt(variance["value"])
    return f"{sd:.3f} ({variance['error'] / (2 * sd) if sd else 0.0:.3f})"


COLUMNS = {
    "total": ("covered_total", "covers"),
    "rows": ("covered_rows", "covers"),
    "row test": ("rejected_rows", "rejects"),
    "pigeonhole": ("covered_pigeonhole", "covers"),
    "pooled McNemar": ("rejected_binomial", "rejects"),
}


def _goal(column: str, mixture: dict[str, Any]) -> Goal | None:
    if column in ("rows", "row test") and mixture["of_seed"]:
        return None
    return {"total": COVERED, "rows": COVERED, "row test": AT_MOST}.get(column)


def met(column: str, mixture: dict[str, Any]) -> bool | None:
    """Whether the column's goal is met; `None`: it has none."""
    goal, share = _goal(column, mixture), mixture[COLUMNS[column][0]]
    return None if goal is None else goal.met(Rate(share["value"], share["error"], 1))


def _shares(mixtures: Sequence[dict[str, Any]]) -> str:
    heads = [f"{column} {does}" for column, (_, does) in COLUMNS.items()]
    lines = [_line(["seed, row, luck", *heads]), _line(["---"] + len(heads) * ["---:"])]
    return "\n".join(
        [*lines, *(_line([_name(m), *(_marked(column, m) for column in COLUMNS)]) for m in mixtures)]
    )


def _marked(column: str, mixture: dict[str, Any]) -> str:
    share = mixture[COLUMNS[column][0]]
    text = f"{100 * share['value']:.1f} ({100 * share['error']:.2f})"
    if met(column, mixture) is not False:
        return text
    word = "misses" if column == "row test" else "wide" if share["value"] > COVERED.high else "narrow"
    return f"**{text} {word}**"


def _tally(mixtures: Sequence[dict[str, Any]]) -> str:
    judged = [met(column, mixture) for mixture in mixtures for column in COLUMNS]
    goals = [verdict for verdict in judged if verdict is not None]
    return f"{sum(goals)} of {len(goals)} goals are met."


if __name__ == "__main__":
    main()
