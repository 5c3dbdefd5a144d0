"""`KDTrainer` against loops written by hand, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Trainer

from kdcache import RS, Full, KdcacheError, LogitCache, TokenCache, write_token_logits
from kdcache.hf import KDTrainer
from kdcache.logits.tokens.apart import mixes
from tests.hf.parts import (
    all_labelled,
    arguments,
    classifier,
    first_labelled,
    language_model,
    logit_cache,
    sequences,
    texts,
    token_cache,
)
from tests.launching import run_side_by_side
from tests.logits.tokens.families import causal_model

BY = {"columns": ["text"], "label": "label"}
KD = {"alpha": 0.7, "temperature": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    logit_cache(folder / "logits")
    token_cache(folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def by_hand(folder: Path) -> dict[str, Tensor]:
    """A classifier's weights after three steps on all 8 rows, by the formula."""
    rows, model = texts(), classifier(0)
    teacher = torch.from_numpy(LogitCache(folder / "logits").logits("train", np.arange(8)))
    ids, labels = torch.tensor(rows["input_ids"][:]), torch.tensor(rows["label"][:])
    for _ in range(3):
        logits = model(ids).logits
        soft = F.kl_div(
            (logits / 2).log_softmax(1), (teacher / 2).log_softmax(1), log_target=True, reduction="none"
        )
        descend(model, 0.3 * F.cross_entropy(logits, labels) + 0.7 * 4 * soft.sum(1).mean())
    return model.state_dict()


def tokens_by_hand(folder: Path, rate: float = 0.5) -> dict[str, Tensor]:
    """A language model's weights after one step on all 8 sequences, each by itself, from the full distributions."""
    model, cache, losses = language_model(0), TokenCache(folder / "tokens"), []
    for row in range(8):
        batch = cache.batch([row])
        log_q, p = model(batch.tokens).logits[0, :-1].log_softmax(1), batch.dense()[0]
        true = F.nll_loss(log_q, batch.labels[0], reduction="none")
        losses.append(0.3 * true + 0.7 * (p * (p.log() - log_q)).sum(1))
    descend(model, torch.cat(losses).mean(), rate)
    return model.state_dict()


def descend(model: torch.nn.Module, loss: Tensor, rate: float = 0.5) -> None:
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0 if weight.grad is None else rate * weight.grad


def assert_same(model: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


def trainer(folder: Path, run: Path, rows: Any = None, **changes: Any) -> KDTrainer:
    given = {"cache": folder / "logits", **BY, **KD}
    options = {
        name: changes.pop(name) for name in list(changes) if name in {*given, "data_collator", "eval_dataset"}
    }
    rows = texts() if rows is None else rows
    return KDTrainer(classifier(0), arguments(run, **changes), train_dataset=rows, **{**given, **options})


@pytest.mark.parametrize("accumulated", [1, 4])
def test_it_ends_where_the_loop_by_hand_ends(
    folder: Path, by_hand: dict[str, Tensor], tmp_path: Path, accumulated: int
) -> None:
    """With 1 batch of 8 a step, and with 4 of 2."""
    made = trainer(
        folder,
        tmp_path,
        per_device_train_batch_size=8 // accumulated,
        gradient_accumulation_steps=accumulated,
        max_steps=3,
    )
    made.train()
    assert_same(made.model, by_hand)


def test_rows_may_be_shuffled_listed_or_joined_before(
    folder: Path, by_hand: dict[str, Tensor], tmp_path: Path
) -> None:
    shuffled = texts().shuffle(seed=3)
    joined = LogitCache(folder / "logits").join(shuffled, **BY)
    for rows, cache in (
        (shuffled.to_list(), folder / "logits"),
        (shuffled.to_pandas(), folder / "logits"),
        (joined, None),
    ):
        made = trainer(folder, tmp_path, rows, cache=cache, max_steps=3)
        made.train()
        assert_same(made.model, by_hand)


@pytest.mark.parametrize("size", [8, 3])
def test_every_token_counts_alike_however_batches_are_cut(folder: Path, tmp_path: Path, size: int) -> None:
    """3 rows a batch, of 3 to 9 tokens, and the last batch with 2."""
    steps = math.ceil(8 / size)
    small = arguments(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
    made = KDTrainer(
        language_model(0), small, train_dataset=sequences(), cache=TokenCache(folder / "tokens"), alpha=0.7
    )
    made.train()
    assert_same(made.model, tokens_by_hand(folder))


def model_of(family: str) -> Any:
    return language_model(0) if family == "gpt2" else causal_model(family)


def cross_entropy(model: Any) -> Tensor:
    """The mean over all predicted tokens of the 8 sequences, each by itself."""
    losses = []
    for row in sequences():
        ids = torch.tensor([row["input_ids"]])
        losses.append(F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("collator", [None, first_labelled, all_labelled])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_token_without_a_prediction_counts_for_nothing(
    family: str, collator: Any, accumulated: int, tmp_path: Path
) -> None:
    """The first of a row, or padding: whether the collator labels it, and whether the model's own loss counts it."""
    cache = write_token_logits(model_of(family), sequences(), tmp_path / "cache", Full())
    small = arguments(
        tmp_path / "run",
        per_device_train_batch_size=8 // accumulated,
        gradient_accumulation_steps=accumulated,
    )
    made = KDTrainer(model_of(family), small, collator, sequences(), sequences(), cache=cache, alpha=0.0)
    expected = model_of(family)
    loss = cross_entropy(expected)
    assert made.evaluate()["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert made.train().training_loss == pytest.approx(loss.item(), rel=1e-5)
    descend(expected, loss)
    assert_same(made.model, expected.state_dict())


def test_a_step_of_masked_tokens_is_their_mean(tmp_path: Path) -> None:
    """A collator that gives labels of all tokens, and a loss_mask beside them."""
    rows = [{**row, "loss_mask": [at % 2 for at in range(len(row["input_ids"]))]} for row in sequences()]
    cache = write_token_logits(language_model(0), rows, tmp_path / "cache", Full())

    def collate(rows: list[Any]) -> dict[str, Any]:
        return {**first_labelled(rows), "loss_mask": [row["loss_mask"] for row in rows]}

    same = {"train_dataset": rows, "cache": cache, "alpha": 0.0}
    found, expected = (
        KDTrainer(language_model(1), arguments(tmp_path / "run"), collator, **same)
        for collator in (collate, None)
    )
    assert found.train().training_loss == pytest.approx(expected.train().training_loss, rel=1e-5)
    assert_same(found.model, expected.model.state_dict())


def test_every_row_counts_whatever_the_classifiers_own_loss_does(
    folder: Path, by_hand: dict[str, Tensor], tmp_path: Path
) -> None:
    made = trainer(folder, tmp_path, max_steps=3)
    made._loss_shifts_labels = True  # as the Trainer sets it for a model whose loss is that of a causal LM
    made.train()
    assert_same(made.model, by_hand)


def test_two_processes_take_the_step_of_one(folder: Path, tmp_path: Path) -> None:
    run_side_by_side(Path(__file__).with_name("two_processes.py"), folder)
    one = trainer(folder, tmp_path)
    one.train()
    assert_same(one.model, torch.load(folder / "classes.pt", weights_only=True))
    for name in ("tokens", "first labelled"):
        found = language_model(0)
        found.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
        assert_same(found, tokens_by_hand(folder))


def test_each_epoch_has_its_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = token_cache(tmp_path / "cache", RS(4, draws=3))
    epochs, match = [], TokenCache.match
    monkeypatch.setattr(
        TokenCache, "match", lambda *a, epoch, **o: (epochs.append(epoch), match(*a, epoch=epoch, **o))[1]
    )
    small = arguments(tmp_path / "run", per_device_train_batch_size=4, max_steps=-1, num_train_epochs=3)
    KDTrainer(language_model(0), small, train_dataset=sequences(), cache=cache).train()
    assert epochs == [0, 0, 1, 1, 2, 2]


def test_rows_without_logits_are_evaluated_by_cross_entropy(folder: Path, tmp_path: Path) -> None:
    others = texts(11).select([8, 9, 10])
    made = trainer(folder, tmp_path, eval_dataset=others, per_device_eval_batch_size=2)
    with torch.no_grad():
        logits = classifier(0)(torch.tensor(others["input_ids"][:])).logits
    expected = F.cross_entropy(logits, torch.tensor(others["label"][:]))
    assert made.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
    found = made.predict(others.remove_columns("label")).predictions
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)
    joined_rows = made.evaluate(made.train_dataset)[
        "eval_loss"
    ]  # logits beside rows do not change what is said
    assert joined_rows == pytest.approx(made.evaluate(texts())["eval_loss"])


def test_a_language_model_is_evaluated_as_the_trainer_does(folder: Path, tmp_path: Path) -> None:
    rows = sequences(11)[8:]
    made = KDTrainer(
        language_model(0),
        arguments(tmp_path),
        train_dataset=sequences(),
        cache=folder / "tokens",
        eval_dataset=rows,
    )
    plain = Trainer(language_model(0), arguments(tmp_path), made.data_collator, eval_dataset=rows)
    assert made.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)


def test_the_collator_pads_and_masks_and_keeps_documents_apart(folder: Path, tmp_path: Path) -> None:
    made = KDTrainer(language_model(0), arguments(tmp_path), cache=folder / "tokens")
    rows = [
        {"input_ids": [5, 6, 7, 8], "document_starts": [0, 2]},
        {"input_ids": [9, 4], "loss_mask": [1, 0]},
    ]
    batch = made.data_collator(rows)
    assert {name: value.tolist() for name, value in batch.items() if isinstance(value, Tensor)} == {
        "input_ids": [[5, 6, 7, 8], [9, 4, 0, 0]],
        "labels": [[-100, 6, 7, 8], [-100, -100, -100, -100]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "position_ids": [[0, 1, 0, 1], [0, 1, 0, 0]],
    }
    assert batch["document_starts"] == [[0, 2], [0]]


def test_masked_tokens_and_documents_reach_the_cache(tmp_path: Path) -> None:
    """Rows with documents and masks train as they were cached; without them they are other rows."""
    rows = [
        {"input_ids": [5, 6, 7, 8], "document_starts": [0, 2], "loss_mask": [1, 1, 1, 0]},
        {"input_ids": [9, 4, 3], "document_starts": [0], "loss_mask": [1, 1, 1]},
    ]
    cache = write_token_logits(language_model(1), rows, tmp_path / "cache")
    KDTrainer(language_model(0), arguments(tmp_path / "run"), train_dataset=rows, cache=cache).train()
    bare = [{"input_ids": row["input_ids"]} for row in rows]
    with pytest.raises(KdcacheError, match="no sequence like row"):
        KDTrainer(language_model(0), arguments(tmp_path / "run"), train_dataset=bare, cache=cache).train()


PACKED = [{"input_ids": [5, 6, 7, 8, 9], "document_starts": [0, 2]}] * 2


@pytest.mark.parametrize("family", ["opt", "bloom", "falcon", "mamba"])
def test_a_student_that_mixes_documents_is_refused_before_training(family: str, tmp_path: Path) -> None:
    cache = write_token_logits(causal_model("gpt2"), PACKED, tmp_path / "cache")
    with pytest.raises(KdcacheError, match=f"^a {family} model does not keep the documents of a row apart"):
        KDTrainer(causal_model(family), arguments(tmp_path / "run"), train_dataset=PACKED, cache=cache)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_student_that_keeps_documents_apart_is_tried_once(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(
        "kdcache.hf.soft_labels.mixes", lambda *given: (tried.append(given[2:]), mixes(*given))[1]
    )
    cache = write_token_logits(causal_model("gpt2"), PACKED, tmp_path / "cache")
    run = arguments(tmp_path / "run", max_steps=2)
    made = KDTrainer(causal_model(family), run, train_dataset=PACKED, cache=cache, eval_dataset=PACKED)
    assert tried == [(50, 5, 8)]
    made.train()
    assert math.isfinite(made.evaluate()["eval_loss"])
    assert len(tried) == 1


def test_rows_of_several_documents_in_evaluation_alone(tmp_path: Path) -> None:
    alone = [{"input_ids": row["input_ids"]} for row in PACKED]
    cache = write_token_logits(causal_model("gpt2"), alone, tmp_path / "cache")
    made = KDTrainer(causal_model("opt"), arguments(tmp_path / "run"), train_dataset=alone, cache=cache)
    made.train()
    assert math.isfinite(made.evaluate(alone)["eval_loss"])
    with pytest.raises(KdcacheError, match="a opt model does not keep the documents"):
        made.evaluate(PACKED)


def test_a_row_that_changed_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    rows = texts().to_list()
    rows[5]["text"] = "another text"
    with pytest.raises(KdcacheError, match="has no row with the hash"):
        trainer(folder, tmp_path, rows)


def test_what_would_give_another_loss_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"label_smoothing_factor=0\.1: the loss has soft labels already"):
        trainer(folder, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(KdcacheError, match=r"train_dataset: rows must .* a stream has no row ids"):
        trainer(folder, tmp_path, texts().to_iterable_dataset())
    with pytest.raises(KdcacheError, match="no 'teacher_logits' in the batch"):
        trainer(folder, tmp_path, cache=None).train()
    unlabelled = trainer(folder, tmp_path, data_collator=lambda rows: {"input_ids": torch.tensor([[1]])})
    with pytest.raises(KdcacheError, match="no `labels` in the batch"):
        unlabelled.train()


def test_liger_is_refused_before_it_changes_the_model(folder: Path, tmp_path: Path) -> None:
    """transformers would ask the model to skip the logits in evaluation."""
    with pytest.raises(
        KdcacheError, match=r"^use_liger_kernel=True: Liger's fused loss never makes the logits"
    ):
        trainer(folder, tmp_path, use_liger_kernel=True)


def test_tokens_that_do_not_weigh_the_same_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(folder, tmp_path, average_tokens_across_devices=False)  # one process: there is nothing to average
    monkeypatch.setattr(type(arguments(tmp_path)), "world_size", 2)
    with pytest.raises(KdcacheError, match=r"^average_tokens_across_devices=False with 2 processes: each"):
        trainer(folder, tmp_path, average_tokens_across_devices=False)


def test_numbers_that_no_loss_has_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    for number in ({"alpha": 5.0}, {"alpha": math.nan}, {"temperature": 0.0}, {"temperature": -1.0}):
        for cache in ("logits", "tokens"):
            with pytest.raises(KdcacheError, match=f"{next(iter(number))}.*found"):
                KDTrainer(language_model(0), arguments(tmp_path), cache=folder / cache, **number)


def test_options_of_the_other_kind_of_cache_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"^columns, label: without a meaning for a token cache"):
        KDTrainer(
            language_model(0), arguments(tmp_path), cache=folder / "tokens", columns=["text"], label="y"
        )
    with pytest.raises(KdcacheError, match=r"^hash_column: without a meaning for a token cache"):
        KDTrainer(language_model(0), arguments(tmp_path), cache=folder / "tokens", hash_column="h")
    for other in ({"tail": "renormalise"}, {"divergence": "reverse_kl"}):
        with pytest.raises(KdcacheError, match=f"^{next(iter(other))}: without a meaning for logits"):
            KDTrainer(classifier(0), arguments(tmp_path), cache=folder / "logits", **BY, **other)


def test_several_gpus_in_one_process_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(arguments(tmp_path)), "n_gpu", 2)
    with pytest.raises(KdcacheError, match="start one process a GPU"):
        KDTrainer(classifier(0), arguments(tmp_path), cache=folder / "logits")
