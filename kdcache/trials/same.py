"""Run finished trainings again, and compare the new results with the kept ones bit for bit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdcache.checkpoints.fingerprints import of_weights
from kdcache.errors import TrialError
from kdcache.logits import LogitCache
from kdcache.logits.manifests import kind_of
from kdcache.logits.places import PLAIN, VIEWS
from kdcache.logits.tokens.cache import TokenCache
from kdcache.trials.layout import LOGITS
from kdcache.trials.likelihoods import document_difference, path_of, read_documents
from kdcache.trials.plan import CachePlan, TeacherPlan, TrialPlan
from kdcache.trials.result import finished_result, read_teacher

log = logging.getLogger(__name__)

RunAll = Callable[[Sequence[TrialPlan]], None]


def check_same(
    teachers: Sequence[TeacherPlan], caches: Sequence[CachePlan], trials: Sequence[TrialPlan], run: RunAll
) -> None:
    """Run these plans again in a temporary folder, and compare every loss, weight and logit with the kept ones.

    Raises:
        TrialError: a value differs; the message names the first one.
    """
    with tempfile.TemporaryDirectory(prefix="kdcache-adopt-") as name:
        folder = Path(name)
        if teachers or caches:
            _check_teachers(folder, teachers, caches)
        reruns = [
            replace(plan, folder=folder / f"trial-{place}", keep_model=False)
            for place, plan in enumerate(trials)
        ]
        run(reruns)
        for plan, other in zip(trials, reruns, strict=True):
            check_losses(plan.name, finished_result(plan.folder).losses, finished_result(other.folder).losses)
            _check(plan.name, trial_difference(plan, other.folder))


def _check_teachers(folder: Path, teachers: Sequence[TeacherPlan], caches: Sequence[CachePlan]) -> None:
    from kdcache.trials.cache import cache_logits  # imports torch: not before there is work
    from kdcache.trials.teach import teach

    for place, plan in enumerate(teachers):
        log.info("training %s again", plan.name)
        rerun = replace(plan, folder=folder / f"teacher-{place}")
        result = teach(rerun)
        check_losses(plan.name, read_teacher(plan.folder).get("losses", []), result["losses"])
        if of_weights(plan.folder) != of_weights(rerun.folder):
            raise TrialError(f"{plan.name}: its weights come out differently; nothing is stamped")
    for place, cache in enumerate(caches):
        log.info("computing %s again", cache.name)
        other = replace(cache, folder=folder / f"cache-{place}")
        cache_logits(other)
        for part in cache.caches:
            _check(cache.name, first_difference(cache.folder / part, other.folder / part))


def check_losses(name: str, kept: Sequence[float], now: Sequence[float]) -> None:
    if list(kept) == list(now):
        return
    pairs = zip(kept, now, strict=False)
    epoch = next(
        (index for index, (a, b) in enumerate(pairs, start=1) if a != b), min(len(kept), len(now)) + 1
    )
    raise TrialError(
        f"{name}: the code computes something else: the loss of epoch {epoch} was {_at(kept, epoch)}, it is now "
        f"{_at(now, epoch)}; nothing is stamped, `dvc repro` runs what depends on it"
    )


def _at(values: Sequence[float], epoch: int) -> str:
    return repr(values[epoch - 1]) if epoch <= len(values) else "not there"


def kept_places(plan: TrialPlan) -> list[str]:
    """The caches that a finished trial keeps in its logits folder. A language model's are kept only to be learned."""
    if plan.language_modelling and not (plan.folder / LOGITS).exists():
        return []
    return [PLAIN, *[VIEWS] * plan.keep_views]


def trial_difference(plan: TrialPlan, rerun_folder: Path) -> str | None:
    """What differs when the trial is run again in another folder, in words; None if every bit is the same."""
    pairs = [(plan.folder / LOGITS / place, rerun_folder / LOGITS / place) for place in kept_places(plan)]
    differences = [first_difference(*pair) for pair in pairs]
    for split in plan.evaluated if plan.language_modelling else ():
        documents = (read_documents(path_of(folder, split)) for folder in (plan.folder, rerun_folder))
        differences.append(document_difference(split, *documents))
    return next((difference for difference in differences if difference is not None), None)


def _check(name: str, difference: str | None) -> None:
    """
    Raises:
        TrialError: names the first row whose logit, distribution or likelihood differs.
    """
    if difference is not None:
        raise TrialError(f"{name}: the code computes something else: {difference}; nothing is stamped")


def first_difference(kept: Path, now: Path) -> str | None:
    """The first row whose logit differs in a second cache, in words; None if every bit is the same."""
    if kind_of(kept) == "tokens":
        return _token_difference(TokenCache(kept), TokenCache(now))
    before, after = LogitCache(kept), LogitCache(now)
    if before.splits != after.splits:
        return f"kept are logits of {before.splits}, now there are those of {after.splits}"
    for split in before.splits:
        a, b = before.split(split), after.split(split)
        if not np.array_equal(a.ids, b.ids) or not np.array_equal(a.row_hashes, b.row_hashes):
            return f"the logits of {split} are of other rows now"
        different = a.logits.view(np.uint32) != b.logits.view(np.uint32)
        if different.any():
            at = tuple(int(index) for index in np.argwhere(different)[0])
            return (
                f"{split}, row id {a.ids[at[0]]}, logit {list(at[1:])} was {a.logits[at]}, it is now "
                f"{b.logits[at]}"
            )
    return None


def _token_difference(before: TokenCache, after: TokenCache) -> str | None:
    if before.splits != after.splits:
        return f"kept are distributions of {before.splits}, now there are those of {after.splits}"
    for split in before.splits:
        a, b = before.split(split), after.split(split)
        if not np.array_equal(a.ids, b.ids) or not np.array_equal(a.row_hashes, b.row_hashes):
            return f"the distributions of {split} are of other sequences now"
        for name, column in a.columns.items():
            other = b.columns[name]
            same = np.array_equal(column.lengths, other.lengths) and np.array_equal(
                column.values, other.values
            )
            if not same:
                return f"{split}: {name} of the distributions is not what it was"
    return None
