"""Cache a teacher's logits once; train and compare any number of students and regularizers against them.

The public names are imported when they are first used, so that a command that needs none of them starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.errors import KdcacheError
    from kdcache.logits import (
        Augmentation,
        AugmentedDataset,
        Cost,
        Fingerprints,
        LogitCache,
        LogitWriter,
        write_logits,
    )
    from kdcache.logits.tokens import (
        RS,
        Full,
        Threshold,
        TokenBatch,
        TokenCache,
        TopK,
        import_topk,
        kd_token_loss,
        write_token_logits,
    )
    from kdcache.losses import kd_loss
    from kdcache.study import Study, load_study

__all__ = [
    "RS",
    "Augmentation",
    "AugmentedDataset",
    "Cost",
    "Fingerprints",
    "Full",
    "KdcacheError",
    "LogitCache",
    "LogitWriter",
    "Study",
    "Threshold",
    "TokenBatch",
    "TokenCache",
    "TopK",
    "import_topk",
    "kd_loss",
    "kd_token_loss",
    "load_study",
    "write_logits",
    "write_token_logits",
]
TOKENS = (
    "RS", "Full", "Threshold", "TokenBatch", "TokenCache", "TopK", "import_topk", "kd_token_loss", "write_token_logits",
)  # fmt: skip
HOMES = {
    **dict.fromkeys(TOKENS, "kdcache.logits.tokens"),
    "KdcacheError": "kdcache.errors",
    "kd_loss": "kdcache.losses",
    "Study": "kdcache.study",
    "load_study": "kdcache.study",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # its imports take longer than those of many a command

        return version("kdcache")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES.get(name, "kdcache.logits")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
