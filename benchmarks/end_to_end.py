"""How long a whole study takes: `dvc repro`, one stage after the other, beside `kdcache repro`, several at once.

    python -m benchmarks.end_to_end                                   the study in params.yaml
    python -m benchmarks.end_to_end --study studies/smoke.yaml --jobs 2 3 --rounds 3

Each run starts from a fresh clone of HEAD without results. The variants run in turn, and each round begins with another
one. Every run must give the same numbers for every trial, and leave nothing that DVC would run again.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import pandas as pd

from benchmarks.keeping import ROOT, facts, without_settings, write
from kdcache.engine.resources import cores
from kdcache.errors import KdcacheError
from stages import stage_errors

log = logging.getLogger(__name__)

JSON = ROOT / "benchmarks/results/end-to-end.json"
SERIAL = "dvc repro"
LIBRARIES = ("dvc", "torch", "transformers")


@dataclass(frozen=True)
class Timed:
    """One run of a study."""

    seconds: float
    trial_seconds: float  # the sum over the trials, as each measured it


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    variants = {SERIAL: ["dvc", "repro"]}
    for jobs in args.jobs:
        variants[f"kdcache repro --jobs {jobs}"] = [
            sys.executable,
            "-m",
            "kdcache",
            "repro",
            "--jobs",
            str(jobs),
        ]
    timings = measure(variants, args.study, args.rounds)
    runs = {name: [asdict(timed) for timed in each] for name, each in timings.items()}
    run = {**facts(LIBRARIES, cores()), "study": args.study.name, "runs": runs}
    print(table(timings))
    write(args.json, args.study.name, run)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--study", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2], help="stages at once (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    parser.add_argument(
        "--json",
        type=Path,
        default=JSON,
        help="where to keep what was found, under the study's name (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def measure(variants: dict[str, list[str]], study: Path, rounds: int) -> dict[str, list[Timed]]:
    """Time every variant, round by round.

    Raises:
        KdcacheError: a run failed, or gave other numbers than the first one.
    """
    names = list(variants)
    timings: dict[str, list[Timed]] = {name: [] for name in variants}
    expected: pd.DataFrame | None = None
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with tempfile.TemporaryDirectory(prefix="kdcache-end-to-end-") as folder:
                timed, trials = one_run(variants[name], study, Path(folder))
            log.info("round %d: %s took %.1f s", turn + 1, name, timed.seconds)
            expected = trials if expected is None else expected
            if not trials.equals(expected):
                raise KdcacheError(f"{name}: other results than the first run:\n{expected.compare(trials)}")
            timings[name].append(timed)
    return timings


def one_run(command: list[str], study: Path, folder: Path) -> tuple[Timed, pd.DataFrame]:
    """Run a study in a fresh clone; its times, and the results of its trials."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    (clone / "dvc.lock").unlink(missing_ok=True)
    shutil.copy(study, clone / "params.yaml")
    start = time.perf_counter()
    run_in(clone, command)
    seconds = time.perf_counter() - start
    if "up to date" not in run_in(clone, ["dvc", "status"]):
        raise KdcacheError(f"{' '.join(command)}: `dvc status` finds work left to do")
    trials, costs = (pd.read_csv(clone / "metrics" / name) for name in ("trials.csv", "cost.csv"))
    trial_seconds = costs.loc[costs["kind"] == "trial", "seconds"].sum()
    return Timed(seconds, float(trial_seconds)), trials


def run_in(folder: Path, command: list[str]) -> str:
    """The output of a command that is run on the clone's own code, without this user's settings of kdcache."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **without_settings(os.environ),
        "PATH": path,
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise KdcacheError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def table(timings: dict[str, list[Timed]]) -> str:
    """A Markdown table: medians, and ratios to `dvc repro` of the same round."""
    lines = ["| | seconds | of all trials | times as fast |", "| --- | --- | --- | --- |"]
    for name, runs in timings.items():
        ratios = [base.seconds / run.seconds for base, run in zip(timings[SERIAL], runs, strict=True)]
        seconds, of_trials = (statistics.median(times) for times in zip(*map(astuple, runs), strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {seconds:.0f} | {of_trials:.0f} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
