"""Pre-training at toy size: the fast path and the obvious one, resume, masks, schedule, the saved folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from kdcache import pretraining as p
from stages import pretrain as stage

FAMILIES: list[p.Family] = ["bert", "roberta", "gpt2"]
WORDS = ["the", "quick", "brown", "fox", "over", "a", "lazy", "dog", "and", "then", "Many", "Quiet", "roads"]
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 12)) + f", {i}." for i in range(300)]
SIZES: dict[str, Any] = {
    "layers": 2,
    "hidden": 32,
    "heads": 2,
    "vocab_size": 300,
    "sequence_length": 16,
    "short_length": 8,
    "short_tokens": 128,  # two steps of short pieces, then full sequences
    "batch_size": 4,
    "learning_rate": 2e-3,
    "warmup_tokens": 128,
}


def recipe(family: p.Family, steps: int = 6, **changes: Any) -> p.PretrainingRecipe:
    return p.PretrainingRecipe(family=family, **{**SIZES, "tokens": steps * 64, **changes})


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {family: p.train_tokenizer(family, TEXTS, 300, 16) for family in FAMILIES}


def make_trainer(
    family: p.Family, tokenizers: dict[str, PreTrainedTokenizerFast], **changes: Any
) -> p.Trainer:
    sequences = p.pack_sequences(family, tokenizers[family], TEXTS, 16)
    return p.Trainer(recipe(family, **changes), tokenizers[family], sequences)


# --- the fast path ----------------------------------------------------------------------


@pytest.mark.parametrize("short_tokens", [0, 128])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_fast_path_has_the_loss_and_gradients_of_the_full_forward(family, layers, short_tokens, tokenizers):
    trainer = make_trainer(family, tokenizers, layers=layers, short_tokens=short_tokens)
    for parameter in trainer.model.parameters():  # no zero biases or one-valued scales to hide behind
        torch.nn.init.normal_(parameter, std=0.3)
    asked = trainer.ask(p.batch_at(trainer.training, trainer.recipe, 0), p.MASKING, 0)

    fast = p.prediction_loss(trainer.model, asked)
    fast.backward()
    gradients = {name: x.grad.clone() for name, x in trainer.model.named_parameters()}

    trainer.model.zero_grad()
    logits = trainer.model(input_ids=asked.inputs).logits
    chosen = torch.stack([logits[row, places] for row, places in enumerate(asked.positions)])
    full = F.cross_entropy(chosen.flatten(0, 1), asked.labels.flatten())
    full.backward()

    torch.testing.assert_close(fast, full, atol=1e-5, rtol=1e-5)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-5, msg=name)


def test_gpt2_estimate_is_unbiased(tokenizers):
    """The mean over many draws of positions approaches the loss at all positions."""
    trainer = make_trainer("gpt2", tokenizers, predict_fraction=0.25)
    batch = p.batch_at(trainer.training, trainer.recipe, 0)
    with torch.no_grad():
        draws = [
            p.prediction_loss(trainer.model, trainer.ask(batch, p.MASKING, i)).item() for i in range(300)
        ]
        ids = torch.from_numpy(batch)
        logits = trainer.model(input_ids=ids).logits[:, :-1]
        full = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    assert abs(np.mean(draws) - full) < 4 * np.std(draws) / np.sqrt(len(draws))


# --- what is predicted ------------------------------------------------------------------


def test_masks_are_15_percent_and_80_10_10():
    wide = p.PretrainingRecipe(
        family="bert", layers=1, hidden=8, heads=1, vocab_size=8192, tokens=1, learning_rate=1e-3
    )
    rng, special = np.random.default_rng(0), np.arange(5)
    batch = rng.integers(5, 8192, (2000, 128))
    batch[:, [0, 40, 127]] = 2, 3, 3
    asked = p.mask_tokens(batch, wide, special, 4, np.random.default_rng(1))
    positions, labels = asked.positions.numpy(), asked.labels.numpy()
    shown = np.take_along_axis(asked.inputs.numpy(), positions, axis=1)

    assert positions.shape == (2000, 19)  # round(0.15 * 128) = 19
    assert all(len(set(row)) == 19 for row in positions)
    assert not np.isin(positions, [0, 40, 127]).any()
    assert (np.take_along_axis(batch, positions, axis=1) == labels).all()
    # 38,000 draws: four standard errors are 0.8 and 0.6 points
    assert np.mean(shown == 4) == pytest.approx(0.8, abs=0.009)
    assert np.mean(shown == labels) == pytest.approx(0.1, abs=0.007)
    random_tokens = shown[(shown != 4) & (shown != labels)]
    assert random_tokens.min() >= 5
    assert random_tokens.max() < 8192
    untouched = np.ones_like(batch, dtype=bool)
    np.put_along_axis(untouched, positions, False, axis=1)
    assert (asked.inputs.numpy() == batch)[untouched].all()
    assert (np.bincount(positions.ravel(), minlength=128)[[1, 20, 60, 126]] > 200).all()


def test_causal_labels_are_the_next_tokens():
    asked = p.sample_next_tokens(
        np.arange(32).reshape(2, 16), recipe("gpt2", predict_fraction=0.25), np.random.default_rng(0)
    )
    rows = torch.arange(2)[:, None] * 16
    assert asked.positions.shape == (2, 4)
    assert (asked.labels == rows + asked.positions + 1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_are_full_and_delimited(family, tokenizers):
    tokenizer = tokenizers[family]
    rows = p.pack_sequences(family, tokenizer, TEXTS, 16)
    assert rows.shape[1] == 16
    assert tokenizer.pad_token_id not in rows
    if family == "gpt2":
        assert tokenizer.decode(rows.ravel()).split("<|endoftext|>")[0].strip() == TEXTS[0].lower()
        assert (rows == tokenizer.eos_token_id).sum() == pytest.approx(len(TEXTS), abs=1)
    else:
        assert (rows[:, 0] == tokenizer.cls_token_id).all()
        assert (rows[:, -1] == tokenizer.sep_token_id).all()
        inner = tokenizer.decode(rows[:, 1:-1].ravel()).split(tokenizer.sep_token)[0]
        assert inner.replace(" ", "") == TEXTS[0].lower().replace(" ", "")


def test_epochs_visit_everything_once_in_a_new_order():
    rows, full = np.arange(22, dtype=np.uint16)[:, None], recipe("bert", short_tokens=0)
    epochs = [
        np.concatenate([p.batch_at(rows, full, step)[:, 0] for step in range(5 * e, 5 * e + 5)])
        for e in range(2)
    ]  # 22 rows, batches of 4: five an epoch
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_first_tokens_come_in_short_pieces_of_the_same_sequences():
    rows = np.arange(20 * 16, dtype=np.uint16).reshape(20, 16)
    short, full = recipe("bert"), recipe("bert", short_tokens=0)
    assert [p.batch_at(rows, short, step).shape for step in range(4)] == [(8, 8), (8, 8), (4, 16), (4, 16)]
    for step in range(4):
        assert (p.batch_at(rows, short, step).ravel() == p.batch_at(rows, full, step).ravel()).all()


def test_held_out_sequences_are_not_trained_on():
    rows = np.arange(500, dtype=np.uint16)[:, None]
    training, held = p.hold_out(rows, 0.01, seed=3)
    assert len(held) == 5
    assert len(training) == 495
    assert not set(training[:, 0]) & set(held[:, 0])


# --- schedule ---------------------------------------------------------------------------


def test_schedule_by_hand():
    def rate(step: int) -> float:
        return p.learning_rate(step, peak=1.0, warmup=4, decay_start=10, steps=20)

    assert [rate(s) for s in (0, 1, 3, 4, 9, 10, 15, 19)] == [
        0.25,
        0.5,
        1.0,
        1.0,
        1.0,
        1.0,
        0.5,
        pytest.approx(0.1),
    ]


def test_decay_starts_at_the_last_fifth_or_where_the_run_resumes():
    hundred = recipe("bert", steps=100, decay_fraction=0.2)
    assert p.decay_start(hundred, resumed_at=0) == 80
    assert p.decay_start(hundred, resumed_at=50) == 80
    assert p.decay_start(hundred, resumed_at=90) == 90


# --- resume -----------------------------------------------------------------------------


def weights(trainer: p.Trainer) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in trainer.model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_run_equals_an_uninterrupted_one(family, tokenizers, tmp_path):
    straight = make_trainer(family, tokenizers)
    losses = [straight.step().item() for _ in range(6)]

    first = make_trainer(family, tokenizers)
    for _ in range(3):
        first.step()
    p.save_state(tmp_path / "state.safetensors", first.model, first.optimizer, first.progress, "same")
    second = make_trainer(family, tokenizers)
    second.resume(tmp_path / "state.safetensors", "same")
    assert [second.step().item() for _ in range(3)] == losses[3:]
    for name, expected in weights(straight).items():
        assert torch.equal(weights(second)[name], expected), name


def test_new_target_decays_from_where_the_run_is(tokenizers, tmp_path):
    long = make_trainer("bert", tokenizers, steps=100)
    for _ in range(5):
        long.step()
    p.save_state(tmp_path / "state.safetensors", long.model, long.optimizer, long.progress, "same")
    short = make_trainer("bert", tokenizers, steps=7)
    short.resume(tmp_path / "state.safetensors", "same")
    assert (short.progress.step, short.progress.decay_start, short.progress.steps) == (5, 5, 7)
    rates = []
    for _ in range(2):
        short.step()
        rates.append(short.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-3, 1e-3])


def test_training_learns(tokenizers):
    trainer = make_trainer("bert", tokenizers, steps=60)
    before = trainer.evaluate()
    assert before == pytest.approx(np.log(300), abs=0.3)
    for _ in range(60):
        trainer.step()
    assert trainer.evaluate() < before - 1


# --- the whole run ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a corpus and one checkpoint of each family, made by the command."""
    root = tmp_path_factory.mktemp("pretrain")
    pq.write_table(pa.table({"text": TEXTS}), root / "corpus.parquet")
    recipes = {family: {"family": family, "tokens": 384, **SIZES} for family in FAMILIES}
    (root / "recipes.yaml").write_text(json.dumps(recipes))
    for family in FAMILIES:
        run(root, family)
    return root


def run(root: Path, name: str, *options: str) -> None:
    stage.main(
        [
            name,
            "--texts",
            str(root / "corpus.parquet"),
            "--recipes",
            str(root / "recipes.yaml"),
            "--work-dir",
            str(root / "work" / name),
            "--out",
            str(root / name),
            *options,
        ]
    )


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
    trainer = make_trainer(family, tokenizers, decay_fraction=0.22)
    for _ in range(6):
        trainer.step()
    auto = AutoModelForCausalLM if family == "gpt2" else AutoModelForMaskedLM
    loaded = dict(auto.from_pretrained(saved / family).named_parameters())
    for name, expected in weights(trainer).items():
        torch.testing.assert_close(loaded[name], expected.half().float(), msg=name)


@pytest.mark.parametrize(
    ("family", "one", "two"),
    [
        ("bert", "[CLS] the fox [SEP]", "[CLS] the fox [SEP] the dog [SEP]"),
        ("roberta", "<s> the fox</s>", "<s> the fox</s></s> the dog</s>"),
        ("gpt2", " the fox", " the fox the dog"),
    ],
)
def test_saved_tokenizer_lowercases_and_has_the_familys_templates(family, one, two, saved):
    tokenizer = AutoTokenizer.from_pretrained(saved / family)
    assert tokenizer.decode(tokenizer("The FOX")["input_ids"]) == one
    pair = tokenizer("The fox", "the DOG")
    assert tokenizer.decode(pair["input_ids"]) == two
    trained = p.train_tokenizer(family, TEXTS, 300, 16)
    assert pair["input_ids"] == trained("The fox", "the DOG")["input_ids"]
    if family == "bert":
        ids = pair["input_ids"]
        assert pair["token_type_ids"] == [0] * (ids.index(3) + 1) + [1] * (len(ids) - ids.index(3) - 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_depends_on_the_texts_alone(family, tokenizers):
    again = p.train_tokenizer(family, TEXTS, 300, 16)
    assert again.get_vocab() == tokenizers[family].get_vocab()
    assert len(again) == 300


def test_roberta_positions_hold_a_full_sequence(saved):
    config = AutoModelForMaskedLM.from_pretrained(saved / "roberta").config
    assert (config.pad_token_id, config.max_position_embeddings) == (1, 16 + 2)


def test_card_says_what_was_run_and_takes_sections(saved, tmp_path):
    text = (saved / "bert" / "README.md").read_text()
    assert "384 " in text
    assert "300 documents" in text
    assert "--texts corpus.parquet" in text
    assert str(saved) not in text
    (tmp_path / "README.md").write_text(text)
    p.add_to_card(tmp_path, "Fine-tuned", "old")
    p.add_to_card(tmp_path, "More", "kept")
    p.add_to_card(tmp_path, "Fine-tuned", "new")
    assert (tmp_path / "README.md").read_text() == text + "\n## Fine-tuned\n\nnew\n\n## More\n\nkept\n"


def test_finished_run_is_extended_by_a_larger_target(saved):
    before = (saved / "bert" / "README.md").read_text()
    run(saved, "bert", "--tokens", "640")
    assert "| tokens seen | 640 " in (saved / "bert" / "README.md").read_text()
    (saved / "bert" / "README.md").write_text(before)


def test_another_folders_tokenizer_can_be_used(saved):
    run(
        saved,
        "bert",
        "--tokenizer",
        str(saved / "bert"),
        "--work-dir",
        str(saved / "work" / "shared"),
        "--out",
        str(saved / "out-shared"),
    )
    assert not (saved / "work" / "shared" / "tokenizer").exists()
    one, other = (AutoTokenizer.from_pretrained(saved / name) for name in ("bert", "out-shared"))
    assert one.get_vocab() == other.get_vocab()


# --- errors -----------------------------------------------------------------------------


def test_state_of_another_run_is_refused(saved):
    recipes = json.loads((saved / "recipes.yaml").read_text())
    recipes["gpt2"]["learning_rate"] = 1e-4
    (saved / "other.yaml").write_text(json.dumps(recipes))
    with pytest.raises(p.PretrainingError, match=r"belongs to another run.*Only `tokens` may change"):
        run(saved, "gpt2", "--recipes", str(saved / "other.yaml"))


def test_damaged_state_is_refused(tokenizers, tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"not a state")
    with pytest.raises(p.PretrainingError, match=r"state.safetensors: not a readable state.*delete it"):
        make_trainer("bert", tokenizers).resume(path, "same")


def test_second_run_in_a_work_directory_is_refused(saved):
    with (
        p._exclusive(saved / "work" / "bert"),
        pytest.raises(p.PretrainingError, match="another run is using"),
    ):
        run(saved, "bert")


def test_recipe_mistakes_are_reported_together(tmp_path):
    path = tmp_path / "recipes.yaml"
    path.write_text(
        "small: {family: bort, layers: 0, hidden: 32, heads: 2, tokens: 1, learning_rate: 1, speed: 2}"
    )
    with pytest.raises(p.PretrainingError) as error:
        p.load_recipe(path, "small")
    assert all(
        part in str(error.value)
        for part in ("recipes.yaml", "small.family", "'bort'", "small.layers", "small.speed")
    )
    with pytest.raises(p.PretrainingError, match=r"no recipe 'large'; it has \['small'\]"):
        p.load_recipe(path, "large")
    with pytest.raises(ValueError, match="hidden 32, heads 3"):
        recipe("bert", heads=3)
    with pytest.raises(ValueError, match="sequence_length 20, short_length 8"):
        recipe("bert", sequence_length=20)


def test_tokenizer_of_another_family_is_refused(saved):
    with pytest.raises(p.PretrainingError, match="a bert tokenizer needs cls_token, sep_token, mask_token"):
        p.prepare_tokenizer(recipe("bert"), TEXTS, saved / "work" / "none", saved / "gpt2")
    p.train_tokenizer("bert", TEXTS, 320, 16).save_pretrained(saved / "wide")
    with pytest.raises(p.PretrainingError, match="expected at most vocab_size = 300 tokens, found 320"):
        p.prepare_tokenizer(recipe("bert"), TEXTS, saved / "work" / "none", saved / "wide")


def test_target_on_the_command_line_is_checked(saved):
    with pytest.raises(p.PretrainingError, match=r"bert\.tokens"):
        run(saved, "bert", "--tokens", "-1")


def test_texts_are_read_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n')
    pq.write_table(pa.table({"text": ["four", None, " "]}), tmp_path / "c.parquet")
    assert p.read_texts([tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")]) == [
        "one",
        "two",
        "three",
        "four",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "x", r"a.csv: expected a .txt, .jsonl or .parquet file, found '.csv'"),
        ("a.txt", " \n", "no text found in .*a.txt"),
        ("a.jsonl", '{"body": 1}\n', r"a.jsonl, line 1: expected an object with a string 'text'"),
        ("a.jsonl", "{oops\n", r"a.jsonl, line 1: not JSON"),
    ],
)
def test_unusable_texts_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(p.PretrainingError, match=message):
        p.read_texts([tmp_path / name])


def test_missing_file_and_column_are_named(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(p.PretrainingError, match=r"a.parquet: expected a column 'text', found \['body'\]"):
        p.read_texts([tmp_path / "a.parquet"])
    with pytest.raises(p.PretrainingError, match=r"b\.txt: no such file"):
        p.read_texts([tmp_path / "b.txt"])


def test_too_little_text_is_refused(tokenizers):
    rows = p.pack_sequences("bert", tokenizers["bert"], TEXTS[:4], 16)
    with pytest.raises(p.PretrainingError, match="expected at least batch_size = 4"):
        p.Trainer(recipe("bert"), tokenizers["bert"], rows[:3])


def test_card_of_nothing_is_refused(tmp_path):
    with pytest.raises(p.PretrainingError, match="no model card"):
        p.add_to_card(tmp_path, "Fine-tuned", "x")
