"""Writing against bare inference: the same model on the same batches, with and without keeping the logits."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.cache.measuring import (
    Goal,
    Measurement,
    Options,
    Rates,
    at_least,
    rates,
    ratios,
    row_hashes,
    stated,
)
from kdcache.logits import write_logits

BATCH, TOKENS, VOCABULARY = 64, 32, 8192
BARE, GIVEN, HASHED = "bare inference", "write_logits, row hashes given", "write_logits"


@dataclass(frozen=True)
class Size:
    """A BERT's size. Its weights are random, which does not change the speed of inference."""

    name: str
    layers: int
    hidden: int
    share: int  # it is given 1 / share of the rows


TINY, SMALL = Size("bert-tiny", 2, 128, 2), Size("bert-small", 4, 192, 8)
LARGE = Size("bert-large", 24, 1024, 64)
CASES = ((TINY, 3), (TINY, 1000), (SMALL, 3))
GPU_CASES = ((TINY, 3), (LARGE, 3))


class RandomRows:
    """A data set of texts that were tokenized before."""

    def __init__(self, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.input_ids = torch.randint(5, VOCABULARY, (rows, TOKENS), generator=generator)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[index]}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        return [self[index] for index in indices]


def measure(options: Options) -> Measurement:
    """Measure a small teacher (on a GPU a large one), a tiny one, which hides writing least, and many classes."""
    goals: list[Goal] = []
    timings: dict[str, Rates] = {}
    cases = _cases(options)
    for size, classes in cases:
        name = f"{size.name}'s size, K = {classes}"
        variants, after = _variants(options, size, classes)
        timed = rates(variants, options.repeats, after)
        timings[f"writing, {name}, rows/s"] = timed
        title = f"writing, against bare inference, {name}"
        goals.append(at_least(title, 0.97, ratios(timed, HASHED, BARE), variants[HASHED], "x"))
        goals.append(stated(f"{title}, row hashes given", ratios(timed, GIVEN, BARE), "x"))
        after()
    return Measurement(goals, timings, notes=_notes(options))


def _cases(options: Options) -> Sequence[tuple[Size, int]]:
    cases = CASES if options.device == "cpu" else GPU_CASES
    return cases[:1] if options.quick else cases


def build(size: Size, classes: int) -> Any:
    config: Any = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        intermediate_size=4 * size.hidden,
    )
    config.num_labels = classes
    return transformers.BertForSequenceClassification(config).eval()


def _variants(
    options: Options, size: Size, classes: int
) -> tuple[dict[str, Callable[[], int]], Callable[[], None]]:
    data = RandomRows(max(options.rows // size.share, BATCH))
    model, hashes = build(size, classes).to(options.device), row_hashes(len(data))
    folder, number = options.work / "writing", itertools.count()

    def write(given: Any) -> int:
        path = folder / str(next(number))
        write_logits(model, data, path, batch_size=BATCH, row_hashes=given)
        return len(data)

    variants = {
        BARE: lambda: infer(model, data, options.device),
        GIVEN: lambda: write(hashes),
        HASHED: lambda: write(None),
    }
    return variants, lambda: _remove(folder)


def infer(model: Any, data: RandomRows, device: str) -> int:
    """Bare inference: run the model on all rows, and move the logits to the CPU."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(data), BATCH):
            rows = data.__getitems__(range(start, min(start + BATCH, len(data))))
            batch = {key: value.to(device) for key, value in default_collate(rows).items()}
            parts.append(model(**batch).logits)
    return len(torch.cat(parts).float().cpu().numpy())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _notes(options: Options) -> list[str]:
    rows = {f"{options.rows // size.share:,} for {size.name}'s size": None for size, _ in _cases(options)}
    return [
        f"Rows of {TOKENS} tokens in batches of {BATCH}: {', '.join(rows)}. Writing is all of `write_logits`: hashing "
        "rows and weights, encoding, checksums, fsync, and opening the cache that it made.",
        "A second thread encodes a shard while the model computes the next; it may use another core.",
    ]
