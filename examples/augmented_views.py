"""Knowledge distillation on augmented images: the student replays the very crops and flips that the teacher saw.

    python examples/augmented_views.py [FOLDER FOR THE CACHE]

The cache holds four augmented views of each image. In every epoch the student gets one of them, and the teacher's
logits of exactly that view; without views it would learn from logits of other inputs than its own.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import DataLoader

import kdcache

SIZE = 12


def picture(index: int) -> dict:
    """A bright bar on noise: upright (label 0) or lying (label 1)."""
    noise = np.random.default_rng(index)
    pixels = noise.integers(0, 120, (1, SIZE, SIZE), dtype=np.uint8)
    at = noise.integers(2, SIZE - 2)
    bar = (0, slice(None), at) if index % 2 == 0 else (0, at, slice(None))
    pixels[bar] = 220
    return {"image": torch.from_numpy(pixels), "label": index % 2}


ROWS = [picture(index) for index in range(96)]

kd_loss = partial(kdcache.kd_loss, alpha=0.9, temperature=2.0)


def ce_loss(logits: Tensor, labels: Tensor, teacher_logits: None) -> Tensor:
    return cross_entropy(logits, labels)


def crop_and_flip(image: Tensor) -> Tensor:
    """What teacher and student see of an image. Its random numbers come from torch's generator, which is replayed."""
    top, left = torch.randint(0, 5, (2,)).tolist()
    crop = pad(image.float() / 255, (2, 2, 2, 2))[:, top : top + SIZE, left : left + SIZE]
    return crop.flip(2) if torch.rand(()) < 0.5 else crop


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width, 2)
    )


class Augmented:
    """The rows for the teacher, cropped and flipped anew each time."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> dict:
        return {**ROWS[index], "image": crop_and_flip(ROWS[index]["image"])}


def train(model: nn.Module, data, loss_of, epochs: int = 12) -> float:
    """Train the model and return its accuracy on the last epoch's batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    loader = DataLoader(data, batch_size=16, shuffle=True)  # and num_workers, as you like
    for epoch in range(epochs):
        if hasattr(data, "set_epoch"):
            data.set_epoch(epoch)  # another view of every image
        correct = 0
        for batch in loader:
            logits = model(batch["image"])
            loss = loss_of(logits, batch["label"], batch.get("teacher_logits"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            correct += int((logits.argmax(dim=1) == batch["label"]).sum())
    return correct / len(ROWS)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    teacher, student = network(width=32), network(width=8)
    print(f"teacher: accuracy {train(teacher, Augmented(), ce_loss):.2f}")

    cache = kdcache.write_logits(  # four forward passes an image, once, whatever the number of students and epochs
        teacher,
        ROWS,
        folder,
        columns=["image"],
        label="label",
        collate=lambda rows: torch.stack([row["image"] for row in rows]),
        augment=crop_and_flip,
        augment_column="image",
        augmentation=kdcache.Augmentation(views=4, seed=0, description="pad 2, crop 12 x 12, flip"),
        overwrite=True,
    )
    views = kdcache.AugmentedDataset(
        cache, ROWS, crop_and_flip, augment_column="image", columns=["image"], label="label"
    )
    print(f"student: accuracy {train(student, views, kd_loss):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else Path(tempfile.gettempdir()) / "kdcache-views"))
