"""Looks as params.yaml declares them: after how many seeds comparisons are judged, and each look's share of alpha.

`kdcache.statistics.looks` says why a look has a share of alpha, and how it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from kdcache.errors import ComparisonError

Spend: TypeAlias = Literal["linear", "late"] | Sequence[float]
Correction: TypeAlias = Literal["holm", "bonferroni", "fdr_bh", "none"]

LAST = 0.65  # the share of alpha that `late` keeps for the last look
MOST_SPLIT = 5  # looks; with more, splitting alpha loses too much power compared with exact boundaries
ROUNDING = 1e-9


def shares_of(spend: Spend, looks: Sequence[int]) -> tuple[float, ...]:
    """Each look's share of alpha.

    `linear`: the look's new seeds divided by all seeds. `late`: 0.65 for the last look; the others share the rest in
    proportion to their seeds (5, 10, 20, 40: 0.05, 0.10, 0.20, 0.65). A list gives the shares themselves.

    Raises:
        ComparisonError: the looks do not increase, or `spend` is none of these.
    """
    check_looks(looks)
    if spend == "linear":
        return tuple(
            new / looks[-1] for new in (looks[0], *(after - before for before, after in pairwise(looks)))
        )
    if spend == "late":
        early = looks[:-1]
        return (*((1 - LAST) * n / sum(early) for n in early), LAST) if early else (1.0,)
    if isinstance(spend, str):
        raise ComparisonError(f"spend must be linear, late or a list of shares, found {spend!r}")
    return tuple(map(float, spend))


def check_declared(
    looks: Sequence[int], shares: Sequence[float], correction: Correction, exact: bool
) -> None:
    """Refuse a design with looks that would not keep its error rate, or that cannot work.

    Raises:
        ComparisonError: says what is wrong and what to declare instead.
    """
    check_looks(looks)
    _check_shares(shares, looks)
    if correction == "fdr_bh" and len(looks) > 1:
        raise ComparisonError(
            "fdr_bh does not keep its promise with several looks: a family that stops early has fewer "
            "rejections, of which more may be false; declare correction: holm or bonferroni"
        )
    if exact:
        check_steps(looks)
    elif len(looks) > MOST_SPLIT:
        raise ComparisonError(
            f"{len(looks)} looks: with more than {MOST_SPLIT}, declare boundaries: exact, or fewer looks"
        )


def check_looks(looks: Sequence[int]) -> None:
    """Refuse looks that do not increase. A single look may have a single seed, although nothing can be tested then.

    Raises:
        ComparisonError: there are no looks, they do not increase, or the first of several has fewer than two seeds.
    """
    if not looks or looks[0] < min(2, len(looks)):
        raise ComparisonError(f"looks must be numbers of seeds, the first 2 or more, found {list(looks)}")
    if any(after <= before for before, after in pairwise(looks)):
        raise ComparisonError(f"looks must increase, each by the seeds that are new, found {list(looks)}")


def _check_shares(shares: Sequence[float], looks: Sequence[int]) -> None:
    if len(shares) != len(looks):
        raise ComparisonError(f"{len(looks)} looks need as many shares of alpha, found {list(shares)}")
    if not min(shares) > 0:
        raise ComparisonError(f"every look needs a share of alpha above 0, found {list(shares)}")
    if sum(shares) > 1 + ROUNDING:
        raise ComparisonError(
            f"the shares of alpha must sum to 1 at most, found {list(shares)}: {sum(shares):g}"
        )


def check_steps(looks: Sequence[int]) -> None:
    """Refuse looks with a single new seed for exact boundaries: its statistic is -1 or 1 and has no density."""
    if any(after - before < 2 for before, after in pairwise(looks)):
        raise ComparisonError(
            f"exact boundaries need two or more new seeds at each look, found {list(looks)}"
        )
