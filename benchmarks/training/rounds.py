"""Many trainings: the variants take turns, round by round."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from benchmarks.training.runs import Precision, Runs, Variant, run_one
from benchmarks.training.work import Work
from kdcache.system.devices import has_bfloat16

CORES = 2


PRELOADED = ["datasets", "kdcache.trials.teach", "scipy.stats", "transformers.trainer",
             "transformers.models.bert.modeling_bert"]  # fmt: skip


def processes(workers: int) -> ProcessPoolExecutor:
    """Worker processes that have imported everything before they begin; each does one run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1)


def measure(work: Work, variants: Sequence[Variant], rounds: int) -> Runs:
    """Run every variant once a round, in turn; round r trains with seed r."""
    runs: Runs = {variant: [] for variant in variants}
    with processes(1) as pool:
        for turn in range(rounds):
            start = turn % len(variants)
            for variant in [*variants[start:], *variants[:start]]:
                run = pool.submit(run_one, work, variant, turn).result()
                logging.info("round %d: %s, %.1f s", turn + 1, variant.name, run.wall)
                runs[variant].append(run)
    return runs


def hourly(work: Work, setups: Mapping[Variant, tuple[int, int]], rounds: int) -> dict[Variant, list[float]]:
    """Whole trials per hour, round by round; setups: how many processes, and how many threads each."""
    hourly_rates: dict[Variant, list[float]] = {variant: [] for variant in setups}
    for turn in range(rounds):
        for variant, (workers, threads) in list(setups.items())[:: 1 if turn % 2 else -1]:
            with processes(workers) as pool:
                pool.submit(int).result()  # the server that processes are forked from is up
                start = time.perf_counter()
                waiting = [pool.submit(run_one, work, variant, seed, threads) for seed in range(CORES)]
                for future in waiting:
                    future.result()
            hourly_rates[variant].append(CORES / (time.perf_counter() - start) * 3600)
    return hourly_rates


def alternate(work: Work, rounds: int) -> Runs:
    """Run plain fine-tuning and KD in turn, in this process; round r has seed r, every other one begins with KD."""
    precision: Precision = "bfloat16" if has_bfloat16("cpu") else "float32"
    runs: Runs = {Variant("kdcache", precision): [], Variant("kdcache KD", precision): []}
    for turn in range(rounds):
        for variant in list(runs)[:: -1 if turn % 2 else 1]:
            runs[variant].append(run_one(work, variant, turn))
    return runs
