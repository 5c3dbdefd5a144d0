"""Read runs to compare: from a folder, or from a Git revision without checking it out.

`dvc exp run` keeps its experiments as Git commits, so their names and hashes are revisions too.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from rich.table import Table

from kdcache.cli import printing
from kdcache.errors import ComparisonError
from kdcache.results.reading import read_table
from kdcache.results.schema import ComparisonRow, TrialRow
from kdcache.statistics import wording
from kdcache.statistics.runs import Change, Side, StudyRun, changes, different_params
from kdcache.study.metrics import Metric, Unit, unit_of
from kdcache.system.params_file import parse_params
from kdcache.system.quoting import quoted

Read = Callable[[Path], str]


def read_run(name: str, params: Path, metrics: Path) -> StudyRun:
    """The run in a folder or a Git revision.

    Args:
        name: a folder that holds a study, or a revision of the repository around the working folder.
        params, metrics: the study file and the metrics folder, relative to the folder or the revision's root.

    Raises:
        ComparisonError: there is no such folder or revision, it lacks a file, or a file is faulty.
        ParamsError: the study file is not a study file.
    """
    read = _folder(Path(name)) if Path(name).is_dir() else _revision(name)
    trials, comparisons = (
        read_table(read(metrics / f"{file}.csv"), f"{name}: {metrics / file}.csv", table)
        for file, table in (("trials", TrialRow), ("comparisons", ComparisonRow))
    )
    _check_numbers(trials, f"{name}: {metrics / 'trials.csv'}")
    return StudyRun(name, dict(parse_params(read(params), f"{name}: {params}")), trials, comparisons)


def _check_numbers(trials: pd.DataFrame, place: str) -> None:
    """Refuse a seed that is no whole number, and a score that is no number. A failed trial's score is blank."""
    for column in ("seed", *(metric for metric in get_args(Metric) if metric in trials)):
        wrong = [value for value in trials[column] if not _is_number(value, whole=column == "seed")]
        if wrong:
            what = "whole numbers" if column == "seed" else "numbers"
            raise ComparisonError(
                f"{place}: column {column}: expected {what}, found {quoted(wrong[0])}; run compare again there"
            )


def _is_number(value: object, whole: bool) -> bool:
    return isinstance(value, int) or (not whole and isinstance(value, float) and not math.isinf(value))


def _folder(folder: Path) -> Read:
    def read(path: Path) -> str:
        try:
            data = (folder / path).read_bytes()
        except OSError as error:
            raise ComparisonError(
                f"{folder / path}: cannot be read ({error.strerror}); run `dvc repro` there, or say with --params and "
                "--metrics where the study file and the metrics folder are"
            ) from None
        return _text(data, f"{folder / path}")

    return read


def _revision(name: str) -> Read:
    commit = _commit(name)

    def read(path: Path) -> str:
        data = _git("cat-file", "blob", f"{commit}:./{path.as_posix()}")
        if data is None:
            raise ComparisonError(
                f"{name}: has no {path} ({commit[:9]}); were its results committed? --params and --metrics say where "
                "the study file and the metrics folder are"
            )
        return _text(data, f"{name}: {path}")

    return read


def _text(data: bytes, place: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ComparisonError(f"{place}: line {line}: not UTF-8; save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ComparisonError(
            f"{place}: line {line}: expected text, found a NUL byte; save it as UTF-8 without it"
        )
    return text


def _commit(name: str) -> str:
    """The commit of a branch, tag, hash or DVC experiment."""
    commit_id = _git_lines("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    experiments = (
        "" if commit_id else _git_lines("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    )
    named = {line.split()[0] for line in experiments.splitlines() if line.endswith(f"/{name}")}
    if not commit_id and not named:
        raise ComparisonError(
            f"{name}: neither a folder nor a Git revision or DVC experiment of this repository"
        )
    if len(named) > 1:  # DVC allows the same name once for each commit from which experiments start
        raise ComparisonError(
            f"{name}: {len(named)} DVC experiments are called so; name one by its hash: {', '.join(sorted(named))}"
        )
    return commit_id.strip() if commit_id else named.pop()


def _git_lines(*arguments: str) -> str:
    """Git's lines of hashes and names, which may be of any bytes, as names on the command line; "" if it fails."""
    return os.fsdecode(_git(*arguments) or b"")


def _git(*arguments: str) -> bytes | None:
    """What Git prints; None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise ComparisonError("git is not installed, so only folders can be compared") from None
    return done.stdout if done.returncode == 0 else None


def compared(a: StudyRun, b: StudyRun) -> dict[str, Any]:
    """Both runs as one JSON-like object."""
    params = [{"path": path, "a": value_a, "b": value_b} for path, value_a, value_b in different_params(a, b)]
    return {"a": a.name, "b": b.name, "params": params, "configurations": list(map(asdict, changes(a, b)))}


def print_compared(a: StudyRun, b: StudyRun) -> None:
    """Two tables: the parameters that differ, and every configuration."""
    printing.show(f"a: {printing.cell(a.name)}\nb: {printing.cell(b.name)}")
    different = different_params(a, b)
    if different:
        parameters = Table("parameter", "a", "b")
        for row in different:
            parameters.add_row(*map(printing.cell, row))
        printing.show(parameters)
    else:
        printing.show("No parameter differs.")
    table = Table("task", "student", "regularizer")
    for head in ("a", "b", "b - a", "95% interval"):
        table.add_column(head, justify="right")
    for head in ("verdict a", "verdict b", ""):
        table.add_column(head)
    for change in changes(a, b):
        table.add_row(*map(printing.cell, _row(change)))
    printing.show(table)
    printing.show(
        "Scores in the metric's unit (points, nats, bits), mean ± sd over seeds. b - a is how much better b is, "
        "matched by seed; its interval stands alone, uncorrected."
    )


def _row(change: Change) -> list[str]:
    unit = unit_of(change.metric)
    names = [
        change.task, change.student, change.regularizer, _score(change.a, unit), _score(change.b, unit)
    ]  # fmt: skip
    if change.same:
        return [*names, "", "", change.a.verdict, change.b.verdict, "same trials"]
    interval = "" if change.ci_low is None else wording.gains(change.ci_low, change.ci_high, unit)
    moved = "" if change.change is None else wording.gain(change.change, unit)
    return [*names, moved, interval, change.a.verdict, change.b.verdict, change.note]


def _score(side: Side, unit: Unit) -> str:
    return "" if not side.seeds else wording.score(side.mean, unit, side.sd)
