"""A large study's report: how long it takes to build, how large the page is, and how fast a browser shows and sorts it.

`python -m benchmarks.report --out DIR` makes 8 tasks x 6 students x 5 regularizers x 5 seeds = 1,200 trials, with
normal scores around invented means (no model is trained). It makes their metrics and the report, and prints what each
took. `--json benchmarks/results/report.json` keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.keeping import facts
from kdcache.report.page import write_report
from kdcache.results.evaluation import Outputs, bin_sureness
from kdcache.results.writing import write_summary, write_table
from kdcache.statistics import (
    compare,
    compare_across_tasks,
    compare_calibration,
    compare_examples,
    summarize,
    tabulate_reliability,
)
from kdcache.study import Study
from kdcache.system.files import write_json

FAMILIES = ("bert", "roberta", "gpt2")
METHODS = {"label_smoothing": 0.1, "tf_reg": 0.3, "kd": 0.8, "self_kd": 0.4}  # points gained from scratch
ROWS = 277  # of each validation set, as RTE
LIBRARIES = ("numpy", "pandas", "scipy", "altair")
MODEL = {"learning_rate": 1e-3, "epochs": 8, "batch_size": 32}


def make_study(tasks: int = 8) -> Study:
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


def trials(study: Study) -> pd.DataFrame:
    """One row a trial: the task's level, a gain (from scratch only), and half a point of noise."""
    random, rows = np.random.default_rng(0), []
    for task, student, method in study.configurations():
        scratch = study.students[student].init == "scratch"
        teacher = study.method(method).teacher_name(study.students[student])
        level = 0.9 - 0.02 * list(study.tasks).index(task) - 0.06 * scratch
        for seed in study.seeds:
            score = level + scratch * METHODS.get(method, 0.0) / 100 + random.normal(0, 0.005)
            soft = 0.05 * (method == "label_smoothing") - 0.02 * (method == "kd")
            rows.append(
                {"task": task, "student": student, "family": student.split("-")[0]}
                | {"init": study.students[student].init, "checkpoint": study.students[student].checkpoint}
                | {"layers": None, "teacher": teacher, "regularizer": method, "seed": seed}
                | {"accuracy": score, "nll": 1.2 - score / 2 - soft + random.normal(0, 0.01)}
                | {"brier": 1 - score + random.normal(0, 0.005), "ece": 0.1 - soft + random.normal(0, 0.005)}
                | {"seconds": 20.0, "peak_memory_mb": 500.0, "device": "cpu"}
                | {"identity": f"{random.integers(2**62):064x}"}
            )
    return pd.DataFrame(rows)


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Falling losses in eight epochs for each configuration."""
    keys = ["task", "student", "init", "regularizer"]
    rows = [
        [*key, epoch, 5, 1.5 / epoch, 0.02]
        for key in table[keys].drop_duplicates().itertuples(index=False)
        for epoch in range(1, 9)
    ]
    return pd.DataFrame(rows, columns=[*keys, "epoch", "seeds", "loss", "sd"])


def costs(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    kinds = (("teacher", 100.0), ("cache", 4.0))
    taught = [
        {"kind": kind, "task": task, "model": teacher, "seconds": seconds}
        for task, teacher in study.taught()
        for kind, seconds in kinds
    ]
    ran = table.rename(columns={"student": "model"})[["task", "model", "regularizer", "seed", "seconds"]]
    rows = pd.concat([pd.DataFrame(taught), ran.assign(kind="trial")])
    columns = ["kind", "task", "model", "regularizer", "seed", "seconds", "peak_memory_mb", "device"]
    return rows.assign(peak_memory_mb=500.0, device="cpu")[columns]


def outputs(study: Study, *configuration: str) -> Outputs:
    """Predictions of two classes, right with probability 0.8 row by row."""
    random = np.random.default_rng(len("".join(configuration)))
    labels = np.arange(ROWS) % 2
    right = random.random((len(study.seeds), ROWS)) < 0.8
    return Outputs(tuple(study.seeds), labels, np.where(right, labels, 1 - labels))


def sureness(*configuration: str) -> np.ndarray:
    """Sureness with five classes: the right one is ahead, by more or less depending on the regularizer."""
    random = np.random.default_rng(len("".join(configuration)))
    labels = random.integers(0, 5, 5 * ROWS)
    scores = random.normal(0, 1.5, (len(labels), 5))
    scores[np.arange(len(labels)), labels] += 2
    return bin_sureness(scores * {"label_smoothing": 0.9, "kd": 1.6}.get(configuration[-1], 1.3), labels)


def write_metrics(study: Study, out: Path) -> None:
    table = trials(study)
    compared = compare(table, study)
    tables = {
        "trials": table,
        "comparisons": compared,
        "examples": compare_examples(study, lambda *of_what: outputs(study, *of_what), 199),
        "calibration": compare_calibration(table, study),
        "reliability": tabulate_reliability(study, sureness),
        "across": compare_across_tasks(table, study),
        "cost": costs(study, table),
        "curves": curves(table),
    }
    for name, frame in tables.items():
        write_table(frame, out / f"{name}.csv")
    write_summary(summarize(table, study, compared), out / "summary.json")


# Sorts and filters the table of every comparison, twice each, and leaves the slower times in the page's title.
ACT = """
function took(act) {
  const times = [0, 1].map(function () {
    const begun = performance.now();
    act();
    document.body.offsetHeight; // laid out
    return performance.now() - begun;
  });
  return Math.round(Math.max(...times));
}
const table = document.getElementById("comparisons");
const form = document.querySelector("form.filter");
const sort = took(() => table.tHead.rows[0].cells[6].querySelector("button").click());
const filter = took(function () {
  form.elements.words.value = form.elements.words.value ? "" : "kd bert";
  form.dispatchEvent(new Event("input"));
});
document.title = `sort ${sort} filter ${filter}`;
"""


def open_in_browser(page: Path) -> dict[str, float | int]:
    """Times of the page in headless Chromium, which is started for it; empty without Chromium.

    browser_seconds: until the page is loaded and shown; sort_milliseconds, filter_milliseconds: of its largest table.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        return {}
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    begun = time.perf_counter()
    subprocess.run([*command, page.resolve().as_uri()], capture_output=True, check=True, timeout=120)
    seconds = round(time.perf_counter() - begun, 1)
    before, end, after = page.read_text(encoding="utf-8").rpartition("</body>")
    acted = page.with_name("acted.html")
    acted.write_text(f"{before}<script>{ACT}</script>{end}{after}", encoding="utf-8")
    done = subprocess.run(
        [*command, acted.resolve().as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    title = re.search(r"<title>sort (\d+) filter (\d+)</title>", done.stdout)
    if title is None:
        raise SystemExit(f"{acted}: the browser could not sort and filter it")
    sort, filtered = map(int, title.groups())
    return {"browser_seconds": seconds, "sort_milliseconds": sort, "filter_milliseconds": filtered}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(arguments)
    study = make_study(options.tasks)
    begun = time.perf_counter()
    write_metrics(study, options.out / "metrics")
    counted = time.perf_counter()
    cpu = time.process_time()
    page = write_report(options.out / "metrics", options.out / "report", study)
    built, cpu = time.perf_counter(), time.process_time() - cpu
    figures = {
        "made_by": "python -m benchmarks.report",
        **facts(LIBRARIES),
        "configurations": len(list(study.configurations())),
        "trials": len(list(study.configurations())) * len(study.seeds),
        "statistics_seconds": round(counted - begun, 1),
        "report_seconds": round(built - counted, 1),
        "report_cpu_seconds": round(cpu, 1),
        "page_megabytes": round(page.stat().st_size / 1e6, 2),
        **open_in_browser(page),
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
