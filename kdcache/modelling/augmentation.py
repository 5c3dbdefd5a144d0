"""Augmented views of a task's training images: random crop and flip, V of them for each row, the same for every model.

With `augment` in a task, every model that is trained on it sees view (epoch mod V) of each row. A view depends on the
task's seed and the row alone (`kdcache.logits.view_seed`). So a student sees exactly the pixels for which its
teacher's logits were cached, and every method and trial sees the same views. Crop and flip are done on the prepared
image, before a model's own resizing: models of different input sizes see the same part of the picture.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcache.errors import TaskError
from kdcache.logits import Augmentation
from kdcache.logits.predicting.views import Augmenter
from kdcache.modelling.encoding import (
    EncodedImages,
    EncodedSplit,
    check_channels,
    encode_image,
    encode_split,
    from_png,
    pixel_array,
)
from kdcache.modelling.preprocessors import Preprocessor
from kdcache.study import Augment
from kdcache.tasks.images import Pixels
from kdcache.tasks.prepared import PreparedTask


@dataclass(frozen=True)
class CropAndFlip:
    """Shift an image by up to `crop` pixels each way, filled with black; mirror it with probability `flip`.

    (Pad and crop, as is usual for CIFAR since He et al. 2016.) Draws from Python's `random`, always three numbers.
    """

    crop: int
    flip: float

    def __call__(self, pixels: Pixels) -> Pixels:
        """uint8 [H, W] or [H, W, 3] to the same shape."""
        top, left = random.randint(0, 2 * self.crop), random.randint(0, 2 * self.crop)
        flipped = random.random() < self.flip
        margins = [(self.crop, self.crop)] * 2 + [(0, 0)] * (pixels.ndim - 2)
        height, width = pixels.shape[:2]
        part = np.pad(pixels, margins)[top : top + height, left : left + width]
        return part[:, ::-1] if flipped else part


def recorded(augment: Augment) -> Augmentation:
    """The description of the views that a cache of them stores."""
    description = f"crop {augment.crop}, flip {augment.flip:g}"
    return Augmentation(views=augment.views, seed=augment.seed, description=description)


def transform(augment: Augment) -> CropAndFlip:
    """What makes a view of an image."""
    return CropAndFlip(augment.crop, augment.flip)


class Images:
    """A split's images for `write_logits`: decoded on demand, and collated into a model's batches."""

    def __init__(self, task: PreparedTask, split: str, preprocessor: Preprocessor) -> None:
        self._pngs = task.rows(split, ["image"]).column("image")
        self._preprocessor = preprocessor
        check_channels(preprocessor)

    def __len__(self) -> int:
        return len(self._pngs)

    def __getitem__(self, row: int) -> Pixels:
        return from_png(self._pngs[row].as_py())

    def collate(self, images: list[Pixels]) -> dict[str, Any]:
        """A batch: `pixel_values` float32 [n, C, H, W], a tensor."""
        import torch

        from kdcache.modelling.batches import Normalise

        p = self._preprocessor
        pixels = np.stack([encode_image(image, p.size, p.channels) for image in images])
        return {"pixel_values": Normalise(p.mean, p.std)(torch.from_numpy(pixels))}


def encode_views(task: PreparedTask, split: str, preprocessor: Preprocessor) -> EncodedSplit:
    """A split of a task with `augment`, encoded for a model, with all views of its images: [V, N, C, H, W].

    Raises:
        TaskError: the task is not prepared, or is not of the preprocessor's modality, or has no `augment`.
    """
    augment = task.card.augment
    if augment is None:
        raise TaskError(f"{task.folder}: has no views, the task has no `augment`")
    plain, images = encode_split(task, split, preprocessor), Images(task, split, preprocessor)
    assert plain.images is not None  # only an image task has `augment`
    make = Augmenter(transform(augment), None, augment.seed)
    values = pixel_array((augment.views, *plain.images.pixels.shape))
    for row, row_id in enumerate(plain.ids.tolist()):
        pixels = images[row]
        for view in range(augment.views):
            values[view, row] = encode_image(
                make(pixels, row_id, view), preprocessor.size, preprocessor.channels
            )
    return replace(plain, images=EncodedImages(values, preprocessor.mean, preprocessor.std))
