"""What the study counts, table by table.

Every function gives a question: (rng, repetitions) -> {column: value per repetition}. The design is kdcache's
own: a baseline and four regularizers, a scratch and a pretrained student a task, alpha 0.05, Holm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator

from kdcache.statistics.families import Family
from kdcache.statistics.power import detectable_difference, tost_detectable_margin
from simulation import intervals
from simulation.montecarlo import Question, Rate
from simulation.procedure import (
    VERDICTS,
    Array,
    Mask,
    against_baseline,
    by_family,
    interaction_differences,
    interaction_pair,
    interaction_pooled,
    judge,
    paired_t,
    tost,
)
from simulation.scenarios import SCENARIOS, Scenario

ALPHA = 0.05
ARMS = 5  # the baseline and four regularizers
TASKS = (1, 2, 4, 8)
SEEDS = (3, 5, 10, 20, 40)
RESAMPLES = 1999
SCRATCH = np.array([3.0, 1.0])[:, None, None]  # students from scratch spread three times as much


@dataclass(frozen=True)
class Goal:
    """The range that a rate should be in; up to `errors` standard errors outside still count as inside.

    Rates whose true value is exactly the bound lie above it half of the time, so those get three errors.
    """

    low: float
    high: float
    errors: float = 3.0

    def met(self, rate: Rate) -> bool:
        slack = self.errors * rate.error
        return self.low - slack <= rate.value <= self.high + slack


@dataclass(frozen=True)
class Table:
    """Rows and columns of rates; `ask` gives a row's question."""

    name: str
    title: str
    text: str
    rows: tuple[str, ...]
    ask: Callable[[str], Question]
    goal: Callable[[str], Goal | None]
    repetitions: int


def scenario_of(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


@cache
def spread_of(name: str) -> float:
    return scenario_of(name).spread()


def any_of(rejected: Mask, family_axes: int) -> Array:
    """Whether a family has any rejection (its axes are the last), averaged over the families of a study."""
    families = rejected.reshape(*rejected.shape[: rejected.ndim - family_axes], -1).any(axis=-1)
    return np.asarray(families.reshape(len(rejected), -1).mean(axis=-1))


def null(row: str) -> Question:
    """Eight tasks without any true difference: every better or worse is false."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        scores = scenario_of(row).draw(rng, (repetitions, max(TASKS), 2, ARMS, 5), 0.0, 1.0)
        p = paired_t(against_baseline(scores))
        by_student = by_family(p, "student") <= ALPHA
        result = {"student: 4": any_of(by_student, 1), "task: 8": any_of(by_family(p, "task") <= ALPHA, 2)}
        for tasks in TASKS[1:]:
            result[f"study, {tasks} tasks: {8 * tasks}"] = any_of(
                by_family(p[:, :tasks], "study") <= ALPHA, 3
            )
        return result | {"student families, any of 16": any_of(by_student, 3)}

    return ask


def null_by_seeds(row: str) -> Question:
    """As `null`, in one family of four, for several numbers of seeds."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        draw = scenario_of(row).draw
        p = {n: paired_t(against_baseline(draw(rng, (repetitions, 1, 1, ARMS, n), 0.0, 1.0))) for n in SEEDS}
        return {f"{n} seeds": any_of(by_family(p[n], "student") <= ALPHA, 1) for n in SEEDS}

    return ask


def some_true(row: str) -> Question:
    """One, two or three regularizers are six sd worse. Counted is a false better or worse among the others."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        result: dict[str, Array] = {}
        for harmful in (1, 2, 3):
            effects = -6 * spread_of(row) * (np.arange(ARMS) >= ARMS - harmful)
            scores = scenario_of(row).draw(rng, (repetitions, 1, 1, ARMS, 5), effects, 1.0)
            rejected = by_family(paired_t(against_baseline(scores)), "student") <= ALPHA
            result[f"{4 - harmful} of 4 without effect"] = any_of(rejected[..., : 4 - harmful], 1)
        return result

    return ask


def _at_margin(row: str, multiple: float, signs: Sequence[int], tasks: int, family: Family) -> Question:
    """Regularizers with a sign lie exactly at that margin, so `within the margin` is false for them."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        margin = multiple * spread_of(row)
        effects = margin * np.array([0, *signs])
        scores = scenario_of(row).draw(rng, (repetitions, tasks, 1, ARMS, 5), effects, 1.0)
        corrected = by_family(tost(against_baseline(scores), margin), family)
        false = corrected[..., np.array(signs) != 0] <= ALPHA
        return {"": any_of(false, 3 if family == "study" else 1)}

    return ask


def margin(row: str) -> Question:
    """True differences at the margin, which is 3 sd or 1 sd of the differences."""
    designs = {
        "3 sd, all at +": _at_margin(row, 3, (1, 1, 1, 1), 1, "student"),
        "3 sd, all at -": _at_margin(row, 3, (-1, -1, -1, -1), 1, "student"),
        "3 sd, two at +, two at -": _at_margin(row, 3, (1, 1, -1, -1), 1, "student"),
        "3 sd, one at +, rest 0": _at_margin(row, 3, (0, 0, 0, 1), 1, "student"),
        "3 sd, all at +, 8 tasks, study": _at_margin(row, 3, (1, 1, 1, 1), 8, "study"),
        "1 sd, all at +": _at_margin(row, 1, (1, 1, 1, 1), 1, "student"),
    }
    return lambda rng, repetitions: {name: ask(rng, repetitions)[""] for name, ask in designs.items()}


def mixed(row: str) -> Question:
    """Two regularizers have no effect, two lie at the margin of 3 sd. Counted is any false verdict of either kind."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        margin = 3 * spread_of(row)
        effects = margin * np.array([0, 0, 0, 1, -1])
        judged = judge(scenario_of(row).draw(rng, (repetitions, 1, 1, ARMS, 5), effects, 1.0), margin)
        different, within = judged.different[..., :2], judged.within[..., 2:]
        return {
            "false better or worse": any_of(different, 1),
            "false within the margin": any_of(within, 1),
            "either": any_of(np.concatenate([different, within], axis=-1), 1),
        }

    return ask


def interaction_null(row: str) -> Question:
    """No gain anywhere, and scratch scores spread three times as much: every `supported` is false."""

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        scores = scenario_of(row).draw(rng, (repetitions, max(TASKS), 2, ARMS, 5), 0.0, SCRATCH)
        supported = interaction_pair(scores) <= ALPHA
        result = {"a pair: 4": any_of(supported[..., :-1], 1), "a pair, mean": any_of(supported[..., -1], 0)}
        for tasks in TASKS[1:]:
            pooled = interaction_pooled(scores[:, :tasks]) <= ALPHA
            result[f"{tasks} pairs: 4"] = any_of(pooled[:, :-1], 1)
            result[f"{tasks} pairs, mean"] = any_of(pooled[:, -1], 0)
        return result

    return ask


def covers(interval: intervals.Interval, truth: float = 0.0) -> Array:
    """Whether each repetition's interval covers the truth; NaN without an interval."""
    low, high = interval
    return np.where(np.isnan(low), np.nan, (low <= truth) & (high >= truth))


def coverage(row: str) -> Question:
    """95% intervals of the last regularizer's true difference from the baseline, which is 0.

    Unmatched intervals compare with the other student's baseline, which has independent scores of equal mean. For the
    interaction, the scratch student's differences are made three times as large.
    """

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        result: dict[str, Array] = {}
        for n in SEEDS:
            scores = scenario_of(row).draw(rng, (repetitions, 1, 2, ARMS, n), 0.0, 1.0)
            d, x, y = against_baseline(scores)[:, 0, 0, -1], scores[:, 0, 0, -1], scores[:, 0, 1, 0]
            matched = intervals.resampled([d], RESAMPLES, rng)
            by_kind = {
                "paired t": intervals.student(d),
                "Welch": intervals.welch(x, y),
                "interaction": intervals.student(interaction_differences(scores * SCRATCH)[:, 0, 0]),
                "BCa": intervals.bca([d], matched),
                "BCa, unmatched": intervals.bca([x, y], intervals.resampled([x, y], RESAMPLES, rng)),
                "percentile bootstrap": intervals.percentile([d], matched),
            }
            result |= {f"{kind}, {n}": covers(interval) for kind, interval in by_kind.items()}
        return result

    return ask


STEPS = np.arange(0, 4.01, 0.25)  # true differences and margins, in sd of the differences
NORMAL_SD = np.sqrt(0.5)  # of a score, so that the differences of matched seeds have sd 1


def power(row: str) -> Question:
    """One of four regularizers differs by `effect` sd, the others do not. Counted are its verdicts at n seeds.

    The margin is 1 sd. Counted is also, for each margin, how often a true difference of 0 is shown equivalent.
    """
    n = int(row)

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        scores = scenario_of("normal").draw(rng, (repetitions, 1, 1, ARMS, n), 0.0, NORMAL_SD)
        result: dict[str, Array] = {}
        for step in STEPS:
            verdict = judge(scores + step * _last(ARMS), margin=1.0).verdict[:, 0, 0, -1]
            result |= {f"{word}, effect {step:g}": verdict == i for i, word in enumerate(VERDICTS)}
            within = judge(scores, margin=float(step)).verdict[:, 0, 0, -1]
            result[f"equivalent, margin {step:g}"] = within == VERDICTS.index("equivalent")
        return {name: values.astype(float) for name, values in result.items()}

    return ask


def _last(arms: int) -> Array:
    return (np.arange(arms) == arms - 1).astype(float)[:, None]


def detectable(row: str) -> Question:
    """How often a true difference of `detectable` is found, and how often equivalence at the stated margin."""
    n = int(row)

    def ask(rng: Generator, repetitions: int) -> dict[str, Array]:
        scores = scenario_of("normal").draw(rng, (repetitions, 1, 1, ARMS, n), 0.0, NORMAL_SD)
        result: dict[str, Array] = {}
        for size in (1, ARMS - 1):
            effect = detectable_difference(n, 1.0, ALPHA / size)
            margin = tost_detectable_margin(n, 1.0, ALPHA / size)
            moved = judge((scores + effect * _last(ARMS))[..., [0, *range(ARMS - size, ARMS)], :], 1.0)
            still = judge(scores[..., [0, *range(ARMS - size, ARMS)], :], margin)
            words = "alone" if size == 1 else f"family of {size}"
            result[f"difference, {words}"] = any_of(moved.different[..., -1:], 1)
            result[f"within, {words}"] = any_of(still.within[..., -1:], 1)
        return result

    return ask


AT_MOST = Goal(0.0, ALPHA)
COVERED = Goal(0.935, 0.965, errors=0.0)
NAMES = tuple(scenario.name for scenario in SCENARIOS)
BY_SEEDS = tuple(str(n) for n in SEEDS)


def _power_goal(column: str) -> Goal:
    """80%, as promised for one test. In a family the later steps of Holm can only raise it."""
    return Goal(0.8, 0.8 if column.endswith("alone") else 1.0)


TABLES = (
    Table(
        "null", "False better or worse, no true difference anywhere",
        "The share of families with any false `better` or `worse`, with five seeds. `student: 4` is kdcache's default "
        "family: four regularizers of one student on one task. `task: 8` has both students of a task, `study` all "
        "students of 2, 4 or 8 tasks (with one task it is `task`). The last column has no goal. It is the chance of "
        "any false verdict in a study of 8 tasks that corrects only over `student` families, 16 of them.",
        NAMES, null, lambda column: None if column.startswith("student families") else AT_MOST, 10_000,
    ),
    Table(
        "null_by_seeds", "The same for fewer and more seeds",
        "This is a `student` family of four, without any true difference.",
        NAMES, null_by_seeds, lambda _: AT_MOST, 10_000,
    ),
    Table(
        "some_true", "False better or worse beside true differences",
        "Some of the four regularizers are worse by 6 sd of the differences. The table has the share of families with "
        "a false `better` or `worse` among the others, with five seeds. Holm tests these at a milder level, so this "
        "is its hardest case.",
        NAMES, some_true, lambda _: AT_MOST, 10_000,
    ),
    Table(
        "margin", "False \"within the margin\", true differences at the margin",
        "The share of families in which the corrected TOST rejects for a regularizer whose true difference is exactly "
        "the margin (verdict `equivalent`, or `better` or `worse` and negligible). The margin is 3 sd of the "
        "differences, where five seeds can show equivalence, or 1 sd, where they rarely can. Families are `student` "
        "families of four unless the column says otherwise, with five seeds.",
        NAMES, margin, lambda _: AT_MOST, 10_000,
    ),
    Table(
        "mixed", "Both sorts of mistakes at once",
        "Two regularizers have no effect, one lies at the margin of 3 sd above, one below. The difference tests and "
        "the equivalence tests are corrected separately, so *either* has no goal of 5%: it may reach 10%.",
        NAMES, mixed, lambda column: None if column == "either" else AT_MOST, 10_000,
    ),
    Table(
        "interaction", "False \"helps more from scratch\"",
        "No regularizer has any effect. Scores from scratch spread three times as much as pretrained ones, except the "
        "counted scores. `4` is any of four regularizers, corrected together; `mean` is the claim on their mean, "
        "which the summary makes. One pair is tested over five seeds; pairs are pooled, each pair's mean as one value.",
        NAMES, interaction_null, lambda _: AT_MOST, 10_000,
    ),
    Table(
        "coverage", "Coverage of the 95% intervals",
        "How often the interval contains the true difference, by the number of seeds. Each interval is for one "
        "comparison, and not widened for the family. Welch's interval is for unmatched seeds. The interaction's has "
        "scratch scores that spread three times as much as pretrained ones. "
        f"The bootstraps have {RESAMPLES:,} resamples.",
        NAMES, coverage, lambda _: COVERED, 10_000,
    ),
    Table(
        "detectable", "Do the limits that kdcache prints hold?",
        "How often a true difference as large as `detectable` is found, and how often equivalence is shown for a "
        "margin as large as the printed one, with normal scores. The goal is 80% for one test, and at least 80% in a "
        "family of four (where one regularizer differs for the difference, and none for equivalence).",
        BY_SEEDS, detectable, _power_goal, 10_000,
    ),
    Table(
        "power", "Power",
        "The verdict on one regularizer of a family of four, with normal scores; the other three do not differ. "
        "Effects and margins are in sd of the matched differences. Verdicts by effect have a margin of 1 sd.",
        BY_SEEDS, power, lambda _: None, 10_000,
    ),
)  # fmt: skip
