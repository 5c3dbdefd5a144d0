"""Rows without a label: they count for nothing, as in the Trainer, however they share batches with the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import Trainer

from kdcache import write_logits
from kdcache.hf import KDTrainer
from tests.hf.parts import arguments, classifier, texts
from tests.hf.test_trainer import assert_same, descend

LABELLED = [0, 3, 4]  # of four batches of two, at least one has no label


def partly_labelled(labelled: list[int]) -> Dataset:
    rows = texts()
    labels = [label if row in labelled else -100 for row, label in enumerate(rows["label"])]
    return rows.remove_columns("label").add_column("label", labels)


def trainer(folder: Path, labelled: list[int], **changes: Any) -> KDTrainer:
    rows = partly_labelled(labelled)
    cache = write_logits(
        classifier(1),
        rows,
        folder / "cache",
        collate=lambda batch: {"input_ids": torch.tensor([row["input_ids"] for row in batch])},
        columns=["text"],
        label="label",
    )
    by = {"columns": ["text"], "label": "label"}
    return KDTrainer(
        classifier(0), arguments(folder / "run", **changes), train_dataset=rows, eval_dataset=rows, cache=cache, **by,
        alpha=0.7, temperature=2.0,
    )  # fmt: skip


@pytest.mark.parametrize("accumulated", [1, 4])
def test_a_step_is_the_mean_over_the_rows_with_a_label(accumulated: int, tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        LABELLED,
        per_device_train_batch_size=8 // accumulated,
        gradient_accumulation_steps=accumulated,
    )
    made.train()
    rows, expected = made.train_dataset.select(LABELLED), classifier(0)
    logits, labels = expected(torch.tensor(rows["input_ids"][:])).logits, torch.tensor(rows["label"][:])
    teacher = torch.tensor(rows["teacher_logits"][:])
    soft = F.kl_div((logits / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
    descend(expected, 0.3 * F.cross_entropy(logits, labels) + 0.7 * 4 * soft)
    assert_same(made.model, expected.state_dict())


def test_rows_without_a_label_are_evaluated_as_the_trainer_does(tmp_path: Path) -> None:
    made = trainer(tmp_path, LABELLED)
    rows = partly_labelled(LABELLED).remove_columns("text")
    plain = Trainer(classifier(0), arguments(tmp_path / "plain"), eval_dataset=rows)
    assert made.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)


def test_a_step_without_any_label_changes_nothing(tmp_path: Path) -> None:
    made = trainer(tmp_path, [])
    assert made.train().training_loss == 0
    assert_same(made.model, classifier(0).state_dict())
    assert math.isfinite(made.evaluate()["eval_loss"])
    logits = torch.zeros(8, 3, requires_grad=True)
    batch = {"labels": torch.full((8,), -100), "teacher_logits": torch.zeros(8, 3)}
    for target in (made._soft.target(batch, epoch=0), made._soft.plain_target(batch)):
        loss, items = target(logits)
        loss.backward()
        assert (loss.item(), int(items)) == (0, 0)
        np.testing.assert_array_equal(logits.grad, np.zeros((8, 3)))
