"""The section on origin: the steps, the library versions they ran with, and the fingerprints of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from kdcache.report.downloads import Download, downloads
from kdcache.report.sections import WithoutCharts
from kdcache.results.reading import Metrics
from kdcache.statistics import wording
from kdcache.study import Study

# Rows of a table: a stage's command, and what the stage makes.
STEPS = (
    ("python -m stages.prepare --task T", "the task’s rows, checked, each with a hash of its content"),
    ("python -m stages.teach --task T --teacher M", "the teacher, fine-tuned on the prepared rows"),
    ("python -m stages.cache --task T --teacher M", "its logits of every row, once"),
    (
        "python -m stages.train --task T --student S --regularizer R",
        "a trial for each seed: trained on the prepared rows and, for a distiller, cached logits",
    ),
    ("python -m stages.compare", "the files of metrics/, from the trials of the study below and no others"),
    ("python -m stages.report", "this page, from those files and nothing else"),
)
SHOWN = 12  # characters of a fingerprint that are shown; provenance.json has the whole
KINDS = ("cache", "views", "unlabelled", "data", "weights", "preprocessing", "code")


@dataclass(frozen=True)
class Prints:
    """A task's rows or a teacher's cached logits, with shortened fingerprints of what they come from."""

    name: str
    rows: str
    prints: list[tuple[str, str]]


@dataclass(frozen=True)
class OriginSection(WithoutCharts):
    template: ClassVar[str] = "sections/origin.html.j2"
    downloads: list[Download]
    made_with: list[tuple[str, str]]
    prints: list[Prints]
    params: str
    steps: tuple[tuple[str, str], ...] = STEPS


def make_section(metrics: Metrics, study: Study) -> OriginSection:
    params = yaml.safe_dump(study.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    return OriginSection(downloads(metrics), made_with(metrics), fingerprints(metrics), params)


def made_with(metrics: Metrics) -> list[tuple[str, str]]:
    """The libraries and devices of the trials and of the comparison, with versions; empty without provenance.json."""
    made = metrics.provenance
    trials = [f"{name} {wording.listing(versions)}" for name, versions in made.get("versions", {}).items()]
    devices = [f"{wording.count(n, 'trial')} on {device}" for device, n in made.get("devices", {}).items()]
    statistics = [f"{name} {version}" for name, version in made.get("statistics", {}).items()]
    adopted = [_adopted(adoption) for adoption in made.get("adopted", [])]
    said = (
        ("Trained with", trials),
        ("Trained on", devices),
        ("Code refactored since", adopted),
        ("Compared with", statistics),
    )
    return [(name, ", ".join(facts)) for name, facts in said if facts]


def _adopted(facts: dict[str, Any]) -> str:
    """A sentence that trials were kept although their code was rewritten, and what was checked; see `kdcache adopt`."""
    return (
        f"from {facts['from'][:SHOWN]} to {facts['to'][:SHOWN]}: {facts['checked']} of "
        f"{wording.count(facts['of'], 'training')} were run again, with the same logits and losses bit for bit"
    )


def fingerprints(metrics: Metrics) -> list[Prints]:
    """The fingerprints of tasks, then of the teachers' cached logits; empty without provenance.json."""
    made = metrics.provenance
    tasks = [
        Prints(name, _rows(task["rows"]), _shortened(task)) for name, task in made.get("tasks", {}).items()
    ]
    caches = [
        Prints(
            f"logits of {cache['teacher']} on {cache['task']}",
            "",
            _shortened(cache),
        )
        for cache in made.get("caches", [])
    ]
    return tasks + caches


def _shortened(prints: dict[str, Any]) -> list[tuple[str, str]]:
    return [(kind, prints[kind][:SHOWN]) for kind in KINDS if kind in prints]


def _rows(rows: dict[str, int]) -> str:
    return wording.listing(f"{count:,} {split}" for split, count in rows.items())
