"""What the study counts across tasks: the columns of across.csv and the claims of summary.json.

The design is that of questions.py with five seeds; the tests across tasks follow one student.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from simulation import across, claims
from simulation.intervals import student
from simulation.montecarlo import Question
from simulation.procedure import Array, Mask, against_baseline, holm, interaction_differences
from simulation.questions import (
    ALPHA,
    ARMS,
    AT_MOST,
    COVERED,
    NAMES,
    RESAMPLES,
    SCRATCH,
    TASKS,
    Goal,
    Table,
    any_of,
    covers,
    scenario_of,
    spread_of,
)

SEVERAL = TASKS[1:]
MOST = max(TASKS)
WILCOXON_TASKS = 6  # fewer cannot reject at 0.05
POSTERIOR_DRAWS = 2_000
SURE = 0.95


def _draw(
    row: str, rng: Generator, shape: tuple[int, int, int], effects: ArrayLike, sd: ArrayLike = 1.0
) -> Array:
    """Scores of five seeds; `shape` is repetitions, tasks, students."""
    return scenario_of(row).draw(rng, (*shape, ARMS, 5), effects, sd)


def null(row: str) -> Question:
    """No true difference on any task."""
    return lambda rng, repetitions: _tested(_draw(row, rng, (repetitions, MOST, 1), 0.0)[:, :, 0], SEVERAL)


def varied(row: str) -> Question:
    """True differences of +1 or -1 sd, a coin flip for each task and regularizer, so 0 on average over tasks."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        signs = rng.integers(0, 2, (repetitions, MOST, 1, ARMS)) * 2.0 - 1.0
        effects = spread_of(row) * signs * (np.arange(ARMS) > 0)
        scores = _draw(row, rng, (repetitions, MOST, 1), effects)[:, :, 0]
        means = against_baseline(scores).mean(axis=-1)
        covered = np.stack([covers(student(means[..., arm])) for arm in range(ARMS - 1)]).mean(axis=0)
        return {**_tested(scores, (MOST,)), f"t over tasks covers 0, {MOST}": covered}

    return ask


def _tested(scores: Array, tasks: tuple[int, ...]) -> dict[str, Array]:
    """Whether each test rejects on the first n of the tasks; scores [repetitions, tasks, arms, seeds]."""
    result = {}
    for n in tasks:
        some = scores[:, :n]
        d = against_baseline(some)
        result[f"Friedman, {n}"] = _rejected(across.friedman(some.mean(axis=-1)))
        if n >= WILCOXON_TASKS:
            result[f"Wilcoxon, {n}"] = _any_of_four(across.wilcoxon, d.mean(axis=-1)[..., None])
        result[f"permutation, {n}"] = _any_of_four(across.permutation, d)
        result[f"mixed model, one of 4, {n}"] = any_of(across.mixed_p(some) <= ALPHA, 0)
    return result


def _rejected(p: Array) -> Array:
    """Whether p rejects; NaN if there is no p."""
    return np.where(np.isnan(p), np.nan, p <= ALPHA)


def _any_of_four(test: Callable[[Array], Array], d: Array) -> Array:
    """Any rejection in a family of four; d: [repetitions, tasks, regularizers, seeds or 1]."""
    seeds = d.shape[-1]
    values = np.moveaxis(d, 2, 1).reshape(-1, d.shape[1], seeds)
    p = test(values if seeds > 1 else values[..., 0]).reshape(len(d), -1)
    return any_of(holm(p) <= ALPHA, 1)


def coverage(row: str) -> Question:
    """95% intervals of the last regularizer's difference (interquartile mean: of its scores); nothing differs."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        scores = _draw(row, rng, (repetitions, MOST, 2), 0.0, SCRATCH)
        tripled = interaction_differences(scores)[:, :, -1].mean(axis=-1)  # the mean over regularizers
        result: dict[str, Array] = {}
        for n in SEVERAL:
            some = scores[:, :n, 1]
            x, y = some[:, :, -1], some[:, :, 0]
            low, high = across.mixed_interval(some)
            middle, better = _truths(row)
            result |= {
                f"t over tasks, {n}": covers(student(against_baseline(some)[:, :, -1].mean(axis=-1))),
                f"pooled interaction, {n}": covers(student(tripled[:, :n])),
                f"mixed model, {n}": covers((low[:, -1], high[:, -1])),
                f"improvement, {n}": covers(across.improvement(x, y, RESAMPLES, rng), better),
                f"interquartile mean, {n}": covers(across.interquartile_mean(x, RESAMPLES, rng), middle),
            }
        return result

    return ask


@cache
def _truths(row: str) -> tuple[float, float]:
    """The true interquartile mean of the last arm and P(x > y) + P(x = y) / 2, from 400,000 seeded scores."""
    scores = scenario_of(row).draw(np.random.default_rng(1), (400_000, 1, 1, ARMS, 1), 0.0, 1.0)
    x, y = np.sort(scores[:, 0, 0, -1, 0]), np.sort(scores[:, 0, 0, 0, 0])
    wins = (np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")) / 2
    return float(x[len(x) // 4 : -(len(x) // 4)].mean()), float(wins.mean() / len(y))


def posterior(row: str) -> Question:
    """The Bayesian signed-rank test on eight tasks: how often it is 95% sure of something false."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Mask]:
        spread = spread_of(row)
        result: dict[str, Mask] = {}
        still, moved = (_posterior_means(row, rng, repetitions, effect) for effect in (0.0, spread))
        for share in (0.1, 0.5, 1.0):
            probabilities = across.signed_rank(still, share * spread, POSTERIOR_DRAWS)
            wrong = np.any(probabilities[:, [0, 2]] >= SURE, axis=-1)
            result[f"nothing differs: better or worse, ROPE {share:g} sd"] = wrong
        edge = across.signed_rank(moved, spread, POSTERIOR_DRAWS)
        return result | {"at the edge: within, ROPE 1 sd": edge[:, 1] >= SURE,
                         "at the edge: better, ROPE 1 sd": edge[:, 2] >= SURE}  # fmt: skip

    return ask


def _posterior_means(row: str, rng: Generator, repetitions: int, effect: float) -> Array:
    """The last regularizer's task means; its true difference is `effect` on every task."""
    scores = _draw(row, rng, (repetitions, MOST, 1), effect * (np.arange(ARMS) == ARMS - 1))
    return against_baseline(scores)[:, :, 0, -1].mean(axis=-1)


WITHIN, SOME, PAIRS, TEACHER = "(a) ", "(b) ", "(c) ", "(d) "


def claimed(row: str) -> Question:
    """Each claim in a study where it is false, on 1 to 8 tasks; the margin is 3 sd of the matched differences."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Mask]:
        margin, shape = 3 * spread_of(row), (repetitions, MOST, 2)
        last = np.arange(ARMS) == ARMS - 1
        still, tripled = _draw(row, rng, shape, 0.0), _draw(row, rng, shape, 0.0, SCRATCH)
        one_better, all_better = (
            _draw(row, rng, shape, margin * last),
            _draw(row, rng, shape, margin * (np.arange(ARMS) > 0)),
        )
        from_scratch = margin * np.outer([1, 0], np.arange(ARMS) > 0)
        more = _draw(row, rng, shape, from_scratch, SCRATCH)
        return dict(_claims(still, tripled, one_better, all_better, more, margin))

    return ask


def _claims(
    still: Array, tripled: Array, one_better: Array, all_better: Array, more: Array, margin: float
) -> Iterator[tuple[str, Mask]]:
    """`one_better`, `all_better`: the last or every regularizer is better by the margin; `more`: from scratch alone."""
    for n in TASKS:
        yield f"{WITHIN}supported, one at the margin, {n}", claims.within_margin(one_better[:, :n], margin)[0]
        yield f"{WITHIN}supported, all at the margin, {n}", claims.within_margin(all_better[:, :n], margin)[0]
        yield (
            f"{WITHIN}contradicted, all at the margin, {n}",
            claims.within_margin(all_better[:, :n], margin)[1],
        )
        yield f"{SOME}supported, nothing differs, {n}", claims.some_better(still[:, :n], margin)[0]
        yield f"{SOME}contradicted, one at the margin, {n}", claims.some_better(one_better[:, :n], margin)[1]
        yield f"{PAIRS}supported, nothing differs, {n}", claims.interaction(tripled[:, :n], margin)[0]
        yield f"{PAIRS}contradicted, more by the margin, {n}", claims.interaction(more[:, :n], margin)[1]
        yield f"{TEACHER}supported, nothing differs, {n}", claims.teacher_needed(still[:, :n], margin)[0]
        yield (
            f"{TEACHER}contradicted, KD at the margin, {n}",
            claims.teacher_needed(one_better[:, :n], margin)[1],
        )


def _null_goal(column: str) -> Goal | None:
    return None if column.startswith("mixed") else AT_MOST


def _varied_goal(column: str) -> Goal | None:
    """Tests about exactly these tasks should find that something differs on them."""
    if column.startswith("t over"):
        return COVERED
    return AT_MOST if column.startswith(("Friedman", "Wilcoxon")) else None


TABLES = (
    Table(
        "across", "False differences across tasks",
        "There is no true difference on 2, 4 or 8 tasks, with one student and five seeds. Friedman's test compares "
        "all five methods; on 2 tasks its p cannot go below 0.09. Wilcoxon's and the stratified permutation test "
        f"count any of four regularizers, corrected by Holm. Wilcoxon's test cannot reject below {WILCOXON_TASKS} "
        "tasks, so only 8 tasks are shown. The mixed model's p is an uncorrected cross-check, so its column is for "
        "one regularizer and has no goal. The permutation test's p is exact, or from 17 differences on of 99,999 sign "
        "patterns.",
        NAMES, null, _null_goal, 10_000,
    ),
    Table(
        "across_varied", "False differences on tasks that differ",
        "On eight tasks every regularizer is better or worse by 1 sd of the differences, decided by a coin flip for "
        "each task and regularizer. So on average over such tasks it does nothing. Tests whose sample is the tasks "
        "should reject in 5% at most, and the t interval over tasks (of one regularizer) should cover 0. The "
        "permutation test and the mixed model are about exactly these tasks, whose mean is not 0, so they have no "
        "goal here. Their columns show how wrong they are as statements about other tasks.",
        NAMES, varied, _varied_goal, 10_000,
    ),
    Table(
        "across_coverage", "Coverage of the 95% intervals across tasks",
        "Coverage by the number of tasks, with five seeds; nothing differs. *t over tasks* is the interval of the "
        "mean difference, *pooled interaction* that of the mean over regularizers (each pair's mean is one value, and "
        "scratch scores spread three times as much), *mixed model* that of one effect, *improvement* that of the "
        "probability of improvement, *interquartile mean* that of one method's scores. The bootstraps have "
        f"{RESAMPLES:,} resamples (the library's have 10,000). True values that are not 0 by design come from 400,000 "
        "scores.",
        NAMES, coverage, lambda _: COVERED, 10_000,
    ),
    Table(
        "posterior", "The Bayesian signed-rank test, eight tasks",
        f"How often the posterior probability of something false is {SURE:.0%} or more, by the width of the region of "
        "practical equivalence (ROPE) in sd of the differences of matched seeds. False are `better` and `worse` if "
        "nothing differs, and `within` and `better` if the true difference is exactly the ROPE's edge on all tasks. "
        "These are posterior probabilities and no error rates, so there is no goal. There are "
        f"{POSTERIOR_DRAWS:,} draws (the library's test has 50,000).",
        NAMES, posterior, lambda _: None, 10_000,
    ),
    Table(
        "claims", "False claims",
        "How often summary.json says something false about a claim, by the number of tasks. Each task has a scratch "
        "and a pretrained student; there are five seeds, and the margin is 3 sd of the differences. A regularizer *at "
        "the margin* is better by exactly the margin on all tasks and students. The claims are (a) "
        "`pretrained_within_margin`; (b) `scratch_some_better`; (c) `interaction`, with one pair a task, and scratch "
        "scores that spread three times as much, and with *more by the margin* a gain from scratch alone; (d) "
        "`teacher_needed`, with the fourth regularizer as KD and the others as teacher-free.",
        NAMES, claimed, lambda _: AT_MOST, 10_000,
    ),
)  # fmt: skip
