"""The loss of a regularizer at every token: the formula of `kdcache.training.regularizers`, in closed or sparse form.

    loss = (1 - alpha) * CE + alpha * tau^2 * D(p_tau || softmax(z / tau)),  the mean over the tokens to predict

| params        | loss of a token                               | computed in                    |
| ------------- | --------------------------------------------- | ------------------------------ |
| {}            | lse - z_y                                     | `smoothed_token_loss`, alpha 0 |
| uniform       | (1 - alpha)(lse - z_y) + alpha (lse - mean z) | `smoothed_token_loss`          |
| designed      | in z_y, the sum of z and lse(z / tau)         | `designed_token_loss`          |
| teacher, self | against the entries of a token cache          | `kd_token_loss`                |

The softmax, and so lse, is over all outputs of the student. Targets, the mean of z and the sum of z are over the V
tokens; outputs beyond V have the target 0. Reverse KL alone is over the first V outputs.

Label smoothing is cross-entropy against the smoothed labels here: KL and a constant, alpha log V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from kdcache.errors import TrialError
from kdcache.logits.tokens.batch import TokenBatch
from kdcache.logits.tokens.losses import designed_token_loss, kd_token_loss, smoothed_token_loss
from kdcache.study import Regularizer
from kdcache.training.regularizers import value_at

# (logits [n, L, V], the batch, progress of training 0..1) -> the mean over its tokens to predict
TokenLoss: TypeAlias = Callable[[Tensor, TokenBatch, float], Tensor]


def make_token_loss(params: Regularizer) -> TokenLoss:
    """The loss of a regularizer or distiller.

    Raises:
        TrialError: it is not defined at every token (params.yaml is checked for that before anything runs).
    """
    if params.is_base:
        return lambda logits, batch, _: smoothed_token_loss(logits, batch, 0.0)
    if params.function is not None or params.divergence not in ("kl", "reverse_kl"):
        raise TrialError(f"{params.function or params.divergence}: is not defined at every token of a text")
    if params.soft_labels == "uniform":
        return lambda logits, batch, progress: smoothed_token_loss(
            logits, batch, value_at(params.alpha, progress)
        )
    if params.soft_labels == "designed" and params.correct is not None:
        correct = params.correct
        return lambda logits, batch, progress: designed_token_loss(
            logits,
            batch,
            value_at(params.alpha, progress),
            correct=correct,
            temperature=value_at(params.temperature, progress),
        )
    if params.soft_labels in ("teacher", "self"):
        return lambda logits, batch, progress: kd_token_loss(
            logits,
            batch,
            alpha=value_at(params.alpha, progress),
            temperature=value_at(params.temperature, progress),
            tail=params.tail or "bucket",
            divergence="reverse_kl" if params.divergence == "reverse_kl" else "kl",
        )
    raise TrialError(f"soft_labels: {params.soft_labels}: is not defined at every token of a text")
