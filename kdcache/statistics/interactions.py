"""Does a regularizer help more from scratch than when pre-trained? The paper's claim, as a test of its own.

"Significant from scratch, not significant when pre-trained" is no evidence of a difference between the two. The
difference of the differences is evidence. For each seed it is

    interaction = (regularizer - baseline | scratch) - (regularizer - baseline | pretrained)   in the metric's unit,

for two students of one architecture (same checkpoint and layers). Two one-sided tests answer the question. "Yes" is
tested against interaction <= 0. "No, not by the margin" is tested against interaction >= margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kdcache.results.schema import InteractionRow
from kdcache.results.writing import tabulate
from kdcache.statistics import power, significance
from kdcache.statistics.evidence import Points
from kdcache.statistics.families import correct_by_family, family_key, level
from kdcache.statistics.replay import Name
from kdcache.statistics.settling import design_of, first_seeds, looks_taken, stops_at
from kdcache.statistics.verdicts import points_table
from kdcache.study import Study

ALL = "all"  # the mean over regularizers, or the pool of pairs
SCALE = 100.0  # points: the size of the scores whose differences are the gains; decides their rounding noise
Pair = tuple[str, str, str]  # task, scratch student, pretrained student


def compare_inits(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The interaction per pair of students and regularizer, and pooled over the pairs.

    Rows with scope `pair`: one per task, pair and regularizer, and one for regularizer `all`, each seed's mean over the
    study's regularizers; the unit is the seed. A seed counts if all four trials have a score.

    Rows with scope `pooled`: one per regularizer and one for `all`; the unit is the pair. Each pair's mean is one value
    (n = pairs), because the seeds of one pair share a task and a checkpoint and are no independent evidence about other
    pairs. With a single pair there is nothing to pool, and the row's note says so. Pairs that share one task are
    evidence about other students on this task, not about other tasks; the note says that too.

    gain_scratch and gain_pretrained are the mean differences from the baseline; ci_low and ci_high a
    two-sided interval at 1 - alpha. p is one-sided (interaction > 0), and so is below_p (interaction < margin): paired
    t, or exact sign-flip without spread. The margin is the declared one, of a pool the smallest. Each p is corrected
    over the regularizers by `comparison.family` (pooled rows: all together); `all` is one claim of its own. detectable:
    the interaction that the first test finds with 80% power. verdict: `supported` if p_corrected <= alpha, else
    `contradicted` if below_p_corrected <= alpha, else `inconclusive`. negligible: supported, and below_p_corrected <=
    alpha as well.

    With looks, every row is tested at each look for which all its trials are there. At a look, p-values are divided by
    the look's share of alpha before they are corrected, and intervals are repeated intervals. A row shows the first
    look at which a test rejects at the family's strictest level, else the last (`look`, from 1; 0 if even the first
    look lacks trials).
    """
    cells, design = points_table(trials, study), design_of(study)
    at_looks = [
        _rows(first_seeds(cells, study, look), study, look) for look in range(1, len(design.looks) + 1)
    ]
    keys = [_key(row, study) for row in at_looks[0]]
    chosen = []
    for place, (row, key) in enumerate(zip(at_looks[0], keys, strict=True)):
        taken = looks_taken(study, (cells[name] for name in _configurations_of(row, study)))
        smallest = [
            _smallest_q(rows[place], share) for rows, share in zip(at_looks, design.shares, strict=True)
        ]
        look = stops_at(smallest[:taken], design.strictest(keys.count(key)))
        untested = replace(row, p=None, below_p=None, look=0)
        chosen.append(replace(at_looks[look - 1][place], look=look) if look else untested)
    return tabulate(InteractionRow, _judged(chosen, keys, study))


def _rows(cells: Mapping[Name, Points], study: Study, look: int) -> list[InteractionRow]:
    """The rows before any correction."""
    methods = [name for name in study.methods() if name != study.comparison.baseline]
    rows: list[InteractionRow] = []
    for pair in pairs(study):
        of_pair = {name: _by_seed(cells, pair, name, study) for name in methods}
        rows += [_pair_row(pair, name, gains, study, look) for name, gains in of_pair.items()]
        if methods:
            rows.append(_pair_row(pair, ALL, _mean_gains(list(of_pair.values())), study, look))
    return rows + [_pooled_row(name, rows, study, look) for name in ([*methods, ALL] if rows else [])]


def _configurations_of(row: InteractionRow, study: Study) -> Iterator[Name]:
    """The configurations whose trials a row uses."""
    of_row = pairs(study) if row.scope == "pooled" else [(row.task, row.scratch, row.pretrained)]
    baseline = study.comparison.baseline
    names = study.methods() if row.regularizer == ALL else (row.regularizer, baseline)
    for task, *students in of_row:
        yield from ((task, student, name) for student in students for name in names)


def _smallest_q(row: InteractionRow, share: float) -> float | None:
    return min((q for p in (row.p, row.below_p) if (q := _q(p, share)) is not None), default=None)


def _q(p: float | None, share: float) -> float | None:
    return None if p is None else min(1.0, p / share)


def pairs(study: Study) -> Iterator[Pair]:
    """(task, scratch student, pretrained student) with the same checkpoint, revision and layers."""
    for task in study.tasks:
        able = {name: s for name, s in study.students.items() if study.applies(s, task)}
        for scratch, a in able.items():
            for pretrained, b in able.items():
                same = (a.checkpoint, a.revision, a.layers) == (b.checkpoint, b.revision, b.layers)
                if same and (a.init, b.init) == ("scratch", "pretrained"):
                    yield task, scratch, pretrained


Gains = dict[int, tuple[float, float]]  # seed -> (gain from scratch, gain when pretrained), points


def _by_seed(cells: Mapping[Name, Points], pair: Pair, name: str, study: Study) -> Gains:
    """Both gains of every seed that has all four scores."""
    task, scratch, pretrained = pair
    four = [cells[task, s, r] for s in (scratch, pretrained) for r in (name, study.comparison.baseline)]
    seeds = sorted(set.intersection(*({s for s, v in points.items() if np.isfinite(v)} for points in four)))
    return {s: (four[0][s] - four[1][s], four[2][s] - four[3][s]) for s in seeds}


def _mean_gains(of_methods: list[Gains]) -> Gains:
    """Each seed's mean over regularizers, for the seeds that all of them have."""
    seeds = sorted(set.intersection(*(set(gains) for gains in of_methods)))
    means = {s: np.mean([gains[s] for gains in of_methods], axis=0) for s in seeds}
    return {s: (float(pair[0]), float(pair[1])) for s, pair in means.items()}


def _pair_row(pair: Pair, name: str, gains: Gains, study: Study, look: int) -> InteractionRow:
    task, scratch, pretrained = pair
    student = study.students[scratch]
    seeds = study.looks[look - 1]
    missing, metric = seeds - len(gains), study.tasks[task].metrics[0]
    note = f"{missing} of {seeds} seeds lack one of the four trials" if missing else ""
    return InteractionRow(
        scope="pair",
        task=task,
        checkpoint=student.checkpoint,
        layers=student.layers,
        scratch=scratch,
        pretrained=pretrained,
        regularizer=name,
        metric=metric,
        unit="seeds",
        **_tested(list(gains.values()), study.comparison.margin[metric], _level(study, look), note),
    )


def _pooled_row(name: str, rows: list[InteractionRow], study: Study, look: int) -> InteractionRow:
    of_pairs = [row for row in rows if row.scope == "pair" and row.regularizer == name]
    margin = min(row.margin for row in of_pairs)
    members = [row for row in of_pairs if row.n]
    metrics = sorted({row.metric for row in members})
    values = [
        (row.gain_scratch, row.gain_pretrained)
        for row in members
        if row.gain_scratch is not None and row.gain_pretrained is not None
    ]
    return InteractionRow(
        scope="pooled",
        task=ALL,
        checkpoint=ALL,
        layers=None,
        scratch=ALL,
        pretrained=ALL,
        regularizer=name,
        metric="/".join(metrics),
        unit="pairs",
        **_tested(values, margin, _level(study, look), _pooled_note(members)),
    )


def _level(study: Study, look: int) -> float:
    """The part of alpha that a look has."""
    return study.comparison.alpha * design_of(study).shares[look - 1]


def _pooled_note(members: list[InteractionRow]) -> str:
    """A note on what a pool of pairs is evidence about, and what it is not."""
    tasks = {row.task for row in members}
    note = f"{len(members)} pairs on {len(tasks)} tasks, each pair's mean as one value"
    if len(tasks) == 1:
        note = f"{len(members)} pairs, all on one task: about other students on it, not about other tasks"
    if len(members) == 1:
        note = "one pair: nothing to pool, see its own row"
    several = len({row.metric for row in members}) > 1
    return f"{note}; differences in different metrics" if several else note


def _tested(gains: list[tuple[float, float]], margin: float, alpha: float, note: str) -> dict[str, Any]:
    """Means, interval and both one-sided p of one list of (scratch, pretrained) gains."""
    scratch, pretrained = ([pair[side] for pair in gains] for side in (0, 1))
    result: dict[str, Any] = {}
    if gains:
        result["interaction"] = significance.settled(float(np.mean(scratch) - np.mean(pretrained)), SCALE)
    if len(gains) >= 2:
        d = significance.differences(scratch, pretrained)
        interval = significance.mean_interval(d, 1 - alpha)
        result |= {"sd": interval.sd, "ci_low": interval.ci_low, "ci_high": interval.ci_high}
        result["p"] = significance.paired_t(d, 0.0, "greater")
        result["below_p"] = significance.paired_t(d, margin, "less")
        if significance.constant(d):
            note = "; ".join(filter(None, [note, "no spread: exact sign-flip test"]))
    elif not note:
        note = "a test needs two or more seeds"
    means = [
        significance.settled(float(np.mean(side)), SCALE) if side else None for side in (scratch, pretrained)
    ]
    gained = {"gain_scratch": means[0], "gain_pretrained": means[1]}
    return {"n": len(gains), **gained, "margin": margin, **result, "note": note}


def _judged(rows: list[InteractionRow], keys: list[tuple[str, ...]], study: Study) -> list[InteractionRow]:
    """The rows with p-values corrected over their families, and verdicts."""
    comparison, shares = study.comparison, design_of(study).shares
    of_rows = [shares[(row.look or 1) - 1] for row in rows]
    above, below = (
        correct_by_family(list(map(_q, p_values, of_rows)), keys, comparison.correction)
        for p_values in ([row.p for row in rows], [row.below_p for row in rows])
    )
    judged = []
    for row, key, p, below_p in zip(rows, keys, above, below, strict=True):
        size = keys.count(key)
        at = level(_level(study, row.look or 1), size, comparison.correction)
        corrected = replace(row, p_corrected=p, below_p_corrected=below_p, family_size=size)
        more, less = (p is not None and p <= comparison.alpha for p in (p, below_p))
        word = "supported" if more else "contradicted" if less else "inconclusive"
        detectable = _detectable(row, at)
        judged.append(replace(corrected, detectable=detectable, verdict=word, negligible=more and less))
    return judged


def _key(row: InteractionRow, study: Study) -> tuple[str, ...]:
    """A row's family: as for comparisons, with the pair in the student's place; `all` rows stand alone."""
    pair = f"{row.scratch}/{row.pretrained}"
    if row.regularizer == ALL:
        return (row.scope, ALL, row.task, pair)
    if row.scope == "pooled":
        return ("pooled",)
    return ("pair", *family_key(study.comparison.family, row.task, pair))


def _detectable(row: InteractionRow, at: float) -> float | None:
    """The detectable interaction. One-sided at level `at` is two-sided at 2 * at (the other tail has little power)."""
    return power.detectable_difference(row.n, row.sd, 2 * at) if row.sd else None
