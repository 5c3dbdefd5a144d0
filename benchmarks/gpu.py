"""How fast kdcache is on one GPU: training beside the transformers Trainer, trials that share it, KD cached and online.

    python -m benchmarks.gpu                            everything; writes benchmarks/results/gpu.json
    python -m benchmarks.gpu --only bert-tiny hourly    these parts; the rest of the file stays as it is
    python -m benchmarks.gpu --quick                    tiny sizes, on a CPU too: whether it runs, not how fast

    bert-tiny, minilm, bert-base   examples/s of training, kdcache beside the Trainer as in `benchmarks.training`, each
                                   run in a process of its own, and beside itself with its steps recorded as CUDA
                                   graphs (`benchmarks.graphed`); the last two are random models of MiniLM-L6's size
                                   and bert-base's
    hourly                         bert-tiny's trials per hour by kdcache's engine, 1, 2, 4 and 8 of them at once
    epochs                         a student of bert-base's size: its epoch from the cache and with a teacher of
                                   bert-large's size in the loop, and the GPU memory of each (`benchmarks.cache.epochs`)
    writing                        writing a cache beside bare inference (`benchmarks.cache.writing`)

The variants take turns. Time is wall time, read when the GPU has finished all its work. Each part is written when it is
done. Of several GPUs the first one is used (the first of CUDA_VISIBLE_DEVICES, if that is set).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import keeping
from benchmarks.cache import epochs, report, writing
from benchmarks.cache.measuring import Measurement, Options
from benchmarks.keeping import ROOT
from benchmarks.markdown import number, table
from benchmarks.training import comparing, rounds
from benchmarks.training.options import parse as parse_training
from benchmarks.training.runs import OURS, PEERS, Runs, Variant
from benchmarks.training.work import Device, Work, described, prepare, sized
from kdcache.engine.local import VISIBLE, Workers, modelling_modules
from kdcache.engine.pool import run_in
from kdcache.errors import KdcacheError
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.layout import trial_folder
from kdcache.trials.plan import TrialPlan, plain_trial
from kdcache.trials.run import run_trial
from kdcache.trials.scores import trial_scores
from stages import stage_errors

BERT_TINY = ROOT / "data/models/bert-tiny"
SIZES = {  # layers, width, heads
    "minilm": (6, 384, 12),
    "bert-base": (12, 768, 12),
    "bert-large": (24, 1024, 16),
}
QUICK_SIZE = (1, 32, 2)
GOALS = {"bert-tiny": 3.0}  # times as fast as the fastest Trainer, at least
LOADED = replace(PEERS[-1], loaders=2)
GRAPHED = replace(OURS[-1], who="kdcache with CUDA graphs")
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy")
AT_ONCE, TRIALS = (1, 2, 4, 8), 16
Found = tuple[dict[str, Any], str]  # what is kept, and what is shown


@dataclass(frozen=True)
class Bench:
    """The input of every part."""

    folder: Path  # for what is written meanwhile
    device: Device
    rounds: int
    quick: bool
    rows: Sequence[str]  # options of `benchmarks.training`: which rows

    def checkpoint(self, size: str) -> Path:
        """A model that has no weights, with bert-tiny's tokenizer."""
        numbers = QUICK_SIZE if self.quick else SIZES[size]
        return sized(BERT_TINY, self.folder / f"{size}'s size", *numbers)

    def work(self, size: str) -> Work:
        """The rows, and a student to train on them."""
        small = size == BERT_TINY.name
        options = ["--checkpoint", str(BERT_TINY if small else self.checkpoint(size))]
        options += [
            "--init",
            "pretrained" if small else "scratch",
            "--learning-rate",
            "1e-3" if small else "1e-4",
        ]
        options += ["--rows", "48", "--epochs", "1"] if self.quick else ["--epochs", "8"]
        args = parse_training([*self.rows, *options])
        work = prepare(args, Path(tempfile.mkdtemp(dir=self.folder)))
        return replace(work, device=self.device)


# ---- the parts ----


def fine_tuning(bench: Bench, size: str) -> Found:
    """Examples/s of all variants, and how many times as fast as the Trainer kdcache is."""
    work = bench.work(size)
    variants = [OURS[-1], GRAPHED, PEERS[-1]] if bench.quick else [*OURS, GRAPHED, *PEERS, LOADED]
    runs = rounds.measure(work, variants, bench.rounds)
    result = described(work) | comparing.summary(runs, compared(runs, GOALS.get(size)), "wall")
    return result, comparing.page(result)


def compared(runs: Runs, goal: float | None) -> list[dict[str, Any]]:
    """kdcache's speed divided by the fastest Trainer's, which may have a goal, and by run_glue's; judged by wall time.

    CUDA graphs (`benchmarks.graphed`), a candidate without a goal, are divided by the fastest Trainer and by plain
    kdcache.
    """
    ours, best = (comparing.fastest(runs, who, "wall") for who in ("kdcache", "Trainer"))
    pairs = [
        (ours, best),
        (ours, Variant("Trainer", ours.precision, "to 128")),
        (GRAPHED, best),
        (GRAPHED, replace(GRAPHED, who="kdcache")),
    ]
    return [
        {
            "what": f"{variant.name} / {against.name}",
            **comparing.judged(
                comparing.ratios(runs, variant, against, "cpu"),
                comparing.ratios(runs, variant, against, "wall"),
                goal if (variant, against) == (ours, best) else None,
                by="wall",
            ),
        }
        for variant, against in dict.fromkeys(pairs)
        if variant in runs and against in runs
    ]


def hourly(bench: Bench) -> Found:
    """Whole trials per hour, from handing them to the engine's workers until the last is done."""
    work, at_once = bench.work("bert-tiny"), AT_ONCE[:2] if bench.quick else AT_ONCE
    number = 2 if bench.quick else TRIALS
    trial_seconds(planned(work, bench.folder / "first", 1), 1)  # uncounted: the GPU may have been asleep
    rates: dict[int, list[float]] = {workers: [] for workers in at_once}
    scores: dict[int, list[float]] = {workers: [] for workers in at_once}
    for turn in range(bench.rounds):
        for workers in at_once[:: 1 if turn % 2 else -1]:
            plans = planned(work, bench.folder / f"{turn}-{workers}", number)
            rates[workers].append(number / trial_seconds(plans, workers) * 3600)
            scores[workers].append(mean_accuracy(plans))
            logging.info("round %d: %d at once, %.0f trials per hour", turn + 1, workers, rates[workers][-1])
    result = hourly_found(rates) | {"trials": number, "mean_accuracy": scores}
    return result, hourly_page(result)


def planned(work: Work, folder: Path, number: int) -> list[TrialPlan]:
    """Plans for trials of the plain student, with different seeds."""
    task = work.cache.with_name("task")
    return [
        plain_trial(trial_folder(folder, seed), task, "bert-tiny", work.student, seed)
        for seed in range(number)
    ]


def trial_seconds(plans: Sequence[TrialPlan], workers: int) -> float:
    """Seconds of these trials, with the start of the workers, but without the imports of the process they fork from."""
    with Workers(run_trial, workers, len(plans), modelling_modules(plan.model for plan in plans)) as pool:
        start = time.perf_counter()
        failures = run_in(pool, plans)
        seconds = time.perf_counter() - start
    if failures:
        raise KdcacheError("\n".join([f"with {workers} trials at once:", *failures]))
    return seconds


def mean_accuracy(plans: Sequence[TrialPlan]) -> float:
    task = PreparedTask(plans[0].task_folder)
    return statistics.mean(trial_scores(plan.folder, task)["accuracy"] for plan in plans)


def hourly_found(rates: dict[int, list[float]]) -> dict[str, Any]:
    """Spreads of the trials per hour, and of their ratio to one at a time in the same round."""
    times = {n: [a / b for a, b in zip(values, rates[1], strict=True)] for n, values in rates.items()}
    return {
        "trials_per_hour": {n: comparing.spread(values) for n, values in rates.items()},
        "times_one_at_a_time": {n: comparing.spread(values) for n, values in times.items()},
    }


def hourly_page(result: dict[str, Any]) -> str:
    lines = [
        [str(n), number(rate["median"]), comparing.shown(result["times_one_at_a_time"][n])]
        for n, rate in result["trials_per_hour"].items()
    ]
    return table(["trials at once", "per hour", "times as many as one at a time"], lines, right=[1])


def of_the_cache(bench: Bench, measure: Callable[[Options], Measurement]) -> Found:
    """A module of `benchmarks.cache`, with large models."""
    options = Options(
        work=bench.folder,
        rows=2000 if bench.quick else 400_000,
        repeats=bench.rounds,
        threads=1,
        device=bench.device,
        teacher=bench.checkpoint("bert-large"),
        student=bench.checkpoint("bert-base"),
        minilm=None,
        quick=bench.quick,
    )
    result = asdict(measure(options))
    result["goals"] = [goal for goal in result["goals"] if goal["measured"] is not None]
    return result, f"{report.goal_table(result['goals'])}\n\n{report.details(result)}"


PARTS: dict[str, Callable[[Bench], Found]] = {
    "bert-tiny": lambda bench: fine_tuning(bench, "bert-tiny"),
    "minilm": lambda bench: fine_tuning(bench, "minilm"),
    "bert-base": lambda bench: fine_tuning(bench, "bert-base"),
    "hourly": hourly,
    "epochs": lambda bench: of_the_cache(bench, epochs.measure),
    "writing": lambda bench: of_the_cache(bench, writing.measure),
}


# ---- the command line ----


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    logging.getLogger("datasets").setLevel(logging.WARNING)
    device = choose_device(args.quick)
    rows = ["--files", *map(str, args.files), "--text", *args.text] if args.files else []
    for name in args.only:
        logging.info("%s ...", name)
        with tempfile.TemporaryDirectory() as folder:
            before, start = facts(device), time.perf_counter()
            result, page = PARTS[name](Bench(Path(folder), device, args.rounds, args.quick, rows))
        print(f"## {name}\n\n{page}\n", flush=True)
        if args.json:
            seconds = round(time.perf_counter() - start)
            keeping.write(args.json, name, before | {"quick": args.quick, "seconds": seconds} | result)


def choose_device(quick: bool) -> Device:
    """Choose one GPU, for this process and all that it starts; with --quick a CPU is enough."""
    os.environ[VISIBLE] = os.environ.get(VISIBLE, "0").split(",")[0]  # the Trainer would take all of them
    if torch.cuda.is_available():
        return "cuda"
    if not quick:
        raise KdcacheError(
            f"no GPU: torch {torch.__version__} finds none here (CUDA_VISIBLE_DEVICES={os.environ[VISIBLE]!r}); "
            "run this where nvidia-smi lists one, with a torch built for CUDA, or try it on a CPU with --quick"
        )
    return "cpu"


def facts(device: Device) -> dict[str, Any]:
    """The facts of `benchmarks.training`, and of the GPU."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return keeping.facts(LIBRARIES) | {"gpu": gpu, "cuda": torch.version.cuda}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help="see above"
    )
    parser.add_argument("--files", type=Path, nargs=2, metavar=("TRAIN", "VALIDATION"), help="other rows")
    parser.add_argument("--text", nargs="+", default=["text"], help="its text columns (default: text)")
    parser.add_argument("--rounds", type=int, help="default: 3; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--json", type=Path, help="default, without --quick: benchmarks/results/gpu.json")
    args = parser.parse_args(arguments)
    args.rounds = args.rounds or (1 if args.quick else 3)
    if not args.quick:
        args.json = args.json or ROOT / "benchmarks/results/gpu.json"
    return args


if __name__ == "__main__":
    main()
