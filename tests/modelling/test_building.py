"""Models of every family against what transformers, or a slower obvious way, gives directly."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import ModelError
from kdcache.modelling.building import build_model, keep_layers, save_model
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.study import Model
from kdcache.tasks.card import TaskCard
from tests import tiny_models as tiny
from tests.tiny_models import IMAGE_FAMILIES, TEXT_FAMILIES, card, same_weights, student

FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES)


def card_for(family: str, **changes: Any) -> TaskCard:
    return card(modality="text" if family in TEXT_FAMILIES else "image", **changes)


def build(model: Model, task: TaskCard, seed: int = 0) -> Any:
    return build_model(
        find_checkpoint(model), task, seed, load_preprocessor(find_checkpoint(model), task)
    ).eval()


def parts(network: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights of the encoder and those of the head."""
    inside = f"{network.base_model_prefix}."
    state = network.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith(inside)}
    return encoder, {key: value for key, value in state.items() if key not in encoder}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---- every family ----


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize("init", ["pretrained", "scratch"])
def test_padding_changes_no_logits(tmp_path: Path, family: str, init: str) -> None:
    model = student(tiny.save_checkpoint(tmp_path, family), init=init)
    preprocessor = load_preprocessor(find_checkpoint(model), card())
    network = build_model(find_checkpoint(model), card(), 0, preprocessor).eval()
    alone = [network(**preprocessor.tokenizer(text, return_tensors="pt")).logits[0] for text in tiny.TEXTS]
    batch = preprocessor.tokenizer(tiny.TEXTS, padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all()
    torch.testing.assert_close(network(**batch).logits, torch.stack(alone), atol=1e-5, rtol=0)


def test_gpt2_reads_the_class_from_the_last_token_of_the_text(tmp_path: Path) -> None:
    model = student(tiny.save_checkpoint(tmp_path, "gpt2"))
    preprocessor = load_preprocessor(find_checkpoint(model), card())
    network: Any = build_model(find_checkpoint(model), card(), 0, preprocessor).eval()
    assert preprocessor.tokenizer.pad_token == "<|endoftext|>"
    assert preprocessor.tokenizer.padding_side == "right"
    batch = preprocessor.tokenizer(tiny.TEXTS, padding=True, return_tensors="pt")
    hidden = network.transformer(**batch).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    expected = torch.stack([network.score(hidden[row, last[row]]) for row in range(len(last))])
    torch.testing.assert_close(network(**batch).logits, expected)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
@pytest.mark.parametrize("init", ["pretrained", "scratch"])
def test_a_batch_of_images_gives_the_logits_of_each(tmp_path: Path, family: str, init: str) -> None:
    network = build(
        student(tiny.save_checkpoint(tmp_path, family), init=init), card(classes=4, modality="image")
    )
    images = tiny.pixel_values(tiny.image_split(3))
    alone = torch.cat([network(pixel_values=images[row : row + 1]).logits for row in range(3)])
    assert alone.shape == (3, 4)
    torch.testing.assert_close(network(pixel_values=images).logits, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_is_the_checkpoints_and_the_head_the_seeds(tmp_path: Path, family: str) -> None:
    folder, task = tiny.save_checkpoint(tmp_path, family), card_for(family)
    original: Any = transformers.AutoModel.from_pretrained(folder)
    first, other = build(student(folder), task, 0), build(student(folder), task, 1)
    encoder, head = parts(first)
    for key, value in encoder.items():
        assert torch.equal(value, original.state_dict()[key.removeprefix(f"{first.base_model_prefix}.")])
    assert equal(encoder, parts(other)[0])
    assert not any(torch.equal(head[key], parts(other)[1][key]) for key in head if key.endswith("weight"))
    np.random.rand()
    torch.rand(5)  # whatever was drawn before
    assert same_weights(first, build(student(folder), task, 0))
    assert all(value.dtype in (torch.float32, torch.int64) for value in first.state_dict().values())
    assert first.config.num_labels == 3
    assert first.config.id2label == {0: "class 0", 1: "class 1", 2: "class 2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_from_scratch_everything_is_the_seeds(tmp_path: Path, family: str) -> None:
    folder, task = tiny.save_checkpoint(tmp_path, family), card_for(family)
    pretrained = build(student(folder), task, 3)
    (folder / "model.safetensors").unlink()
    scratch = student(folder, init="scratch")
    first, other = build(scratch, task, 3), build(scratch, task, 4)
    torch.rand(5)
    assert same_weights(first, build(scratch, task, 3))
    matrices = [key for key, value in first.state_dict().items() if value.ndim > 1 and value.any()]
    changed = [key for key in matrices if not torch.equal(first.state_dict()[key], other.state_dict()[key])]
    assert changed == matrices
    assert equal(parts(first)[1], parts(pretrained)[1])  # one seed, one head
    assert not equal(parts(first)[0], parts(pretrained)[0])


def test_scratch_weights_do_not_depend_on_the_checkpoints_precision(tmp_path: Path) -> None:
    """A half-precision checkpoint's config says so; weights drawn in float16 would be other, coarser ones."""
    half, full = (tiny.save_checkpoint(tmp_path / name, "bert") for name in ("half", "full"))
    settings = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**settings, "dtype": "float16"}))
    first, second = (build(student(folder, init="scratch"), card()) for folder in (half, full))
    assert same_weights(first, second)
    assert first.dtype == torch.float32


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    stored = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    network = build(student(folder), card())
    assert network.dtype == torch.float32
    query = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(network.state_dict()[f"bert.{query}"], stored[query].float(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("family", "kind"), [("bert", "ForMaskedLM"), ("roberta", "ForMaskedLM"), ("gpt2", "LMHeadModel")]
)
def test_language_models_tied_to_their_embeddings(tmp_path: Path, family: str, kind: str) -> None:
    """The output layer of such a checkpoint shares the embeddings' weights and is stored once."""
    folder = tiny.save_checkpoint(tmp_path, family, kind=kind)
    original: Any = transformers.AutoModel.from_pretrained(folder)
    encoder = parts(build(student(folder), card()))[0]
    stored = {f"{key.split('.', 1)[1]}": value for key, value in encoder.items() if "pooler" not in key}
    expected = {key: value for key, value in original.state_dict().items() if "pooler" not in key}
    assert equal(stored, expected)


# ---- layers ----


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "vit"])
def test_a_truncated_student_is_the_first_layers_of_the_checkpoint(tmp_path: Path, family: str) -> None:
    folder, task = tiny.save_checkpoint(tmp_path, family), card_for(family)
    whole, cut = build(student(folder), task), build(student(folder, layers=2), task)
    assert cut.config.num_hidden_layers == 2
    if family == "vit":
        inputs: Any = {"pixel_values": tiny.pixel_values(tiny.image_split(2))}
    else:
        inputs = {"input_ids": torch.arange(5, 15).reshape(2, 5)}
    outputs = [network.base_model(**inputs, output_hidden_states=True) for network in (whole, cut)]
    hidden, kept = outputs[0].hidden_states, outputs[1].hidden_states
    assert (len(hidden), len(kept)) == (4, 3)
    for expected, found in zip(hidden[:2], kept[:2], strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
    third = whole.transformer.ln_f(hidden[2]) if family == "gpt2" else hidden[2]
    torch.testing.assert_close(kept[2], third, atol=1e-6, rtol=0)


def test_layers_from_scratch(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    assert len(build(student(folder, layers=1, init="scratch"), card()).bert.encoder.layer) == 1


def test_all_layers_of_a_checkpoint_change_nothing(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    assert same_weights(build(student(folder, layers=3), card()), build(student(folder), card()))


def test_more_layers_than_there_are(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    with pytest.raises(ModelError, match="layers: 4 asked for, but the checkpoint has 3"):
        build(student(folder, layers=4), card())


def test_layers_of_a_model_that_is_no_stack(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "resnet")
    with pytest.raises(ModelError, match="`layers` is not defined for model_type 'resnet'"):
        build(student(folder, layers=1), card(modality="image"))


def test_layers_of_stages_and_of_an_encoder_with_a_decoder(tmp_path: Path) -> None:
    """Both have a num_hidden_layers that does not say how deep they are."""
    for config in (transformers.SwinConfig(), transformers.BartConfig()):
        with pytest.raises(ModelError, match="is not defined"):
            keep_layers(config, 1, tmp_path)


# ---- heads ----


def test_the_head_of_another_size_is_drawn_anew(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert", kind="ForSequenceClassification", num_labels=5)
    stored = load_file(folder / "model.safetensors")
    network = build(student(folder), card())
    assert network.classifier.weight.shape == (3, 16)
    encoder, head = parts(network)
    assert equal(encoder, {key: stored[key] for key in encoder})
    plain = build(student(tiny.save_checkpoint(tmp_path / "base", "bert")), card())
    assert equal(head, parts(plain)[1])


def test_the_head_of_another_task_with_as_many_classes_is_drawn_anew(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert", kind="ForSequenceClassification", num_labels=3)
    stored = load_file(folder / "model.safetensors")
    first, second = build(student(folder), card(), 0), build(student(folder), card(), 1)
    assert not torch.equal(first.classifier.weight, stored["classifier.weight"])
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path, family: str) -> None:
    """A fine-tuned teacher's own folder: its head was made for the task, so it stays, whatever the seed."""
    model, task = student(tiny.save_checkpoint(tmp_path / "start", family)), card_for(family)
    preprocessor, network = load_preprocessor(find_checkpoint(model), task), build(model, task, 5)
    (tmp_path / "out").mkdir()
    save_model(network, preprocessor, tmp_path / "out")
    saved = student(tmp_path / "out")
    again = load_preprocessor(find_checkpoint(saved), task)
    assert same_weights(build_model(find_checkpoint(saved), task, 99, again), network)
    assert (again.size, again.mean, again.std) == (preprocessor.size, preprocessor.mean, preprocessor.std)
    if again.kind == "text":
        assert again.tokenizer(tiny.TEXTS).input_ids == preprocessor.tokenizer(tiny.TEXTS).input_ids


def test_regression_has_one_output(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "roberta")
    network = build(student(folder), card(label_names=[], regression=True))
    assert network(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 1)


@pytest.mark.parametrize("old", ["multi_label_classification", "regression", None])
def test_what_the_old_head_was_for_is_forgotten(tmp_path: Path, old: str | None) -> None:
    """transformers' pipelines take a sigmoid of each class where config.json says multi_label_classification."""
    folder = tiny.save_checkpoint(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": old}))
    assert build(student(folder), card()).config.problem_type == "single_label_classification"
    score = card(label_names=[], regression=True)
    assert build(student(folder), score).config.problem_type == "regression"


def test_a_full_disk_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(student(tiny.save_checkpoint(tmp_path, "vit")), card(modality="image"))

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(network, "save_pretrained", full)
    with pytest.raises(ModelError, match=r"cannot be written: .*No space left on device"):
        save_model(network, Preprocessor("image"), tmp_path)


# ---- quiet, but only where it should be ----


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert", kind="ForMaskedLM")
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    network = build(student(folder, layers=1), card())
    save_model(network, Preprocessor("image"), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == before
    assert transformers.utils.logging.is_progress_bar_enabled()


# ---- checkpoints that do not fit ----


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path / "bert", "bert", kind="ForMaskedLM")
    other = tiny.save_checkpoint(tmp_path / "roberta", "roberta", kind="ForMaskedLM")
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(
        ModelError, match=r"weights of the encoder .* missing .*bert\.embeddings.* and \d+ more"
    ):
        build(student(folder), card())


def test_one_encoder_weight_is_missing(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    stored = load_file(folder / "model.safetensors")
    del stored["encoder.layer.1.output.dense.bias"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"bert\.encoder\.layer\.1\.output\.dense\.bias; its config"):
        build(student(folder), card())
    assert build(student(folder, layers=1), card())  # that layer is not needed


def test_one_encoder_weight_has_another_shape(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 299}))
    with pytest.raises(ModelError, match=r"another shape: bert\.embeddings\.word_embeddings\.weight"):
        build(student(folder), card())


def test_a_damaged_weight_file(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot be loaded for text task 'toy'"):
        build(student(folder), card())


def test_the_tokenizer_is_missing(tmp_path: Path) -> None:
    """transformers would make one without words, and every text would be unknown tokens."""
    for family in TEXT_FAMILIES:
        folder = tiny.save_checkpoint(tmp_path / family, family)
        for path in folder.glob("tokenizer*.json"):
            path.unlink()
        with pytest.raises(ModelError, match="no tokenizer with a vocabulary"):
            load_preprocessor(find_checkpoint(student(folder)), card())


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    for content in ("{", '{"x": 1}', "[]"):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
            load_preprocessor(find_checkpoint(student(folder)), card())


def test_the_tokenizer_has_more_tokens_than_the_model(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert", vocab_size=20)
    with pytest.raises(ModelError, match=r"the tokenizer has 2\d tokens, config.json says vocab_size 20"):
        load_preprocessor(find_checkpoint(student(folder)), card())


def test_a_tokenizer_without_anything_to_pad_with(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "gpt2")
    tokenizer = tiny.tokenizer("gpt2")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
    with pytest.raises(ModelError, match="no pad, eos or unk token"):
        load_preprocessor(find_checkpoint(student(folder)), card())


def test_models_of_the_other_modality(tmp_path: Path) -> None:
    vit, bert = (tiny.save_checkpoint(tmp_path / family, family) for family in ("vit", "bert"))
    with pytest.raises(ModelError, match="vit model cannot learn text task 'toy': it classifies images"):
        load_preprocessor(find_checkpoint(student(vit)), card())
    with pytest.raises(ModelError, match="bert model cannot learn image task 'toy': it classifies texts"):
        load_preprocessor(find_checkpoint(student(bert)), card(modality="image"))


def test_a_model_without_classification_head(tmp_path: Path) -> None:
    transformers.VitsConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"vits model cannot learn text .*: it has no classification head"):
        load_preprocessor(find_checkpoint(student(tmp_path, init="scratch")), card())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nothing"}, "nothing"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 3}, "not a multiple"),
    ],
)
def test_a_config_that_transformers_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tiny.save_checkpoint(tmp_path, "bert")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))
    with pytest.raises(ModelError, match=message):
        build(student(folder), card())


@pytest.mark.parametrize(
    ("family", "limit"),
    [("bert", 32), ("gpt2", 32), ("roberta", 30)],  # RoBERTa's positions start at padding id + 1 = 2
)
def test_max_length_and_positions(tmp_path: Path, family: str, limit: int) -> None:
    model = student(tiny.save_checkpoint(tmp_path, family))
    network = build(model, card(max_length=limit))
    assert network(input_ids=torch.full((1, limit), 5)).logits.shape == (1, 3)
    with pytest.raises(
        ModelError, match=f"positions for {limit} tokens, task 'toy' has max_length: {limit + 1}"
    ):
        build(model, card(max_length=limit + 1))


def test_roberta_keeps_its_padding_token(tmp_path: Path) -> None:
    """Positions count from it: another one would shift every position of a pretrained model."""
    folder = tiny.save_checkpoint(tmp_path, "roberta")
    tokenizer = load_preprocessor(find_checkpoint(student(folder)), card()).tokenizer
    tokenizer.pad_token = "<mask>"
    network = build_model(
        find_checkpoint(student(folder)), card(), 0, Preprocessor("text", tokenizer=tokenizer)
    )
    assert network.config.pad_token_id == 1


def test_a_padding_token_outside_the_vocabulary_is_replaced(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "gpt2", pad_token_id=50257)
    assert build(student(folder), card()).config.pad_token_id == 0


# ---- images ----


@pytest.mark.parametrize(
    ("settings", "config", "size"),
    [
        ({}, {"image_size": 8}, 8),
        ({"size": 8}, {}, 8),
        ({"size": {"height": 8, "width": 8}}, {}, 8),
        ({"size": {"shortest_edge": 8}}, {}, 8),
        ({"size": 12}, {"model_type": "vit", "image_size": 8}, 8),  # the model's own is fixed
        ({"size": 12}, {"model_type": "convnext", "image_size": 8}, 12),  # its weights take any size
        ({"size": 12, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True}, {}, 8),
        ({"size": 12, "crop_size": 8, "do_center_crop": False}, {}, 12),
    ],
)
def test_the_image_size(tmp_path: Path, settings: dict[str, Any], config: dict[str, Any], size: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "num_channels": 1, **config}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = load_preprocessor(find_checkpoint(student(tmp_path, init="scratch")), card(modality="image"))
    assert (found.kind, found.size, found.channels) == ("image", size, 1)
    assert (found.mean, found.std) == ([0.5], [0.5])


def test_the_normalisation(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    settings = {"size": 8, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    for extra, expected in (
        ({}, (settings["image_mean"], settings["image_std"])),
        ({"do_normalize": False}, ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, **extra}))
        found = load_preprocessor(find_checkpoint(student(tmp_path, init="scratch")), card(modality="image"))
        assert (found.mean, found.std) == expected


@pytest.mark.parametrize("size", [None, "large", {"height": 8, "width": 16}, [8, 16]])
def test_no_image_size_or_two(tmp_path: Path, size: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    with pytest.raises(ModelError, match="expected one image size"):
        load_preprocessor(find_checkpoint(student(tmp_path, init="scratch")), card(modality="image"))


def test_damaged_image_settings(tmp_path: Path) -> None:
    folder = tiny.save_checkpoint(tmp_path, "vit")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json: not valid JSON"):
        load_preprocessor(find_checkpoint(student(folder)), card(modality="image"))
