"""What a study's bookkeeping costs: 10,000 trials that take no time, and DVC's own share per stage.

`python -m benchmarks.engine` makes a study of 8 tasks x 50 students x 5 regularizers x 5 seeds whose trials write
invented logits of 277 validation rows at once, and takes it through every step that a real one goes through: planning
(identities, what is missing), running, planning again with nothing missing, compare and report. Each step runs in a
process of its own, so that its peak memory is its own. Then DVC runs generated pipelines of stages that do nothing.
CPU seconds are counted, since wall time on a shared machine depends on its other users.

Results go to benchmarks/results/engine.json and docs/measured/engine-benchmarks.md, unless the study or the pipelines
have other sizes than usual; then only to the files that are named. `--dvc-only` measures DVC alone, and `--stages`
without a number the study alone; the other part stays, with the date and the machine of its own measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks import report as sample
from benchmarks.cache.measuring import in_child, peak_memory, profiled
from benchmarks.engine_page import page
from benchmarks.keeping import facts, without_settings
from kdcache.errors import KdcacheError
from kdcache.study import Study
from kdcache.system.files import read_json, write_atomically, write_json
from kdcache.trials.plan import TrialPlan
from stages import stage_errors

JSON, PAGE = Path("benchmarks/results/engine.json"), Path("docs/measured/engine-benchmarks.md")
LABELS = ["no", "yes"]
ROWS, ROWS_FILE = sample.ROWS, "rows.csv"
TASKS, PAIRS = 8, 25
STAGES = (10, 100, 300)
LIBRARIES = ("dvc", "numpy", "pandas", "scipy", "pyarrow", "pydantic", "altair")


# ---- the study and its trials ----


def make_study(tasks: int, pairs: int) -> Study:
    """`benchmarks.report`'s study, with 2 x `pairs` students, each pretrained and from scratch."""
    values = sample.make_study(tasks).model_dump(exclude_unset=True)
    model = sample.MODEL | {"teacher": "teacher"}
    values["students"] = {
        f"m{pair}{suffix}": model | {"checkpoint": f"models/m{pair}", "init": init}
        for pair in range(pairs)
        for suffix, init in {"": "pretrained", "-scratch": "scratch"}.items()
    }
    files = {"train": ROWS_FILE, "validation": ROWS_FILE}
    task = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 24}
    values["tasks"] = dict.fromkeys(values["tasks"], task)
    values["comparison"]["baseline"] = "base"
    return Study.model_validate(values)


def lay_out(study: Study) -> None:
    """Put into the current folder what a study has before its trials start: tasks, checkpoints, teachers' logits."""
    from kdcache.tasks.prepare import prepare_task
    from kdcache.trials.layout import Layout

    for place in range(len({student.checkpoint for student in study.students.values()})):
        _write_checkpoint(Path(f"models/m{place}"))
    rows = "text,label\n" + "".join(f"row {row},{LABELS[row % 2]}\n" for row in range(ROWS))
    Path(ROWS_FILE).write_text(rows, encoding="utf-8")
    for task, spec in study.tasks.items():
        prepare_task(spec, Layout().task(task), task)
        for teacher in study.teachers:
            folder = Layout().cache(task, teacher)
            _write_logits(folder, Layout().task(task), "teacher", 0, ("train", "validation"))
            write_json(folder / "teacher.json", {"seconds": 100.0, "peak_memory_mb": 500.0, "device": "cpu"})


def _write_checkpoint(folder: Path) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "bert"})
    write_json(folder / "tokenizer.json", {})
    save_file({"weight": np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")


def run_at_once(plan: TrialPlan) -> None:
    """A trial without training: it only writes what a trial writes."""
    from kdcache.system.versions import installed
    from kdcache.trials.layout import LOGITS
    from kdcache.trials.result import TrialCost, TrialResult, write_cost, write_result

    scratch = plan.model.init == "scratch"
    gained = sample.METHODS.get(plan.regularizer, 0.0) / 100 * scratch
    _write_logits(
        plan.folder / LOGITS,
        plan.task_folder,
        plan.identity,
        plan.seed,
        plan.splits,
        0.85 - 0.1 * scratch + gained,
    )
    result = TrialResult(
        identity=plan.identity,
        task=plan.task,
        student=plan.student,
        family="bert",
        init=plan.model.init,
        checkpoint=plan.model.checkpoint,
        layers=None,
        teacher=plan.method.teacher_name(plan.model),
        regularizer=plan.regularizer,
        seed=plan.seed,
        params={"student": plan.model.model_dump(), "regularizer": plan.method.model_dump()},
        steps=100,
        losses=[1 / (step + 1) for step in range(plan.model.epochs)],
        device="cpu",
        precision="float32",
        versions=installed(),
    )
    write_cost(plan.folder, TrialCost(seconds=20.0, peak_memory_mb=500.0, device="cpu"))
    write_result(plan.folder, result)


def _write_logits(
    folder: Path, task_folder: Path, weights: str, seed: int, splits: Sequence[str], right: float = 0.9
) -> float:
    """Write logits whose right class is ahead with a chance of `right`; returns the accuracy on validation."""
    from kdcache.logits import Cost, Fingerprints, LogitWriter
    from kdcache.tasks.card import read_card

    random, card = np.random.default_rng([seed, len(weights), ord(weights[0])]), read_card(task_folder)
    prints = Fingerprints(data=card.fingerprint, weights=weights, preprocessing="none", code="none")
    with LogitWriter(folder, classes=2, label_names=card.label_names, fingerprints=prints) as writer:
        for split in splits:
            hashes, labels = _rows(task_folder, split)
            ahead = random.random(ROWS) < right
            logits = random.normal(0, 0.3, (ROWS, 2)).astype(np.float32)
            logits[np.arange(ROWS), np.where(ahead, labels, 1 - labels)] += 2
            writer.write(split, np.arange(ROWS), hashes, logits)
        writer.finish(cost=Cost(seconds=1.0, rows_per_second=ROWS, device="cpu", peak_memory_mb=500.0))
    return float((logits.argmax(axis=1) == labels).mean())


@functools.cache
def _rows(task_folder: Path, split: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hashes and labels of a task's rows, read once a process, as the worker of a real trial encodes them once."""
    from kdcache.tasks.prepared import PreparedTask

    rows = PreparedTask(task_folder).rows(split, ["row_hash", "label"])
    return rows["row_hash"].to_numpy(), rows["label"].to_numpy()


# ---- the steps; each is a process ----


def _plans(study: Study, configuration: tuple[str, str, str]) -> list[TrialPlan]:
    """The plans that a configuration lacks, found like the stages `train` and `distill` do."""
    from kdcache.system.locks import exclusive
    from kdcache.trials.layout import Layout
    from kdcache.trials.missing import trials_to_run

    with exclusive(Layout().configuration(*configuration)):
        return trials_to_run(study, Layout(), *configuration)


def plan(study: Study) -> dict[str, Any]:
    """Plan when nothing is missing: in a study that was run this checks every result and all logits."""
    return {"missing": sum(len(_plans(study, configuration)) for configuration in study.configurations())}


def plan_and_run(study: Study) -> dict[str, Any]:
    """Plan each configuration and run what it lacks, in this process."""
    from kdcache import engine

    ran = 0
    for configuration in study.configurations():
        plans = _plans(study, configuration)
        engine.run_trials(plans, run_at_once, workers=1, engine="local")
        ran += len(plans)
    return {"ran": ran}


def hand_out(study: Study) -> dict[str, Any]:
    """Hand all trials to two worker processes that do nothing, to see what handing out costs."""
    from kdcache import engine

    plans = [
        TrialPlan(Path(f"none/seed-{seed}"), "0", task, Path("none"), "0", student, study.students[student], method,
                  study.method(method), seed, (), False)
        for task, student, method in study.configurations()
        for seed in study.seeds
    ]  # fmt: skip
    engine.run_trials(plans, do_nothing, workers=2, engine="local")
    return {"ran": len(plans)}


def do_nothing(plan: TrialPlan) -> None:
    """An instantaneous trial."""


def compare(study: Study) -> dict[str, Any]:
    from kdcache.trials.layout import Layout
    from stages.compare import write_metrics

    with contextlib.redirect_stdout(None):
        write_metrics(study, Layout(), Layout().metrics)
    return {"comparisons": len((Layout().metrics / "comparisons.csv").read_text().splitlines()) - 1}


def report(study: Study) -> dict[str, Any]:
    from kdcache.report.page import write_report
    from kdcache.trials.layout import Layout

    page = write_report(Layout().metrics, Layout().report, study)
    return {"page_megabytes": round(page.stat().st_size / 1e6, 2)}


STEPS: dict[str, tuple[str, Callable[[Study], dict[str, Any]]]] = {
    "run": ("plan every trial, run it, write its result and logits", plan_and_run),
    "plan": ("plan again with nothing missing: every result and all logits are checked", plan),
    "hand_out": ("hand trials to two workers", hand_out),
    "compare": ("compare", compare),
    "report": ("report", report),
}


def measured(step: str, study: Study, folder: Path, profile: bool) -> dict[str, Any]:
    """Run a step in a process of its own: CPU seconds, wall seconds, peak memory, and the step's facts.

    The workers of `hand_out` do not count: they are the fork server's children, and import torch in any case.
    """
    os.chdir(folder)
    logging.disable(logging.WARNING)
    work = STEPS[step][1]
    begun, cpu = time.perf_counter(), _cpu_seconds()
    lines = []
    if profile:
        lines = profiled(lambda: work(study))
        more: dict[str, Any] = {}
    else:
        more = work(study)
    return {
        "what": STEPS[step][0],
        "cpu_seconds": round(_cpu_seconds() - cpu, 2),
        "wall_seconds": round(time.perf_counter() - begun, 2),
        "peak_megabytes": round(peak_memory() / 1e6),
        **more,
        **({"profile": lines} if lines else {}),
    }


def _cpu_seconds() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


# ---- DVC's own share ----


def dvc(stages: int) -> dict[str, Any]:
    """`dvc repro` of stages that each write a file, then again with nothing to do; CPU and wall seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _dvc(folder, "init", "--no-scm", "--quiet")
        (folder / ".dvc" / "config").write_text(
            "[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8"
        )
        matrix = {"matrix": {"n": list(range(stages))}, "cmd": "echo ${item.n} > out-${item.n}"}
        pipeline = {"stages": {"trial": matrix | {"deps": ["params.yaml"], "outs": ["out-${item.n}"]}}}
        (folder / "params.yaml").write_text("{}\n", encoding="utf-8")
        (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
        return {"stages": stages, "first": _timed(folder), "again": _timed(folder)}


def _timed(folder: Path) -> dict[str, float]:
    begun, cpu = time.perf_counter(), _cpu_seconds()
    _dvc(folder, "repro", "--quiet")
    return {
        "cpu_seconds": round(_cpu_seconds() - cpu, 2),
        "wall_seconds": round(time.perf_counter() - begun, 2),
    }


def _dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


def idle_stage(folder: Path, study: Study) -> float:
    """CPU seconds of one `python -m stages.train` process that finds nothing missing, its start included."""
    (folder / "params.yaml").write_text(
        yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True)), encoding="utf-8"
    )
    task, student, method = next(study.configurations())
    names = ["--task", task, "--student", student, "--regularizer", method]
    path = str(Path(__file__).parents[1])
    cpu = _cpu_seconds()
    command = [sys.executable, "-m", "stages.train", *names]
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        capture_output=True,
        env={**without_settings(os.environ), "PYTHONPATH": path},
    )
    return round(_cpu_seconds() - cpu, 2)


# ---- the command line ----


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the steps' processes: waiting threads would count as work
    run = _kept(args)
    if not args.dvc_only:
        made = facts(LIBRARIES)
        with tempfile.TemporaryDirectory() as folder:
            measured_study = measure_study(make_study(args.tasks, args.pairs), Path(folder), args.profile)
        _put(run, "study", measured_study, made)
    if args.stages:
        made = facts(LIBRARIES)
        _put(run, "dvc", [dvc(stages) for stages in args.stages], made)
    print(json.dumps(run, indent=2))
    if args.json:
        write_json(args.json, run)
    if args.page:
        write_atomically(args.page, page(run).encode("utf-8"))


def _put(run: dict[str, Any], part: str, result: Any, made: dict[str, Any]) -> None:
    """Replace a part of the results, and when, where and with what it was made; the other part keeps its own."""
    run["made"] = {**run.get("made", {}), part: made}
    run[part] = result


def measure_study(study: Study, folder: Path, profile: bool) -> dict[str, Any]:
    configurations = len(list(study.configurations()))
    trials = configurations * len(study.seeds)
    in_child(_lay_out_in, study, folder)
    steps = {}
    for step in STEPS:
        steps[step] = in_child(measured, step, study, folder, profile)
        print(step, steps[step], file=sys.stderr)
    total = sum(step_result["cpu_seconds"] for step_result in steps.values())
    return {
        "configurations": configurations,
        "trials": trials,
        "steps": steps,
        "milliseconds_per_trial": round(1000 * total / trials, 2),
        "idle_stage_cpu_seconds": idle_stage(folder, study),
    }


def _lay_out_in(study: Study, folder: Path) -> None:
    os.chdir(folder)
    lay_out(study)


def _kept(args: argparse.Namespace) -> dict[str, Any]:
    """What the file of --json has.

    Raises:
        KdcacheError: a page is asked for, and neither this run nor the file has one of its parts.
    """
    kept = dict(read_json(args.json)) if args.json and args.json.exists() else {}
    missing = [
        part
        for part, left in (("study", args.dvc_only), ("dvc", not args.stages))
        if left and part not in kept
    ]
    if args.page and missing:
        raise KdcacheError(
            f"{args.json or '--json'}: has no part {missing[0]!r}, which the page needs; "
            "measure it, or leave out --page"
        )
    return kept


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=TASKS, help="default: %(default)s")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, help="checkpoints; each is two students (default: %(default)s)"
    )
    parser.add_argument(
        "--stages", type=int, nargs="*", default=STAGES, help="DVC stages (default: 10 100 300)"
    )
    parser.add_argument("--dvc-only", action="store_true", help="leave the study as it was measured before")
    parser.add_argument(
        "--profile", action="store_true", help="print where each step's time goes; keeps nothing"
    )
    parser.add_argument("--json", type=Path, help=f"default: {JSON}, if the sizes are the usual ones")
    parser.add_argument("--page", type=Path, help=f"default: {PAGE}, if the sizes are the usual ones")
    args = parser.parse_args(arguments)
    if args.profile and (args.json or args.page):
        parser.error("--profile makes everything slower: its times are printed, not kept in --json or --page")
    usual = (args.tasks, args.pairs) == (TASKS, PAIRS) and tuple(args.stages) in (STAGES, ())
    if usual and not args.profile:
        args.json, args.page = args.json or JSON, args.page or PAGE
    return args


if __name__ == "__main__":
    main()
