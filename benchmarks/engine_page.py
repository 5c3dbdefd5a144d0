"""docs/measured/engine-benchmarks.md, from what benchmarks/engine.py has measured."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import table

GOAL = 20.0  # ms of CPU a trial, all steps together


def page(run: dict[str, Any]) -> str:
    of_study = run["study"]
    steps = [
        [step["what"], f"{step['cpu_seconds']:.0f}", f"{1000 * step['cpu_seconds'] / of_study['trials']:.2f}",
         f"{step['peak_megabytes']}"]
        for step in of_study["steps"].values()
    ]  # fmt: skip
    met = "met" if of_study["milliseconds_per_trial"] <= GOAL else "missed"
    stages = [
        [str(pair["stages"]), *(f"{pair[turn][column]:.1f}" for turn in ("first", "again") for column in COLUMNS),
         f"{1000 * pair['again']['cpu_seconds'] / pair['stages']:.0f}"]
        for pair in run["dvc"]
    ]  # fmt: skip
    return PAGE.format(
        trials=of_study["trials"],
        configurations=of_study["configurations"],
        steps=table(["step", "CPU s", "ms a trial", "peak MB"], steps, right=[1, 2, 3]),
        total=f"{of_study['milliseconds_per_trial']:.1f}",
        goal=f"{GOAL:g}",
        met=met,
        idle=of_study["idle_stage_cpu_seconds"],
        page=of_study["steps"]["report"]["page_megabytes"],
        dvc=table(DVC_HEADER, stages, right=range(6)),
        made=_made(run["made"]["study"], run["made"]["dvc"]),
    )


def _made(study: dict[str, Any], dvc: dict[str, Any]) -> str:
    """Where, when and with what both parts were made, in one line if it is the same."""
    of_study, of_dvc = _line(study), _line(dvc)
    return of_study if of_study == of_dvc else f"The study: {of_study}\n\nDVC's own share: {of_dvc}"


def _line(made: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return f"{made['machine']}; {made['date']}; {versions}."


COLUMNS = ("cpu_seconds", "wall_seconds")
DVC_HEADER = [
    "stages",
    "first, CPU s",
    "first, wall s",
    "again, CPU s",
    "again, wall s",
    "again, CPU ms a stage",
]
PAGE = """# What a study's bookkeeping costs

`python -m benchmarks.engine` writes this page; its docstring says what is measured. Do not edit it by hand.

**A study of {trials:,} trials** ({configurations:,} configurations of 5 seeds, 277 validation rows each) whose trials
take no time, so that only bookkeeping is left. Each step is one process on one thread. When trials are handed to two
workers, only the process that hands them out is counted.

{steps}

Together this is {total} ms of CPU a trial; the goal of at most {goal} ms is {met}. The report is one page of {page} MB.
One cost is not in the table. In a real study each configuration is a process of its own. If it finds nothing to
do, it takes {idle} CPU seconds, its start included.

**DVC's own share.** `dvc repro` runs generated stages that write one small file each, and then runs again with nothing
to do. Because of this cost a stage is a configuration, and runs all its seeds.

{dvc}

{made}
"""
