"""Estimate what a planned study takes: stages, optimizer steps, hours, disk.

The hours come from measured speeds. These are from `kdcache.cli.planning.timing`, which times models on this machine,
or from finished runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from kdcache.cli.planning.plan import Plan
from kdcache.cli.planning.runs import STATES, Job, Run, Size
from kdcache.logits.opening import open_cache
from kdcache.study import Student, Study

WEIGHT_BYTES = 4  # float32
PARTS = ("total", "left")


@dataclass(frozen=True)
class Speed:
    """Seconds for an optimizer step and for predicting a row, the device, and the model's number of parameters."""

    step: float
    row: float
    device: str
    source: Literal["calibration", "finished runs"]
    parameters: int | None = None


def measured(job: Job) -> Speed | None:
    """The speed of the job's finished runs; None if there are none."""
    finished_runs = [
        (run.finished, run.logits)
        for run in job.runs
        if run.state in ("done", "unkept", "unchecked")
        and run.finished
        and run.finished["seconds"] is not None
        and run.finished["steps"] is not None
    ]
    if not finished_runs:
        return None
    costs = [open_cache(logits).cost if logits.exists() else None for _, logits in finished_runs]
    return Speed(
        # An untrained teacher (a checkpoint as it is) has no steps.
        step=fmean(finished["seconds"] / max(finished["steps"], 1) for finished, _ in finished_runs),
        row=fmean(1 / cost.rows_per_second if cost else 0.0 for cost in costs),
        device=", ".join(dict.fromkeys(finished["device"] for finished, _ in finished_runs)),
        source="finished runs",
    )


def _measured(plan: Plan) -> dict[tuple[str, str, str], Speed | None]:
    """Each job's measured speed. A model in tuning has the same speed as in the study."""
    own = {key(job): measured(job) for job in plan.jobs if job.kind in ("teacher", "student")}
    alike = {key(job): (job.kind.removeprefix("tuned "), job.task, job.model) for job in plan.jobs}
    return {name: own.get(alike_key) for name, alike_key in alike.items()}


def describe(plan: Plan, speeds: Mapping[tuple[str, str, str], Speed] | None = None) -> dict[str, Any]:
    """The plan as one JSON-like object. Unknown values are None.

    `steps_each` of a job lists the different numbers of steps of its runs. (A method that uses unlabelled rows has
    more.)

    Args:
        speeds: each job's speed, by (kind, task, model); default: the speed of its finished runs.
    """
    known = speeds if speeds is not None else _measured(plan)
    jobs = [_described(job, known.get(key(job))) for job in plan.jobs]
    return {
        "stages": _stages(plan.study),
        "teachers": _counted(job for job in plan.jobs if job.kind == "teacher"),
        "trials": _counted(job for job in plan.jobs if job.kind == "student"),
        **_tuning(plan),
        "steps": {part: _sum(job[f"steps_{part}"] for job in jobs) for part in PARTS},
        "seconds": {part: _sum(job[f"seconds_{part}"] for job in jobs) for part in PARTS},
        "seconds_known": {part: _sum_known(job[f"seconds_{part}"] for job in jobs) for part in PARTS},
        "disk_bytes": {"logits": _sum(job["logit_bytes"] for job in jobs), **_weight_bytes(plan, known)},
        "devices": sorted({job["device"] for job in jobs if job["device"]}),
        "rows": {task: size and _rows(size) for task, size in plan.sizes.items()},
        "jobs": jobs,
        "notes": list(plan.notes),
    }


def cost_of(trials: int, described: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds and bytes of logits of a study that ends after `trials` trials, including teachers and the rest.

    Each trial counts as an average trial.

    Args:
        described: the result of `describe` for all trials that the study may have. Unknown values stay None.
    """
    share = trials / described["trials"]["total"]
    costs: dict[str, Any] = {"trials": trials}
    for name, total in (("seconds", "seconds_total"), ("logit_bytes", "logit_bytes")):
        ours = _sum(job[total] for job in described["jobs"] if job["kind"] == "student")
        others = _sum(job[total] for job in described["jobs"] if job["kind"] != "student")
        costs[name] = None if ours is None or others is None else others + ours * share
    return costs


def _rows(size: Size) -> dict[str, int]:
    more = {} if size.unlabelled is None else {"unlabelled": size.unlabelled}
    return {"train": size.train, "evaluated": size.evaluated, **more}


def key(job: Job) -> tuple[str, str, str]:
    return job.kind, job.task, job.model


def _stages(study: Study) -> dict[str, int]:
    """The number of DVC's stages. It includes those of pairs that `tasks:` excludes, which only leave a note."""
    tasks, taught = len(study.tasks), len(study.tasks) * len(study.teachers)
    pairs = tasks * len(study.students)
    counts = {
        "prepare": tasks,
        "teach": taught,
        "cache": taught,
        "tune": 1,
        "train": pairs * len(study.regularizers),
        "distill": pairs * len(study.distillers),
        "compare": 1,
        "report": 1,
    }
    idle = 2 * (taught - len(list(study.taught())))
    idle += pairs * len(study.methods()) - len(list(study.configurations()))
    return {**counts, "total": sum(counts.values()), "not_applicable": idle}


def _tuning(plan: Plan) -> dict[str, Any]:
    """If the study is tuned: the settings of each method, their trials, and the teachers that they learn from."""
    tuning = plan.study.tuning
    if tuning is None:
        return {}
    trials = _counted(job for job in plan.jobs if job.kind == "tuned student")
    taught = _counted(job for job in plan.jobs if job.kind == "tuned teacher")
    return {
        "tuning": {
            "settings": tuning.budget,
            "seeds": len(tuning.seeds),
            "trials": trials,
            "teachers": taught,
        }
    }


def _counted(jobs: Iterable[Job]) -> dict[str, int]:
    states = Counter(run.state for job in jobs for run in job.runs)
    return {
        "total": states.total(),
        **{state: states[state] for state in STATES},
    }


def _described(job: Job, speed: Speed | None) -> dict[str, Any]:
    states, steps = _counted([job]), _distinct(run.steps for run in job.runs)
    return {
        "kind": job.kind,
        "task": job.task,
        "model": job.model,
        "rows": job.size and _rows(job.size),
        "runs": states.pop("total"),
        **states,
        "steps_each": steps,
        "steps_total": _sum(run.steps for run in job.runs),
        "steps_left": None if steps is None else _sum(run.steps for run in job.remaining),
        "seconds_a_step": speed.step if speed else None,
        "seconds_total": _seconds(job, job.runs, speed),
        "seconds_left": _seconds(job, job.remaining, speed),
        "logit_bytes": _sum(run.kept_bytes for run in job.runs),
        "device": speed.device if speed else None,
        "speed_from": speed.source if speed else None,
    }


def _distinct(steps: Iterable[int | None]) -> list[int] | None:
    """The different numbers in ascending order; None if one is unknown."""
    counts = set(steps)
    return None if None in counts else sorted(count for count in counts if count is not None)


def _seconds(job: Job, runs: tuple[Run, ...], speed: Speed | None) -> float | None:
    if not runs:
        return 0.0
    rows, steps = _sum(run.predicted for run in runs), _sum(run.steps for run in runs)
    if speed is None or steps is None or rows is None:
        return None
    return float(steps) * speed.step + float(rows) * speed.row


def _sum(values: Iterable[Any]) -> Any:
    """The sum; None if a value is unknown."""
    terms = list(values)
    return None if any(term is None for term in terms) else sum(terms)


def _sum_known(values: Iterable[Any]) -> Any:
    return sum(value for value in values if value is not None)


def _weight_bytes(plan: Plan, speeds: Mapping[tuple[str, str, str], Speed | None]) -> dict[str, int | None]:
    """The bytes of the teachers' weights, and of the weights of kept students."""
    weights: dict[str, list[int | None]] = {"teacher": [], "student": []}
    for job in plan.jobs:
        speed, models = speeds.get(key(job)), _kept_models(job, plan.study)
        parameters = speed.parameters if speed else None
        size = None if parameters is None else WEIGHT_BYTES * parameters * models
        weights["student" if job.kind == "student" else "teacher"].append(size if models else 0)
    return {f"{kind}s": _sum(sizes) for kind, sizes in weights.items()}


def _kept_models(job: Job, study: Study) -> int:
    """How many trained models will be kept: one for a teacher; for a student as many as `keep` says."""
    if job.kind == "tuned student":
        return 0
    if not isinstance(job.params, Student):
        return 1
    seeds = [seed for method in study.methods() for seed in study.seeds_of(job.task, job.model, method)]
    return sum(job.params.keeps(seed) for seed in seeds)
