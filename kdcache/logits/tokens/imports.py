"""Make token caches from the output of other tools: top-k log-probabilities, as vLLM and DistillKit give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError
from kdcache.logits.options import check_integer
from kdcache.logits.records import Fingerprints
from kdcache.logits.shards import checked_header
from kdcache.logits.tokens.cache import TokenCache
from kdcache.logits.tokens.estimators import TopK
from kdcache.logits.tokens.format import TokenHeader, TokenManifest, Vocabulary
from kdcache.logits.tokens.inference import ROWS_PER_SHARD
from kdcache.logits.tokens.inputs import MOST_TOKENS, by_split, read_sequences
from kdcache.logits.tokens.kept import Kept, half
from kdcache.logits.tokens.rows import TokenRows
from kdcache.logits.tokens.sampling import Drawn
from kdcache.logits.tokens.writer import TokenWriter
from kdcache.system.files import user_path

Entries = Mapping[int, float]  # log-probability by token id


def import_topk(
    rows: Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]],
    path: str | Path,
    *,
    k: int,
    vocabulary: int,
    fingerprints: Fingerprints,
    split: str = "train",
    temperature: float = 1.0,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> TokenCache:
    """Write a top-k token cache from log-probabilities, and open it.

    It begins anew at every call: what an interrupted import left in the folder is removed. A finished cache is not.

    Args:
        rows: mappings with `input_ids` [L] and log-probabilities in one of two forms. Either as vLLM gives them, in
            `prompt_logprobs` with L items. Item j is about token j (None for the first). It is a mapping from token id
            to a log-probability, or to an object with one as `.logprob` or ["logprob"]. Or as in a row of DistillKit's
            Parquet, decoded by its codec: `topk_ids` and `topk_logprobs` [L - 1, k], about the next token. They may
            also be [L, k]; then the last position predicts nothing. A mapping from split names to such rows makes a
            cache of several splits, which cannot be added one by one.
        k: how many tokens are kept. A position with fewer tokens is refused. (vLLM adds the actual token, which is used
            for `label_logprob`.)
        vocabulary: V, at least 1 and below 2^31.
        fingerprints: what the log-probabilities come from. They cannot be computed here.
        split: the split of rows without one.

    Returns:
        The cache. Its entropy is computed from the k tokens and one bucket of all others. If the true token is not
        among the given tokens, its `label_logprob` is the whole bucket's, which is an upper bound.

    Raises:
        CacheError: names the row and position, what was expected and what was found. Or the folder has a finished
            cache.
    """
    folder = user_path(path)
    how = TopK(k)
    check_integer(folder, "vocabulary", vocabulary)
    if not 1 <= vocabulary < MOST_TOKENS:
        raise CacheError(
            f"{folder}: expected a vocabulary of 1 to {MOST_TOKENS - 1} tokens, found {vocabulary}"
        )
    splits = by_split(str(folder), rows, split)
    header = checked_header(
        folder,
        TokenHeader,
        vocabulary=Vocabulary(size=vocabulary, outputs=vocabulary),
        estimator=how.facts(),
        temperature=float(temperature),
        rows_per_shard=rows_per_shard,
        fingerprints=fingerprints,
    )
    with TokenWriter(folder, TokenManifest, header, resume=False) as writer:
        for name, given in splits.items():
            for number, row in enumerate(given):
                where = f"{folder}: split {name!r}, row {number}"
                writer.write(name, _row(where, number, row, header, how.most(vocabulary)))
        writer.finish()
    return TokenCache(folder, fingerprints)


def _row(where: str, number: int, row: Mapping[str, Any], header: TokenHeader, k: int) -> TokenRows:
    sequences = read_sequences(where, [row])
    sequences.check_tokens(where, header.vocabulary.size)
    tokens, loss = sequences.tokens.values, sequences.loss.values[1:]
    given = _given(where, row, len(tokens))
    positions = np.flatnonzero(loss)
    given = [given[int(at)] for at in positions]
    chosen = [
        _checked(f"{where}, position {at}", top, k, header.vocabulary.size)
        for at, top in zip(positions, given, strict=True)
    ]
    ids = np.array([sorted(top) for top in chosen], np.int64).reshape(-1, k)
    values = np.array([[top[token] for token in sorted(top)] for top in chosen], np.float32).reshape(-1, k)
    labels = [top.get(int(tokens[at + 1])) for at, top in zip(positions, given, strict=True)]
    rest = np.clip(1 - np.exp(values.astype(np.float64)).sum(axis=1), 1e-30, 1)
    label = np.array(
        [np.log(left) if value is None else value for value, left in zip(labels, rest, strict=True)]
    )
    entropy = -(np.exp(values) * values).sum(axis=1) - rest * np.log(rest)
    counts = np.full(len(positions), k, np.int64)
    drawn = Drawn(counts, 0 * counts, ids.reshape(-1), values.reshape(-1), np.zeros(0, np.int64))
    kept = Kept(header, np.array([number]), sequences, np.zeros(len(positions), np.int64), positions)
    return kept.assembled([(drawn, half(np.minimum(label, 0)), half(entropy))])


def _given(where: str, row: Mapping[str, Any], length: int) -> Sequence[Entries]:
    """The given log-probabilities of the next token at each of the L - 1 positions."""
    if row.get("prompt_logprobs") is not None:
        items = list(row["prompt_logprobs"])
        if len(items) != length or items[0] is not None:
            raise CacheError(
                f"{where}: expected {length} prompt_logprobs, None for the first token; found {len(items)}, the first "
                f"{'None' if items and items[0] is None else 'is not None'}"
            )
        return [{int(token): _number(value) for token, value in (item or {}).items()} for item in items[1:]]
    if row.get("topk_ids") is None or row.get("topk_logprobs") is None:
        raise CacheError(
            f"{where}: expected prompt_logprobs, or topk_ids and topk_logprobs; found {sorted(row)}"
        )
    ids, values = np.asarray(row["topk_ids"]), np.asarray(row["topk_logprobs"], np.float64)
    if ids.shape != values.shape or ids.ndim != 2 or len(ids) not in (length, length - 1):
        raise CacheError(
            f"{where}: expected topk_ids and topk_logprobs [{length - 1}, k], found {list(ids.shape)} and "
            f"{list(values.shape)}"
        )
    return [
        dict(zip(one.tolist(), other.tolist(), strict=True)) for one, other in zip(ids, values, strict=True)
    ][: length - 1]


def _number(value: Any) -> float:
    return float(value["logprob"] if isinstance(value, Mapping) else getattr(value, "logprob", value))


def _checked(where: str, given: Entries, k: int, vocabulary: int) -> dict[int, float]:
    """The k most probable of the given tokens."""
    values: npt.NDArray[np.float64] = np.array(list(given.values()), np.float64)
    if len(given) < k or not np.isfinite(values).all() or values.max() > 1e-6 or np.exp(values).sum() > 1.01:
        raise CacheError(
            f"{where}: expected {k} different tokens with log-probabilities, found {len(given)} whose probabilities "
            f"sum to {np.exp(values).sum():.4g}; they must be natural log-probabilities over the whole vocabulary"
        )
    if min(given) < 0 or max(given) >= vocabulary:
        raise CacheError(
            f"{where}: expected tokens from 0 to {vocabulary - 1}, found {min(given)} to {max(given)}"
        )
    best = sorted(given.items(), key=lambda item: (-item[1], item[0]))[:k]
    return {token: min(value, 0.0) for token, value in best}
