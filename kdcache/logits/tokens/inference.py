"""`write_token_logits`: run a causal language model over sequences once, and store what an estimator selects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import CacheError, KdcacheError
from kdcache.hashing import fingerprint
from kdcache.logits.jobs import Job, Place, evaluating, write_cache
from kdcache.logits.records import Fingerprints
from kdcache.logits.shards import checked_header
from kdcache.logits.tokens.cache import TokenCache
from kdcache.logits.tokens.distributions import Distributions, array
from kdcache.logits.tokens.estimators import Estimator, Full, Threshold
from kdcache.logits.tokens.format import TokenHeader, TokenManifest, Vocabulary
from kdcache.logits.tokens.inputs import Sequences, padded, read_splits
from kdcache.logits.tokens.rows import Ragged, TokenRows, to_gaps
from kdcache.logits.tokens.sampling import Drawn, Numbers, draw_with, random_numbers
from kdcache.system.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

ROWS_PER_SHARD = 256
SHARD_VALUES = 1 << 26  # values of a full cache's shard
PIECE = {
    True: 1 << 19,
    False: 1 << 26,
}  # values processed at once: on a CPU, what its cache holds; on a GPU, more
LOWEST = float(np.finfo(np.float16).min)  # stands for log 0


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

    A complete cache of the same fingerprints is opened as it is; an incomplete one is completed. Under
    `accelerate launch` or `torchrun` the processes divide the shards among themselves.

    Args:
        teacher: a causal language model of transformers, or any callable. It gets `input_ids` int64 [b, L] (and
            `position_ids`, if rows have several documents, or else `attention_mask`, if rows were padded) and returns
            logits [b, L, V], or an object with `.logits`; those at position j predict token j + 1.
        sequences: rows (a list, a data set) with `input_ids`, see `inputs.read_sequences`; or a mapping from split
            names to such rows. Rows without a split become the split "train".
        estimator: selects what is stored; default: `Threshold(1/64, draws=1, seed=0)`.
        temperature: the distributions are softmax(logits / temperature). Only a full cache serves other temperatures
            later.
        batch_size: rows that the teacher gets at once; it does not affect the draws.
        vocabulary: V, if the teacher has more outputs than its tokenizer has tokens; the outputs from V on are cut off.
        tokenizer: a tokenizer of transformers, or any JSON value that stands for one; the manifest has its fingerprint.
        fingerprints: what the distributions come from. Default, for a module: the sequences' hashes, its weights, the
            options above, and its class.
        run: a name for this run, for cost.json.
        rows_per_shard: the rows that an interruption loses at most; processes divide the work by shards. Default 256.
        device: where batches and a module go; default: the device the module is on.
        overwrite: replace a complete cache of other fingerprints.

    Raises:
        CacheError: rows, logits or options cannot be used, the folder holds another cache, or writing fails.
    """
    folder, how = user_path(path), estimator or Threshold()
    splits = read_splits(str(folder), sequences)
    hashes = {name: rows.hashes for name, rows in splits.items()}
    with evaluating(teacher, device) as device:
        model = Teacher(folder, teacher, device, temperature, batch_size)
        outputs = model.outputs(splits)
        size = vocabulary or outputs
        if not 1 <= size <= outputs:
            raise CacheError(
                f"{folder}: expected a vocabulary of 1 to {outputs} tokens, found {vocabulary!r}"
            )
        for name, rows in splits.items():
            rows.check_tokens(f"{folder}: split {name!r}", size)
        header = checked_header(
            folder,
            TokenHeader,
            vocabulary=Vocabulary(size=size, tokenizer=_tokenizer(folder, tokenizer), outputs=outputs),
            estimator=how.facts(),
            temperature=float(temperature),
            rows_per_shard=rows_per_shard or _rows_per_shard(how, size, splits),
            fingerprints=fingerprints or _fingerprints(folder, teacher, hashes, tokenizer),
        )
        job = TokenJob(folder, TokenManifest, header, hashes, device, header, splits, model)
        write_cache(job, overwrite, run)
    return TokenCache(folder, expect=header.fingerprints)


def _rows_per_shard(how: Estimator, size: int, splits: Mapping[str, Sequences]) -> int:
    if not isinstance(how, Full):
        return ROWS_PER_SHARD
    longest = max((int(rows.tokens.lengths.max(initial=1)) for rows in splits.values()), default=1)
    return max(min(ROWS_PER_SHARD, SHARD_VALUES // (longest * size)), 1)


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
    return Fingerprints(
        data=fingerprint.of_value(hashes),
        weights=fingerprint.of_value(teacher.state_dict()),
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
        sequences, positions = self.splits[place[0]], self.positions(place)
        size = self.model.batch_size
        batches = [positions[start : start + size] for start in range(0, len(positions), size)]
        parts = [self._rows(sequences, batch, self.hashes[place[0]][batch]) for batch in batches]
        return TokenRows.joined([self.layout.empty(), *parts])

    def _rows(
        self, all_of_them: Sequences, ids: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]
    ) -> TokenRows:
        sequences = all_of_them.part(ids)
        longest = int(sequences.tokens.lengths.max())
        loss = padded(sequences.loss.rows(), longest, np.bool_)[:, 1:]
        row, position = np.nonzero(loss)
        kept = Kept(self.layout, ids, sequences, row, position)
        logits = self.model(sequences)
        return kept.of(logits, padded(sequences.tokens.rows(), longest)[:, 1:][loss])


@dataclass(frozen=True)
class Kept:
    """Selects what is stored of a batch's distributions, at the p positions whose next token is to be predicted."""

    layout: TokenHeader
    ids: npt.NDArray[np.int64]
    sequences: Sequences
    row: npt.NDArray[np.int64]  # [p], each such position's row in the batch
    position: npt.NDArray[np.int64]  # [p], each one's place in its row

    def of(self, logits: Tensor, labels: npt.NDArray[np.int64]) -> TokenRows:
        """The rows of the batch, from the logits [b, L, outputs] and the true next tokens [p]."""
        import torch

        numbers = random_numbers(self.layout.how, self.ids[self.row], self.position)
        places = torch.from_numpy(self.row * logits.shape[1] + self.position).to(logits.device)
        flat, size = logits.flatten(0, 1), self.layout.vocabulary.size
        step = max(PIECE[logits.is_cpu] // size, 1)
        pieces = []
        for start in range(0, len(places), step):
            at = slice(start, start + step)
            chosen = flat.index_select(0, places[at])[:, :size].float()
            pieces.append(self._piece(chosen, labels[at], numbers[at], start))
        return self.assembled(pieces)

    def _piece(
        self, logits: Tensor, labels: npt.NDArray[np.int64], numbers: Numbers, start: int
    ) -> tuple[Drawn, npt.NDArray[Any], npt.NDArray[Any]]:
        import torch

        given = Distributions(logits if self.layout.temperature == 1 else logits / self.layout.temperature)
        entropy = given.entropies()
        if not bool(entropy.isfinite().all()):
            bad = start + int(entropy.isfinite().int().argmin())
            raise CacheError(
                f"row id {self.ids[self.row[bad]]}, position {self.position[bad]}: the teacher's logits are not all "
                "finite; check the model and its precision"
            )
        every = torch.arange(len(labels), device=logits.device)
        label = given.logprobs_at(every, torch.from_numpy(labels).to(logits.device))
        drawn = draw_with(self.layout.how, given, numbers)
        return drawn, half(array(label)), half(array(entropy.clamp_min(0)))

    def assembled(self, pieces: Sequence[tuple[Drawn, npt.NDArray[Any], npt.NDArray[Any]]]) -> TokenRows:
        drawn = _all([piece[0] for piece in pieces])
        lengths, draws = self.sequences.tokens.lengths, self.layout.how.draws
        places = (np.cumsum(lengths - 1) - (lengths - 1))[self.row] + self.position

        def spread(values: npt.NDArray[Any]) -> Ragged:
            """The values spread over every position of the batch, with zeros where nothing is stored."""
            whole = np.zeros(int((lengths - 1).sum()), values.dtype)
            whole[places] = values
            return Ragged(whole, lengths - 1)

        heads, tails = spread(drawn.heads), spread(drawn.tails)
        ids = np.zeros_like(lengths) if self.layout.shape.full else heads.sums()
        found = {
            "tokens": self.sequences.tokens,
            "starts": self.sequences.starts,
            "loss": self.sequences.loss,
            "heads": heads,
            "tails": tails,
            "head_ids": Ragged(
                to_gaps(drawn.head_ids, drawn.heads) if len(drawn.head_ids) else drawn.head_ids, ids
            ),
            "head_logprobs": Ragged(half(drawn.head_logprobs), heads.sums()),
            "tail_ids": Ragged(to_gaps(drawn.tail_ids, np.repeat(drawn.tails, draws)), draws * tails.sums()),
            "label_logprob": spread(
                np.concatenate([np.zeros(0, np.float32), *(piece[1] for piece in pieces)])
            ),
            "entropy": spread(np.concatenate([np.zeros(0, np.float32), *(piece[2] for piece in pieces)])),
        }
        columns = {
            name: Ragged(found[name].values.astype(dtype), found[name].lengths)
            for name, dtype in self.layout.columns().items()
        }
        return TokenRows(self.ids, self.sequences.hashes, self.layout.shape, columns)


def _all(parts: Sequence[Drawn]) -> Drawn:
    none = np.zeros(0, np.int64)
    every = [Drawn(none, none, none, np.zeros(0, np.float32), none), *parts]
    names = Drawn.__dataclass_fields__
    return Drawn(*(np.concatenate([getattr(part, name) for part in every]) for name in names))


def half(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values rounded to the 11 bits of a float16, but as float32, which more readers of Parquet know."""
    return np.asarray(values.clip(LOWEST, -LOWEST).astype(np.float16).astype(np.float32))


@dataclass(frozen=True)
class Teacher:
    """Runs the model: from sequences to logits."""

    path: Path
    model: Callable[..., Any]
    device: Any
    temperature: float
    batch_size: int

    def outputs(self, splits: Mapping[str, Sequences]) -> int:
        """How many logits the model gives at a position, found by running it on the first row."""
        if self.batch_size < 1:
            raise CacheError(f"{self.path}: batch_size must be 1 or more, found {self.batch_size}")
        for rows in splits.values():
            if len(rows):
                first = np.zeros(1, np.int64)
                return int(
                    self(
                        Sequences(*(part.part(first) for part in (rows.tokens, rows.starts, rows.loss)))
                    ).shape[2]
                )
        raise CacheError(f"{self.path}: there are no sequences")

    def __call__(self, sequences: Sequences) -> Tensor:
        """Logits [b, L, outputs]."""
        import torch

        inputs = {name: torch.from_numpy(values) for name, values in model_inputs(sequences).items()}
        shape = inputs["input_ids"].shape
        with torch.inference_mode():
            on_device = {name: values.to(self.device or "cpu") for name, values in inputs.items()}
            output = self.model(**on_device, **without_cache(self.model))
        logits = torch.as_tensor(getattr(output, "logits", output))
        if logits.ndim != 3 or logits.shape[:2] != shape or not logits.is_floating_point():
            raise CacheError(
                f"{self.path}: expected logits [{shape[0]}, {shape[1]}, V] from the teacher, found {logits.dtype} "
                f"{list(logits.shape)}"
            )
        return logits


def model_inputs(sequences: Sequences, length: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """A batch as a transformers model takes it: padded on the right; positions begin anew with each document.

    Where rows have several documents there is no attention mask: with one, transformers does not keep documents apart.
    A causal model needs none, since it never looks to the right, where the padding is.
    """
    lengths = sequences.tokens.lengths
    longest = max(int(lengths.max()), length or 0)
    inputs = {"input_ids": padded(sequences.tokens.rows(), longest)}
    if (sequences.starts.lengths > 1).any():
        pairs = zip(sequences.starts.rows(), lengths, strict=True)
        inputs["position_ids"] = padded([_positions(starts, int(count)) for starts, count in pairs], longest)
    elif (lengths < longest).any():
        inputs["attention_mask"] = padded([np.ones(count, np.int64) for count in lengths], longest)
    return inputs


def without_cache(model: Any) -> dict[str, bool]:
    """What a model of transformers is called with beside its inputs, so that it keeps a row's documents apart.

    Where it would cache keys and values, for generation, it lets every token see all earlier documents of its row.
    """
    return {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}


def _positions(starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    sizes = np.diff(starts, append=length)
    return np.asarray(np.arange(length) - np.repeat(starts, sizes))
