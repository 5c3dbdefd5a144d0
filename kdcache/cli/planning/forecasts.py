"""Forecast what a study with looks will take and decide, by simulation from given or observed spreads and effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from kdcache.errors import KdcacheError
from kdcache.results.reading import read_table, rows_of
from kdcache.results.schema import ComparisonRow
from kdcache.statistics import wording
from kdcache.statistics.design_power import Assumed, Forecast, forecast
from kdcache.statistics.families import family_key
from kdcache.statistics.settling import design_of
from kdcache.study import Study

Family: TypeAlias = list[
    tuple[tuple[str, str, str], float]
]  # (task, student, method) of each comparison, and its margin


def describe_design(
    study: Study, comparisons: Path, sd: float | None, effects: Sequence[float] | None
) -> dict[str, Any]:
    """The looks, the smallest and largest number of trials, and a forecast of the comparisons for each assumption.

    Args:
        comparisons: comparisons.csv of this study. Its spreads and differences are assumed if `sd` is not given.
        sd: the sd of the paired differences, in the unit of the first metric.
        effects: true differences in that unit, each assumed for all comparisons. Default: 0, half a margin, a margin.

    Raises:
        KdcacheError: effects are given without an sd, or an sd for one seed; or the file is not what its name says.
    """
    if effects and sd is None:
        raise KdcacheError("--effects: give --sd too, the standard deviation of the paired differences")
    configurations = len(list(study.configurations()))
    if sd is not None and study.looks[-1] < 2:
        raise KdcacheError(
            "--sd: one seed decides nothing, so nothing can be simulated; give the study more seeds"
        )
    cases = _given(study, sd, effects) if sd is not None else _seen(study, comparisons)
    return {
        "looks": study.looks,
        "shares": list(design_of(study).shares),
        "settle": study.comparison.settle,
        "least": configurations * study.looks[0],
        "most": configurations * study.looks[-1],
        "forecasts": [_described(name, forecast) for name, forecast in cases],
    }


def _given(study: Study, sd: float, effects: Sequence[float] | None) -> Iterator[tuple[str, Forecast]]:
    families = _families(study)
    margin = min(study.comparison.margin[study.tasks[task].metrics[0]] for task in study.tasks)
    for effect in effects or (0.0, margin / 2, margin):
        assumed = [
            Assumed((effect,) * len(members), (sd,), *_margin_and_baselines(members)) for members in families
        ]
        name = f"every true difference is {wording.amount(effect, study.unit)}, sd {sd:g}"
        yield name, forecast(design_of(study), assumed)


def _seen(study: Study, comparisons: Path) -> Iterator[tuple[str, Forecast]]:
    """A forecast from the study's own results. It is too optimistic, since observed differences lie further from 0."""
    if not comparisons.exists():
        return
    try:
        text = comparisons.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise KdcacheError(f"{comparisons}: not UTF-8; save it as UTF-8, or run compare again") from None
    table = read_table(text, comparisons, ComparisonRow)
    rows = {(row.task, row.student, row.regularizer): row for row in rows_of(ComparisonRow, table)}
    assumed = []
    for members in _families(study):
        known = [rows[name] for name, _ in members if name in rows]
        spreads = [(row.difference, row.sd_difference) for row in known]
        if len(known) < len(members) or not all(sd and effect is not None for effect, sd in spreads):
            return
        effects, sds = zip(*spreads, strict=True)
        assumed.append(Assumed(effects, sds, *_margin_and_baselines(members)))
    yield f"differences and sds are as in {comparisons}", forecast(design_of(study), assumed)


def _margin_and_baselines(members: Family) -> tuple[float, tuple[int, ...]]:
    """The smallest margin of a family, and the number of each comparison's baseline (one for each task and student)."""
    students = [name[:2] for name, _ in members]
    known = list(dict.fromkeys(students))
    return min(margin for _, margin in members), tuple(map(known.index, students))


def _families(study: Study) -> list[Family]:
    """The comparisons that are corrected together, each with its margin."""
    families: dict[tuple[str, ...], Family] = {}
    for name in study.configurations():
        if name[2] != study.comparison.baseline:
            margin = study.comparison.margin[study.tasks[name[0]].metrics[0]]
            key = family_key(study.comparison.family, *name[:2])
            families.setdefault(key, []).append((name, margin))
    return list(families.values())


def _described(assumption: str, forecast: Forecast) -> dict[str, Any]:
    sums = {
        word: sum(getattr(odds, word) for odds in forecast.odds) for word in ("better", "worse", "equivalent")
    }
    trials = {name: getattr(forecast, name) for name in ("low", "likely", "high")}
    return {
        "assumed": assumption,
        **trials,
        "decided": forecast.decided,
        "comparisons": forecast.comparisons,
        **sums,
        "odds": [asdict(odds) for odds in forecast.odds],
    }
