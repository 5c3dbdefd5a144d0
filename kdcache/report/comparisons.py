"""The report's table of all comparisons, and of the interaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdcache.report import wording
from kdcache.report.cells import cell_key, where_text, with_rows
from kdcache.report.claims import pooled
from kdcache.report.tables import CLASS_OF_VERDICT, NAMES, NUMBERS
from kdcache.results.reading import Metrics


@dataclass(frozen=True)
class Value:
    """A number in words, and what to sort it by (empty: none, sorted last)."""

    text: str
    key: str = ""


@dataclass(frozen=True)
class Comparison:
    """All numbers of one comparison, p-values included; `words` is what a search looks in."""

    names: list[str]
    numbers: list[Value]
    verdict: str
    verdict_words: str
    init: str
    words: str


@dataclass(frozen=True)
class Interaction:
    """How much more a regularizer gains from scratch than pretrained, for a pair of students or over all."""

    where: str
    regularizer: str
    scratch: str
    pretrained: str
    difference: str
    interval: str
    p: str
    n: str
    verdict: str
    note: str


def interaction(metrics: Metrics) -> list[Interaction]:
    """The rows of summary.json's interaction; a pool of fewer than two pairs adds nothing and is left out."""
    rows = metrics.summary.get("interaction", [])
    return [_interaction(row, metrics) for row in rows if row["scope"] == "pair" or row["n"] > 1]


def _interaction(row: dict[str, Any], metrics: Metrics) -> Interaction:
    pair = f"{where_text(row['task'], row['scratch'])} against {row['pretrained']}"
    all_of_them = f"{pooled(row['n'], metrics)}, each pair’s mean as one value"
    return Interaction(
        where=pair if row["scope"] == "pair" else all_of_them,
        regularizer="mean of all" if row["regularizer"] == "all" else row["regularizer"],
        scratch=wording.signed(row["gain_scratch"]),
        pretrained=wording.signed(row["gain_pretrained"]),
        difference=wording.signed(row["interaction"]),
        interval=wording.interval(row["ci_low"], row["ci_high"]),
        p=wording.p_value(row["p_corrected"]),
        n=f"{row['n']} {row['unit']}",
        verdict=row["verdict"],
        note=row["note"],
    )


def all_comparisons(comparisons: pd.DataFrame) -> tuple[list[str], list[Comparison]]:
    """Number headings and rows of the table of everything; columns that comparisons.csv lacks are left out."""
    shown = {title: how for title, how in NUMBERS.items() if how[0] in comparisons}
    return list(shown), [_comparison(row, list(shown.values())) for row in with_rows(comparisons)]


def _comparison(row: Any, shown: list[tuple[str, Callable[[float | None], str]]]) -> Comparison:
    names = [str(getattr(row, name)) for name in NAMES]
    verdict = row.verdict if row.verdict in CLASS_OF_VERDICT else "inconclusive"
    words = wording.verdict_words(row.verdict, row.negligible)
    values = [Value(write(getattr(row, column)), cell_key(getattr(row, column))) for column, write in shown]
    searched = " ".join([*names, row.init, words]).lower()
    return Comparison(names, values, verdict, words, row.init, searched)
