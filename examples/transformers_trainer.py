"""Knowledge distillation from cached logits with the transformers Trainer.

    python examples/transformers_trainer.py [FOLDER FOR THE CACHE]

The logits are a column of the data set. Two settings matter: `remove_unused_columns=False`, because the Trainer
otherwise drops what the model's forward does not name, teacher logits included; and `loss_is_scaled_for_ga = False`,
because this loss is a mean over its own batch.
"""

import itertools
import sys
import tempfile
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from torch.nn.functional import cross_entropy
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
from kdcache.study import Regularizer
from kdcache.training.regularizers import make_loss

CHECKPOINT = Path(__file__).parents[1] / "data" / "models" / "bert-tiny"  # or any other
GOOD, BAD = ("fine", "great", "lovely", "clever"), ("dull", "awful", "boring", "stupid")
ROWS = [
    {"text": f"a {word} {noun}", "label": int(word in GOOD)}
    for word, noun in itertools.product(GOOD + BAD, ("film", "book", "play", "song", "story"))
]

tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
kd_loss = make_loss(Regularizer(soft_labels="teacher", alpha=0.9, temperature=2.0), classes=2)


class KDTrainer(Trainer):
    """A Trainer whose loss is that of knowledge distillation; rows without `teacher_logits` are for evaluation."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels, teacher_logits = inputs.pop("labels"), inputs.pop("teacher_logits", None)
        if teacher_logits is None and model.training:
            raise ValueError(
                "no teacher_logits in the batch; set remove_unused_columns=False, and join first"
            )
        outputs = model(**inputs)
        if teacher_logits is None:
            loss = cross_entropy(outputs.logits, labels)
        else:
            loss = kd_loss(outputs.logits, labels, teacher_logits)
        return (loss, outputs) if return_outputs else loss


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": (prediction.predictions.argmax(axis=1) == prediction.label_ids).mean()}


def trainer_of(kind: type[Trainer], model, rows: Dataset, folder: Path) -> Trainer:
    unused = [name for name in ("text", "id", "row_hash") if name in rows.column_names]  # dropped by hand
    encoded = rows.map(lambda row: tokenizer(row["text"])).remove_columns(unused)
    arguments = TrainingArguments(
        output_dir=str(folder),
        remove_unused_columns=False,  # keeps "teacher_logits"
        num_train_epochs=12,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    collator = DataCollatorWithPadding(tokenizer)
    return kind(
        model, arguments, collator, train_dataset=encoded, eval_dataset=encoded, compute_metrics=accuracy
    )


def main(folder: Path) -> None:
    set_seed(0)
    rows = Dataset.from_list(ROWS)
    teacher = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT, num_labels=2)
    student = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(CHECKPOINT, num_labels=2)
    )
    trainer = trainer_of(Trainer, teacher, rows, folder / "teacher")
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
    rows = cache.join(rows, columns=["text"], label="label")  # a column "teacher_logits"
    trainer = trainer_of(KDTrainer, student, rows, folder / "student")
    trainer.train()
    print(f"student: accuracy {trainer.evaluate()['eval_accuracy']:.2f}")


if __name__ == "__main__":
    disable_progress_bars()
    main(Path(sys.argv[1] if sys.argv[1:] else Path(tempfile.gettempdir()) / "kdcache-trainer"))
