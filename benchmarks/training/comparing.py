"""Ratios, their goals, and the page with both."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.markdown import number, table
from benchmarks.training.rounds import CORES, alternate, hourly, processes
from benchmarks.training.runs import OURS, Run, Runs, Variant
from benchmarks.training.work import Work

GOALS = {"run_glue": 5.0, "best": 1.1, "hourly": 2.0}  # at least


KD_GOAL = 1.02  # at most


VERDICT = {True: "met", False: "missed", None: ""}


def rate(run: Run, clock: str) -> float:
    return run.examples / float(getattr(run, clock))


def ratios(runs: Runs, variant: Variant, against: Variant, clock: str) -> list[float]:
    """How many times as fast, round by round."""
    pairs = zip(runs[variant], runs[against], strict=True)
    return [rate(run, clock) / rate(run_against, clock) for run, run_against in pairs]


def fastest(runs: Runs, who: str, clock: str = "cpu") -> Variant:
    """The variant with the highest median rate."""
    of_program = [variant for variant in runs if variant.who == who]
    return max(of_program, key=lambda variant: statistics.median(rate(run, clock) for run in runs[variant]))


def summary(runs: Runs, compared: list[dict[str, Any]], clock: str = "cpu") -> dict[str, Any]:
    """What `page` shows, and all runs; `clock` decides which of kdcache's variants is the fastest."""
    each = {variant.name: [asdict(run) for run in of_variant] for variant, of_variant in runs.items()}
    return {"speeds": speeds(runs, clock), "ratios": compared, "runs": each}


def speeds(runs: Runs, clock: str = "cpu") -> list[dict[str, Any]]:
    """For each variant: median examples/s by both clocks, the scores, and a Welch test of these against kdcache's."""
    ours = [run.accuracy for run in runs[fastest(runs, "kdcache", clock)]]
    lines = []
    for variant, of_variant in runs.items():
        scores = [run.accuracy for run in of_variant]
        lines.append(
            {
                "variant": variant.name,
                "examples_per_cpu_second": spread([rate(run, "cpu") for run in of_variant]),
                "examples_per_second": spread([rate(run, "wall") for run in of_variant]),
                "accuracy": scores,
                "p_accuracy": differs(scores, ours),
            }
        )
    return lines


def differs(scores: Sequence[float], others: Sequence[float]) -> float | None:
    """The p-value of Welch's test that two lists of scores have one mean; None if it is not defined."""
    if len(scores) < 2 or np.ptp(scores) + np.ptp(others) == 0:
        return 1.0 if list(scores) == list(others) else None
    return float(scipy.stats.ttest_ind(scores, others, equal_var=False).pvalue)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def goals(runs: Runs) -> list[dict[str, Any]]:
    """The ratios with goals, by both clocks; a goal is judged by CPU seconds."""
    best, ours = fastest(runs, "Trainer"), fastest(runs, "kdcache")
    pairs = [(variant, Variant("Trainer", variant.precision, "to 128"), "run_glue") for variant in OURS]
    pairs.append((ours, best, "best"))
    return [
        {
            "what": f"{variant.name} / {against.name}",
            **judged(
                ratios(runs, variant, against, "cpu"), ratios(runs, variant, against, "wall"), GOALS[goal]
            ),
        }
        for variant, against, goal in pairs
        if variant in runs and against in runs
    ]


def judged(
    cpu: Sequence[float], wall: Sequence[float], least: float | None, by: str = "cpu"
) -> dict[str, Any]:
    """Ratios by both clocks, and whether those of clock `by` reach the goal, if there is one."""
    by_clock = {"cpu": cpu, "wall": wall}
    return {
        **{clock: spread(values) for clock, values in by_clock.items()},
        "goal": "" if least is None else f"at least {least:g}",
        "met": None if least is None else statistics.median(by_clock[by]) >= least,
    }


def trials_per_hour(work: Work, runs: Runs, rounds: int) -> dict[str, Any]:
    ours, best = fastest(runs, "kdcache"), fastest(runs, "Trainer")
    hourly_rates = hourly(work, {ours: (CORES, 1), best: (1, CORES)}, rounds)
    wall = [
        rate_ours / rate_best
        for rate_ours, rate_best in zip(hourly_rates[ours], hourly_rates[best], strict=True)
    ]
    return {
        "what": f"trials per hour, {ours.name} in {CORES} processes / {best.name} in one of {CORES} threads",
        "trials_per_hour": {variant.name: spread(rates) for variant, rates in hourly_rates.items()},
        "wall": spread(wall),
        "goal": f"at least {GOALS['hourly']:g}",
        "met": statistics.median(wall) >= GOALS["hourly"],
    }


def kd_cost(work: Work, rounds: int) -> dict[str, Any]:
    """What distilling from a cache costs beside plain fine-tuning, in the precision that `auto` gives.

    Both take turns in one process: two processes differ by some percent with the same work.
    """
    with processes(1) as pool:
        runs = pool.submit(alternate, work, rounds).result()
    base, kd = runs
    cpu, wall = (ratios(runs, base, kd, clock) for clock in ("cpu", "wall"))
    return {
        "what": f"{kd.name}: its time / without KD",
        "cpu": spread(cpu),
        "wall": spread(wall),
        "goal": f"at most {KD_GOAL:g}",
        "met": statistics.median(cpu) <= KD_GOAL,
    }


def page(result: Mapping[str, Any]) -> str:
    """Two Markdown tables: examples/s and accuracy of each variant, then the ratios and their goals."""
    lines = [
        [
            speed["variant"],
            number(speed["examples_per_cpu_second"]["median"]),
            number(speed["examples_per_second"]["median"]),
            f"{100 * statistics.mean(speed['accuracy']):.1f} ({100 * min(speed['accuracy']):.1f} to "
            f"{100 * max(speed['accuracy']):.1f})",
            "" if speed["p_accuracy"] is None else f"{speed['p_accuracy']:.2f}",
        ]
        for speed in result["speeds"]
    ]
    header = ["", "examples per CPU second", "per second", "accuracy", "p"]
    compared = [
        [
            ratio["what"],
            *(shown(ratio.get(clock)) for clock in ("cpu", "wall")),
            ratio["goal"],
            VERDICT[ratio["met"]],
        ]
        for ratio in result["ratios"]
    ]
    head = f"{result['model']}: {result['rows']} rows of {result['mean_tokens']:.1f} tokens, {result['epochs']} epochs"
    return "\n\n".join(
        [
            head,
            table(header, lines, right=[1, 2]),
            table(["ratio", "by CPU", "by the clock", "goal", ""], compared),
        ]
    )


def shown(value: Mapping[str, float] | None) -> str:
    """A spread in words: the median, with the least and the greatest."""
    if value is None:
        return ""
    return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
