"""Pretrained checkpoints that kdcache would use in another way than they were made for are refused.

The oracles: transformers' own image processors, and which layers of a real model get a gradient.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.checkpoints.faithful import POOLED, check_faithful
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.modelling.building import in_encoder
from kdcache.modelling.encoding import check_channels
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Lora
from tests import tiny_models as tiny

IMAGES, TEXTS = tiny.card(modality="image"), tiny.card()
LORA = Lora(rank=2, alpha=2)
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
SOUND: dict[str, Any] = {"size": {"height": 8, "width": 8}, "image_mean": MEAN, "image_std": STD}


def images(folder: Path, settings: dict[str, Any] | None, init: Any = "pretrained") -> Checkpoint:
    """A ViT for images in colour with these image settings; None: it was saved without its image processor."""
    tiny.config("vit", num_channels=3).save_pretrained(folder)
    if settings is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return Checkpoint(folder, init)


def message(checkpoint: Checkpoint, task: Any = IMAGES, **model: Any) -> str:
    with pytest.raises(ModelError) as refused:
        check_faithful(checkpoint, tiny.student(checkpoint.folder, **model), task)
    return str(refused.value).removeprefix(f"{checkpoint.folder}/")


def passes(checkpoint: Checkpoint, task: Any = IMAGES, **model: Any) -> None:
    check_faithful(checkpoint, tiny.student(checkpoint.folder, **model), task)


# ---- images ----


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)


def by_kdcache(checkpoint: Checkpoint) -> np.ndarray:
    found = load_preprocessor(checkpoint, IMAGES)
    normal = (pixels() / 255 - np.array(found.mean)) / np.array(found.std)
    return np.moveaxis(normal, -1, 0)


def by_transformers(processor: str, settings: dict[str, Any]) -> np.ndarray:
    processor_of = getattr(transformers, processor)(**settings)
    return np.asarray(processor_of(Image.fromarray(pixels()), return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_flip_channel_order": False},
        {"rescale_factor": 0.00392156862745098},
        {"rescale_factor": 0.003921569},
        {"do_normalize": False},
        {"do_normalize": False, "image_mean": None, "image_std": None},
    ],
)
def test_what_is_accepted_is_what_transformers_computes(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = {**SOUND, **changes}
    checkpoint = images(tmp_path, settings)
    passes(checkpoint)
    expected = by_transformers("ViTImageProcessorPil", settings)
    np.testing.assert_allclose(by_kdcache(checkpoint), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("processor", "key", "value", "expected"),
    [
        ("ViTImageProcessorPil", "do_rescale", False, "true, found False"),
        ("ViTImageProcessorPil", "rescale_factor", 1 / 127.5, "1/255, found 0.00784"),
        ("MobileViTImageProcessorPil", "do_flip_channel_order", True, "false, found True"),
        ("EfficientNetImageProcessorPil", "rescale_offset", True, "false, found True"),
        ("EfficientNetImageProcessorPil", "include_top", True, "false, found True"),
    ],
)
def test_what_kdcache_does_not_compute_is_refused(
    tmp_path: Path, processor: str, key: str, value: Any, expected: str
) -> None:
    settings = {**SOUND, key: value}
    if processor != "ViTImageProcessorPil":
        settings = {"include_top": False, "do_center_crop": False, **settings}
    checkpoint = images(tmp_path, settings)
    assert np.abs(by_kdcache(checkpoint) - by_transformers(processor, settings)).max() > 0.1
    text = message(checkpoint)
    assert text.startswith(f"preprocessor_config.json: {key}: expected {expected}")
    assert "kdcache computes (pixels / 255 - image_mean) / image_std, of images in RGB or grey" in text


@pytest.mark.parametrize("key", ["image_mean", "image_std"])
def test_a_mean_or_std_that_is_not_given(tmp_path: Path, key: str) -> None:
    rest = {name: value for name, value in SOUND.items() if name != key}
    text = message(images(tmp_path, rest))
    assert text.startswith(f"preprocessor_config.json: {key}: expected a list of numbers")
    assert (
        "found no such key; a pretrained model takes images that are normalised as in its pre-training"
        in text
    )
    passes(images(tmp_path, {**rest, "do_normalize": False}))


def test_a_model_that_was_saved_without_its_image_processor(tmp_path: Path) -> None:
    text = message(images(tmp_path, None))
    assert text.startswith("preprocessor_config.json: image_mean: expected a list of numbers")
    assert "found no such file; " in text
    assert "save its image processor in this folder (`save_pretrained`)" in text


def test_settings_where_only_newer_transformers_look(tmp_path: Path) -> None:
    checkpoint = images(tmp_path, None)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SOUND}))
    assert (
        "found no such file; processor_config.json has an `image_processor`, which kdcache does"
        in message(checkpoint)
    )


@pytest.mark.parametrize("key", ["image_mean", "image_std"])
@pytest.mark.parametrize(
    "value", [None, 0.5, [], "0.5", ["0.5"], [None] * 3, [True] * 3, [float("nan")] * 3, [float("inf")], [10**400]]
)  # fmt: skip
def test_a_mean_or_std_that_is_no_list_of_numbers(tmp_path: Path, key: str, value: Any) -> None:
    text = message(images(tmp_path, {**SOUND, key: value}))
    assert text.startswith(f"preprocessor_config.json: {key}: expected a list of numbers")
    assert "one for each channel, found " in text


def test_a_std_of_zero(tmp_path: Path) -> None:
    found = message(images(tmp_path, {**SOUND, "image_std": [0.5, 0, 0.5]}))
    assert "image_std: expected a list of numbers above 0, one for each channel, found [0.5, 0, 0.5]" in found
    passes(images(tmp_path, {**SOUND, "image_mean": [0, -0.5, 0.5]}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_normalize", None),
        ("do_normalize", "false"),
        ("do_normalize", 0),
        ("do_rescale", None),
        ("do_rescale", 1),
        ("do_flip_channel_order", None),
        ("rescale_factor", None),
        ("rescale_factor", True),
        ("rescale_factor", "0.00392156862745098"),
    ],
)
def test_a_step_of_another_type(tmp_path: Path, key: str, value: Any) -> None:
    text = message(images(tmp_path, {**SOUND, key: value}))
    assert text.startswith(f"preprocessor_config.json: {key}: expected ")
    assert f", found {value!r}. kdcache computes" in text


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        SOUND,
        {"image_mean": MEAN},
        {"do_rescale": False, "do_normalize": None},
        {"do_normalize": False, "image_mean": None, "image_std": 0.5},
    ],
)
def test_from_scratch_whatever_kdcache_can_compute_is_accepted(
    tmp_path: Path, settings: dict[str, Any] | None
) -> None:
    checkpoint = images(tmp_path, settings, init="scratch")
    passes(checkpoint, init="scratch")
    check_channels(load_preprocessor(checkpoint, IMAGES))


@pytest.mark.parametrize("key", ["image_mean", "image_std"])
@pytest.mark.parametrize("value", [None, 0.5, "0.5", [None] * 3, [float("nan")] * 3])
def test_from_scratch_a_mean_or_std_that_is_no_list_of_numbers(
    tmp_path: Path, key: str, value: object
) -> None:
    text = message(images(tmp_path, {**SOUND, key: value}, init="scratch"), init="scratch")
    numbers = {"image_mean": "numbers", "image_std": "numbers above 0"}[key]
    assert text == (
        f"preprocessor_config.json: {key}: expected a list of {numbers}, one for each channel, found {value!r}; "
        "correct it, or leave it out, which means 0.5. kdcache computes (pixels / 255 - image_mean) / image_std, of "
        "images in RGB or grey"
    )


def test_texts_have_no_image_settings(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(tiny.student(tiny.save_checkpoint(tmp_path, "bert")))
    passes(checkpoint, TEXTS)
    assert "image_mean: expected" in message(checkpoint, IMAGES)


# ---- LoRA and the pooler ----

SMALL: dict[str, Any] = {
    **tiny.SIZES,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "embedding_size": 16,
    "vocab_size": 64,
    "entity_vocab_size": 8,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "num_labels": 3,
}
UNPOOLED = ["big_bird", "deberta-v2", "distilbert", "electra", "gpt2", "mpnet", "roberta", "xlm-roberta"]


@pytest.mark.parametrize("family", [*sorted(POOLED), *UNPOOLED])
def test_the_families_are_those_whose_class_goes_through_a_frozen_pooler(family: str) -> None:
    """What may be missing from a checkpoint without an error is `.pooler.` alone: see `modelling/building.py`."""
    config = transformers.AutoConfig.for_model(family, **SMALL)
    auto: Any = transformers.AutoModelForSequenceClassification
    network = auto.from_config(config)
    network(input_ids=torch.ones(2, 8, dtype=torch.long)).logits.sum().backward()
    trained = {
        key for key, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()
    }
    pooler = {key for key in trained if in_encoder(key, network) and ".pooler." in key}
    assert bool(pooler) == (family in POOLED)
    assert all("pooler" in key.split(".") for key in pooler)


@pytest.fixture(scope="module")
def without_pooler(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A BERT as its pre-training saves it."""
    folder = tiny.save_checkpoint(tmp_path_factory.mktemp("masked"), "bert", kind="ForMaskedLM")
    return find_checkpoint(tiny.student(folder))


def test_lora_without_a_pooler_is_refused(without_pooler: Checkpoint) -> None:
    folder = without_pooler.folder
    text = message(without_pooler, TEXTS, lora=LORA)
    assert text == (
        f"{folder}: lora: expected weights of the pooler, through which a bert model reads the class, found none in "
        "*.safetensors. It would be drawn at random, and stay so: with lora only adapters and the head are trained. "
        "Leave lora out, or choose a checkpoint with a pooler or of another family"
    )
    passes(without_pooler, TEXTS)  # it is trained with all the rest
    passes(without_pooler, tiny.card(kind="language_modelling"), lora=LORA)  # no class is read


@pytest.mark.parametrize("kind", ["base", "ForSequenceClassification"])
def test_lora_with_a_pooler(tmp_path: Path, kind: str) -> None:
    passes(find_checkpoint(tiny.student(tiny.save_checkpoint(tmp_path, "bert", kind=kind))), TEXTS, lora=LORA)


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_lora_in_a_family_without(tmp_path: Path, family: str) -> None:
    kind = {"roberta": "ForMaskedLM", "gpt2": "LMHeadModel"}[family]
    passes(find_checkpoint(tiny.student(tiny.save_checkpoint(tmp_path, family, kind=kind))), TEXTS, lora=LORA)


def test_the_committed_bert_has_no_pooler() -> None:
    checkpoint = find_checkpoint(tiny.student("data/models/bert-tiny"))
    assert "lora: expected weights of the pooler" in message(checkpoint, TEXTS, lora=LORA)
    passes(find_checkpoint(tiny.student("data/models/roberta-tiny")), TEXTS, lora=LORA)


def test_a_mobilebert_that_does_without(without_pooler: Checkpoint, tmp_path: Path) -> None:
    def mobile(**changes: Any) -> Checkpoint:
        transformers.MobileBertConfig(**changes).save_pretrained(tmp_path)
        return Checkpoint(tmp_path)

    (tmp_path / "model.safetensors").write_bytes((without_pooler.folder / "model.safetensors").read_bytes())
    assert "lora: expected weights of the pooler" in message(mobile(), TEXTS, lora=LORA)
    passes(mobile(classifier_activation=False), TEXTS, lora=LORA)


def test_a_pooler_in_a_shard_that_is_not_here(without_pooler: Checkpoint, tmp_path: Path) -> None:
    """`kdcache check` looks at what the hub's cache has; the index names what is in every shard."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((without_pooler.folder / name).read_bytes())
    checkpoint = replace(without_pooler, folder=tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"bert.pooler.dense.weight": "model-00002-of-00002.safetensors"}})
    )
    passes(checkpoint, TEXTS, lora=LORA)
    index.write_text(json.dumps({"weight_map": None}))
    message(checkpoint, TEXTS, lora=LORA)


def test_weights_that_are_damaged(without_pooler: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((without_pooler.folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    checkpoint = replace(without_pooler, folder=tmp_path)
    assert "is no whole safetensors file" in message(checkpoint, TEXTS, lora=LORA)
