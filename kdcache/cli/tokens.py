"""The commands' answers about token caches: the first positions, and where two caches differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from rich.table import Table

from kdcache.cli.analysis import LARGEST
from kdcache.cli.printing import cell, show
from kdcache.errors import CacheError
from kdcache.logits.disk import Group, refuse_duplicates
from kdcache.logits.manifests import kind_of
from kdcache.logits.opening import open_cache
from kdcache.logits.tokens import TokenCache, TokenManifest
from kdcache.logits.tokens.batch import batch_of
from kdcache.logits.tokens.rows import Ragged, TokenRows
from kdcache.system.files import user_path

TOP = 5  # how many tokens are shown for a position
SHOWN = 12  # how many positions are shown for a row
BLOCK = 1 << 24  # positions of the first cache that `diff` has in memory at once, 8 bytes each
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


def is_token_cache(path: Path) -> bool:
    """Whether a folder has a token cache, whole or damaged."""
    return kind_of(user_path(path)) == "tokens"


def token_cache(path: Path) -> TokenCache | None:
    """The token cache in a folder; None if the folder has no token cache.

    Raises:
        CacheError: the token cache is incomplete or damaged.
    """
    return TokenCache(path) if is_token_cache(path) else None


def open_both(a: Path, b: Path) -> tuple[TokenCache, TokenCache] | None:
    """Two token caches; None if neither folder has one.

    Raises:
        CacheError: only one of the folders has a token cache, or a cache is incomplete or damaged.
    """
    kinds = {is_token_cache(path) for path in (a, b)}
    if kinds == {False}:
        return None
    opened = [open_cache(path) for path in (a, b)]  # a folder without a cache is refused as such
    if len(kinds) > 1:
        raise CacheError(f"{a} and {b}: one is a token cache, the other is not; compare two of a kind")
    return cast("tuple[TokenCache, TokenCache]", tuple(opened))


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
    log-probability, and the most probable entries of draw 0.

    In memory is one row group at a time. If ids count from 0, as usual, only the first groups are read.
    """
    first, groups = _first_ids(cache, split, rows)
    heads = []
    for group in groups:
        part = cache.read_group(group)
        for place in np.flatnonzero(np.isin(part.ids, first)).tolist():
            heads.append(_head(part.part(slice(place, place + 1)), cache.manifest))
    return sorted(heads, key=lambda head: head["id"])


def _first_ids(cache: TokenCache, split: str, count: int) -> tuple[Ints, list[Group]]:
    """(the lowest `count` ids, the row groups that have them). Row groups may be in any order."""
    read: list[tuple[Group, Ints]] = []
    below = 0
    for group in cache.groups(split):
        read.append((group, cache.read_group(group).ids))
        below += int((read[-1][1] < count).sum())
        if below >= count:  # these are the ids 0 to count - 1, so all other ids are higher
            break
    ids = np.sort(np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in read)]))
    refuse_duplicates(cache.path, split, ids)
    first = ids[:count]
    return first, [group for group, ids in read if np.isin(ids, first).any()]


def _head(row: TokenRows, manifest: TokenManifest) -> dict[str, Any]:
    """What `head_of` shows of one row."""
    targets = _full_targets(row) if row.shape.full else _sparse_targets(row, manifest)
    return {
        "id": int(row.ids[0]),
        "row_hash": f"{int(row.row_hashes[0]):016x}",
        **{name: row.columns[name].values.tolist() for name in ("tokens", "entropy", "label_logprob")},
        "top": [_best(tokens, weights) for tokens, weights in targets],
    }


def _full_targets(row: TokenRows) -> Iterator[tuple[Ints, Floats]]:
    """For each position of a full cache's row: all tokens, and their probabilities."""
    values = row.columns["head_logprobs"].values
    bounds = np.concatenate([[0], np.cumsum(row.columns["heads"].values, dtype=np.int64)])
    for start, stop in pairwise(bounds.tolist()):
        yield np.arange(stop - start), np.exp(values[start:stop])


def _sparse_targets(row: TokenRows, manifest: TokenManifest) -> Iterator[tuple[Ints, Floats]]:
    """For each position of a row: the tokens of its entries in draw 0, each once, and their weights."""
    batch = batch_of(row, manifest)
    token, weight = batch.token.numpy(), batch.weight.numpy()
    bounds = np.searchsorted(batch.position.numpy(), np.arange(batch.loss.shape[1] + 1))
    for start, stop in pairwise(bounds.tolist()):
        tokens, places = np.unique(token[start:stop], return_inverse=True)
        weights = np.zeros(len(tokens), np.float32)
        np.add.at(weights, places, weight[start:stop])  # tokens drawn with replacement may be there twice
        yield tokens, weights


def _best(tokens: Ints, weights: Floats) -> list[list[Any]]:
    """The most probable tokens, each with its probability. Of equally probable ones, the lowest come first."""
    if len(tokens) > TOP:  # sorting a whole vocabulary would take long
        high = weights >= np.partition(weights, -TOP)[-TOP]
        tokens, weights = tokens[high], weights[high]
    order = np.lexsort((tokens, -weights))[:TOP]
    pairs = zip(tokens[order].tolist(), weights[order].tolist(), strict=True)
    return [[token, round(weight, 4)] for token, weight in pairs if weight > 0]


def diff(a: TokenCache, b: TokenCache, split: str) -> dict[str, Any]:
    """Where two teachers differ on the sequences that both have, as a JSON-like object.

    Sequences are matched by their hashes, and a repeated one counts once. Any two estimators can be compared, because
    only the true token's log-probability and the entropy are. These are of the whole distribution (see `import_topk`
    for the exception).

    In memory are a block of a, a row group of b, and 8 bytes for each row of both.

    Returns:
        `split`, `rows_a`, `rows_b`, `rows_in_both` and `positions` (those predicted in the rows that both have). If
        there are such positions, also means over them: `teacher_nll_a` and `_b`, `entropy_a` and `_b`, and of the
        absolute differences `label_logprob_differs_by` and `entropy_differs_by`; `label_logprob_differs_most_by`; and
        `largest`: the 10 rows with the largest `label_logprob_differs_by`, each with its ids in both (`id_a`, `id_b`),
        `positions` and the same means.
    """
    compared = _Differences()
    for rows_a, rows_b in _pairs(a, b, split):
        compared.add(rows_a, rows_b)
    return {
        "split": split,
        "rows_a": a.manifest.splits[split].rows,
        "rows_b": b.manifest.splits[split].rows,
        "rows_in_both": compared.rows,
        "positions": compared.positions,
        **compared.facts(),
    }


@dataclass(frozen=True)
class _Losses:
    """What is compared of some rows, at the positions that are predicted."""

    ids: Ints  # [n]
    hashes: Hashes  # [n]
    label_logprob: Ragged
    entropy: Ragged

    @classmethod
    def of(cls, rows: TokenRows) -> _Losses:
        loss = rows.columns["loss"]
        is_next = np.ones(len(loss.values), np.bool_)
        is_next[loss.starts[loss.lengths > 0]] = False  # nothing predicts a row's first token
        predicted = loss.values[is_next]
        counts = Ragged(predicted, np.maximum(loss.lengths - 1, 0)).sums()
        columns = (
            Ragged(rows.columns[name].values[predicted], counts) for name in ("label_logprob", "entropy")
        )
        return cls(rows.ids, rows.row_hashes, *columns)

    @classmethod
    def joined(cls, parts: Sequence[_Losses]) -> _Losses:
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.hashes for part in parts]),
            Ragged.joined([part.label_logprob for part in parts]),
            Ragged.joined([part.entropy for part in parts]),
        )

    def part(self, chosen: Ints) -> _Losses:
        return _Losses(
            self.ids[chosen], self.hashes[chosen], self.label_logprob.part(chosen), self.entropy.part(chosen)
        )


def _blocks(cache: TokenCache, split: str) -> Iterator[_Losses]:
    """A split's rows in blocks of about BLOCK positions."""
    parts: list[_Losses] = []
    positions = 0
    for group in cache.groups(split):
        parts.append(_Losses.of(cache.read_group(group)))
        positions += len(parts[-1].entropy.values)
        if positions >= BLOCK:
            yield _Losses.joined(parts)
            parts, positions = [], 0
    if parts:
        yield _Losses.joined(parts)


def _pairs(a: TokenCache, b: TokenCache, split: str) -> Iterator[tuple[_Losses, _Losses]]:
    """The rows whose hashes are in both caches, as pairs of pieces with the same sequences. Each sequence comes once.

    For each block of a, b is read until all its rows are found. A row group of b that was read before is read again
    only if the block has a row of it.
    """
    seen = np.zeros(0, np.uint64)
    known: dict[Group, Hashes] = {}
    for block in _blocks(a, split):
        wanted = np.setdiff1d(block.hashes, seen)
        seen = np.union1d(seen, wanted)
        for group in b.groups(split):
            if not len(wanted):
                break
            if group in known and not np.isin(known[group], wanted).any():
                continue
            part = _Losses.of(b.read_group(group))
            known[group] = part.hashes
            found, _, places = np.intersect1d(wanted, part.hashes, return_indices=True)
            wanted = np.setdiff1d(wanted, found)
            _, first, _ = np.intersect1d(block.hashes, found, return_indices=True)
            if len(found):
                yield block.part(first), part.part(places)


class _Differences:
    """Gathers, piece by piece, how two teachers differ on the rows that both have. It keeps no row."""

    def __init__(self) -> None:
        self.rows = self.positions = 0
        self._sums: dict[str, float] = {}
        self._most = 0.0
        self._largest: list[dict[str, Any]] = []

    def add(self, a: _Losses, b: _Losses) -> None:
        """Add rows that both have, in the same order."""
        counts, values = a.entropy.lengths, _compared(a, b)
        self.rows += len(counts)
        self.positions += int(counts.sum())
        self._most = max(self._most, float(values["label_logprob_differs_by"].max(initial=0.0)))
        owner = np.repeat(np.arange(len(counts)), counts)
        sums = {name: np.bincount(owner, value, len(counts)) for name, value in values.items()}
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())
        means = {name: value / np.maximum(counts, 1) for name, value in sums.items()}
        for row in np.argsort(-means["label_logprob_differs_by"], kind="stable")[:LARGEST].tolist():
            ids = {"id_a": int(a.ids[row]), "id_b": int(b.ids[row]), "positions": int(counts[row])}
            self._largest.append({**ids, **{name: float(value[row]) for name, value in means.items()}})
        self._largest = sorted(self._largest, key=_by_difference)[:LARGEST]

    def facts(self) -> dict[str, Any]:
        """The means over all positions, and the rows that differ most; nothing if there is no position."""
        if not self.positions:
            return {}
        return {
            **{name: value / self.positions for name, value in self._sums.items()},
            "label_logprob_differs_most_by": self._most,
            "largest": [row for row in self._largest if row["positions"]],
        }


def _compared(a: _Losses, b: _Losses) -> dict[str, npt.NDArray[np.float64]]:
    """What is compared at each position, from the same rows of two caches."""
    label_a, label_b = (rows.label_logprob.values.astype(np.float64) for rows in (a, b))
    entropy_a, entropy_b = (rows.entropy.values.astype(np.float64) for rows in (a, b))
    return {
        "teacher_nll_a": -label_a,
        "teacher_nll_b": -label_b,
        "entropy_a": entropy_a,
        "entropy_b": entropy_b,
        "label_logprob_differs_by": np.abs(label_a - label_b),
        "entropy_differs_by": np.abs(entropy_a - entropy_b),
    }


def _by_difference(row: Mapping[str, Any]) -> tuple[float, int]:
    """The largest difference first, and of equal ones the lowest id."""
    return -row["label_logprob_differs_by"], row["id_a"]


def print_largest(splits: Iterable[Mapping[str, Any]]) -> None:
    """Print the rows of `diff` that differ most, for each split that has any."""
    for item in splits:
        rows = [row for row in item.get("largest", []) if row["label_logprob_differs_by"] > 0]
        if not rows:
            continue
        table = Table(
            "id in a", "id in b", "positions", "log p differs by", "entropy differs by", "loss of a", "loss of b",
            title=cell(f"{item['split']}: where they differ most"),
        )  # fmt: skip
        names = ("label_logprob_differs_by", "entropy_differs_by", "teacher_nll_a", "teacher_nll_b")
        for row in rows:
            counts = (str(row[name]) for name in ("id_a", "id_b", "positions"))
            table.add_row(*counts, *(f"{row[name]:.4g}" for name in names))
        show(table)


def print_heads(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print the first positions of each row: token, log-probability of the next token, entropy, and top entries."""
    for split, rows in splits.items():
        if not rows:
            show(cell(f"{split}: 0 rows"))
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
