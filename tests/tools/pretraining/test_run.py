"""The command from texts to a checkpoint folder, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from filelock import FileLock
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.tools.pretraining.samples import FAMILIES, make_trainer, run, weights


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_folder_loads_for_fine_tuning(family, saved):
    tokenizer = AutoTokenizer.from_pretrained(saved / family)
    model = AutoModelForSequenceClassification.from_pretrained(saved / family, num_labels=3).eval()
    assert next(model.parameters()).dtype == torch.float32
    assert tokenizer.model_max_length == 16
    batch = tokenizer(
        ["The quick fox", "A dog, and a long walk " * 9], padding=True, truncation=True, return_tensors="pt"
    )
    assert batch["input_ids"].shape == (2, 16)
    assert (batch["input_ids"] == tokenizer.pad_token_id).sum() == (batch["attention_mask"] == 0).sum() > 0
    assert torch.isfinite(model(**batch).logits).all()
    dropout = model.config.resid_pdrop if family == "gpt2" else model.config.hidden_dropout_prob
    assert dropout == 0.1
    assert {f.suffix for f in (saved / family).iterdir()} == {".json", ".safetensors", ".md"}


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_weights_are_the_trained_ones(family, saved, tokenizers):
    trainer = make_trainer(family, tokenizers)
    for _ in range(6):
        trainer.step()
    auto = AutoModelForCausalLM if family == "gpt2" else AutoModelForMaskedLM
    loaded = dict(auto.from_pretrained(saved / family).named_parameters())
    for name, expected in weights(trainer).items():
        torch.testing.assert_close(loaded[name], expected.half().float(), msg=name)


def test_roberta_positions_hold_a_full_sequence(saved):
    config = AutoModelForMaskedLM.from_pretrained(saved / "roberta").config
    assert (config.pad_token_id, config.max_position_embeddings) == (1, 16 + 2)


def test_finished_run_is_extended_by_a_larger_target(saved, tmp_path):
    shutil.copytree(saved / "work" / "bert", tmp_path / "work")
    out = tmp_path / "bert"
    run(saved, "bert", "--tokens", "640", "--work-dir", str(tmp_path / "work"), "--out", str(out))
    assert "| tokens seen | 640 " in (out / "README.md").read_text()


def test_another_folders_tokenizer_can_be_used(saved, tmp_path):
    work, out = tmp_path / "work", tmp_path / "shared"
    run(saved, "bert", "--tokenizer", str(saved / "bert"), "--work-dir", str(work), "--out", str(out))
    assert not (work / "tokenizer").exists()
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (saved / "bert", out))
    assert one.get_vocab() == other.get_vocab()


def test_without_options_it_writes_to_the_folder_of_the_embedded_checkpoints(saved, tmp_path, monkeypatch):
    from tools import pretrain as stage

    monkeypatch.chdir(tmp_path)
    texts, recipes = str(saved / "corpus.parquet"), str(saved / "recipes.yaml")
    stage.main(["bert", "--texts", texts, "--recipes", recipes, "--tokens", "64"])
    assert (tmp_path / "data/models/bert/model.safetensors").is_file()
    assert (tmp_path / ".pretrain/bert/state.safetensors").is_file()


# --- errors -----------------------------------------------------------------------------


def refusal(capsys, root, name, *options) -> str:
    with pytest.raises(SystemExit, match="1"):
        run(root, name, *options)
    return capsys.readouterr().err


def test_changed_recipe_is_another_run(saved, tmp_path, capsys):
    recipes = json.loads((saved / "recipes.yaml").read_text())
    recipes["gpt2"]["learning_rate"] = 1e-4
    (tmp_path / "other.yaml").write_text(json.dumps(recipes))
    message = refusal(capsys, saved, "gpt2", "--recipes", str(tmp_path / "other.yaml"))
    assert "state.safetensors: belongs to another run" in message


def test_second_run_in_a_work_directory_is_refused(saved, capsys):
    with FileLock(saved / "work" / "bert" / "lock"):
        assert "another run is using it" in refusal(capsys, saved, "bert")


def test_target_on_the_command_line_is_checked(saved, capsys):
    for target in ("-1", "0"):
        assert "bert.tokens: " in refusal(capsys, saved, "bert", "--tokens", target)
