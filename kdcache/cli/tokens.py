"""The commands' answers about token caches: the first positions, and where two caches differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kdcache.cli.printing import cell, show
from kdcache.errors import CacheError
from kdcache.logits.manifests import kind_of
from kdcache.logits.tokens import TokenCache
from kdcache.logits.tokens.rows import TokenRows

TOP = 5  # how many tokens are shown for a position
SHOWN = 12  # how many positions are shown for a row


def token_cache(path: Path) -> TokenCache | None:
    """The token cache in a folder; None if the folder has no token cache.

    Raises:
        CacheError: the token cache is incomplete or damaged.
    """
    return TokenCache(path) if kind_of(path) == "tokens" else None


def open_both(a: Path, b: Path) -> tuple[TokenCache, TokenCache] | None:
    """Two token caches; None if neither folder has one.

    Raises:
        CacheError: only one of the folders has a token cache.
    """
    first, second = token_cache(a), token_cache(b)
    if (first is None) != (second is None):
        raise CacheError(f"{a} and {b}: one is a token cache, the other is not; compare two of a kind")
    return None if first is None or second is None else (first, second)


def names(cache: TokenCache, split: str | None) -> list[str]:
    """The given split, or all splits.

    Raises:
        CacheError: there is no such split.
    """
    if split is not None and split not in cache.splits:
        raise CacheError(
            f"{cache.path}: no split {split!r} in this cache (there are: {', '.join(cache.splits)})"
        )
    return cache.splits if split is None else [split]


def head_of(cache: TokenCache, split: str, rows: int) -> list[dict[str, Any]]:
    """The first rows by id: `id`, `row_hash` (hex), `tokens`, and for each position its entropy, the true token's
    log-probability, and the most probable entries of draw 0."""
    ids = cache.split(split).ids[:rows]
    heads = []
    for row in ids.tolist():
        batch, part = cache.batch([row], split), cache.split(split)
        best = batch.dense()[0].topk(min(TOP, batch.vocabulary), dim=1)
        heads.append(
            {
                "id": row,
                "row_hash": f"{int(part.row_hashes[np.searchsorted(part.ids, row)]):016x}",
                "tokens": batch.tokens[0].tolist(),
                "entropy": batch.entropy[0].tolist(),
                "label_logprob": batch.label_logprob[0].tolist(),
                "top": [
                    [
                        [token, round(value, 4)]
                        for token, value in zip(tokens, values, strict=True)
                        if value > 0
                    ]
                    for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ],
            }
        )
    return heads


def diff(a: TokenCache, b: TokenCache, split: str) -> dict[str, Any]:
    """Where two teachers differ on the sequences that both caches have. Sequences are matched by their hashes."""
    rows_a, rows_b = a.split(split), b.split(split)
    _, first, second = np.intersect1d(rows_a.row_hashes, rows_b.row_hashes, return_indices=True)
    shared_a, shared_b = rows_a.part(first), rows_b.part(second)
    facts: dict[str, Any] = {
        "split": split,
        "rows_a": len(rows_a),
        "rows_b": len(rows_b),
        "rows_in_both": len(shared_a),
    }
    if not len(shared_a):
        return facts
    counted = _predicted(shared_a)
    for name, rows in (("a", shared_a), ("b", shared_b)):
        facts[f"teacher_nll_{name}"] = float(-rows.columns["label_logprob"].values[counted].mean())
        facts[f"entropy_{name}"] = float(rows.columns["entropy"].values[counted].mean())
    apart = np.abs(shared_a.columns["label_logprob"].values - shared_b.columns["label_logprob"].values)[
        counted
    ]
    facts["positions"] = int(counted.sum())
    facts["label_logprob_differs_by"] = float(apart.mean())
    facts["label_logprob_differs_most_by"] = float(apart.max())
    return facts


def _predicted(rows: TokenRows) -> np.ndarray:
    """For each position, whether its next token is to be predicted."""
    loss = rows.columns["loss"]
    return np.delete(loss.values, loss.starts)


def print_heads(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print the first positions of each row: token, log-probability of the next token, entropy, and top entries."""
    for split, rows in splits.items():
        for row in rows:
            table = Table(
                "position", "token", "next", "log p (next)", "entropy", "top tokens",
                title=cell(f"{split}: row {row['id']}, hash {row['row_hash']}, {len(row['tokens'])} tokens"),
            )  # fmt: skip
            for k, top in enumerate(row["top"][:SHOWN]):
                table.add_row(
                    str(k), str(row["tokens"][k]), str(row["tokens"][k + 1]), f"{row['label_logprob'][k]:.3f}",
                    f"{row['entropy'][k]:.3f}", ", ".join(f"{token} {value:.3f}" for token, value in top),
                )  # fmt: skip
            show(table)
