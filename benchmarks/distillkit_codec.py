"""DistillKit's codec on the same logits, if it is installed: bytes a token, and CPU seconds a token.

It is not on PyPI, so it is no dependency: `pip install` a checkout of arcee-ai/DistillKit, or put one on PYTHONPATH.
Codec and file writer are its own; nothing of it is copied here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

# Its README's two settings.
RECOMMENDED = {"k": 128, "exact_k": 16, "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"]}
BUDGET = {"k": 50, "exact_k": 1, "polynomial_terms": [0, 1, "sqrt"]}
SETTINGS = {"DistillKit, recommended (k = 128)": RECOMMENDED, "DistillKit, budget (k = 50)": BUDGET}
FIXED = {
    "exact_dtype": "bfloat16",
    "term_dtype": "float32",
    "residual_bins": [],
    "delta_encoding": False,
    "error_diffusion": False,
}


def missing() -> str | None:
    """Why the codec cannot run; None if it can."""
    try:
        import distillkit.compression
        import distillkit.sample_common  # noqa: F401
    except ImportError as error:
        return f"DistillKit is not installed ({error})"
    return None


def measured(tokens: torch.Tensor, logits: torch.Tensor, setting: dict[str, Any]) -> dict[str, float]:
    """Bytes a token of its Parquet files, and CPU seconds a token from logits to files.

    Args:
        tokens: int64 [n, L]. logits: float32 [n, L, V].
    """
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor
    from distillkit.sample_common import StreamingParquetWriter, compressed_logit_schema

    schema = compressed_logit_schema()
    codec = LogprobCompressor(DistributionQuantizationConfig(d=logits.shape[2], **setting, **FIXED))
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        with StreamingParquetWriter(folder, schema, len(tokens), queue_maxsize=len(tokens)) as writer:
            for row, values in zip(tokens, logits, strict=True):
                parts = codec.compress(values.log_softmax(1))
                writer.write(
                    {"input_ids": row.tolist(), **{name: part.tolist() for name, part in parts.items()}}
                )
        taken = time.process_time() - start
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {"bytes": size / tokens.numel(), "seconds": taken / tokens.numel()}
