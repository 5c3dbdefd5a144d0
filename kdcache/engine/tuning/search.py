"""Which settings are tried: all of a small space, or those that Optuna draws from a larger space. None comes twice.

The same space, budget, seed and scores give the same settings. So a search saves no state. After an interruption it
starts again and finds its trials finished.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeAlias

import numpy as np

from kdcache.study.tuning import Setting, Tuning, Values, grid

Scores: TypeAlias = Sequence[float]  # a setting's scores, one for each seed
Try: TypeAlias = Callable[[Sequence[Setting]], Sequence[Scores]]
DIGITS = 12  # means that agree in this many decimals count as equal: sums of equal scores differ by rounding


@dataclass(frozen=True)
class Tried:
    """A setting and its scores, one for each seed."""

    setting: Setting
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return round(fmean(self.scores), DIGITS)


def search(tuning: Tuning, method: str, attempt: Try) -> list[Tried]:
    """Try as many settings of a method as the budget allows, each once. Return them in the order of trying.

    Args:
        attempt: gives the scores of settings; it may run the settings of one call at the same time.
    """
    known = known_settings(tuning, method)
    if known is not None:
        scores = attempt(known)
        return [Tried(setting, tuple(of_setting)) for setting, of_setting in zip(known, scores, strict=True)]
    return list(_one_by_one(tuning, method, attempt))


def known_settings(tuning: Tuning, method: str) -> list[Setting] | None:
    """The settings that a method will try, if they do not depend on scores; None for TPE."""
    if tuning.points(method) <= tuning.budget:
        return list(grid(tuning.values(method)))
    if tuning.sampler == "tpe":
        return None
    return [tried.setting for tried in _one_by_one(tuning, method, lambda settings: [(0.0,)] * len(settings))]


def best(tried: Sequence[Tried], lower: bool) -> int:
    """The index of the setting with the best mean; among equals, the first."""
    means = [-setting.mean if lower else setting.mean for setting in tried]
    return means.index(max(means))


def _one_by_one(tuning: Tuning, method: str, attempt: Try) -> Iterator[Tried]:
    """Optuna's proposals, each made after the scores of the earlier ones. If one is repeated, a new one replaces it."""
    from optuna.trial import TrialState, create_trial  # takes half a second, so only when it is needed

    axes = {key: sorted(values) for key, values in tuning.values(method).items()}
    study, unused = _optuna_study(tuning), _shuffled(axes, tuning.seed)
    distributions, seen = _distributions(axes), set[tuple[int, ...]]()
    while len(seen) < tuning.budget:
        asked = study.ask(distributions)
        indices = tuple(asked.params[key] for key in axes)
        repeated = indices in seen
        if repeated:
            indices = next(place for place in unused if place not in seen)
        seen.add(indices)
        setting = {key: values[at] for (key, values), at in zip(axes.items(), indices, strict=True)}
        (scores,) = attempt([setting])
        tried = Tried(setting, tuple(scores))
        if repeated:
            study.tell(asked, state=TrialState.FAIL)
            params: dict[str, Any] = dict(zip(axes, indices, strict=True))
            study.add_trial(create_trial(params=params, distributions=distributions, value=tried.mean))
        else:
            study.tell(asked, tried.mean)
        yield tried


def _optuna_study(tuning: Tuning) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction: Literal["minimize", "maximize"] = "minimize" if tuning.lower_is_better else "maximize"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = (
            optuna.samplers.TPESampler(seed=tuning.seed)
            if tuning.sampler == "tpe"
            else optuna.samplers.QMCSampler(seed=tuning.seed, scramble=True, warn_independent_sampling=False)
        )
    return optuna.create_study(sampler=sampler, direction=direction)


def _distributions(axes: Values) -> dict[str, Any]:
    """Optuna's distributions over indices into the sorted lists. Neighbours are similar, and a sampler can use that."""
    from optuna.distributions import IntDistribution

    return {key: IntDistribution(0, len(values) - 1) for key, values in axes.items()}


def _shuffled(axes: Values, seed: int) -> Iterator[tuple[int, ...]]:
    """Every point of a space once, as indices, in random order."""
    sizes = [len(values) for values in axes.values()]
    for flat in np.random.default_rng(seed).permutation(int(np.prod(sizes))):
        yield tuple(int(at) for at in np.unravel_index(flat, sizes))
