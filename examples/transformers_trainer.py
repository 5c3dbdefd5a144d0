"""Knowledge distillation from cached logits with the transformers Trainer.

    python examples/transformers_trainer.py [FOLDER FOR THE CACHE [CHECKPOINT]]

It is run in a clone of kdcache, which has a small checkpoint, or with a text checkpoint of your own, as a folder or a
name on the hub. `kdcache.hf.KDTrainer` is the Trainer with a cache: it finds each row's logits by the row's text and
label, and keeps them on the way to the loss.
"""

import itertools
import sys
import tempfile
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import kdcache
from kdcache.hf import KDTrainer

CLONE = Path(__file__).parents[1]
CHECKPOINT = sys.argv[2] if sys.argv[2:] else CLONE / "data" / "models" / "bert-tiny"
GOOD, BAD = ("fine", "great", "lovely", "clever"), ("dull", "awful", "boring", "stupid")
ROWS = [
    {"text": f"a {word} {noun}", "label": int(word in GOOD)}
    for word, noun in itertools.product(GOOD + BAD, ("film", "book", "play", "song", "story"))
]

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": (prediction.predictions.argmax(axis=1) == prediction.label_ids).mean()}


def options_of(rows: Dataset, folder: Path) -> dict:
    """What both Trainers are given."""
    encoded = rows.map(lambda row: tokenizer(row["text"]))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=12,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    return {
        "args": arguments,
        "data_collator": DataCollatorWithPadding(tokenizer),
        "train_dataset": encoded,
        "eval_dataset": encoded,
        "compute_metrics": accuracy,
    }


def main(folder: Path) -> None:
    set_seed(0)
    rows = Dataset.from_list(ROWS)
    teacher = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT, num_labels=2)
    student = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(CHECKPOINT, num_labels=2)
    )
    trainer = Trainer(teacher, **options_of(rows, folder / "teacher"))
    trainer.train()
    print(f"teacher: accuracy {trainer.evaluate()['eval_accuracy']:.2f}")

    cache = kdcache.write_logits(
        teacher,
        rows,
        folder / "logits",
        collate=lambda batch: tokenizer([row["text"] for row in batch], padding=True, return_tensors="pt"),
        columns=["text"],
        label="label",
        overwrite=True,
    )
    options = options_of(rows, folder / "student")
    trainer = KDTrainer(
        student, **options, cache=cache, columns=["text"], label="label", alpha=0.9, temperature=2.0
    )
    trainer.train()
    print(f"student: accuracy {trainer.evaluate()['eval_accuracy']:.2f}")


if __name__ == "__main__":
    disable_progress_bars()
    main(Path(sys.argv[1] if sys.argv[1:] else Path(tempfile.gettempdir()) / "kdcache-trainer"))
