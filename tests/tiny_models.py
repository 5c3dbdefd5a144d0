"""Tiny checkpoints of the real architectures, with tokenizers and rows that fit them: no network, no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from kdcache.modelling.encoding import EncodedImages, EncodedSplit
from kdcache.study import Student
from kdcache.tasks.card import TaskCard

TEXTS = [
    "a cat",
    "the dog sat on the red mat",
    "red and blue",
    "a bird sings in the old tree at noon",
    "dog",
    "blue sea and a grey sky over it",
]
TEXT_FAMILIES = ("bert", "roberta", "gpt2")
IMAGE_FAMILIES = ("vit", "resnet")

# Changes of a config that turn dropout off, so that training computes the same as evaluation.
STILL = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "vit": {},
    "resnet": {},
}

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def card(classes: int = 3, modality: Any = "text", max_length: int | None = 16, **changes: Any) -> TaskCard:
    """A task's card, without any files."""
    values: dict[str, Any] = {
        "name": "toy",
        "modality": modality,
        "regression": False,
        "label_names": [f"class {index}" for index in range(classes)],
        "rows": {"train": 6, "validation": 6},
        "class_counts": {},
        "source": {},
        "dropped": {},
        "metrics": ["accuracy"],
        "max_length": max_length if modality == "text" else None,
        "fingerprint": "0",
    }
    return TaskCard(**{**values, **changes})


def student(folder: Path | str, **changes: Any) -> Student:
    # float32 on every machine: "auto" is bfloat16 on CPUs with such instructions
    values: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 4, "precision": "float32"}
    return Student(checkpoint=str(folder), **{**values, **changes})


def config(family: str, **changes: Any) -> Any:
    """A config of three layers (ResNet: two stages) and a few thousand weights, with the family's dropout."""
    text = {**SIZES, "vocab_size": 300, "intermediate_size": 32, "max_position_embeddings": 32}
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "bert": ("BertConfig", text),
        "roberta": ("RobertaConfig", text),
        "gpt2": (
            "GPT2Config",
            {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32, "vocab_size": 300, "bos_token_id": 0,
             "eos_token_id": 0},
        ),
        "vit": ("ViTConfig", {**SIZES, "intermediate_size": 32, "image_size": 8, "patch_size": 4, "num_channels": 1}),
        "resnet": (
            "ResNetConfig",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
             "num_channels": 1},
        ),
    }  # fmt: skip
    name, values = settings[family]
    return getattr(transformers, name)(**{**values, **changes})


def save_checkpoint(folder: Path, family: str, seed: int = 7, kind: str = "base", **changes: Any) -> Path:
    """Write a checkpoint: a random model (`kind`: base, or a head such as ForMaskedLM) and its preprocessor."""
    settings = config(family, **changes)
    prefix = type(settings).__name__.removesuffix("Config")
    torch.manual_seed(seed)
    network = getattr(transformers, prefix + ("Model" if kind == "base" else kind))(settings)
    network.save_pretrained(folder)
    if family in TEXT_FAMILIES:
        tokenizer(family).save_pretrained(folder)
    else:
        size = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.5]}
        (folder / "preprocessor_config.json").write_text(json.dumps(size))
    return folder


def tokenizer(family: str) -> Any:
    return wordpiece() if family == "bert" else byte_level(family)


def wordpiece() -> Any:
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return transformers.BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})


def byte_level(family: str) -> Any:
    """Byte-level BPE, with RoBERTa's special tokens or with GPT-2's only one."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if family == "roberta" else ["<|endoftext|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    if family == "gpt2":
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<|endoftext|>",
            eos_token="<|endoftext|>",
            model_input_names=["input_ids", "attention_mask"],
        )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def text_split(tokens: Any, texts: list[str] | None = None, classes: int = 3) -> EncodedSplit:
    """The texts as encoded: token ids without padding, labels 0, 1, 2, 0, ..."""
    texts = TEXTS if texts is None else texts
    rows = [np.array(tokens(text)["input_ids"], dtype=np.int32) for text in texts]
    return EncodedSplit(**_columns(len(texts), classes), input_ids=rows)


def random_split(lengths: list[int], classes: int = 3, seed: int = 0, vocabulary: int = 20) -> EncodedSplit:
    """Rows of random tokens of these lengths."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(5, vocabulary, length).astype(np.int32) for length in lengths]
    return EncodedSplit(**_columns(len(lengths), classes), input_ids=rows)


def image_split(rows: int = 6, classes: int = 3, seed: int = 0) -> EncodedSplit:
    pixels = np.random.default_rng(seed).integers(256, size=(rows, 1, 8, 8), dtype=np.uint8)
    return EncodedSplit(**_columns(rows, classes), images=EncodedImages(pixels, [0.5], [0.3]))


def pixel_values(split: EncodedSplit) -> torch.Tensor:
    """All rows of a split of images, as pixels for a model."""
    assert split.images is not None
    pixels, (mean,), (std,) = split.images.pixels, split.images.mean, split.images.std
    return torch.from_numpy((pixels / np.float32(255) - np.float32(mean)) / np.float32(std))


def _columns(rows: int, classes: int) -> dict[str, Any]:
    return {
        "ids": np.arange(rows, dtype=np.int64),
        "row_hashes": np.arange(rows, dtype=np.uint64),
        "labels": np.arange(rows, dtype=np.int64) % classes,
    }


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two models have the same weights, bit for bit."""
    mine, other = first.state_dict(), second.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
