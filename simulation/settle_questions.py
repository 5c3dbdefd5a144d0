"""The questions about designs with looks: how often they are wrong, what they decide, and with how many trials.

The procedure is that of kdcache.statistics.replay_many, which tests check to be equal to `replay`. Each question draws
families of differences [repetitions, comparisons, seeds] whose true means are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from scipy import special

from kdcache.statistics.looks import Design
from kdcache.statistics.replay_many import BETTER, EQUIVALENT, WORSE, Many, replay_many
from simulation.montecarlo import Question
from simulation.procedure import Array, Mask

LOOKS = (5, 10, 20, 40)
MARGIN = 1.0
SIZES = (4, 12)  # of a family
SDS = (0.5, 0.8, 1.2, 2.0)
EFFECTS = (0.0, 0.5, 1.0, 2.0)
FAR = 50.0  # points; beyond any doubt


class Naive(Design):
    """All of alpha at every look, which a Design refuses. It shows what uncorrected looking does."""

    def __post_init__(self) -> None:
        pass

    @classmethod
    def at(cls, looks: tuple[int, ...]) -> Naive:
        return cls(looks, (1.0,) * len(looks), stop_hopeless=0.0)


SPLIT = Design.of(LOOKS, stop_hopeless=0.0)
LATE = Design.of(LOOKS, "late", stop_hopeless=0.0)
EXACT = Design.of(LOOKS, stop_hopeless=0.0, exact=True)
HOPELESS = Design.of(LOOKS)
NAIVE = Naive.at(LOOKS)
FIXED = {n: Design.of((n,)) for n in (5, 20, 40)}


@dataclass(frozen=True)
class Scores:
    """A kind of scores; `draw(rng, shape, effect)`, shape [repetitions, comparisons, seeds], gives differences.

    weak: the tests that are known to be wrong more often with few seeds, with looks or without.
    """

    name: str
    text: str
    draw: Callable[[Generator, tuple[int, int, int], float], Array]
    weak: str = ""


def _of_arms(
    regularizers: Callable[[Generator, tuple[int, ...]], Array],
    baseline: Callable[[Generator, tuple[int, ...]], Array],
) -> Callable[[Generator, tuple[int, int, int], float], Array]:
    def draw(rng: Generator, shape: tuple[int, int, int], effect: float) -> Array:
        return effect + regularizers(rng, shape) - baseline(rng, (shape[0], 1, shape[2]))

    return draw


def _normal(rng: Generator, shape: tuple[int, ...], sd: float = math.sqrt(0.5)) -> Array:
    return sd * rng.standard_normal(shape)


def _t3(rng: Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(math.sqrt(0.5 / 3) * rng.standard_t(3, shape))


def _skewed(rng: Generator, shape: tuple[int, ...], sd: float = math.sqrt(0.5)) -> Array:
    return sd * (1.0 - rng.standard_exponential(shape))


def _counted(rows: int, level: float) -> Callable[[Generator, tuple[int, int, int], float], Array]:
    """Differences of accuracies on `rows` rows, each right with probability `level`, plus the effect."""

    def draw(rng: Generator, shape: tuple[int, int, int], effect: float) -> Array:
        right = rng.binomial(rows, level + effect / 100, shape) - rng.binomial(
            rows, level, (shape[0], 1, shape[2])
        )
        return np.asarray(100.0 * right / rows)

    return draw


def _rounded(rows: int, sd: float) -> Callable[[Generator, tuple[int, int, int], float], Array]:
    """Normal scores, rounded to whole rows."""

    def draw(rng: Generator, shape: tuple[int, int, int], effect: float) -> Array:
        x = effect + sd * rng.standard_normal(shape)
        y = sd * rng.standard_normal((shape[0], 1, shape[2]))
        return np.asarray((np.round(x * rows / 100) - np.round(y * rows / 100)) * 100.0 / rows)

    return draw


def _one_in_doubt(rng: Generator, shape: tuple[int, int, int], effect: float) -> Array:
    """Normal; only the first comparison is in doubt. The others are far off, or certainly equal if effect > 0."""
    d = _of_arms(_normal, _normal)(rng, shape, effect)
    rest = rng.standard_normal(d[:, 1:].shape) / 1000 + (0.0 if effect else FAR)
    return np.concatenate([d[:, :1], rest], axis=1)


SCORES = (
    Scores("normal", "normal scores", _of_arms(_normal, _normal)),
    Scores(
        "beside sure ones",
        "normal; all comparisons but one are beyond doubt, Holm's hardest case",
        _one_in_doubt,
    ),
    Scores("t3", "Student's t with 3 degrees of freedom: heavy tails", _of_arms(_t3, _t3)),
    Scores("skewed, all arms", "1 - Exp(1) in all arms", _of_arms(_skewed, _skewed)),
    Scores(
        "skewed baseline",
        "1 - Exp(1) in the baseline, normal regularizers",
        _of_arms(_normal, _skewed),
        "equivalence",
    ),
    Scores(
        "skewed regularizers",
        "1 - Exp(1) in the regularizers, a steady baseline of sd 0.1",
        _of_arms(partial(_skewed, sd=1.0), partial(_normal, sd=0.1)),
        "difference",
    ),
    Scores("277 rows", "accuracies of 277 rows around 88.5%: sd 2.7", _counted(277, 0.885)),
    Scores("1000 rows", "accuracies of 1,000 rows around 90.7%: sd 1.3", _counted(1000, 0.907)),
    Scores(
        "277 rows, steady", "normal scores rounded to 277 rows: sd 0.4, one row is 0.36", _rounded(277, 0.25)
    ),
)


def wrong(scores: Scores, size: int) -> Question:
    """Families with a false better or worse (all truths 0), and with a false equivalent (all truths at the margin)."""

    def ask(rng: Generator, repetitions: int) -> Mapping[str, Mask]:
        shape = (repetitions, size, LOOKS[-1])
        equal, margin = scores.draw(rng, shape, 0.0), scores.draw(rng, shape, MARGIN)
        doubtful = slice(0, 1) if scores.name == "beside sure ones" else slice(None)
        answers = {}
        for name, design in {"split": SPLIT, "exact": EXACT, "naive": NAIVE}.items():
            answers[f"difference, {name}"] = _different(_alone(design, equal, "difference"))[:, doubtful]
            answers[f"equivalence, {name}"] = _equivalent(_alone(design, margin, "equivalence"))[:, doubtful]
        for n in (40, 5):
            answers[f"difference, fixed {n}"] = _different(replay_many(FIXED[n], equal[..., :n], MARGIN))[
                :, doubtful
            ]
            fixed = _alone(FIXED[n], margin[..., :n], "equivalence")
            answers[f"equivalence, fixed {n}"] = _equivalent(fixed)[:, doubtful]
        for name, design in {"both tests": HOPELESS, "naive, both tests": NAIVE}.items():
            answers[f"difference, {name}"] = _different(replay_many(design, equal, MARGIN))[:, doubtful]
            answers[f"equivalence, {name}"] = _equivalent(replay_many(design, margin, MARGIN))[:, doubtful]
        return {name: np.asarray(mask.any(axis=-1)) for name, mask in answers.items()}

    return ask


def _alone(design: Design, d: Array, test: str) -> Many:
    return replay_many(design, d, MARGIN, difference=test == "difference", equivalence=test == "equivalence")


def _different(many: Many) -> Mask:
    return np.asarray((many.verdict == BETTER) | (many.verdict == WORSE))


def _equivalent(many: Many) -> Mask:
    return np.asarray(many.verdict == EQUIVALENT)


def covered(sd: float, effect: float) -> Question:
    """Where a comparison stops: whether the repeated and a plain interval cover the truth, and the mean's error.

    Means over the family's comparisons.
    """

    def ask(rng: Generator, repetitions: int) -> Mapping[str, Array]:
        many = replay_many(HOPELESS, _family(rng, repetitions, sd, effect), MARGIN)
        reach = (many.high - many.low) / 2 * _plain_share(many)
        error = np.abs(many.difference - effect)
        return {
            "repeated": ((many.low <= effect) & (effect <= many.high)).mean(axis=-1),
            "plain": (error <= reach).mean(axis=-1),
            "too far": (many.difference - effect).mean(axis=-1),
        }

    return ask


def _plain_share(many: Many) -> Array:
    """The width of a plain 95% interval as a share of the repeated one's, at each comparison's look."""
    tails = [HOPELESS.nominal(look, HOPELESS.alpha, 2) for look in range(1, len(LOOKS) + 1)]
    widths = [
        special.stdtrit(n - 1, 1 - HOPELESS.alpha / 2) / special.stdtrit(n - 1, 1 - tail / 2)
        for n, tail in zip(LOOKS, tails, strict=True)
    ]
    return np.array(widths)[many.look - 1]


def decided(sd: float, effect: float) -> Question:
    """For a family of 4: the shares decided, better or worse, equivalent; and the trials, the baseline's included."""
    designs = {"split": SPLIT, "hopeless": HOPELESS, "late": LATE, "exact": EXACT}
    designs |= {f"fixed {n}": design for n, design in FIXED.items()}

    def ask(rng: Generator, repetitions: int) -> Mapping[str, Array]:
        d = _family(rng, repetitions, sd, effect)
        answers = {}
        for name, design in designs.items():
            many = replay_many(design, d[..., : design.looks[-1]], MARGIN)
            answers[f"{name}, decided"] = many.decided.mean(axis=-1)
            answers[f"{name}, different"] = _different(many).mean(axis=-1)
            answers[f"{name}, equivalent"] = _equivalent(many).mean(axis=-1)
            answers[f"{name}, trials"] = many.trials.astype(np.float64)
        return answers

    return ask


def _family(rng: Generator, repetitions: int, sd: float, effect: float) -> Array:
    arm = partial(_normal, sd=sd * math.sqrt(0.5))
    return _of_arms(arm, arm)(rng, (repetitions, 4, LOOKS[-1]), effect)


def questions() -> Iterator[tuple[str, str, Question]]:
    """(table, row, question) of all cells, in the page's order."""
    for size in SIZES:
        for scores in SCORES:
            yield "wrong", f"{size} {scores.name}", wrong(scores, size)
    for sd in SDS:
        for effect in EFFECTS:
            yield "covered", f"{sd:g} {effect:g}", covered(sd, effect)
    for sd in SDS:
        for effect in EFFECTS:
            yield "decided", f"{sd:g} {effect:g}", decided(sd, effect)
