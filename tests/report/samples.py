"""A small metrics folder in the layouts of metrics/: numbers chosen by hand, no statistics computed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import yaml

from kdcache.results.schema import AcrossRow, TeacherRow, columns
from kdcache.study import Study

SEEDS = [0, 1, 2, 3, 4]
STUDENTS = [
    ("bbc-headlines", "bert-tiny", "bert", "pretrained", "data/models/bert-tiny", 80.0),
    ("bbc-headlines", "bert-tiny-scratch", "bert", "scratch", "data/models/bert-tiny", 73.0),
    ("digits", "vit-tiny", "vit", "scratch", "vit-config", 95.0),
]
METHODS = ["label_smoothing", "tf_reg", "kd", "self_kd"]
# difference, half width of the interval, verdict, negligible
ROWS = {
    ("bert-tiny", "label_smoothing"): (0.10, 0.60, "equivalent", False),
    ("bert-tiny", "tf_reg"): (-0.40, 1.90, "inconclusive", False),
    ("bert-tiny", "kd"): (0.45, 0.30, "better", True),
    ("bert-tiny", "self_kd"): (0.05, 0.55, "equivalent", False),
    ("bert-tiny-scratch", "label_smoothing"): (0.90, 1.60, "inconclusive", False),
    ("bert-tiny-scratch", "tf_reg"): (-2.10, 1.20, "worse", False),
    ("bert-tiny-scratch", "kd"): (2.40, 1.10, "better", False),
    ("bert-tiny-scratch", "self_kd"): (0.70, 1.50, "inconclusive", False),
    ("vit-tiny", "label_smoothing"): (0.02, 0.40, "equivalent", False),
    ("vit-tiny", "tf_reg"): (-0.30, 0.60, "equivalent", False),
    ("vit-tiny", "kd"): (0.60, 1.10, "inconclusive", False),
    ("vit-tiny", "self_kd"): (0.00, 0.50, "equivalent", False),
}
PARAMS = """
seeds: [0, 1, 2, 3, 4]
tasks:
  bbc-headlines:
    {source: {builtin: bbc_headlines}, text: [text], metrics: [accuracy, macro_f1], max_length: 24}
  digits: {source: {builtin: digits}, image: image, metrics: [accuracy]}
teachers:
  bert-small:
    {checkpoint: data/models/bert-small, learning_rate: 1.0e-3, epochs: 5, batch_size: 32,
      tasks: [bbc-headlines]}
  resnet:
    {checkpoint: resnet-config, init: scratch, learning_rate: 1.0e-3, epochs: 9, batch_size: 32,
      tasks: [digits]}
students:
  bert-tiny:
    {checkpoint: data/models/bert-tiny, teacher: bert-small, learning_rate: 1.0e-3, epochs: 8, batch_size: 32,
      tasks: [bbc-headlines]}
  bert-tiny-scratch:
    {checkpoint: data/models/bert-tiny, init: scratch, teacher: bert-small, learning_rate: 1.0e-3,
      epochs: 8, batch_size: 32, tasks: [bbc-headlines]}
  vit-tiny:
    {checkpoint: vit-config, init: scratch, teacher: resnet, learning_rate: 1.0e-3, epochs: 8, batch_size: 32,
      tasks: [digits]}
regularizers:
  base: {}
  label_smoothing: {soft_labels: uniform, alpha: 0.1}
  tf_reg: {soft_labels: designed, correct: 0.99, alpha: 0.5, temperature: 20}
distillers:
  kd: {soft_labels: teacher, alpha: 0.5, temperature: 2}
  self_kd: {soft_labels: self, alpha: 0.5, temperature: 2}
comparison: {baseline: base, alpha: 0.05, margin: {accuracy: 1.0}, correction: holm}
"""


def study() -> Study:
    return Study.model_validate(yaml.safe_load(PARAMS))


def trials() -> pd.DataFrame:
    """One row a trial; seed s adds (s - 2) / 10 points to every score."""
    rows = []
    for task, student, family, init, checkpoint, base in STUDENTS:
        for method in ["base", *METHODS]:
            gain = 0.0 if method == "base" else ROWS[student, method][0]
            for seed in SEEDS:
                score = (base + gain + (seed - 2) / 10) / 100
                rows.append(
                    {"task": task, "student": student, "family": family, "init": init}
                    | {"checkpoint": checkpoint, "layers": None, "teacher": "t", "regularizer": method}
                    | {"seed": seed, "accuracy": score, "macro_f1": score - 0.01, "nll": 1.5 - score}
                    | {"brier": 1 - score, "ece": 0.05 + seed / 1000, "seconds": 11.0 + seed}
                    | {"peak_memory_mb": 900.0, "device": "cpu", "identity": f"{student}-{method}-{seed}"}
                )
    return pd.DataFrame(rows)


def comparisons() -> pd.DataFrame:
    """One row per task, student and regularizer but the baseline."""
    rows = []
    for task, student, family, init, _, base in STUDENTS:
        for method in METHODS:
            gain, half, verdict, negligible = ROWS[student, method]
            rows.append(
                {"task": task, "student": student, "family": family, "init": init, "teacher": "t"}
                | {
                    "regularizer": method,
                    "metric": "accuracy",
                    "baseline": "base",
                    "seeds": 5,
                    "paired": True,
                }
                | {"mean": base + gain, "sd": 0.16, "baseline_mean": base, "baseline_sd": 0.16}
                | {"difference": gain, "ci_low": gain - half, "ci_high": gain + half, "t_p": 0.02}
                | {
                    "t_p_corrected": 0.06,
                    "welch_p": 0.03,
                    "permutation_p": 0.0625,
                    "permutation_floor": 0.0625,
                }
                | {"hedges_g": 0.8, "margin": 1.0, "tost_p": 0.01, "tost_p_corrected": 0.04}
                | {"verdict": verdict, "negligible": negligible, "detectable": 1.35 * half, "note": ""}
            )
    return pd.DataFrame(rows)


def cost() -> pd.DataFrame:
    """Teachers, caches and trials, with seconds that are easy to add up: a teacher 100 s, a cache 4 s."""
    rows = []
    for task, teacher in (("bbc-headlines", "bert-small"), ("digits", "resnet")):
        for kind, spent in (("teacher", 100.0), ("cache", 4.0)):
            rows.append(_cost(kind, task, teacher, "", None, spent))
    for row in trials().itertuples():
        rows.append(_cost("trial", row.task, row.student, row.regularizer, row.seed, row.seconds))
    return pd.DataFrame(rows)


def _cost(kind: str, task: str, model: str, method: str, seed: int | None, spent: float) -> dict[str, object]:
    named = {"kind": kind, "task": task, "model": model, "regularizer": method, "seed": seed}
    return named | {"seconds": spent, "peak_memory_mb": 900.0, "device": "cpu"}


def summary() -> dict[str, object]:
    """The claims and the interaction of one pair of students, in the layout of summary.json, format 1."""
    return {"format": 1, "claims": claims(), "interaction": interaction(), "design": DESIGN} | {
        "teacher_needed": [TEACHER]
    }


DESIGN = {"seeds": 5, "detectable_sd": 1.682, "detectable_sd_corrected": 2.477, "tost_margin_sd": 1.6}
DESIGN |= {"tost_margin_sd_corrected": 2.322, "sign_flip_floor": 0.0625}


def claims() -> list[dict[str, object]]:
    plain = {"question": "?", "sentence": "!"}
    gains = {
        "gain_scratch": 0.475,
        "gain_pretrained": 0.05,
        "interaction": 0.425,
        "ci_low": -0.5,
        "ci_high": 1.35,
    }
    shown = [{"task": "bbc-headlines", "scratch": "x", "pretrained": "y", "regularizer": "kd"}]
    return [
        plain | {"id": "pretrained_within_margin", "verdict": "inconclusive", "within_margin": 3}
        | {"beyond_margin": 0, "undecided": 1},
        plain | {"id": "scratch_some_better", "verdict": "supported", "better": 1},
        plain | {"id": "interaction", "verdict": "inconclusive", "p": 0.13, "unit": "seeds", "n": 5}
        | {"margin": 1.0, "below_p": 0.094, "per_regularizer_supported": shown} | gains,
        plain | {"id": "teacher_needed", "verdict": "contradicted", "teacher_free": ["label_smoothing", "tf_reg"]}
        | {"better": 0, "worse": 1, "equivalent": 0, "inconclusive": 5},
    ]  # fmt: skip


TEACHER = {"scope": "pooled", "init": "all", "regularizer": "kd", "difference": -0.32, "ci_low": -0.61}
TEACHER |= {"ci_high": -0.02, "seeds": 5, "verdict": "worse", "negligible": True}


def examples() -> pd.DataFrame:
    """One row per comparison. The rows' error is 0.5 for all; the seeds' is 0.8 for vit-tiny and 0.2 for others."""
    rows = comparisons()[["task", "student", "init", "regularizer", "seeds", "difference"]]
    seeds = [0.8 if student == "vit-tiny" else 0.2 for student in rows["student"]]
    return rows.assign(
        rows=1000, gained=25.0, lost=21.2, rows_p_corrected=0.25, sd_rows=0.5, sd_seeds=seeds, sd_total=0.9,
        total_low=-1.5, total_high=2.5, note="",
    )  # fmt: skip


def calibration() -> pd.DataFrame:
    """One row per comparison and score: label smoothing is better, KD worse, the others unclear."""
    directions = {"label_smoothing": "better", "kd": "worse"}
    rows = [
        {"task": row.task, "student": row.student, "init": row.init, "regularizer": row.regularizer}
        | {"metric": name, "difference": 0.021, "ci_low": 0.015, "ci_high": 0.027}
        | {"direction": directions.get(str(row.regularizer), "unclear"), "note": ""}
        for row in comparisons().itertuples()
        for name in ("nll", "brier", "ece")
    ]
    return pd.DataFrame(rows)


def reliability() -> pd.DataFrame:
    """Three bins: 90 rows 10 points too sure, 100 rows 20, and 10 rows 100, which are too few to be drawn."""
    bins = [(0.6, 0.5, 90), (0.9, 0.7, 100), (1.0, 0.0, 10)]
    rows = [
        {"task": task, "student": student, "init": init, "regularizer": method, "low": 0.0, "high": 1.0}
        | {"rows": rows, "confidence": confidence, "accuracy": accuracy}
        for task, student, _, init, _, _ in STUDENTS
        for method in ("base", *METHODS)
        for confidence, accuracy, rows in bins
    ]
    return pd.DataFrame(rows)


def teachers() -> pd.DataFrame:
    """bert-small is 1.5 points over bert-tiny, with nearly hard labels; resnet is a point under vit-tiny."""
    rows = [
        ("bbc-headlines", "bert-small", 5, 100.0, 81.5, 24.0, 0.03, 0.995, "bert-tiny", 80.0, 1.5),
        ("digits", "resnet", 10, 97.0, 94.0, 10.0, 0.9, 0.75, "vit-tiny", 95.0, -1.0),
    ]
    return pd.DataFrame(rows, columns=[name for name in columns(TeacherRow) if name != "metric"]).assign(
        metric="accuracy"
    )


def curves() -> pd.DataFrame:
    """Three epochs a configuration, with losses 1.2, 0.8 and 0.5 (KD: twice that); sd 0.1, blank in the last epoch."""
    rows = [
        {"task": task, "student": student, "init": init, "regularizer": method, "epoch": epoch, "seeds": 5}
        | {"loss": loss * (2 if method == "kd" else 1), "sd": 0.1 if epoch < 3 else None}
        for task, student, _, init, _, _ in STUDENTS
        for method in ("base", *METHODS)
        for epoch, loss in enumerate((1.2, 0.8, 0.5), start=1)
    ]
    return pd.DataFrame(rows)


def provenance() -> dict[str, object]:
    """In the layout of provenance.json: two versions of torch, one task and one cache."""
    prints = {"data": "d" * 64, "weights": "w" * 64, "preprocessing": "p" * 64, "code": "c" * 64}
    return {
        "format": 1,
        "trials": 75,
        "versions": {"torch": ["2.9.0", "2.9.1"], "transformers": ["4.57.1"]},
        "devices": {"cpu, bfloat16": 75},
        "statistics": {"kdcache": "0.1.0", "scipy": "1.16.2"},
        "tasks": {"bbc-headlines": {"rows": {"train": 1170, "validation": 1000}, "data": "d" * 64}},
        "caches": [
            {"task": "bbc-headlines", "teacher": "bert-small", "cache": "0123456789abcdef" * 4, **prints}
        ],
    }


RANKS = {"base": 2.5, "label_smoothing": 4.0, "tf_reg": 5.0, "kd": 1.0, "self_kd": 2.5}


def across() -> pd.DataFrame:
    """One group of six tasks, and one of a single task, which has nothing across tasks."""
    empty = dict.fromkeys(columns(AcrossRow))
    found = {"difference": 0.5, "ci_low": -0.25, "ci_high": 1.25, "wilcoxon_p_corrected": 0.25}
    found |= {"wilcoxon_floor": 0.03125, "permutation_p_corrected": 0.04, "improvement": 0.66}
    found |= {"bayes_worse": 0.0, "bayes_within": 0.9, "bayes_better": 0.1}
    rows = []
    for method in ("base", *METHODS):
        names = {"scope": "init", "group": "pretrained", "init": "pretrained", "regularizer": method}
        ranks = {
            "ranked_tasks": 6,
            "mean_rank": RANKS[method],
            "friedman_p": 0.03,
            "critical_difference": 2.0,
        }
        of_method = {} if method == "base" else found
        rows.append(empty | names | {"tasks": 6, "note": ""} | ranks | of_method)
        alone = {"scope": "student", "group": "vit-tiny", "init": "scratch", "regularizer": method}
        rows.append(empty | alone | {"tasks": 1, "note": "one task: nothing across tasks"})
    return pd.DataFrame(rows)


def interaction() -> list[dict[str, object]]:
    pair = {
        "scope": "pair",
        "task": "bbc-headlines",
        "scratch": "bert-tiny-scratch",
        "pretrained": "bert-tiny",
    }
    rest = {
        "unit": "seeds",
        "n": 5,
        "ci_low": 0.9,
        "ci_high": 3.0,
        "p_corrected": 0.004,
        "below_p_corrected": 0.97,
        "note": "",
    }
    gains = {"gain_scratch": 2.4, "gain_pretrained": 0.45, "interaction": 1.95, "verdict": "supported"}
    kd = pair | rest | gains | {"regularizer": "kd"}
    return [kd, kd | {"scope": "pooled", "task": "all", "n": 1, "ci_low": None, "ci_high": None}]


def write(folder: Path) -> Path:
    """Write the four files that a report needs into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("trials", trials()), ("comparisons", comparisons()), ("cost", cost())):
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "summary.json").write_text(json.dumps(summary()), encoding="utf-8")
    return folder


def write_all(folder: Path) -> Path:
    """Write all eleven files into a folder and return it."""
    write(folder)
    for make in (examples, calibration, reliability, across, curves, teachers):
        make().to_csv(folder / f"{make.__name__}.csv", index=False)
    (folder / "provenance.json").write_text(json.dumps(provenance()), encoding="utf-8")
    return folder
