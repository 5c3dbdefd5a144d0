"""The metrics files inside the page, so that somebody who gets only the page has the numbers too."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from kdcache.results.reading import Metrics

LARGEST = 2_000_000  # bytes; larger files are left out, so that the page still opens on a phone
HOLDS = {
    "comparisons.csv": "every configuration against the baseline",
    "looks.csv": "what each look showed of every comparison that was open",
    "trials.csv": "every trial with its scores and identity",
    "examples.csv": "seeds and rows as sources of error, McNemar",
    "calibration.csv": "NLL, Brier score and ECE against the baseline",
    "reliability.csv": "the bins of the reliability diagrams",
    "across.csv": "each regularizer over several tasks",
    "curves.csv": "the training loss of every epoch",
    "teachers.csv": "each teacher's scores, how soft its labels are, its gap to a student",
    "tuning.csv": "every setting that was tried, and which was chosen",
    "cost.csv": "seconds and memory of teachers, caches and trials",
    "summary.json": "the claims with their verdicts and numbers",
    "provenance.json": "versions and fingerprints behind the numbers",
}


@dataclass(frozen=True)
class Download:
    """A file: its name, size and content in words, and its address, which is empty if the file is left out."""

    name: str
    size: str
    holds: str
    address: str


def downloads(metrics: Metrics) -> list[Download]:
    """The existing files, in the order of `HOLDS`."""
    return [_download(name, metrics.files[name]) for name in HOLDS if name in metrics.files]


def _download(name: str, text: str) -> Download:
    content = text.encode("utf-8")
    kind = "application/json" if name.endswith(".json") else "text/csv"
    address = f"data:{kind};charset=utf-8;base64,{base64.b64encode(content).decode()}"
    size = f"{max(1, round(len(content) / 1024)):,} kB"
    return Download(name, size, HOLDS[name], address if len(content) <= LARGEST else "")
