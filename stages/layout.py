"""Where the pipeline keeps things: the one place that knows the folders under data/ (dvc.yaml names the same)."""

from __future__ import annotations

from pathlib import Path

DATA = Path("data")
METRICS = Path("metrics")
REPORT = Path("report")
TRIALS = DATA / "trials"


def task_folder(task: str) -> Path:
    return DATA / "tasks" / task


def teacher_folder(task: str, teacher: str) -> Path:
    return DATA / "teachers" / task / teacher


def caches_folder(task: str) -> Path:
    return DATA / "logits" / task


def cache_folder(task: str, teacher: str) -> Path:
    return caches_folder(task) / teacher


def configuration_folder(task: str, student: str, regularizer: str) -> Path:
    return TRIALS / task / student / regularizer
