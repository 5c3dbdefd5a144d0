"""Augmented views: what they are, that every model sees the same ones, and that logits are of the view that is seen."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import CacheError
from kdcache.logits import LogitCache, replay, view_seed
from kdcache.modelling.augmentation import CropAndFlip, encode_views
from kdcache.modelling.encoding import EncodedImages, EncodedSplit
from kdcache.study import Augment, Regularizer, Task, Teacher
from kdcache.tasks.card import read_card
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.training.loop import fine_tune
from kdcache.trials.identity import logit_fingerprints
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import read_result
from kdcache.trials.run import run_trial
from tests import tiny_models
from tests.doing import cache_logits, missing_seeds, teach, training_identity, trial_plan, why_no_cache

ROWS, VIEWS = 12, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8))
RECIPE = {"init": "scratch", "learning_rate": 0.003, "epochs": 4, "batch_size": 5, "precision": "float32"}


def shifted(image: Any, down: int, right: int, flipped: bool) -> Any:
    """Pixel by pixel: what stands at (y, x) is what stood `down` and `right` of it, or black."""
    height, width = len(image), len(image[0])
    found = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                found[y, width - 1 - x if flipped else x] = image[y + down, x + right]
    return found


@pytest.mark.parametrize("shape", [(5, 7), (6, 4, 3)])
@pytest.mark.parametrize("seed", range(6))
def test_crop_and_flip(shape: tuple[int, ...], seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    random.seed(seed)
    down, right, flipped = random.randint(0, 4) - 2, random.randint(0, 4) - 2, random.random() < 0.5
    found = replay(CropAndFlip(2, 0.5), image, seed)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, shifted(image, down, right, flipped))


def test_a_flip_alone() -> None:
    image = np.array([[1, 2, 3]], dtype=np.uint8)
    assert replay(CropAndFlip(0, 1.0), image, 0).tolist() == [[3, 2, 1]]
    assert replay(CropAndFlip(0, 0.0), image, 0).tolist() == [[1, 2, 3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`task`, augmented, `plain`, the same without, and a checkpoint."""
    root = tmp_path_factory.mktemp("augmentation")
    rows = [json.dumps({"image": image.tolist(), "label": row % 2}) for row, image in enumerate(IMAGES)]
    for split in ("train", "validation"):
        (root / f"{split}.jsonl").write_text("\n".join(rows))
    files = {split: str(root / f"{split}.jsonl") for split in ("train", "validation")}
    given = {"source": {"files": files}, "image": "image", "metrics": ["accuracy"]}
    augment = {"crop": 2, "flip": 0.5, "views": VIEWS, "seed": 9}
    prepare_task(Task.model_validate({**given, "augment": augment}), root / "task", "toy")
    prepare_task(Task.model_validate(given), root / "plain", "toy")
    tiny_models.save_checkpoint(root / "vit", "vit")
    return root


def view(row: int, number: int) -> Any:
    """The pixels of a row's view by the library's `replay`."""
    return replay(CropAndFlip(2, 0.5), IMAGES[row].astype(np.uint8), view_seed(9, row, number))


def normalised(pixels: Any) -> Any:
    """As the tiny model takes them (mean and std 0.5)."""
    return (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def test_every_view_is_the_replayed_one(folder: Path) -> None:
    preprocessor = SimpleNamespace(kind="image", tokenizer=None, size=8, channels=1, mean=[0.5], std=[0.5])
    split = encode_views(PreparedTask(folder / "task"), "train", preprocessor)
    assert split.images is not None
    assert split.images.pixels.shape == (VIEWS, ROWS, 1, 8, 8)
    for number, part in enumerate(split.views()):
        assert part.images is not None
        np.testing.assert_array_equal(part.images.pixels, [[view(row, number)] for row in range(ROWS)])
    assert len(np.unique(split.images.pixels.reshape(VIEWS, -1), axis=0)) == VIEWS


class Spy(torch.nn.Module):
    """A model that notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=None)
        self.weight = torch.nn.Parameter(torch.zeros(1, 2))
        self.seen: list[list[float]] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        values = pixel_values[:, 0, 0, 0]
        self.seen.append(values.round().tolist())
        return SimpleNamespace(logits=values[:, None] * self.weight)


def test_an_epoch_has_one_view_and_the_soft_logits_of_it() -> None:
    code = 10 * np.arange(VIEWS)[:, None] + np.arange(ROWS)  # [V, N]: view and row
    images = EncodedImages(code.reshape(VIEWS, ROWS, 1, 1, 1).astype(np.uint8), [0.0], [1 / 255])
    split = EncodedSplit(
        np.arange(ROWS),
        np.zeros(ROWS, np.uint64),
        np.arange(ROWS) % 2,
        images=images,
    )
    soft = np.repeat(code.T[:, :, None], 2, axis=2).astype(np.float32)  # [N, V, K]
    model, given = Spy(), []

    def loss(logits: torch.Tensor, labels: torch.Tensor, soft_logits: Any, *_: Any) -> torch.Tensor:
        given.append(soft_logits[:, 0].tolist())
        return logits.mean()

    fine_tune(model, split, loss, tiny_models.student("unused", epochs=4, batch_size=ROWS), 0, soft)
    assert model.seen == given
    assert [sorted(values) for values in given] == [sorted(code[epoch % VIEWS]) for epoch in range(4)]


def plan(root: Path, name: str, **changes: Any) -> TrialPlan:
    values: dict[str, Any] = {
        "folder": root / "trials" / name,
        "identity": name,
        "task": "toy",
        "task_folder": root / "task",
        "student": "vit",
        "model": tiny_models.student(root / "vit", **RECIPE),
        "regularizer": name,
        "method": Regularizer(),
        "seed": 0,
        "soft_labels": (),
        "keep_train_logits": name == "base",
        "keep_views": name == "base",
    }
    return trial_plan(**{**values, **changes})


@pytest.fixture(scope="module")
def taught(folder: Path) -> Path:
    teacher = Teacher(checkpoint=str(folder / "vit"), seed=5, **RECIPE)
    teach("big", folder / "task", teacher, folder / "teacher", "identity")
    cache_logits("big", folder / "task", teacher, folder / "teacher", folder / "cache")
    return folder / "cache"


def test_a_teachers_cache_has_the_logits_of_every_view(folder: Path, taught: Path) -> None:
    cache = LogitCache(taught / "views")
    assert cache.manifest.augmentation is not None
    assert (cache.views, cache.manifest.augmentation.seed) == (VIEWS, 9)
    assert LogitCache(taught).splits == ["train", "validation"]
    model = transformers.AutoModelForImageClassification.from_pretrained(folder / "teacher").eval()
    for number in range(VIEWS):
        pixels = torch.from_numpy(normalised(np.array([[view(row, number)] for row in range(ROWS)])))
        with torch.no_grad():
            expected = model(pixel_values=pixels).logits.numpy()
        np.testing.assert_allclose(cache.logits("train", np.arange(ROWS), view=number), expected, atol=1e-5)


def test_distillers_learn_from_views_and_the_baseline_keeps_them(folder: Path, taught: Path) -> None:
    run_trial(plan(folder, "base"))
    own = folder / "trials/base/logits"
    assert LogitCache(own).splits == ["train", "validation"]
    assert LogitCache(own / "views").views == VIEWS
    method = Regularizer(soft_labels="teacher", alpha=1.0, divergence="mse")
    run_trial(plan(folder, "kd", method=method, soft_labels=(taught,)))
    run_trial(plan(folder, "self_kd", method=method, soft_labels=(own,)))
    losses = {name: read_result(folder / "trials" / name).losses for name in ("kd", "self_kd")}  # type: ignore[union-attr]
    assert losses["kd"] != losses["self_kd"]
    assert not (folder / "trials/kd/logits/views").exists()


def test_logits_of_other_views_are_refused(folder: Path, taught: Path) -> None:
    method = Regularizer(soft_labels="teacher", alpha=0.5)
    other = folder / "other"
    card = read_card(folder / "task")
    if not other.exists():
        other.mkdir()
        for file in (folder / "task").iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        assert card.augment is not None
        augment = card.augment.model_copy(update={"seed": 8})
        (other / "card.json").write_text(card.model_copy(update={"augment": augment}).model_dump_json())
    with pytest.raises(CacheError, match="its logits are of other views"):
        run_trial(plan(folder, "wrong", method=method, soft_labels=(taught,), task_folder=other))


def test_views_are_part_of_what_decides_a_result(folder: Path) -> None:
    model, augmented, plain = (
        tiny_models.student(folder / "vit"),
        *map(read_card, (folder / "task", folder / "plain")),
    )
    assert augmented.fingerprint == plain.fingerprint
    assert augmented.augment == Augment(crop=2, flip=0.5, views=VIEWS, seed=9)
    more = augmented.model_copy(update={"augment": Augment(crop=2, flip=0.5, views=VIEWS + 1, seed=9)})
    identities = {training_identity(card, model, Regularizer(), 0) for card in (augmented, plain, more)}
    assert len(identities) == 3
    assert (
        len(
            {
                logit_fingerprints(card, find_checkpoint(model), "w").preprocessing
                for card in (augmented, plain, more)
            }
        )
        == 3
    )


def test_missing_views_are_noticed(folder: Path, taught: Path, tmp_path: Path) -> None:
    prints = LogitCache(taught).manifest.fingerprints
    assert why_no_cache(taught, {".": prints, "views": prints}, folder / "teacher") is None
    run_trial(plan(folder, "base", folder=tmp_path / "base/seed-0"))
    assert missing_seeds(tmp_path / "base", {0: "base"}, ["train", "validation"], views=True) == []
    (tmp_path / "base/seed-0/logits/views/manifest.json").unlink()
    assert missing_seeds(tmp_path / "base", {0: "base"}, ["train", "validation"], views=True) == [0]


def test_views_that_are_no_longer_asked_for_go(folder: Path, taught: Path, tmp_path: Path) -> None:
    teacher = Teacher(checkpoint=str(folder / "vit"), **RECIPE)
    cache_logits("big", folder / "task", teacher, folder / "teacher", tmp_path / "cache")
    assert (tmp_path / "cache/views").exists()
    cache_logits("big", folder / "plain", teacher, folder / "teacher", tmp_path / "cache")
    assert not (tmp_path / "cache/views").exists()
    assert LogitCache(tmp_path / "cache").splits == ["train", "validation"]


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ({"views": 2}, "give crop (pixels, such as 4), flip (a probability, such as 0.5), or both"),
        ({"crop": 4, "flip": True}, "true and false are no values here"),
        ({"crop": 4, "views": 0}, "greater than or equal to 1"),
    ],
)
def test_mistakes_in_params(augment: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        Augment.model_validate(augment)


def test_only_images_are_augmented() -> None:
    task = {
        "source": {"builtin": "bbc_headlines"},
        "text": ["text"],
        "max_length": 8,
        "metrics": ["accuracy"],
    }
    with pytest.raises(ValueError, match="is for an image task"):
        Task.model_validate({**task, "augment": {"crop": 1}})
