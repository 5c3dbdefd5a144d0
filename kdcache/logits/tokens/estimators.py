"""Estimators: which part of a distribution over a vocabulary is stored at a position.

Each position has a head and a tail. The head's tokens are stored with their log-probabilities. The tail's tokens share
the remaining probability equally. `sampling.py` selects them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from kdcache.errors import CacheError

MOST_DRAWS = 1 << 12
MOST_ENTRIES = 1 << 16  # in one draw at one position
SYSTEMATIC, MULTINOMIAL = "systematic-v3", "multinomial-v3"
EARLIER = {  # old samplers: their caches can be read, but nothing is drawn with them any more
    SYSTEMATIC: ("systematic-v1", "systematic-v2"),
    MULTINOMIAL: ("multinomial-v1", "multinomial-v2"),
}


@dataclass(frozen=True)
class Estimator:
    """Base of the estimators."""

    kind: ClassVar[str]
    sampler: ClassVar[str | None] = None
    sums_to_one: ClassVar[bool] = True

    @property
    def draws(self) -> int:
        """How many targets each position has, for the epochs in turn."""
        return 1

    @property
    def sampled(self) -> bool:
        """Whether the target is random, with the distribution as its mean."""
        return self.sampler is not None

    def most(self, vocabulary: int) -> int:
        """The largest number of head entries, or of tail entries of a draw, that a position can have."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """The estimator's kind and values, as the manifest has them."""
        sampler = {} if self.sampler is None else {"sampler": self.sampler}
        return {"kind": self.kind, **asdict(self), **sampler}


def _check(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise CacheError(f"{name} must be an integer from {least} to {most}, found {value!r:.80}")


@dataclass(frozen=True)
class _Drawn(Estimator):
    def _check_draws(self, draws: int, seed: int) -> None:
        _check("draws", draws, 1, MOST_DRAWS)
        _check("seed", seed, 0, 2**63 - 1)


@dataclass(frozen=True)
class Threshold(_Drawn):
    """Keep every token of probability eps or more. Sample the others without replacement, all with the same weight.

    This is unbiased, and every draw sums to one. The tail has the probability T. From it, max(1, floor(T / eps)) tokens
    are drawn by systematic sampling: a token's chance is proportional to its probability, and each drawn token gets the
    weight T divided by their number. The optimal unbiased sparsification, for the squared distance and for KL, has the
    same form: heavy tokens keep their value and the others share one value (Barnes et al., "Efficient Unbiased
    Sparsification", arXiv 2402.14925).

    Args:
        eps: the threshold, in (0, 1/2]. At a position of high entropy, about 1/eps entries are stored.
        draws: the number of tails. Each epoch reads another tail. They are not independent: they share one random
            offset, spread evenly (stratified), so V tails together are a sample with the threshold eps / V.
        seed: the seed of the draws.

    Raises:
        CacheError: a value is out of its range.
    """

    kind: ClassVar[str] = "threshold"
    sampler: ClassVar[str | None] = SYSTEMATIC
    eps: float = 1 / 64
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.eps, float) or not 1 / MOST_ENTRIES <= self.eps <= 0.5:
            raise CacheError(f"eps must be a number from 1/{MOST_ENTRIES} to 1/2, found {self.eps!r:.80}")
        self._check_draws(self.draws, self.seed)

    def most(self, vocabulary: int) -> int:
        return min(math.floor(1 / self.eps) + 1, max(vocabulary, 1))


@dataclass(frozen=True)
class RS(_Drawn):
    """Random sampling KD: n tokens drawn with replacement, each with weight 1/n. Unbiased, and sums to one.

    Anshumann et al. (ACL 2025, arXiv 2503.16870) gave it the name. It is here for comparison.

    Args:
        n: the number of tokens drawn, repeats included.
        draws: the number of independent samples of n tokens. seed: the seed of the draws.

    Raises:
        CacheError: a value is out of its range.
    """

    kind: ClassVar[str] = "rs"
    sampler: ClassVar[str | None] = MULTINOMIAL
    n: int = 50
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _check("n", self.n, 1, MOST_ENTRIES)
        self._check_draws(self.draws, self.seed)

    def most(self, vocabulary: int) -> int:
        return self.n


@dataclass(frozen=True)
class TopK(Estimator):
    """The k most probable tokens. Of the other tokens, only their total probability is known.

    This is biased: the other tokens are lost. `kd_token_loss` puts their probability in one bucket, or renormalises.

    Args:
        k: how many tokens. If the vocabulary has fewer, all of them.

    Raises:
        CacheError: k is out of its range.
    """

    kind: ClassVar[str] = "topk"
    sums_to_one: ClassVar[bool] = False
    k: int = 64

    def __post_init__(self) -> None:
        _check("k", self.k, 1, MOST_ENTRIES)

    def most(self, vocabulary: int) -> int:
        return min(self.k, vocabulary)


@dataclass(frozen=True)
class Full(Estimator):
    """Every token's log-probability: for small vocabularies, and for comparison."""

    kind: ClassVar[str] = "full"

    def most(self, vocabulary: int) -> int:
        return vocabulary


KINDS: dict[str, type[Estimator]] = {one.kind: one for one in (Threshold, RS, TopK, Full)}


def estimator_of(facts: dict[str, Any]) -> Estimator:
    """The estimator that a manifest's `facts` describe.

    Raises:
        CacheError: there is no such estimator, or it cannot have these values.
    """
    values = {name: value for name, value in facts.items() if name not in ("kind", "sampler")}
    kind = KINDS.get(str(facts.get("kind")))
    if kind is None or facts.get("sampler") not in (kind.sampler, *EARLIER.get(kind.sampler or "", ())):
        raise CacheError(f"expected an estimator of {', '.join(KINDS)}, found {facts!r:.200}")
    try:
        return kind(**values)
    except TypeError:
        raise CacheError(f"a {kind.kind} estimator has no such values: {facts!r:.200}") from None
