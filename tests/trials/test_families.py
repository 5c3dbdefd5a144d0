"""Every family of the paper and its neighbours, end to end: checkpoint folders as the hub has them, at toy size.

Each goes through teacher, logit cache, baseline and distillation. The oracle is transformers itself, which opens the
saved teacher and is given one row at a time, without padding.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.logits import LogitCache
from kdcache.modelling.building import build_model
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Regularizer, Student, Task, Teacher
from kdcache.tasks.card import read_card
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import read_result
from kdcache.trials.run import run_trial
from tests import tiny_models as tiny
from tests.doing import cache_logits, teach, trial_plan

WORDS = sorted({word for text in tiny.TEXTS for word in text.split()})
LETTERS = sorted({letter for word in WORDS for letter in word})
# The oracle computes in float32; by itself kdcache takes bfloat16 where a CPU has it.
RECIPE: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 1, "batch_size": 4, "precision": "float32"}


# ---- the families: a config, and a tokenizer of the kind that their checkpoints have ----


def word_pieces(tokenizer: str) -> Any:
    vocabulary = dict.fromkeys([*WORDPIECE, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    return getattr(transformers, tokenizer)(vocab={word: index for index, word in enumerate(vocabulary)})


def unigram(tokenizer: str, special: list[str]) -> Any:
    """SentencePiece's: pieces with their log probabilities."""
    pieces = [*((word, 0.0) for word in special), *((f"▁{word}", -2.0) for word in WORDS)]
    return getattr(transformers, tokenizer)(vocab=[*pieces, *((letter, -9.0) for letter in [*LETTERS, "▁"])])


def byte_pairs(tokenizer: str, special: list[str]) -> Any:
    model = json.loads(trained_byte_pairs(special).to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return getattr(transformers, tokenizer)(vocab=model["vocab"], merges=merges)


def byte_pairs_of_no_class(special: list[str], template: tuple[str, str], **names: str) -> Any:
    """As Llama 3 and ModernBERT have it: everything is in tokenizer.json."""
    backend = trained_byte_pairs(special)
    used = [(word, index) for index, word in enumerate(special) if word in template[0]]
    backend.post_processor = processors.TemplateProcessing(*template, special_tokens=used)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def trained_byte_pairs(special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(tiny.TEXTS, trainer)
    return backend


def modernbert_tokenizer() -> Any:
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    template = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")
    return byte_pairs_of_no_class(WORDPIECE, template, **names)


def llama_tokenizer() -> Any:
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    template = ("<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|> $B")
    return byte_pairs_of_no_class(list(names.values()), template, **names)


@dataclass(frozen=True)
class Family:
    """`prefix` names its classes in transformers; a family without tokenizer is one of images."""

    prefix: str
    settings: dict[str, Any]
    tokenizer: Callable[[], Any] | None = None
    language_model: str = "ForMaskedLM"

    @property
    def modality(self) -> Any:
        return "image" if self.tokenizer is None else "text"


# "distilbert" and "gpt2" have names of their own for the usual sizes.
TEXT: dict[str, Any] = {
    **tiny.SIZES,
    "vocab_size": 300,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
IMAGE: dict[str, Any] = {**tiny.SIZES, "intermediate_size": 32, "image_size": 8, "patch_size": 4}
DISTIL: dict[str, Any] = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "vocab_size": 300}
GPT2: dict[str, Any] = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "vocab_size": 300}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1]}
RELATIVE: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ALBERT = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
DEBERTA = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
END = ["<|endoftext|>"]

FAMILIES = {
    "bert": Family("Bert", TEXT, lambda: word_pieces("BertTokenizer")),
    "roberta": Family("Roberta", {**TEXT, "type_vocab_size": 1}, lambda: byte_pairs("RobertaTokenizer", ROBERTA)),
    "gpt2": Family("GPT2", {**GPT2, **ENDS}, lambda: byte_pairs("GPT2Tokenizer", END), "LMHeadModel"),
    "distilbert": Family("DistilBert", DISTIL, lambda: word_pieces("DistilBertTokenizer")),
    "albert": Family("Albert", {**TEXT, "embedding_size": 8}, lambda: unigram("AlbertTokenizer", ALBERT)),
    "deberta-v2": Family(
        "DebertaV2", {**TEXT, **RELATIVE, "type_vocab_size": 0}, lambda: unigram("DebertaV2Tokenizer", DEBERTA)
    ),
    "electra": Family("Electra", {**TEXT, "embedding_size": 8}, lambda: word_pieces("ElectraTokenizer")),
    "modernbert": Family("ModernBert", {**TEXT, "pad_token_id": 0, "local_attention": 4}, modernbert_tokenizer),
    "llama": Family("Llama", {**TEXT, "num_key_value_heads": 1}, llama_tokenizer, "ForCausalLM"),
    "qwen2": Family(
        "Qwen2", {**TEXT, **ENDS, "num_key_value_heads": 1}, lambda: byte_pairs("Qwen2Tokenizer", END), "ForCausalLM"
    ),
    "vit": Family("ViT", IMAGE),
    "deit": Family("DeiT", IMAGE),
    "resnet": Family("ResNet", {**STAGES, "embedding_size": 8}),
    "convnext": Family("ConvNext", {**STAGES, "num_stages": 2, "patch_size": 2}),
}  # fmt: skip
TEXTS = [name for name, family in FAMILIES.items() if family.modality == "text"]
IMAGES = [name for name in FAMILIES if name not in TEXTS]
STACKS = [name for name in FAMILIES if name not in ("resnet", "convnext")]


def save_checkpoint(folder: Path, name: str, kind: str = "Model", **changes: Any) -> Path:
    """A random checkpoint in hub format, of the bare model or of a model with a head."""
    family = FAMILIES[name]
    config = getattr(transformers, f"{family.prefix}Config")(**{**family.settings, **changes})
    torch.manual_seed(7)
    getattr(transformers, family.prefix + kind)(config).save_pretrained(folder)
    if family.tokenizer is not None:
        family.tokenizer().save_pretrained(folder)
    else:
        settings = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


# ---- end to end ----


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A task of text pairs and one of images, of 12 and 5 rows, prepared."""
    root = tmp_path_factory.mktemp("tasks")
    rows: dict[str, list[dict[str, Any]]] = {"text": text_rows(), "image": image_rows()}
    columns = {"text": {"text": ["first", "second"], "max_length": 60}, "image": {"image": "image"}}
    for kind, found in rows.items():
        files = {"train": root / f"{kind}-train.jsonl", "validation": root / f"{kind}-validation.jsonl"}
        files["train"].write_text("\n".join(map(json.dumps, found[:12])))
        files["validation"].write_text("\n".join(map(json.dumps, found[12:])))
        source = {"files": {split: str(path) for split, path in files.items()}}
        spec = Task.model_validate({"source": source, "metrics": ["accuracy"], **columns[kind]})
        prepare_task(spec, root / kind, kind)
    return {kind: root / kind for kind in rows}


def text_rows() -> list[dict[str, Any]]:
    """Pairs of texts of very different lengths, all of them distinct."""
    pairs = [(first, second) for first in tiny.TEXTS for second in tiny.TEXTS if first != second]
    return [{"first": a, "second": b, "label": "same" if len(a) < len(b) else "other"} for a, b in pairs[:17]]


def image_rows() -> list[dict[str, Any]]:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 8, 8, 3))
    return [{"image": image.tolist(), "label": "ab"[row % 2]} for row, image in enumerate(pixels)]


def alone(folder: Path, task: Path, split: str) -> torch.Tensor:
    """What transformers says of each row by itself: nothing is padded, nothing of kdcache's encoding is used."""
    card = read_card(task)
    auto: Any = transformers.AutoModelForSequenceClassification
    if card.modality == "image":
        auto = transformers.AutoModelForImageClassification
    model = auto.from_pretrained(folder).eval()
    inputs = texts_alone(folder, task, split) if card.modality == "text" else images_alone(task, split)
    with torch.no_grad():
        return torch.cat([model(**row).logits for row in inputs])


def texts_alone(folder: Path, task: Path, split: str) -> Iterator[dict[str, Any]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    between = "" if tokenizer.sep_token else tokenizer.eos_token
    for row in PreparedTask(task).rows(split).to_pylist():
        yield tokenizer(row["text"], between + row["text_pair"], return_tensors="pt")


def images_alone(task: Path, split: str) -> Iterator[dict[str, Any]]:
    for row in PreparedTask(task).rows(split).to_pylist():
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])), dtype=np.float32)
        yield {"pixel_values": torch.from_numpy(pixels / 255 * 2 - 1).permute(2, 0, 1)[None]}


@pytest.mark.parametrize("name", FAMILIES)
def test_teach_cache_train_distill(tmp_path: Path, tasks: dict[str, Path], name: str) -> None:
    go_through(tmp_path, save_checkpoint(tmp_path / "hub", name), tasks[FAMILIES[name].modality])


def go_through(root: Path, checkpoint: Path, task: Path) -> None:
    teacher = Teacher(checkpoint=str(checkpoint), **RECIPE)
    taught = teach("big", task, teacher, root / "teacher", "identity")
    cache_logits("big", task, teacher, root / "teacher", root / "cache")
    cache = LogitCache(root / "cache")
    assert cache.manifest.scores["validation"] == pytest.approx(taught["metrics"])
    for split, rows in (("train", 12), ("validation", 5)):
        expected = alone(root / "teacher", task, split)
        assert expected.shape == (rows, 2)
        found = torch.from_numpy(cache.logits(split, np.arange(rows)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    losses = []
    for method, source in ((Regularizer(), None), (DISTIL_ALL, root / "cache")):
        plan = trial(root, task, checkpoint, "kd" if source else "base", method, source)
        run_trial(plan)
        result = read_result(plan.folder)
        assert result is not None
        assert (result.family, result.steps) == (taught["family"], 3)
        losses += result.losses
    assert losses[0] != losses[1]


DISTIL_ALL = Regularizer(soft_labels="teacher", alpha=1.0, temperature=2.0)


def trial(
    root: Path, task: Path, checkpoint: Path, name: str, method: Regularizer, source: Path | None
) -> TrialPlan:
    return trial_plan(
        folder=root / name,
        identity=name,
        task="toy",
        task_folder=task,
        student="small",
        model=Student(checkpoint=str(checkpoint), teacher="big", **RECIPE),
        regularizer=name,
        method=method,
        seed=0,
        soft_labels=() if source is None else (source,),
        keep_train_logits=name == "base",
    )


# ---- tokenizers ----


def with_tokenizer_in_python(folder: Path, name: str) -> Path:
    """A RoBERTa with one of the few tokenizers that transformers still runs in Python; "a b 7" merges a and b."""
    save_checkpoint(folder, "roberta")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    pieces = dict.fromkeys([*WORDS, *LETTERS, *(f"{letter}@@" for letter in LETTERS)])
    (folder / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in pieces))
    (folder / "bpe.codes").write_text("h e</w> 9\nt he</w> 8\na t</w> 7\nc at</w> 6\n")
    return folder


def test_a_tokenizer_in_python(tmp_path: Path, tasks: dict[str, Path]) -> None:
    folder = with_tokenizer_in_python(tmp_path / "hub", "PhobertTokenizer")
    tokenizer = load_preprocessor(find_checkpoint(tiny.student(folder)), tiny.card()).tokenizer
    assert not tokenizer.is_fast
    assert tokenizer.tokenize("the cat sat") == ["the", "cat", "s@@", "at"]
    go_through(tmp_path, folder, tasks["text"])


def test_a_tokenizer_that_is_not_saved_as_it_was(tmp_path: Path, tasks: dict[str, Path]) -> None:
    """Read back, BERTweet's has lost the second half of each merge: the teacher's logits would be of other tokens."""
    folder = with_tokenizer_in_python(tmp_path / "hub", "BertweetTokenizer")
    with pytest.raises(ModelError, match="transformers does not save BertweetTokenizer as it was"):
        teach(
            "big", tasks["text"], Teacher(checkpoint=str(folder), **RECIPE), tmp_path / "teacher", "identity"
        )
    assert not (tmp_path / "teacher" / "teacher.json").exists()


@pytest.mark.parametrize(
    "name", [name for name in TEXTS if name not in ("modernbert", "llama", "albert", "deberta-v2")]
)
def test_the_files_of_former_slow_tokenizers(tmp_path: Path, name: str) -> None:
    """Old repositories have no tokenizer.json, but a vocabulary [and merges] that say the same."""
    model = tiny.student(save_checkpoint(tmp_path, name))
    expected = load_preprocessor(find_checkpoint(model), tiny.card()).tokenizer("the cat sat", "a bird")
    content = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    if content["type"] == "WordPiece":
        (tmp_path / "vocab.txt").write_text("\n".join(sorted(content["vocab"], key=content["vocab"].get)))
    else:
        (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
        (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, content["merges"])))
    assert (
        load_preprocessor(find_checkpoint(model), tiny.card()).tokenizer("the cat sat", "a bird") == expected
    )


@pytest.mark.parametrize(("name", "file"), [("albert", "spiece.model"), ("deberta-v2", "spm.model")])
def test_sentencepiece_files_alone(tmp_path: Path, name: str, file: str) -> None:
    """No tokenizer.json, and the packages that would make one are not among kdcache's."""
    model = tiny.student(save_checkpoint(tmp_path, name))
    (tmp_path / "tokenizer.json").rename(tmp_path / file)
    with pytest.raises(ModelError, match=rf"{file} is SentencePiece's; `pip install sentencepiece protobuf`"):
        load_preprocessor(find_checkpoint(model), tiny.card())


@pytest.mark.parametrize(
    ("name", "classes", "settings", "segments"),
    [
        ("bert", "BertTokenizer", {}, True),
        ("albert", "AlbertTokenizer", {}, True),  # its tokenizer does not list them
        ("distilbert", "BertTokenizer", {}, False),  # a model without them, a tokenizer with them
        ("roberta", "BertTokenizer", {"type_vocab_size": 1}, False),  # as in Korean and Chinese RoBERTas
        (
            "roberta",
            "RobertaTokenizer",
            {"type_vocab_size": 2},
            False,
        ),  # a table that pre-training never used
        ("gpt2", "GPT2Tokenizer", {}, False),  # would add the embeddings of words 0 and 1 to every token
    ],
)
def test_segments_are_the_models(
    tmp_path: Path, name: str, classes: str, settings: dict[str, Any], segments: bool
) -> None:
    model = tiny.student(save_checkpoint(tmp_path, name, **settings))
    if classes == "BertTokenizer":
        word_pieces(classes).save_pretrained(tmp_path)
    preprocessor = load_preprocessor(find_checkpoint(model), tiny.card())
    inputs = preprocessor.tokenizer("a cat", "the dog", return_tensors="pt")
    assert ("token_type_ids" in inputs) == segments
    if segments:
        assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    build_model(find_checkpoint(model), tiny.card(), 0, preprocessor)(**inputs)


# ---- heads ----


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_of_another_size_is_drawn_anew(tmp_path: Path, name: str) -> None:
    """Body and head are those of a checkpoint without any head."""
    kind = "ForSequenceClassification" if name in TEXTS else "ForImageClassification"
    headed = built(save_checkpoint(tmp_path / "headed", name, kind, num_labels=5))
    bare = built(save_checkpoint(tmp_path / "bare", name))
    stored = transformers.AutoModel.from_pretrained(tmp_path / "headed").state_dict()
    prefix = f"{headed.base_model_prefix}."
    body = {key.removeprefix(prefix) for key in headed.state_dict() if key.startswith(prefix)}
    assert body
    for key in body:
        assert torch.equal(headed.state_dict()[prefix + key], stored[key])
    head = [key for key in headed.state_dict() if not key.startswith(prefix)]
    assert head
    assert all(torch.equal(headed.state_dict()[key], bare.state_dict()[key]) for key in head)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_left_of_a_language_model_is_its_body(tmp_path: Path, name: str, tied: bool) -> None:
    """Its output layer is the embeddings' weights once more (tied) or is stored beside them."""
    kind = FAMILIES[name].language_model
    folder = save_checkpoint(tmp_path, name, kind, tie_word_embeddings=tied)
    source = getattr(transformers, FAMILIES[name].prefix + kind).from_pretrained(folder)
    shared = source.get_output_embeddings().weight is source.get_input_embeddings().weight
    assert shared == tied
    found, stored = built(folder).base_model.state_dict(), source.base_model.state_dict()
    assert all(torch.equal(found[key], stored[key]) for key in stored)
    assert all("pooler" in key for key in found.keys() - stored.keys())


def built(folder: Path, **changes: Any) -> Any:
    modality: Any = "text" if (folder / "tokenizer.json").exists() else "image"
    task = tiny.card(modality=modality)
    model = tiny.student(folder, **changes)
    return build_model(
        find_checkpoint(model), task, 0, load_preprocessor(find_checkpoint(model), task)
    ).eval()


# ---- layers ----


@pytest.mark.parametrize("name", STACKS)
def test_the_first_layers(tmp_path: Path, name: str) -> None:
    """Two layers of three give what the whole model has after its second (GPT-2 and its like: before the last norm)."""
    folder = save_checkpoint(tmp_path, name)
    inputs = {"input_ids": torch.arange(5, 15).reshape(2, 5)}
    if name in IMAGES:
        inputs = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)}
    whole, cut = (built(folder, **layers).base_model for layers in ({}, {"layers": 2}))
    with torch.no_grad():
        expected, found = (model(**inputs, output_hidden_states=True).hidden_states for model in (whole, cut))
    assert (len(expected), len(found)) == (4, 3)
    torch.testing.assert_close(found[1], expected[1], atol=0, rtol=0)
    final = final_norm(whole)
    torch.testing.assert_close(found[2], final(expected[2]), atol=1e-6, rtol=0)


def final_norm(model: Any) -> Any:
    """What comes after the last layer and is part of the last hidden state."""
    return next(
        (getattr(model, name) for name in ("ln_f", "norm", "final_norm") if hasattr(model, name)), lambda x: x
    )


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - set(STACKS)))
def test_stages_cannot_be_cut(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="`layers` is not defined for model_type"):
        built(save_checkpoint(tmp_path, name), layers=1)
