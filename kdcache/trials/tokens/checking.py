"""Check that a language model's trial or teacher keeps what is asked for now, and keeps it whole. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from kdcache.errors import CacheError
from kdcache.logits import Fingerprints, LogitCache
from kdcache.logits.tokens.cache import TokenCache
from kdcache.logits.tokens.estimators import KINDS, Estimator
from kdcache.study.estimates import TokenEstimate
from kdcache.trials.layout import LIKELIHOODS, LOGITS, RESULT
from kdcache.trials.likelihoods import checksum_in, path_of, read_documents
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import TrialResult, finished_result


def estimator_of(estimate: TokenEstimate) -> Estimator:
    """The estimator that params.yaml declares."""
    return KINDS[estimate.estimator](**estimate.values)


def check_own(cache: LogitCache | TokenCache, identity: str) -> None:
    """Refuse logits that come from another trial's model: somebody copied them here.

    Raises:
        CacheError: they belong to another trial.
    """
    weights = cache.manifest.fingerprints.weights
    if weights != identity:
        raise CacheError(
            f"{cache.path}: has the logits of another trial, {weights:.80}, expected {identity:.80}; run `dvc repro`"
        )


def check_own_likelihoods(folder: Path, result: TrialResult) -> None:
    """Refuse likelihoods that come from another trial's model.

    Raises:
        CacheError: they belong to another trial, are missing or are damaged.
    """
    for path in sorted((folder / LIKELIHOODS).iterdir()):
        if checksum_in(path) != (result.likelihoods or {}).get(path.stem):
            raise CacheError(
                f"{path}: has other likelihoods than those of the trial, as {RESULT} names them; run `dvc repro`"
            )


def check_distributions(folder: Path, estimate: TokenEstimate, expect: Fingerprints | None = None) -> None:
    """Look for damage in a token cache, and for an estimator other than the declared one.

    Raises:
        CacheError: the cache is damaged, has other fingerprints, or holds something else.
    """
    cache = TokenCache(folder, expect)
    cache.verify("full")
    kept, declared = cache.manifest.estimator, estimator_of(estimate).facts()
    if kept != declared or cache.manifest.temperature != estimate.temperature:
        raise CacheError(
            f"{folder}: stored is {kept} at temperature {cache.manifest.temperature:g}, declared {declared} at "
            f"{estimate.temperature:g}"
        )


def check_all(folder: Path) -> None:
    """Look for damage in everything that a finished trial keeps, whatever it is asked for now.

    Raises:
        CacheError: something is damaged, or belongs to another trial.
    """
    check_own_likelihoods(folder, finished_result(folder))
    for path in (folder / LIKELIHOODS).iterdir():
        read_documents(path)
    if (folder / LOGITS).exists():
        TokenCache(folder / LOGITS).verify("full")


def check_trial(plan: TrialPlan) -> None:
    """Look for damage in what a finished trial keeps: its likelihoods, and its own distributions if they are learned.

    Raises:
        CacheError: something is missing or damaged, or belongs to another trial.
    """
    for split in plan.evaluated:
        read_documents(path_of(plan.folder, split))
    check_own_likelihoods(plan.folder, finished_result(plan.folder))
    if plan.keep_train_logits:
        check_own(TokenCache(plan.folder / LOGITS), plan.identity)
        check_distributions(plan.folder / LOGITS, plan.model.estimate)
