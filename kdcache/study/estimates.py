"""What is stored of a language model's distributions, as params.yaml declares it: `cache` of a teacher or a student."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from kdcache.study.values import Params, Seed
from kdcache.system.quoting import listed

DRAWN = ("draws", "seed")
VALUES: dict[str, tuple[str, ...]] = {  # of each estimator
    "threshold": ("eps", *DRAWN),
    "rs": ("n", *DRAWN),
    "topk": ("k",),
    "full": (),
}


class TokenEstimate(Params):
    """An estimator of `kdcache.logits.tokens` and its values; see docs/token-caches.md."""

    estimator: Literal["threshold", "rs", "topk", "full"] = "threshold"
    eps: float = Field(default=1 / 64, ge=1 / 65536, le=0.5)
    n: int = Field(default=50, ge=1, le=65536)
    k: int = Field(default=64, ge=1, le=65536)
    draws: int = Field(default=1, ge=1, le=4096)
    seed: Seed = 0
    temperature: float = Field(default=1.0, gt=0)

    @property
    def values(self) -> dict[str, Any]:
        """The estimator's own values, by their names there."""
        return {name: getattr(self, name) for name in VALUES[self.estimator]}

    @property
    def in_words(self) -> str:
        """What is stored, in a few words."""
        what = {
            "threshold": f"threshold 1/{1 / self.eps:.4g}",
            "rs": f"random sampling, {self.n}",
            "topk": f"top {self.k}",
            "full": "every token",
        }[self.estimator]
        return what if self.draws == 1 else f"{what}, {self.draws} draws"

    def _mistakes(self) -> Iterator[str]:
        others = {name for names in VALUES.values() for name in names} - set(VALUES[self.estimator])
        useless = sorted(others & self.model_fields_set)
        if useless:
            yield f"estimator: {self.estimator} has no {listed(useless)}"
