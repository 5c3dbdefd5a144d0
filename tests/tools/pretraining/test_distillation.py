"""Sentence-embedding distillation: the loss by hand, learning, resuming, and the whole command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

from tests.tools.pretraining.samples import SIZES, TEXTS, run
from tests.tools.pretraining.test_pieces import distillation
from tools.pretraining import PretrainingError
from tools.pretraining.distillation import Distiller, Student, embedding_loss
from tools.pretraining.embeddings import SentenceEncoder
from tools.pretraining.state import save_state

PHASE = {"teacher": "a toy (no licence)", "pieces": 90, "longest_piece": 6, "epochs": 2, "batch_size": 8}


def test_loss_by_hand():
    wanted = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    found = torch.tensor([[5.0, 0.0], [0.0, -1.0], [0.0, 7.0], [2.0, 0.0]])
    # the angles are 0, 180, 90 and 45 degrees; lengths do not matter
    expected = (0 + 2 + 1 + (1 - math.sqrt(0.5))) / 4
    assert embedding_loss(found, wanted).item() == pytest.approx(expected, abs=1e-6)


def make_distiller(saved: Path, **changes: object) -> Distiller:
    """Of bert's toy checkpoint into itself: the wanted embeddings are its own means."""
    pieces = [text.split(",")[0] for text in TEXTS[:100]]
    recipe = distillation(**{"batch_size": 16, "epochs": 3, "learning_rate": 1e-2, **changes})
    wanted = SentenceEncoder(saved / "bert")(pieces)
    token_ids = AutoTokenizer.from_pretrained(saved / "bert")(pieces, truncation=True, max_length=16)[
        "input_ids"
    ]
    return Distiller(
        recipe, Student(saved / "bert", wanted.shape[1], recipe.seed), token_ids, wanted, padding=0
    )


def test_it_learns_what_it_has_not_seen(saved):
    distiller = make_distiller(saved, validation_fraction=0.2)
    before = distiller.evaluate()
    while distiller.progress.step < distiller.progress.steps:
        distiller.step()
    assert before > 0.8  # a projection drawn at random points anywhere
    assert distiller.evaluate() < before / 2


def test_padding_and_neighbours_in_the_batch_change_nothing(saved):
    student = Student(saved / "bert", 8, seed=0)
    short, long = [2, 20, 30, 3], [2, 20, 30, 40, 50, 60, 3]
    ids = torch.tensor([short + [0] * 3, long])
    mask = (ids != 0).long()
    alone = [student(torch.tensor([row]), torch.ones(1, len(row)).long())[0] for row in (short, long)]
    torch.testing.assert_close(student(ids, mask), torch.stack(alone), atol=0.02, rtol=0)


def test_every_piece_once_an_epoch_and_none_that_is_held_out(saved):
    distiller = make_distiller(saved, validation_fraction=0.2)
    assert len(distiller.validation) == 20
    assert distiller.progress.steps == 3 * 5  # 80 pieces in batches of 16, three epochs
    epochs = []
    for epoch in range(2):
        rows = np.concatenate([distiller.training[distiller._batch(5 * epoch + step)] for step in range(5)])
        assert sorted([*rows, *distiller.validation]) == list(range(100))
        epochs.append(rows.tolist())
    assert epochs[0] != epochs[1]


def test_the_rate_rises_and_falls(saved):
    distiller = make_distiller(
        saved, validation_fraction=0.2, epochs=4, learning_rate=1.0, warmup_fraction=0.2
    )
    rates = []
    for distiller.progress.step in (0, 3, 4, 12, 19):  # of 20 steps, 4 of them warm-up
        rates.append(distiller.learning_rate())
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.5, 1 / 16])


def test_a_resumed_run_equals_an_uninterrupted_one(saved, tmp_path):
    whole, stopped, resumed = (make_distiller(saved, epochs=2) for _ in range(3))
    whole.run(tmp_path / "whole", "x")
    for _ in range(9):  # of 14: into the second epoch
        stopped.step()
    save_state(tmp_path / "state", stopped.model, stopped.optimizer, stopped.progress, "x")
    resumed.resume(tmp_path / "state", "x")
    assert resumed.progress.step == 9
    resumed.run(tmp_path / "state", "x")
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    assert whole.progress.validation == resumed.progress.validation


def test_too_few_pieces_are_refused(saved):
    with pytest.raises(PretrainingError, match="99 pieces to learn from, expected at least batch_size = 128"):
        make_distiller(saved, batch_size=128)


# --- the command ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(saved, tmp_path_factory):
    """A folder with the corpus and a recipe of two phases, `two`; the teacher is the toy bert."""
    root = tmp_path_factory.mktemp("distil")
    (root / "corpus.parquet").write_bytes((saved / "corpus.parquet").read_bytes())
    phase = {**PHASE, "learning_rate": 1e-3}
    two = {"family": "bert", "tokens": 384, **SIZES, "distillation": phase}
    (root / "recipes.yaml").write_text(json.dumps({"two": two, "one": {**two, "distillation": None}}))
    return root


@pytest.fixture(scope="module")
def both_phases(corpus, saved):
    run(corpus, "two", "--teacher", str(saved / "bert"))
    return corpus / "two"


def test_both_phases_end_in_a_checkpoint_with_its_pooler(both_phases, saved):
    weights = load_file(both_phases / "model.safetensors")
    assert {"pooler.dense.weight", "embeddings.word_embeddings.weight"} <= set(weights)
    assert not [name for name in weights if name.startswith("cls.")]
    model = AutoModelForSequenceClassification.from_pretrained(both_phases, num_labels=3)
    torch.testing.assert_close(model.bert.pooler.dense.weight, weights["pooler.dense.weight"].float())
    tokenizers = [(folder / "tokenizer.json").read_bytes() for folder in (both_phases, saved / "bert")]
    assert tokenizers[0] == tokenizers[1]


def test_its_card_says_what_it_is(both_phases, saved):
    card = (both_phases / "README.md").read_text()
    assert card.startswith("# two\n\n**A distilled encoder**")
    assert "embeddings of a toy (no licence)" in card
    assert "tokens seen | 384 " in card  # the first phase's table
    assert "| data | 90 pieces of 3 to 6 words of the same texts, 1 of them held out |" in card
    assert "| steps | 24 of 8 pieces, 2 epochs," in card  # 89 pieces in batches of 8: 12 an epoch
    assert str(saved) not in card
    assert "--teacher bert" in card


def test_from_a_checkpoint_it_is_the_second_phase_alone(both_phases, corpus, saved, tmp_path):
    start = corpus / "work" / "two" / "language-model"
    out = tmp_path / "out"
    options = ["--work-dir", str(tmp_path / "work"), "--out", str(out), "--teacher", str(saved / "bert")]
    run(corpus, "two", "--start", str(start), *options)
    one, other = (load_file(folder / "model.safetensors") for folder in (both_phases, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "work" / "state.safetensors").exists()
    before = BertModel.from_pretrained(start).embeddings.word_embeddings.weight
    assert not torch.equal(before, other["embeddings.word_embeddings.weight"].float())


def refusal(capsys, root, name, *options) -> str:
    with pytest.raises(SystemExit, match="1"):
        run(root, name, *options)
    return capsys.readouterr().err


def test_folders_that_do_not_fit_the_recipe_are_refused(corpus, saved, capsys):
    assert "name its folder (--teacher FOLDER)" in refusal(capsys, corpus, "two")
    assert "no `distillation`" in refusal(capsys, corpus, "one", "--teacher", str(saved / "bert"))
    message = refusal(
        capsys, corpus, "two", "--teacher", str(saved / "bert"), "--start", str(saved / "roberta")
    )
    assert "expected the recipe's bert, 2 layers, hidden 32; found roberta, 2, 32" in message
    assert "no config.json" in refusal(
        capsys, corpus, "two", "--start", str(saved / "bert"), "--teacher", str(corpus)
    )
