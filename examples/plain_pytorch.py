"""Knowledge distillation from cached logits in a plain PyTorch loop.

    python examples/plain_pytorch.py [FOLDER FOR THE CACHE]

The rows are dictionaries, the models ordinary modules. Logits join the batches of a shuffling DataLoader by the
rows' content, so neither ids nor the order matter.
"""

import itertools
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import kdcache

GOOD, BAD = ("fine", "great", "lovely", "clever"), ("dull", "awful", "boring", "stupid")
ROWS = [
    {"text": f"a {word} {noun}", "label": int(word in GOOD)}
    for word, noun in itertools.product(GOOD + BAD, ("film", "book", "play", "song", "story"))
]
VOCABULARY = {
    word: index for index, word in enumerate(sorted({w for r in ROWS for w in r["text"].split()}), 1)
}

kd_loss = partial(kdcache.kd_loss, alpha=0.9, temperature=2.0)


def ce_loss(logits: Tensor, labels: Tensor, teacher_logits: None) -> Tensor:
    return cross_entropy(logits, labels)


class Classifier(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(len(VOCABULARY) + 1, width, padding_idx=0)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids))


def tokenize(rows: list[dict]) -> dict[str, Tensor]:
    words = [torch.tensor([VOCABULARY[word] for word in row["text"].split()]) for row in rows]
    return {"input_ids": pad_sequence(words, batch_first=True)}


def collate(rows: list[dict]) -> dict:
    labels = torch.tensor([row["label"] for row in rows])
    return {"text": [row["text"] for row in rows], "label": labels, **tokenize(rows)}


def train(model: nn.Module, batches, loss_of, epochs: int = 20) -> float:
    """Train the model and return its accuracy on the last epoch's batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(epochs):
        correct = 0
        for batch in batches:
            logits = model(batch["input_ids"])
            loss = loss_of(logits, batch["label"], batch.get("teacher_logits"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            correct += int((logits.argmax(dim=1) == batch["label"]).sum())
    return correct / len(ROWS)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    teacher, student = Classifier(width=64), Classifier(width=8)
    loader = DataLoader(ROWS, batch_size=8, shuffle=True, collate_fn=collate)
    print(f"teacher: accuracy {train(teacher, loader, ce_loss):.2f}")

    cache = kdcache.write_logits(  # once; a second run with the same teacher and rows opens what is there
        teacher, ROWS, folder, collate=tokenize, columns=["text"], label="label", overwrite=True
    )
    batches = cache.join(loader, columns=["text"], label="label")  # each batch with its "teacher_logits"
    print(f"student: accuracy {train(student, batches, kd_loss):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else Path(tempfile.gettempdir()) / "kdcache-plain"))
