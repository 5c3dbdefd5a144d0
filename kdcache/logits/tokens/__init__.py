"""The token cache: a causal language model's distributions over its vocabulary, a sparse one at every token."""

from kdcache.logits.tokens.estimators import RS, Estimator, Full, Threshold, TopK

__all__ = ["RS", "Estimator", "Full", "Threshold", "TopK"]
