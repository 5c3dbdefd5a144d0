"""A report of a large study: how long it takes to build, how large the page is, how soon a browser has it.

`python -m benchmarks.report --out DIR` makes 8 tasks x 6 students x 5 regularizers x 5 seeds = 1,200 trials with normal
scores around invented means (no model is trained), the metrics of them and the report, and prints what each took.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from kdcache.params import Study
from kdcache.report.page import write_report
from kdcache.results import Outputs
from kdcache.statistics import (
    across,
    calibration_comparisons,
    compare,
    compare_examples,
    reliability_table,
    summary,
)
from kdcache.statistics.files import write_summary, write_table

FAMILIES = ("bert", "roberta", "gpt2")
METHODS = {"label_smoothing": 0.1, "tf_reg": 0.3, "kd": 0.8, "self_kd": 0.4}  # points gained from scratch
ROWS = 277  # of each validation set, as RTE
MODEL = {"learning_rate": 1e-3, "epochs": 8, "batch_size": 32}


def study(tasks: int = 8) -> Study:
    source = {"builtin": "bbc_headlines"}
    task = {"source": source, "text": ["text"], "metrics": ["accuracy"], "max_length": 24}
    inits = {"": "pretrained", "-scratch": "scratch"}
    students = {
        f"{family}{suffix}": MODEL | {"checkpoint": family, "init": init, "teacher": "teacher"}
        for family in FAMILIES
        for suffix, init in inits.items()
    }
    return Study.model_validate(
        {
            "seeds": [0, 1, 2, 3, 4],
            "tasks": {f"task-{place + 1}": task for place in range(tasks)},
            "teachers": {"teacher": MODEL | {"checkpoint": "big"}},
            "students": students,
            "regularizers": {
                "base": {},
                "label_smoothing": {"soft_labels": "uniform", "alpha": 0.1},
                "tf_reg": {"soft_labels": "designed", "correct": 0.99, "alpha": 0.5, "temperature": 20},
            },
            "distillers": {
                name: {"soft_labels": kind, "alpha": 0.5, "temperature": 2}
                for name, kind in (("kd", "teacher"), ("self_kd", "self"))
            },
            "comparison": {"margin": {"accuracy": 1.0}},
        }
    )


def trials(of: Study) -> pd.DataFrame:
    """One row a trial: a task's level, a gain from scratch only, half a point of noise."""
    random, rows = np.random.default_rng(0), []
    for task, student, method in of.configurations():
        scratch = of.students[student].init == "scratch"
        level = 0.9 - 0.02 * list(of.tasks).index(task) - 0.06 * scratch
        for seed in of.seeds:
            score = level + scratch * METHODS.get(method, 0.0) / 100 + random.normal(0, 0.005)
            soft = 0.05 * (method == "label_smoothing") - 0.02 * (method == "kd")
            rows.append(
                {"task": task, "student": student, "family": student.split("-")[0]}
                | {"init": of.students[student].init, "checkpoint": of.students[student].checkpoint}
                | {"layers": None, "teacher": "teacher", "regularizer": method, "seed": seed}
                | {"accuracy": score, "nll": 1.2 - score / 2 - soft + random.normal(0, 0.01)}
                | {"brier": 1 - score + random.normal(0, 0.005), "ece": 0.1 - soft + random.normal(0, 0.005)}
                | {"seconds": 20.0, "peak_memory_mb": 500.0, "device": "cpu"}
                | {"identity": f"{random.integers(2**62):064x}"}
            )
    return pd.DataFrame(rows)


def costs(of: Study, table: pd.DataFrame) -> pd.DataFrame:
    kinds = (("teacher", 100.0), ("cache", 4.0))
    taught = [
        {"kind": kind, "task": task, "model": teacher, "seconds": seconds}
        for task, teacher in of.taught()
        for kind, seconds in kinds
    ]
    ran = table.rename(columns={"student": "model"})[["task", "model", "regularizer", "seed", "seconds"]]
    whole = pd.concat([pd.DataFrame(taught), ran.assign(kind="trial")])
    columns = ["kind", "task", "model", "regularizer", "seed", "seconds", "peak_memory_mb", "device"]
    return whole.assign(peak_memory_mb=500.0, device="cpu")[columns]


def outputs(of: Study, *configuration: str) -> Outputs:
    """Predictions of two classes, right with probability 0.8 row by row."""
    random = np.random.default_rng(len("".join(configuration)))
    labels = np.arange(ROWS) % 2
    right = random.random((len(of.seeds), ROWS)) < 0.8
    return Outputs(tuple(of.seeds), labels, np.where(right, labels, 1 - labels))


def logits(*configuration: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Five classes; a margin for the right one, sharper or flatter by regularizer."""
    random = np.random.default_rng(len("".join(configuration)))
    labels = random.integers(0, 5, 5 * ROWS)
    scores = random.normal(0, 1.5, (len(labels), 5))
    scores[np.arange(len(labels)), labels] += 2
    yield scores * {"label_smoothing": 0.9, "kd": 1.6}.get(configuration[-1], 1.3), labels


def write_metrics(of: Study, out: Path) -> None:
    table = trials(of)
    compared = compare(table, of)
    tables = {
        "trials": table,
        "comparisons": compared,
        "examples": compare_examples(of, lambda *of_what: outputs(of, *of_what), 199),
        "calibration": calibration_comparisons(table, of),
        "reliability": reliability_table(of, logits),
        "across": across(table, of),
        "cost": costs(of, table),
    }
    for name, frame in tables.items():
        write_table(frame, out / f"{name}.csv")
    write_summary(summary(table, of, compared), out / "summary.json")


def open_in_browser(page: Path) -> float | None:
    """Seconds until headless Chromium, started for it, has loaded and shown the page; None without Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        return None
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.resolve().as_uri()]
    begun = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    return time.perf_counter() - begun


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=8)
    options = parser.parse_args(arguments)
    of = study(options.tasks)
    begun = time.perf_counter()
    write_metrics(of, options.out / "metrics")
    counted = time.perf_counter()
    page = write_report(options.out / "metrics", options.out / "report", of)
    built = time.perf_counter()
    facts = {
        "configurations": len(list(of.configurations())),
        "trials": len(list(of.configurations())) * len(of.seeds),
        "statistics_seconds": round(counted - begun, 1),
        "report_seconds": round(built - counted, 1),
        "page_megabytes": round(page.stat().st_size / 1e6, 2),
        "browser_seconds": open_in_browser(page),
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
