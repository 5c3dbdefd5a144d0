"""Masked and causal language modelling from scratch, for the small embedded checkpoints.

A recipe (architecture, data layout, optimizer, token budget) and some texts become a folder that
`AutoModel*.from_pretrained` and `AutoTokenizer.from_pretrained` read: a BERT, RoBERTa or GPT-2 of a few
million parameters. It is meant for one CPU thread, where two exact savings matter: vocabulary logits are
computed only where the loss looks, and so are the queries and the feed-forward block of the *last* layer
(`predicted_logits`).

A run can be stopped at any time. Its state (weights, AdamW moments, progress) is one safetensors file,
replaced atomically, and everything random is derived from (seed, step), so a resumed run equals an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from string import punctuation
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from kdcache.errors import KdcacheError
from kdcache.files import write_atomically

log = logging.getLogger(__name__)

Family = Literal["bert", "roberta", "gpt2"]
Ids = npt.NDArray[np.int64]

# The streams of random numbers; a stream and a counter name a generator (see `generator`).
ORDER, MASKING, HOLD_OUT, VALIDATION = range(4)


class PretrainingError(KdcacheError):
    """A recipe, corpus or saved state that cannot be used; the message says what to do."""


class PretrainingRecipe(BaseModel):
    """One checkpoint: its architecture, how the text is laid out, and how it is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Family
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    intermediate: int | None = Field(None, gt=0, description="feed-forward width; 4 x hidden by default")
    vocab_size: int = Field(8192, ge=300, le=65_536, description="token ids are stored as uint16")
    sequence_length: int = Field(128, ge=8)
    short_length: int = Field(32, ge=8, description="length of the pieces that the first tokens come in")
    short_tokens: int = Field(8_000_000, ge=0, description="how many tokens come in short pieces")
    tokens: int = Field(gt=0, description="how many tokens to train on, counting repeats")
    batch_size: int = Field(16, gt=0, description="sequences a step")
    learning_rate: float = Field(gt=0, description="peak, held between warmup and decay")
    warmup_tokens: int = Field(1_000_000, ge=0)
    decay_fraction: float = Field(0.22, gt=0, le=1, description="the last part of `tokens`, decayed to 0")
    weight_decay: float = Field(0.01, ge=0)
    predict_fraction: float = Field(
        0.15, gt=0, lt=1, description="positions of a sequence that are predicted"
    )
    validation_fraction: float = Field(0.01, gt=0, lt=1, description="sequences held out")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sizes_divide(self) -> PretrainingRecipe:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden must be a multiple of heads, found hidden {self.hidden}, heads {self.heads}"
            )
        if self.sequence_length % self.short_length:
            raise ValueError(
                "sequence_length must be a multiple of short_length, found "
                f"sequence_length {self.sequence_length}, short_length {self.short_length}"
            )
        return self

    def predictions(self, length: int) -> int:
        """Predicted positions in a sequence: a fixed number, so that gathers are rectangular."""
        return max(1, round(self.predict_fraction * length))

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.tokens_per_step)


def load_recipe(path: Path, name: str, **changes: Any) -> PretrainingRecipe:
    """The recipe called `name` in a YAML file of recipes, with some keys changed."""
    recipes = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if name not in recipes:
        raise PretrainingError(
            f"{path}: no recipe {name!r}; it has {sorted(recipes)}. Add it there or pick one."
        )
    try:
        return PretrainingRecipe.model_validate({**recipes[name], **changes})
    except ValidationError as error:
        problems = "; ".join(
            f"{name}.{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors()
        )
        raise PretrainingError(f"{path}: {problems}") from error


# --- texts ------------------------------------------------------------------------------


def read_texts(files: Sequence[Path]) -> list[str]:
    """Documents that are not blank: the `text` of .parquet and .jsonl files, the lines of .txt files."""
    texts = [text for path in files for text in _read_file(path) if text.strip()]
    if not texts:
        raise PretrainingError(f"no text found in {', '.join(map(str, files)) or 'an empty list of files'}")
    return texts


def _read_file(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise PretrainingError(f"{path}: no such file; expected a .txt, .jsonl or .parquet file of texts")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
    else:
        raise PretrainingError(f"{path}: expected a .txt, .jsonl or .parquet file, found {path.suffix!r}")


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path)
    if "text" not in table.schema_arrow.names:
        raise PretrainingError(f"{path}: expected a column 'text', found {table.schema_arrow.names}")
    for batch in table.iter_batches(columns=["text"]):
        yield from (text for text in batch.column(0).to_pylist() if text is not None)


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise PretrainingError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise PretrainingError(
                    f"{path}, line {number}: expected an object with a string 'text', found {line!r}"
                )
            yield row["text"]


def read_hub_texts(dataset: str, documents: int, split: str = "train") -> list[str]:
    """The first `documents` texts of a hub data set with a `text` column, streamed."""
    from datasets import load_dataset

    rows = load_dataset(dataset, split=split, streaming=True)
    if rows.column_names is not None and "text" not in rows.column_names:
        raise PretrainingError(f"{dataset} ({split}): expected a column 'text', found {rows.column_names}")
    return [row["text"] for row in rows.take(documents) if row["text"].strip()]


# --- tokenizers -------------------------------------------------------------------------


def train_tokenizer(
    family: Family, texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """A lowercasing tokenizer with the family's special tokens: WordPiece for BERT, else byte-level BPE."""
    if family == "bert":
        return _train_wordpiece(texts, vocab_size, max_length)
    return _train_byte_bpe(family, texts, vocab_size, max_length)


def _train_wordpiece(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    learned = _wordpiece_vocabulary(list(texts), special, normalizer, vocab_size)
    tokenizer = Tokenizer(models.WordPiece(learned, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        do_lower_case=True,
        padding_side="right",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _wordpiece_vocabulary(
    texts: Sequence[str], special: list[str], normalizer: normalizers.Normalizer, vocab_size: int
) -> dict[str, int]:
    """A vocabulary that depends on the texts alone.

    The trainer numbers characters inside words in the order of a hash map, which differs from run to run;
    listed as its "special" tokens they get a fixed order.
    """
    alphabet = _alphabet(texts, normalizer, 250)
    inside = [f"##{c}" for c in alphabet if c not in punctuation and unicodedata.category(c)[0] != "P"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=special + inside,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer, limit: int) -> list[str]:
    """The most frequent characters, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    return sorted(ranked[:limit])


def _train_byte_bpe(
    family: Family, texts: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    roberta = family == "roberta"
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["<|endoftext|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    # With a prefix space a word has the same token at the start of a text as inside it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
    }
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), add_prefix_space=True
        )
        names = {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        }
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        add_prefix_space=True,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


# --- sequences --------------------------------------------------------------------------


def pack_sequences(
    family: Family, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int
) -> npt.NDArray[np.uint16]:
    """Documents, joined and cut into full sequences [N, length]: no padding, the short last one is dropped.

    BERT and RoBERTa: CLS ... SEP, with a SEP between documents, as a fine-tuned short text is laid out.
    GPT-2: an end-of-text token after each document.
    """
    end = tokenizer.eos_token_id if family == "gpt2" else tokenizer.sep_token_id
    inner = length if family == "gpt2" else length - 2
    stream = _token_stream(tokenizer, texts, end)
    rows = stream[: len(stream) // inner * inner].reshape(-1, inner)
    if family == "gpt2":
        return rows
    column = np.full((len(rows), 1), 0, dtype=np.uint16)
    return np.hstack([column + np.uint16(tokenizer.cls_token_id), rows, column + np.uint16(end)])


def _token_stream(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], end: int
) -> npt.NDArray[np.uint16]:
    backend = tokenizer.backend_tokenizer
    parts = []
    for start in range(0, len(texts), 1000):
        for encoding in backend.encode_batch_fast(
            list(texts[start : start + 1000]), add_special_tokens=False
        ):
            parts.append(np.array([*encoding.ids, end], dtype=np.uint16))
    return np.concatenate(parts)


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    """The random numbers of one step, epoch or split: the same whether or not the run was interrupted."""
    return np.random.default_rng([seed, stream, counter])


def hold_out(
    sequences: npt.NDArray[np.uint16], fraction: float, seed: int
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Split [N, S] at random into training and validation sequences, at least one of the latter."""
    order = generator(seed, HOLD_OUT, 0).permutation(len(sequences))
    held = max(1, round(fraction * len(sequences)))
    return sequences[np.sort(order[held:])], sequences[np.sort(order[:held])]


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, rows: int) -> Ids:
    return generator(seed, ORDER, epoch).permutation(rows)


def batch_at(sequences: npt.NDArray[np.uint16], recipe: PretrainingRecipe, step: int) -> Ids:
    """The batch [B, S] of a step; an epoch visits all sequences in a new order, in whole batches.

    The first `short_tokens` come as more, shorter rows: among few positions attention soon finds out that
    neighbours matter, where it can stay on a plateau for long otherwise (sequence length warm-up, Li et al.
    2022, arXiv 2108.06084).
    """
    epoch, index = divmod(step, len(sequences) // recipe.batch_size)
    order = _epoch_order(recipe.seed, epoch, len(sequences))
    batch = sequences[order[index * recipe.batch_size : (index + 1) * recipe.batch_size]].astype(np.int64)
    short = step * recipe.tokens_per_step < recipe.short_tokens
    return batch.reshape(-1, recipe.short_length) if short else batch


@dataclass(frozen=True)
class Predictions:
    """What a step asks: given `inputs` [B, S], the model must say `labels` [B, P] at `positions` [B, P]."""

    inputs: Tensor
    positions: Tensor
    labels: Tensor


def mask_tokens(
    batch: Ids,
    recipe: PretrainingRecipe,
    special: npt.NDArray[np.int64],
    mask_id: int,
    rng: np.random.Generator,
) -> Predictions:
    """BERT's objective (Devlin et al. 2019, section 3.1) at P positions a sequence.

    Of the predicted positions 80% read MASK, 10% a random ordinary token and 10% themselves. A special token
    is predicted only in a sequence that has fewer than P others.
    """
    scores = rng.random(batch.shape) + np.isin(batch, special)
    positions = _lowest(scores, recipe.predictions(batch.shape[1]))
    labels = np.take_along_axis(batch, positions, axis=1)
    ordinary = np.setdiff1d(np.arange(recipe.vocab_size), special)
    random_tokens = ordinary[rng.integers(0, len(ordinary), size=labels.shape)]
    kind = rng.random(labels.shape)
    shown = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, random_tokens, labels))
    inputs = batch.copy()
    np.put_along_axis(inputs, positions, shown, axis=1)
    return Predictions(torch.from_numpy(inputs), torch.from_numpy(positions), torch.from_numpy(labels))


def _lowest(scores: npt.NDArray[np.float64], count: int) -> Ids:
    """The columns, ascending, of the `count` lowest scores in each row."""
    return np.sort(np.argpartition(scores, count - 1, axis=1)[:, :count], axis=1)


def sample_next_tokens(batch: Ids, recipe: PretrainingRecipe, rng: np.random.Generator) -> Predictions:
    """Causal modelling at P random positions a sequence: an unbiased estimate of the loss at all of them."""
    scores = rng.random((batch.shape[0], batch.shape[1] - 1))
    positions = _lowest(scores, recipe.predictions(batch.shape[1]))
    labels = np.take_along_axis(batch, positions + 1, axis=1)
    return Predictions(torch.from_numpy(batch), torch.from_numpy(positions), torch.from_numpy(labels))


# --- models -----------------------------------------------------------------------------


def build_model(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    """A freshly initialised model, seeded.

    It stays in eval mode: that alone turns dropout off (a small model on a few epochs underfits), while the
    saved configuration keeps the usual 0.1 for fine-tuning.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _MODELS[recipe.family](recipe, tokenizer).float().eval()


def _encoder_sizes(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": recipe.vocab_size,
        "hidden_size": recipe.hidden,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "intermediate_size": recipe.intermediate or 4 * recipe.hidden,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _bert(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    sizes = _encoder_sizes(recipe, tokenizer)
    return BertForMaskedLM(BertConfig(**sizes, max_position_embeddings=recipe.sequence_length))


def _roberta(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    # RoBERTa's positions start after the padding id.
    positions = recipe.sequence_length + tokenizer.pad_token_id + 1
    return RobertaForMaskedLM(
        RobertaConfig(
            **_encoder_sizes(recipe, tokenizer),
            max_position_embeddings=positions,
            type_vocab_size=1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _gpt2(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    # The tanh approximation is GPT-2's own GELU; this spelling of it is one fused kernel, "gelu_new" is many.
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=recipe.vocab_size,
            n_embd=recipe.hidden,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            n_inner=recipe.intermediate,
            n_positions=recipe.sequence_length,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


_MODELS: dict[Family, Callable[[PretrainingRecipe, PreTrainedTokenizerFast], nn.Module]] = {
    "bert": _bert,
    "roberta": _roberta,
    "gpt2": _gpt2,
}


def predicted_logits(model: Any, inputs: Tensor, positions: Tensor) -> Tensor:
    """Vocabulary logits [B*P, V] at `positions` [B, P] of full, unpadded sequences `inputs` [B, S].

    Equal to the model's own logits there, at less cost: at the other S - P positions the last layer computes
    nothing but keys and values, since nothing reads the rest.
    """
    if model.config.model_type == "gpt2":
        return _gpt2_logits(model, inputs, positions)
    bert = model.config.model_type == "bert"
    encoder, head = (model.bert, model.cls) if bert else (model.roberta, model.lm_head)
    hidden = encoder.embeddings(inputs)
    *lower, last = encoder.encoder.layer
    for layer in lower:
        hidden = layer(hidden)
    logits: Tensor = head(_encoder_last_layer(last, hidden, positions)).flatten(0, 1)
    return logits


def _encoder_last_layer(layer: Any, hidden: Tensor, positions: Tensor) -> Tensor:
    """A BERT or RoBERTa layer [B, S, H] -> [B, P, H] at the chosen positions."""
    attention = layer.attention.self
    chosen = _pick(hidden, positions)
    query, key, value = (
        _split_heads(x, attention.num_attention_heads)
        for x in (attention.query(chosen), attention.key(hidden), attention.value(hidden))
    )
    context = _merge_heads(F.scaled_dot_product_attention(query, key, value))
    attended = layer.attention.output(context, chosen)
    output: Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def _gpt2_logits(model: Any, inputs: Tensor, positions: Tensor) -> Tensor:
    body = model.transformer
    hidden = body.wte(inputs) + body.wpe(torch.arange(inputs.shape[1]))
    *lower, last = body.h
    for block in lower:
        hidden = block(hidden)
    last_hidden = body.ln_f(_gpt2_last_block(last, hidden, positions))
    logits: Tensor = model.lm_head(last_hidden).flatten(0, 1)
    return logits


def _gpt2_last_block(block: Any, hidden: Tensor, positions: Tensor) -> Tensor:
    """A GPT-2 block [B, S, H] -> [B, P, H] at the chosen positions, each seeing itself and its past."""
    width, heads, projection = hidden.shape[-1], block.attn.num_heads, block.attn.c_attn
    normed, chosen = block.ln_1(hidden), _pick(hidden, positions)
    query = _pick(normed, positions) @ projection.weight[:, :width] + projection.bias[:width]
    key, value = (normed @ projection.weight[:, width:] + projection.bias[width:]).split(width, dim=-1)
    visible = torch.arange(hidden.shape[1]) <= positions[:, None, :, None]
    context = F.scaled_dot_product_attention(
        _split_heads(query, heads), _split_heads(key, heads), _split_heads(value, heads), attn_mask=visible
    )
    chosen = chosen + block.attn.c_proj(_merge_heads(context))
    output: Tensor = chosen + block.mlp(block.ln_2(chosen))
    return output


def _pick(hidden: Tensor, positions: Tensor) -> Tensor:
    """[B, S, H] at positions [B, P] -> [B, P, H]."""
    rows = positions + torch.arange(len(positions))[:, None] * hidden.shape[1]
    return hidden.flatten(0, 1).index_select(0, rows.flatten()).view(*positions.shape, -1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def prediction_loss(model: nn.Module, asked: Predictions) -> Tensor:
    """Mean cross-entropy over the predicted positions, in nats."""
    return F.cross_entropy(predicted_logits(model, asked.inputs, asked.positions), asked.labels.flatten())


# --- training ---------------------------------------------------------------------------


def learning_rate(step: int, *, peak: float, warmup: int, decay_start: int, steps: int) -> float:
    """Linear to `peak` in `warmup` steps, constant, linear to 0 from `decay_start` to `steps`."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    falling = min(1.0, (steps - step) / max(1, steps - decay_start))
    return peak * min(rising, falling)


def decay_start(recipe: PretrainingRecipe, resumed_at: int) -> int:
    """The first step of the decay: `decay_fraction` before the end.

    A resumed run with a new target starts it no earlier than where it resumes, from the rate it had.
    """
    return max(recipe.steps - round(recipe.decay_fraction * recipe.steps), resumed_at)


@dataclass
class Progress:
    """How far a run is; stored in the header of its state file."""

    step: int = 0
    seconds: float = 0.0
    steps: int = 0
    decay_start: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


def make_optimizer(model: nn.Module, recipe: PretrainingRecipe) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases and layer norms alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: str
) -> None:
    """Replace the state file atomically: an interrupted write leaves the previous state."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    metadata = {"identity": identity, "progress": json.dumps(asdict(progress))}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> Progress:
    """Fill model and optimizer from a state file and say how far it was; an error if it is another run's."""
    try:
        with safe_open(path, framework="pt") as state:
            metadata = state.metadata() or {}
            _check_identity(path, metadata.get("identity", "none"), identity)
            progress = Progress(**json.loads(metadata["progress"]))
            for name, parameter in model.named_parameters():
                _restore(parameter, name, state, optimizer, progress.step)
    except SafetensorError as error:
        raise PretrainingError(f"{path}: not a readable state ({error}); delete it to start again") from error
    return progress


def _check_identity(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise PretrainingError(
            f"{path}: belongs to another run: expected recipe and texts {expected}, found {found}. Only "
            "`tokens` may "
            "change on resume: use another work directory, or delete this one to start again."
        )


def _restore(
    parameter: nn.Parameter, name: str, state: Any, optimizer: torch.optim.Optimizer, step: int
) -> None:
    with torch.no_grad():
        parameter.copy_(state.get_tensor(f"weight/{name}"))
    optimizer.state[parameter] = {
        "step": torch.tensor(float(step)),
        "exp_avg": state.get_tensor(f"exp_avg/{name}"),
        "exp_avg_sq": state.get_tensor(f"exp_avg_sq/{name}"),
    }


class Trainer:
    """One run: model, optimizer, sequences, progress; all that is random derives from the recipe's seed."""

    def __init__(
        self, recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast, sequences: npt.NDArray[np.uint16]
    ) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.training, self.validation = hold_out(sequences, recipe.validation_fraction, recipe.seed)
        if len(self.training) < recipe.batch_size:
            raise PretrainingError(
                f"the texts give {len(self.training)} training sequences of {recipe.sequence_length} tokens, "
                f"expected at least batch_size = {recipe.batch_size}: add text or make the batch smaller"
            )
        self.special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int64)
        self.model = build_model(recipe, tokenizer)
        self.optimizer = make_optimizer(self.model, recipe)
        self.progress = Progress(steps=recipe.steps, decay_start=decay_start(recipe, 0))

    def resume(self, path: Path, identity: str) -> None:
        """Continue from a state file if there is one; a changed token target gets a new decay."""
        if not path.exists():
            return
        self.progress = load_state(path, self.model, self.optimizer, identity)
        if self.progress.steps != self.recipe.steps:
            self.progress.steps = self.recipe.steps
            self.progress.decay_start = decay_start(self.recipe, self.progress.step)
        log.info("resumed %s at step %d of %d", path, self.progress.step, self.recipe.steps)
        if self.progress.step > self.recipe.steps:
            log.warning("the run is past its target: it ends as it is, without a decay of the learning rate")

    def ask(self, batch: Ids, stream: int, counter: int) -> Predictions:
        rng = generator(self.recipe.seed, stream, counter)
        if self.recipe.family == "gpt2":
            return sample_next_tokens(batch, self.recipe, rng)
        return mask_tokens(batch, self.recipe, self.special, self.tokenizer.mask_token_id, rng)

    def step(self) -> Tensor:
        """One optimizer step; the loss, a scalar."""
        at, recipe = self.progress, self.recipe
        rate = learning_rate(
            at.step,
            peak=recipe.learning_rate,
            decay_start=at.decay_start,
            steps=at.steps,
            warmup=round(recipe.warmup_tokens / recipe.tokens_per_step),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = prediction_loss(
            self.model, self.ask(batch_at(self.training, recipe, at.step), MASKING, at.step)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        at.step += 1
        return loss.detach()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Loss on the held-out sequences, always at the same positions."""
        total, size = 0.0, self.recipe.batch_size
        for start in range(0, len(self.validation), size):
            batch = self.validation[start : start + size].astype(np.int64)
            total += prediction_loss(self.model, self.ask(batch, VALIDATION, start)).item() * len(batch)
        return total / len(self.validation)

    def run(
        self,
        state: Path,
        identity: str,
        save_seconds: float = 120,
        log_seconds: float = 30,
        evaluate_steps: int = 2000,
    ) -> None:
        """Train to the target, writing the state every `save_seconds` and a log line every `log_seconds`."""
        before, begun = self.progress.seconds, time.monotonic()
        saved = logged = begun
        losses: list[Tensor] = []
        while self.progress.step < self.recipe.steps:
            losses.append(loss := self.step())
            now = time.monotonic()
            self.progress.seconds = before + now - begun
            if now - logged > log_seconds:
                self._report(losses, now - logged)
                logged, losses = now, []
            if self.progress.step % evaluate_steps == 0:
                self._validate()
            if now - saved > save_seconds and loss.isfinite():
                save_state(state, self.model, self.optimizer, self.progress, identity)
                saved = now
        self._validate()
        save_state(state, self.model, self.optimizer, self.progress, identity)

    def _report(self, losses: list[Tensor], seconds: float) -> None:
        at, loss = self.progress, torch.stack(losses).mean().item()
        speed = len(losses) * self.recipe.tokens_per_step / seconds
        eta = (self.recipe.steps - at.step) * self.recipe.tokens_per_step / speed / 60
        at.losses.append((at.step, round(loss, 4)))
        log.info(
            "%.2fM of %.1fM tokens, %.0f tokens/s, loss %.3f, lr %.2e, %.0f min left",
            at.step * self.recipe.tokens_per_step / 1e6,
            self.recipe.tokens / 1e6,
            speed,
            loss,
            self.optimizer.param_groups[0]["lr"],
            eta,
        )
        if not np.isfinite(loss):
            raise PretrainingError(f"the loss became {loss} at step {at.step}: lower learning_rate")

    def _validate(self) -> None:
        loss = self.evaluate()
        self.progress.validation.append((self.progress.step, round(loss, 4)))
        log.info("step %d: held-out loss %.4f", self.progress.step, loss)


# --- the whole run ----------------------------------------------------------------------


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Refuse a second run in the same directory: the two would overwrite each other's state."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / "lock", timeout=0):
            yield
    except Timeout as error:
        raise PretrainingError(
            f"{directory}: another run is using it; wait, stop it or name another"
        ) from error


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def prepare_tokenizer(
    recipe: PretrainingRecipe, texts: Sequence[str], work_dir: Path, given: Path | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer of a given folder, of an earlier start of this run, or a newly trained one."""
    folder = given or work_dir / "tokenizer"
    if given is None and not (folder / "tokenizer.json").exists():
        log.info("training a %s tokenizer of %d tokens", recipe.family, recipe.vocab_size)
        trained = train_tokenizer(recipe.family, texts, recipe.vocab_size, recipe.sequence_length)
        trained.save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    _check_tokenizer(folder, tokenizer, recipe)
    return tokenizer


def _check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, recipe: PretrainingRecipe) -> None:
    if len(tokenizer) > recipe.vocab_size:
        raise PretrainingError(
            f"{folder}: expected at most vocab_size = {recipe.vocab_size} tokens, found {len(tokenizer)}"
        )
    needed = ["eos_token"] if recipe.family == "gpt2" else ["cls_token", "sep_token", "mask_token"]
    missing = [name for name in [*needed, "pad_token"] if getattr(tokenizer, name) is None]
    if missing:
        raise PretrainingError(
            f"{folder}: a {recipe.family} tokenizer needs {', '.join(missing)}; use another"
        )


def prepare_sequences(
    recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], work_dir: Path
) -> tuple[npt.NDArray[np.uint16], str]:
    """The packed sequences [N, S], kept in the work directory, and a digest of what they were made from."""
    key = _digest([recipe.family, str(recipe.sequence_length), tokenizer.backend_tokenizer.to_str(), *texts])
    path = work_dir / f"sequences-{key}.npy"
    if not path.exists():
        log.info("tokenizing %d documents", len(texts))
        packed = pack_sequences(recipe.family, tokenizer, texts, recipe.sequence_length)
        write_atomically(path, partial(_save_array, packed))
    return np.load(path, allow_pickle=False), key


def _save_array(array: npt.NDArray[np.uint16], path: Path) -> None:
    with path.open("wb") as file:  # given a name, np.save would add .npy to it
        np.save(file, array)


def pretrain(
    recipe: PretrainingRecipe,
    texts: Sequence[str],
    work_dir: Path,
    out_dir: Path,
    *,
    corpus: str,
    command: str,
    tokenizer_dir: Path | None = None,
) -> Progress:
    """Train on `texts`, resuming what `work_dir` holds, and save model, tokenizer and card in `out_dir`.

    `corpus` and `command` are for the card: what the texts are, and how to run this again.
    """
    with _exclusive(work_dir):
        tokenizer = prepare_tokenizer(recipe, texts, work_dir, tokenizer_dir)
        sequences, key = prepare_sequences(recipe, tokenizer, texts, work_dir)
        identity = _digest([recipe.model_dump_json(exclude={"tokens"}), key])
        trainer = Trainer(recipe, tokenizer, sequences)
        trainer.resume(work_dir / "state.safetensors", identity)
        log.info(
            "training on %d sequences (%.1fM tokens), %d held out",
            len(trainer.training),
            trainer.training.size / 1e6,
            len(trainer.validation),
        )
        trainer.run(work_dir / "state.safetensors", identity)
        save_checkpoint(trainer.model, tokenizer, out_dir)
        card = model_card(out_dir.name, recipe, trainer, len(texts), corpus, command)
        (out_dir / "README.md").write_text(card, encoding="utf-8")
    return trainer.progress


def save_checkpoint(model: Any, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
    """Weights in fp16, half the bytes; the configuration says float32, for fine-tuning."""
    tokenizer.save_pretrained(out_dir)
    model.half().save_pretrained(out_dir)
    model.float()
    model.config.dtype = torch.float32
    model.config.save_pretrained(out_dir)


# --- the model card ---------------------------------------------------------------------


def model_card(
    name: str, recipe: PretrainingRecipe, trainer: Trainer, documents: int, corpus: str, command: str
) -> str:
    """A README.md that says what the checkpoint is and how it came to be."""
    objective = "causal" if recipe.family == "gpt2" else "masked"
    rows = {
        **_card_model(recipe, trainer),
        **_card_training(recipe, trainer, f"{corpus}: {documents:,} documents"),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {name}\n\nA small {recipe.family} checkpoint, trained from scratch by {objective} language "
        f"modelling.\n\n| | |\n| --- | --- |\n{table}\n\n## Made with\n\n```\n{command}\n```\n"
    )


def _card_model(recipe: PretrainingRecipe, trainer: Trainer) -> dict[str, str]:
    size = sum(p.numel() for p in trainer.model.parameters())
    kind = "WordPiece" if recipe.family == "bert" else "byte-level BPE"
    return {
        "architecture": f"{recipe.family}, {recipe.layers} layers, hidden {recipe.hidden}, "
        f"{recipe.heads} heads, {size / 1e6:.1f}M parameters, saved as fp16",
        "tokenizer": f"{kind}, {recipe.vocab_size} tokens, lowercased, "
        f"at most {recipe.sequence_length} positions",
    }


def _card_training(recipe: PretrainingRecipe, trainer: Trainer, data: str) -> dict[str, str]:
    at, corpus_tokens = trainer.progress, trainer.training.size
    seen = at.step * recipe.tokens_per_step
    return {
        "data": f"{data}, {corpus_tokens / 1e6:.1f}M tokens for training",
        "tokens seen": f"{seen:,} ({seen / corpus_tokens:.1f} epochs)",
        "steps": f"{at.step:,} of {recipe.batch_size} x {recipe.sequence_length} tokens, AdamW, "
        f"peak learning rate {recipe.learning_rate:g}, seed {recipe.seed}",
        "held-out loss": f"{at.validation[-1][1]:.3f} nats a predicted token "
        f"({len(trainer.validation):,} sequences)",
        "time": f"{at.seconds:,.0f} s on {_machine()}",
        "date": date.today().isoformat(),
    }


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} thread(s)"


def add_to_card(out_dir: Path, heading: str, markdown: str) -> None:
    """Append the section `## heading` to a checkpoint's card, or replace the one of that name."""
    path = out_dir / "README.md"
    if not path.is_file():
        raise PretrainingError(f"{path}: no model card; pre-train the checkpoint first")
    kept, *sections = path.read_text(encoding="utf-8").split("\n## ")
    new = f"{heading}\n\n{markdown.strip()}\n"
    same = [i for i, section in enumerate(sections) if section.split("\n", 1)[0].strip() == heading]
    if same:
        sections[same[0]] = new
    else:
        sections.append(new)
    path.write_text("\n\n## ".join(part.strip("\n") for part in [kept, *sections]) + "\n", encoding="utf-8")
