"""Knowledge distillation from cached logits in an Accelerate loop, on one process or several.

    python examples/accelerate_loop.py [FOLDER FOR THE CACHE [CHECKPOINT]]
    accelerate launch --num_processes 2 examples/accelerate_loop.py [FOLDER FOR THE CACHE [CHECKPOINT]]

It is run in a clone of kdcache, which has a small checkpoint, or with a text checkpoint of your own, as a folder or a
name on the hub. Every process writes its share of the cache. The logits become a column of the data set before it is
tokenised, shuffled and shared out, and so go wherever their row goes.
"""

import itertools
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
)

import kdcache

CLONE = Path(__file__).parents[1]
CHECKPOINT = sys.argv[2] if sys.argv[2:] else CLONE / "data" / "models" / "bert-tiny"
GOOD, BAD = ("fine", "great", "lovely", "clever"), ("dull", "awful", "boring", "stupid")
ROWS = [
    {"text": f"a {word} {noun}", "label": int(word in GOOD)}
    for word, noun in itertools.product(GOOD + BAD, ("film", "book", "play", "song", "story"))
]

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
kd_loss = partial(kdcache.kd_loss, alpha=0.9, temperature=2.0)


def ce_loss(logits: Tensor, labels: Tensor, teacher_logits: None) -> Tensor:
    return cross_entropy(logits, labels)


def tokenize(rows: list[dict]) -> dict[str, Tensor]:
    return tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")


def train(accelerator: Accelerator, model: PreTrainedModel, rows: Dataset, loss_of) -> float:
    """Train the model and return its accuracy on the last epoch's batches."""
    columns = [name for name in ("label", "teacher_logits") if name in rows.column_names]
    encoded = rows.map(lambda row: tokenizer(row["text"])).select_columns(
        ["input_ids", "attention_mask", *columns]
    )
    loader = DataLoader(encoded, batch_size=8, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
    for _ in range(12):
        correct = []
        for batch in loader:
            labels, teacher_logits = batch.pop("labels"), batch.pop("teacher_logits", None)
            logits = model(**batch).logits
            loss = loss_of(logits, labels, teacher_logits)  # kd_loss refuses to do without teacher logits
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            correct.append(accelerator.gather_for_metrics(logits.argmax(dim=1) == labels))
    return torch.cat(correct).float().mean().item()


def main(folder: Path) -> None:
    accelerator = Accelerator()
    set_seed(0)
    rows = Dataset.from_list(ROWS)
    teacher = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT, num_labels=2)
    student = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(CHECKPOINT, num_labels=2)
    )
    accelerator.print(f"teacher: accuracy {train(accelerator, teacher, rows, ce_loss):.2f}")

    cache = kdcache.write_logits(
        teacher, rows, folder, collate=tokenize, columns=["text"], label="label", overwrite=True
    )
    rows = cache.join(rows, columns=["text"], label="label")  # a column "teacher_logits"
    accelerator.print(f"student: accuracy {train(accelerator, student, rows, kd_loss):.2f}")
    accelerator.end_training()


if __name__ == "__main__":
    disable_progress_bars()
    main(Path(sys.argv[1] if sys.argv[1:] else Path(tempfile.gettempdir()) / "kdcache-accelerate"))
