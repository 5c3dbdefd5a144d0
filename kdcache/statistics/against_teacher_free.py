"""Is the teacher needed? Distillation from a teacher against the regularizers that do without one.

"KD beats plain fine-tuning and label smoothing does not" is no evidence that KD beats label smoothing. Here
they are compared directly, seed by seed, on each task and student, and once for all of them:

    advantage = KD - teacher-free regularizer   in points.

Teacher-free is every method but the baseline whose soft labels come from no teacher: label smoothing, TF-reg,
an own loss, and Self-KD too, whose teacher is the student itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from kdcache.results.schema import TeacherNeededRow, frame
from kdcache.statistics.evidence import Points, evidence_of
from kdcache.statistics.families import correct_by_family, level
from kdcache.statistics.verdicts import points_table, verdict
from kdcache.study import Study

ALL = "all"
Cells = dict[tuple[str, str, str], Points]


def teacher_needed(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """KD against each teacher-free regularizer, and pooled.

    Rows with scope `cell`: one per task, student, regularizer (soft labels: teacher) and teacher-free
    `against`; corrected together, all of them. Rows with scope `pooled`: KD against the mean of the
    teacher-free, averaged within each seed over all tasks and students (init `all`: a claim of its own, so
    corrected only where there are several KDs), and over those of each init where the study has both
    (corrected together). The unit is the seed, so a pooled row speaks of these tasks and students.

    Numbers are those of `kdcache.statistics.compare`, with the teacher-free regularizer in the baseline's
    place; a pooled margin is the smallest of its tasks'. Empty without a KD or a teacher-free regularizer.
    """
    cells = _finite(points_table(trials, study))
    taught, free = methods(study)
    rows, spreads = [], []
    for row, mine, other, note in _comparisons(cells, taught, free, study):
        notes = [note] if note else []
        evidence, detectable = evidence_of(mine, other, row["margin"], 1 - study.comparison.alpha, notes)
        numbers = asdict(evidence) | {"against_mean": evidence.baseline_mean}
        rows.append(numbers | row | {"note": "; ".join(notes)})
        spreads.append(detectable)
    keys = [_key(row) for row in rows]
    _correct(rows, keys, study)
    for row, key, detectable in zip(rows, keys, spreads, strict=True):
        size, alpha = keys.count(key), study.comparison.alpha
        word, negligible = verdict(row["difference"], row["t_p_corrected"], row["tost_p_corrected"], alpha)
        row |= {"verdict": word, "negligible": negligible, "family_size": size}
        row["detectable"] = detectable(level(alpha, size, study.comparison.correction))
    return frame(TeacherNeededRow, rows)


def methods(study: Study) -> tuple[list[str], list[str]]:
    """The names that use a teacher, and those that are teacher-free; the baseline is neither."""
    others = {name: m for name, m in study.methods().items() if name != study.comparison.baseline}
    taught = [name for name, method in others.items() if method.soft_labels == "teacher"]
    return taught, [name for name in others if name not in taught]


def _finite(cells: Cells) -> Cells:
    return {
        cell: {seed: value for seed, value in points.items() if np.isfinite(value)}
        for cell, points in cells.items()
    }


Comparison = tuple[dict[str, Any], Points, Points, str]  # the row's names, KD's points, the others', a note


def _comparisons(cells: Cells, taught: list[str], free: list[str], study: Study) -> Iterator[Comparison]:
    pairs = list(dict.fromkeys((task, student) for task, student, _ in cells))
    inits = dict.fromkeys(study.students[student].init for _, student in pairs)
    for task, student in pairs:
        for kd in taught:
            for other in free:
                names = _names([(task, student)], kd, study) | {"scope": "cell"}
                yield names | {"against": other}, cells[task, student, kd], cells[task, student, other], ""
    for init in [ALL, *(inits if len(inits) > 1 else [])] if free else []:
        members = [pair for pair in pairs if init in (ALL, study.students[pair[1]].init)]
        for kd in taught:
            names = {"scope": "pooled", "init": init, "against": ALL}
            yield _names(members, kd, study) | names, *_pooled(cells, members, kd, free)


def _names(pairs: list[tuple[str, str]], kd: str, study: Study) -> dict[str, Any]:
    """What KD on the (task, student) pairs has in common, `all` where they differ."""
    students = [study.students[student] for _, student in pairs]
    metrics = sorted({study.tasks[task].metrics[0] for task, _ in pairs})
    teachers = {study.method(kd).teacher_name(student) or "" for student in students}
    return {
        "regularizer": kd,
        "task": _one({task for task, _ in pairs}),
        "student": _one({student for _, student in pairs}),
        "init": _one({s.init for s in students}),
        "teacher": _one(teachers),
        "metric": "/".join(metrics),
        "margin": min(study.comparison.margin[metric] for metric in metrics),
    }


def _one(names: set[str]) -> str:
    return min(names) if len(names) == 1 else ALL


def _pooled(
    cells: Cells, pairs: list[tuple[str, str]], kd: str, free: list[str]
) -> tuple[Points, Points, str]:
    """Per seed KD's mean over the pairs and the teacher-free ones' mean, and a note on what is left out.

    A seed counts when every trial has a score; a pair without any such seed is left out.
    """
    needed = {pair: [cells[(*pair, name)] for name in (kd, *free)] for pair in pairs}
    seeds = {pair: set.intersection(*map(set, points)) for pair, points in needed.items()}
    used = [pair for pair in pairs if seeds[pair]]
    shared = sorted(set.intersection(*(seeds[pair] for pair in used))) if used else []
    mine = {s: float(np.mean([needed[pair][0][s] for pair in used])) for s in shared}
    others = {s: float(np.mean([[p[s] for p in needed[pair][1:]] for pair in used])) for s in shared}
    left = len(pairs) - len(used)
    note = f"{left} of {len(pairs)} task x student pairs lack trials and are left out" if left else ""
    return mine, others, note


def _key(row: dict[str, Any]) -> tuple[str, str]:
    """All cells are one family; pooled over everything is another, pooled by init a third."""
    if row["scope"] == "cell":
        return ("cell", "")
    return ("pooled", ALL if row["init"] == ALL else "init")


def _correct(rows: list[dict[str, Any]], keys: Sequence[tuple[str, str]], study: Study) -> None:
    for name in ("t_p", "tost_p"):
        corrected = correct_by_family([row[name] for row in rows], keys, study.comparison.correction)
        for row, p in zip(rows, corrected, strict=True):
            row[f"{name}_corrected"] = p


def teacher_claim(rows: pd.DataFrame, study: Study) -> dict[str, Any]:
    """The claim of summary.json, from the non-empty table of `teacher_needed`.

    Supported when a KD, pooled over all tasks and students, is better than the teacher-free regularizers'
    mean; contradicted when every KD is worse than it, or within the margin of it; else inconclusive.
    """
    pooled = rows[(rows["scope"] == "pooled") & (rows["init"] == ALL)]
    cells = rows[rows["scope"] == "cell"]
    no_gain = (pooled["verdict"] == "worse") | (
        pooled["tost_p_corrected"].astype(float) <= study.comparison.alpha
    )
    better = (pooled["verdict"] == "better").any()
    counts = {
        word: int((cells["verdict"] == word).sum())
        for word in ("better", "worse", "equivalent", "inconclusive")
    }
    told = " ".join(_told(row, study) for row in pooled.to_dict("records"))
    return {
        "id": "teacher_needed",
        "question": "Does distillation from a teacher beat, on average, the regularizers that need none?",
        "verdict": "supported" if better else "contradicted" if no_gain.all() else "inconclusive",
        "sentence": f"{told} Of {len(cells)} comparisons one by one, corrected together: "
        + ", ".join(f"{count} {word}" for word, count in counts.items())
        + ".",
        "comparisons": len(cells),
        **counts,
        "teacher_free": methods(study)[1],
        "smallest_difference": _or_none(cells["difference"].min()),
        "largest_difference": _or_none(cells["difference"].max()),
    }


def _or_none(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _told(row: dict[Any, Any], study: Study) -> str:
    """One pooled comparison in words."""
    _, free = methods(study)
    against = free[0] if len(free) == 1 else f"the mean of {len(free)} teacher-free regularizers"
    if pd.isna(row["difference"]):
        return f"{row['regularizer']}: no seed has all the trials that the comparison needs."
    text = f"{row['regularizer']} against {against}: {row['difference']:+.2f} points"
    if not pd.isna(row["ci_low"]):
        share = round(100 * (1 - study.comparison.alpha))
        text += f" ({share}% interval {row['ci_low']:+.2f} to {row['ci_high']:+.2f}, {row['seeds']} seeds)"
    small = f", yet within the margin of {row['margin']:g}" if row["negligible"] else ""
    return f"{text}, {row['verdict']}{small}."
