"""The token cache: a causal language model's distributions over its vocabulary, one sparse distribution per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdcache.logits.tokens.batch import TokenBatch
from kdcache.logits.tokens.cache import TokenCache
from kdcache.logits.tokens.estimators import RS, Estimator, Full, Threshold, TopK
from kdcache.logits.tokens.format import TokenManifest, Vocabulary
from kdcache.logits.tokens.imports import import_topk
from kdcache.logits.tokens.inference import write_token_logits

if TYPE_CHECKING:
    from kdcache.logits.tokens.losses import designed_token_loss, kd_token_loss, smoothed_token_loss

LOSSES = (
    "designed_token_loss",
    "kd_token_loss",
    "smoothed_token_loss",
)  # these need torch, so each is imported when it is first used
__all__ = [
    "RS",
    "Estimator",
    "Full",
    "Threshold",
    "TokenBatch",
    "TokenCache",
    "TokenManifest",
    "TopK",
    "Vocabulary",
    "designed_token_loss",
    "import_topk",
    "kd_token_loss",
    "smoothed_token_loss",
    "write_token_logits",
]


def __getattr__(name: str) -> Any:
    if name not in LOSSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdcache.logits.tokens import losses

    return getattr(losses, name)
