"""`write_token_logits`: run a causal language model over sequences once, and store what an estimator selects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.hashing.content import type_name
from kdcache.logits.jobs import Job, Place, evaluating, write_cache
from kdcache.logits.options import check_integer, check_text, number
from kdcache.logits.records import Fingerprints
from kdcache.logits.returned import returned_logits
from kdcache.logits.shards import checked_header
from kdcache.logits.tokens.apart import mixes
from kdcache.logits.tokens.cache import TokenCache
from kdcache.logits.tokens.estimators import KINDS, Estimator, Full, Threshold
from kdcache.logits.tokens.format import TokenHeader, TokenManifest, Vocabulary
from kdcache.logits.tokens.inputs import Sequences, model_inputs, padded, read_splits
from kdcache.logits.tokens.kept import Kept
from kdcache.logits.tokens.outputs import InTwo, Outputs, in_two, most_positions, of_transformers
from kdcache.logits.tokens.rows import TokenRows
from kdcache.system.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
ROWS_PER_SHARD = 256
SHARD_VALUES = 1 << 26  # values of a full cache's shard
MOST_ENTRIES = (1 << 31) - 1  # of a shard's column: Arrow counts a list's values in 32 bits
FIRST = 16  # number of tokens of the first row that are run to see what a model gives


def write_token_logits(
    teacher: Any,
    sequences: Any,
    path: str | Path,
    estimator: Estimator | None = None,
    *,
    temperature: float = 1.0,
    batch_size: int = 8,
    vocabulary: int | None = None,
    tokenizer: Any = None,
    fingerprints: Fingerprints | None = None,
    run: str = "",
    rows_per_shard: int | None = None,
    device: Any = None,
    overwrite: bool = False,
) -> TokenCache:
    """Write what an estimator selects from a causal language model's distributions, and open the cache.

    A complete cache with the same fingerprints and rows is opened as it is. An incomplete cache is completed. Under
    `accelerate launch` or `torchrun` the processes divide the shards.

    Args:
        teacher: a causal language model of transformers, or any callable. It gets `input_ids` int64 [b, L]. If rows
            have several documents, it also gets `position_ids`; otherwise, if rows were padded, `attention_mask`. It
            returns logits [b, L, V], or an object or mapping with `logits`. Those at position j predict token j + 1.
            If rows have several documents, it must keep them apart. This is tried out (`apart.py`).
        sequences: rows (a list, a data set) with `input_ids`, see `inputs.read_sequences`; or a mapping from split
            names to such rows. Rows without a split become the split "train".
        estimator: selects what is stored. Default: `Threshold(1/64, draws=1, seed=0)`.
        temperature: the distributions are softmax(logits / temperature). Only a full cache can be used with other
            temperatures later.
        batch_size: rows that the teacher gets at once. It does not affect the draws.
        vocabulary: V. Outputs from V on are cut off before the softmax. Default: the highest token id of the tokenizer,
            plus 1, if it is one of transformers and the teacher has more outputs; else the teacher's outputs.
        tokenizer: a tokenizer of transformers, or any JSON value that stands for one. The manifest has its fingerprint.
        fingerprints: what the distributions come from. Default, for a module: the sequences' hashes, its weights, the
            tokenizer, and its class's name. A change of the class's code is not noticed: then name it in
            `fingerprints`, or pass `overwrite=True`.
        run: a name for this run, for cost.json.
        rows_per_shard: the largest number of rows that an interruption loses. Processes divide the work by shards.
            Default: 256, or fewer if rows are so long, or have so many draws, that a file could not hold them.
        device: where batches and a module go. Default: Accelerate's device if there are several processes, else the
            device that the module is on. A module that Accelerate has spread over devices or offloaded (`device_map`)
            is not moved.
        overwrite: replace a complete cache that has other fingerprints or rows.

    Raises:
        CacheError: rows, logits or options cannot be used, a row is longer than the model's learned positions, the
            model lets documents of a row see each other, the folder holds another cache, or writing fails.
    """
    folder, how = user_path(path), Threshold() if estimator is None else estimator
    _check_options(folder, how, batch_size, vocabulary, run)
    temperature = number(folder, "temperature", temperature)
    splits = read_splits(str(folder), sequences)
    hashes = {name: rows.hashes for name, rows in splits.items()}
    _check_lengths(folder, teacher, splits)
    with evaluating(teacher, device) as device:
        model = Teacher(folder, teacher, device, batch_size, splits)
        size = _vocabulary(folder, vocabulary, tokenizer, model.outputs)
        for name, rows in splits.items():
            rows.check_tokens(f"{folder}: split {name!r}", size)
        _check_apart(folder, teacher, model, size, splits)
        header = checked_header(
            folder,
            TokenHeader,
            vocabulary=Vocabulary(size=size, tokenizer=_tokenizer(folder, tokenizer), outputs=model.outputs),
            estimator=how.facts(),
            temperature=temperature,
            rows_per_shard=_rows_per_shard(how, size, splits) if rows_per_shard is None else rows_per_shard,
            fingerprints=fingerprints or _fingerprints(folder, teacher, hashes, tokenizer),
        )
        _check_fits(folder, header, splits)
        job = TokenJob(folder, TokenManifest, header, hashes, device, header, splits, model)
        write_cache(job, overwrite, run)
    return TokenCache(folder, expect=header.fingerprints)


def _check_options(path: Path, how: Any, batch_size: Any, vocabulary: Any, run: Any) -> None:
    if not isinstance(how, tuple(KINDS.values())):
        raise CacheError(
            f"{path}: estimator must be one of {', '.join(f'{kind.__name__}()' for kind in KINDS.values())}, found "
            f"{how!r:.80}"
        )
    check_integer(path, "batch_size", batch_size)
    if vocabulary is not None:
        check_integer(path, "vocabulary", vocabulary)
    check_text(path, "run", run)


def _check_lengths(path: Path, teacher: Any, splits: Mapping[str, Sequences]) -> None:
    """Refuse rows with more tokens than the model has positions. In torch that is an index error, which says nothing.

    Positions begin anew in each document, so documents are what counts.
    """
    most = most_positions(teacher)
    for name, rows in splits.items() if most else ():
        longest = rows.longest_documents
        row = int(longest.argmax()) if len(rows) else 0
        if len(rows) and longest[row] > most:
            raise CacheError(
                f"{path}: split {name!r}, row {row}: has a document of {longest[row]} tokens, the model has learned "
                f"{most} positions; cut the rows to at most {most} tokens"
            )


def _vocabulary(path: Path, asked: Any, tokenizer: Any, outputs: int) -> int:
    """V: as asked for, or the tokenizer's if the model has more outputs, or the model's outputs."""
    if asked is not None:
        if not 1 <= asked <= outputs:
            raise CacheError(f"{path}: expected a vocabulary of 1 to {outputs} tokens, found {asked!r}")
        return int(asked)
    ids = tokenizer.get_vocab().values() if hasattr(tokenizer, "get_vocab") else ()
    tokens = max(ids, default=outputs - 1) + 1
    if tokens >= outputs:
        return outputs
    log.warning(
        "%s: the teacher has %d outputs, its tokenizer %d tokens; the outputs beyond are cut off before the softmax "
        "(vocabulary=%d would keep them)",
        path, outputs, tokens, outputs,
    )  # fmt: skip
    return tokens


def _check_apart(
    path: Path, teacher: Any, model: Teacher, size: int, splits: Mapping[str, Sequences]
) -> None:
    """Refuse a model that would mix the documents of the rows."""
    packed = [rows for rows in splits.values() if rows.are_packed]
    if not packed:
        return
    longest = max(int(rows.tokens.lengths.max()) for rows in packed)
    several = min(model.batch_size, max(map(len, packed)))
    why = mixes(teacher, lambda sequences: model(sequences).values, size, longest, several)
    if why:
        raise CacheError(
            f"{path}: {why}; give it rows of one document each, or take a model of another family, such as GPT-2 or "
            "Llama"
        )


def _rows_per_shard(how: Estimator, size: int, splits: Mapping[str, Sequences]) -> int:
    """The default: 256 rows, but fewer if the longest row's entries would be too many for a file."""
    longest = max((int(rows.tokens.lengths.max(initial=1)) for rows in splits.values()), default=1)
    most = SHARD_VALUES if isinstance(how, Full) else MOST_ENTRIES
    return max(min(ROWS_PER_SHARD, most // (longest * _entries_of_a_token(how, size))), 1)


def _entries_of_a_token(how: Estimator, size: int) -> int:
    """The largest number of values that a column can have at a position: those of the head, or of all draws' tails."""
    return how.draws * how.most(size)


def _check_fits(path: Path, header: TokenHeader, splits: Mapping[str, Sequences]) -> None:
    """Refuse shards whose columns could have more values than a file can hold, before anything is computed."""
    each, step = _entries_of_a_token(header.how, header.vocabulary.size), header.rows_per_shard
    for name, rows in splits.items():
        if not len(rows):
            continue
        entries = np.maximum(rows.loss.sums() * each, rows.tokens.lengths)
        most = int(np.add.reduceat(entries, np.arange(0, len(rows), step)).max())
        if most > MOST_ENTRIES:
            fitting = MOST_ENTRIES // int(entries.max())
            advice = (
                f"pass rows_per_shard={fitting}" if fitting else "cut the rows, or store less of each token"
            )
            raise CacheError(
                f"{path}: split {name!r}: a shard of {step} rows could have {most:,} entries, a file's column holds "
                f"{MOST_ENTRIES:,}; {advice}"
            )


def _tokenizer(path: Path, tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    try:
        return fingerprint.of_json(tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else tokenizer)
    except KdcacheError as error:
        raise CacheError(f"{path}: the tokenizer has no fingerprint: {error}") from None


def _fingerprints(path: Path, teacher: Any, hashes: Mapping[str, Any], tokenizer: Any) -> Fingerprints:
    import torch

    if not isinstance(teacher, torch.nn.Module):
        raise CacheError(
            f"{path}: a {type(teacher).__name__} has no weights to fingerprint; say with `fingerprints` what its "
            "logits are computed from"
        )
    try:
        weights = fingerprint.of_value(teacher.state_dict())
    except KdcacheError as error:  # such as the weights that Accelerate has offloaded
        raise CacheError(f"{path}: {error}") from None
    return Fingerprints(
        data=fingerprint.of_value(hashes),
        weights=weights,
        preprocessing=_tokenizer(path, tokenizer) or "token ids",
        code=fingerprint.of_json(f"{type(teacher).__module__}.{type(teacher).__qualname__}"),
    )


@dataclass(frozen=True)
class TokenJob(Job[TokenRows]):
    """Writes a token cache: a sparse distribution for each token of the data."""

    layout: TokenHeader
    splits: Mapping[str, Sequences]
    model: Teacher

    def compute(self, place: Place) -> TokenRows:
        positions, size = self.positions(place), self.model.batch_size
        batches = [positions[start : start + size] for start in range(0, len(positions), size)]
        parts = [self._rows(place[0], batch) for batch in batches]
        return TokenRows.joined([self.layout.empty(), *parts])

    def _rows(self, split: str, ids: npt.NDArray[np.int64]) -> TokenRows:
        sequences = self.splits[split].part(ids)
        longest = int(sequences.tokens.lengths.max())
        loss = padded(sequences.loss.rows(), longest, np.bool_)[:, 1:]
        row, position = np.nonzero(loss)
        kept = Kept(self.layout, ids, sequences, row, position)
        outputs = self.model(sequences)
        try:
            return kept.of(outputs, padded(sequences.tokens.rows(), longest)[:, 1:][loss])
        except CacheError as error:
            raise CacheError(f"{self.path}: split {split!r}: {error}") from None


class Teacher:
    """Runs the model: from sequences to its outputs.

    Args:
        path: the cache's folder, for messages.

    Raises:
        CacheError: there are no sequences, or the model gives no logits.
    """

    def __init__(
        self, path: Path, model: Any, device: Any, batch_size: int, splits: Mapping[str, Sequences]
    ) -> None:
        import torch

        if batch_size < 1:
            raise CacheError(f"{path}: batch_size must be 1 or more, found {batch_size}")
        self.path, self.batch_size = path, batch_size
        self._model, self._device = model, device
        self._in_two: InTwo | None = None
        self.outputs = 0  # logits at a position; 0 before the first batch
        first = next((rows.part(slice(0, 1)) for rows in splits.values() if len(rows)), None)
        if first is None:
            raise CacheError(f"{path}: there are no sequences")
        if of_transformers(model):
            first = first.cut(FIRST)
        logits = self(first).values
        self.outputs = logits.shape[2]
        with torch.inference_mode():
            self._in_two = in_two(model, self._inputs(first), logits)

    def __call__(self, sequences: Sequences) -> Outputs:
        """What the model gives for a batch [b, L].

        Raises:
            CacheError: it gives no logits [b, L, V], or another V than before.
        """
        import torch

        inputs = self._inputs(sequences)
        with torch.inference_mode():
            if self._in_two:
                return self._in_two(**inputs)
            output = self._model(**inputs)
        return Outputs(self._logits(output, inputs["input_ids"].shape))

    def _logits(self, output: Any, shape: Sequence[int]) -> Tensor:
        """The logits [b, L, V] in what the model returned for tokens of this shape [b, L]."""
        import torch

        found, size = returned_logits(self.path, output), self.outputs or "V"
        expected = f"{self.path}: expected logits [{shape[0]}, {shape[1]}, {size}] from the teacher"
        try:
            logits = torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError):
            raise CacheError(
                f"{expected}, found {type_name(found)}; let it return them, or an object or mapping with `logits`"
            ) from None
        fits = (
            logits.ndim == 3
            and logits.shape[:2] == shape
            and logits.shape[2] == (self.outputs or logits.shape[2])
        )
        if not fits or not logits.is_floating_point():
            raise CacheError(f"{expected}, found {logits.dtype} {list(logits.shape)}")
        return logits

    def _inputs(self, sequences: Sequences) -> dict[str, Any]:
        import torch

        inputs = {name: torch.from_numpy(values) for name, values in model_inputs(sequences).items()}
        on_device = {name: values.to(self._device or "cpu") for name, values in inputs.items()}
        return {**on_device, **without_cache(self._model)}


def without_cache(model: Any) -> dict[str, bool]:
    """Further arguments for a model of transformers, so that it keeps a row's documents apart.

    If the model caches keys and values (for generation), every token sees all earlier documents of its row.
    """
    return {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}
