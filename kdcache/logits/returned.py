"""The logits in what a model returned: all of them must be real numbers that can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import CacheError


def returned_logits(path: Path, output: Any) -> Any:
    """The logits in a model's output: the value of its key or attribute `logits`, or the output itself.

    Anything that is no array or tensor is passed on; the caller refuses it.

    Args:
        path: the cache's folder, for messages.

    Raises:
        CacheError: the logits are complex numbers, texts or objects, or a sparse, quantized or meta tensor, or some of
            them are masked.
    """
    logits: Any = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    kind = getattr(logits, "dtype", None)
    if np.ma.is_masked(logits) or hasattr(logits, "get_mask"):  # NumPy's and torch's masked values
        raise CacheError(
            f"{path}: some of the model's logits are masked; every row needs all of its logits, so leave such rows out"
        )
    if not hasattr(logits, "detach"):
        usable = kind is None or kind.kind in "fiub"
    else:
        odd = logits.is_complex() or logits.is_quantized or logits.is_meta
        usable = str(logits.layout) == "torch.strided" and not odd
    if not usable:
        actual = f"{type(logits).__name__} of {kind}"
        raise CacheError(f"{path}: expected dense real numbers as logits from the model, found a {actual}")
    return logits.detach() if hasattr(logits, "detach") else logits
