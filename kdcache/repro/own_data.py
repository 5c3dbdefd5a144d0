"""A task of one's own data for `kdcache init`: two files of texts, or folders of images; and models of their size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from ruamel.yaml.comments import CommentedSeq

from kdcache.errors import KdcacheError
from kdcache.repro import template
from kdcache.study import Task
from kdcache.study.names import is_name
from kdcache.study.wording import describe_mistake
from kdcache.tasks.images import to_pixels
from kdcache.tasks.prepare import check_source
from kdcache.tasks.rows import Rows
from kdcache.tasks.sources import load_source
from kdcache.tasks.texts import TextReader

LONGEST, STEP = 128, 8  # tokens that the embedded models take; max_length is a multiple
SAMPLE = 2000  # texts whose tokens are counted
LOOKED_AT = 500  # images whose size and colours are looked at
SMALL, LARGE = 8, 32  # pixels that the student's images have; the teacher's have twice as many
SPLITS = ("train", "validation")
TUNED = "two-layers"  # the file of studies/ whose tuning of teachers these projects have
WHY_TUNED = (
    "\nHow long a teacher is trained decides how soft its labels are. `tune` chooses it by nll on a fifth of\n"
    "train, before any student is trained."
)
SMALL_MODELS = (
    "The models are small and start from scratch. For photos, name pre-trained ones (docs/adding-a-model.md)."
)


@dataclass(frozen=True)
class Texts:
    """Two files with labelled texts: CSV, Parquet or JSON lines.

    Args:
        text: the column with the texts, or two columns with pairs of them.
        label: the column with the classes.
    """

    train: Path
    validation: Path
    text: Sequence[str]
    label: str

    modality = "text"

    def task(self, project: Path) -> tuple[dict[str, Any], str]:
        """The task in params.yaml, as long as its texts need; and the data in words.

        Raises:
            KdcacheError: a file, column, text or label is missing or unreadable, or the label is no class.
        """
        files = dict(zip(SPLITS, self.sources(project), strict=True))
        if len(set(files.values())) == 1:
            raise KdcacheError(f"{self.train} and {self.validation} have the same name; rename one of them")
        described, longest = _look_at(self)
        task = {
            "source": {"files": files},
            "text": _in_a_line(self.text),
            "label": self.label,
            "metrics": _in_a_line(["accuracy", "macro_f1"]),
            "max_length": longest,
        }
        return task, f"{described}."

    def sources(self, project: Path) -> list[str]:
        """The files as the project has them."""
        return [f"data/{path.name}" for path in (self.train, self.validation)]

    def copied(self, project: Path) -> dict[str, Path]:
        """The files that the project gets a copy of, by their places in it."""
        return dict(zip(self.sources(project), (self.train, self.validation), strict=True))

    def fitted(self, models: Mapping[str, bytes]) -> dict[str, bytes]:
        """The models take texts as they are."""
        return dict(models)


@dataclass(frozen=True)
class Images:
    """A folder of images: train/ and validation/, a folder for each class in both. It stays where it is."""

    folder: Path

    modality = "image"

    def task(self, project: Path) -> tuple[dict[str, Any], str]:
        """The task in params.yaml, and the data in words.

        Raises:
            KdcacheError: the folder is not so, or holds what is no image.
        """
        check_source(self._task)
        train, validation = (load_source(self._task).splits[split].label for split in SPLITS)
        described = f"{len(train):,} and {len(validation):,} images, {len(train.unique())} classes"
        largest, channels = self._extent
        task = {
            "source": {"folder": self._seen_from(project)},
            "image": "image",
            "metrics": _in_a_line(["accuracy", "macro_f1"]),
        }
        seen = f"{largest} pixels at most, {'grey' if channels == 1 else 'in colour'}"
        return task, f"{described}, {seen}.\n{SMALL_MODELS}"

    @property
    def _task(self) -> Task:
        given = {"source": {"folder": str(self.folder)}, "image": "image", "metrics": ["accuracy"]}
        return _checked(given)

    def _seen_from(self, project: Path) -> str:
        """As params.yaml names it: counted from the project, where it lies inside."""
        folder, project = self.folder.resolve(), project.resolve()
        return (folder.relative_to(project) if folder.is_relative_to(project) else folder).as_posix()

    def sources(self, project: Path) -> list[str]:
        """The folders of the splits, as dvc.yaml names them."""
        return [f"{self._seen_from(project)}/{split}" for split in SPLITS]

    def copied(self, project: Path) -> dict[str, Path]:
        """Nothing is copied."""
        return {}

    def fitted(self, models: Mapping[str, bytes]) -> dict[str, bytes]:
        """The models' files, by path, with the size and the channels of these images; they have no weights yet."""
        largest, channels = self._extent
        size = SMALL if largest <= 2 * SMALL else LARGE
        fitted = dict(models)
        student = {"image_size": size, "patch_size": size // 4, "num_channels": channels}
        for name, side, config in (
            ("vit-tiny", size, student),
            ("resnet-tiny", 2 * size, {"num_channels": channels}),
        ):
            half = [0.5] * channels
            settings = {"size": {"height": side, "width": side}, "image_mean": half, "image_std": half}
            for file, changes in (("config.json", config), ("preprocessor_config.json", settings)):
                fitted[f"{name}/{file}"] = _changed(models[f"{name}/{file}"], changes)
            text = f"# {name}\n\nAn architecture without weights, for {side} x {side} images of {channels} channels.\n"
            fitted[f"{name}/README.md"] = text.encode()
        return fitted

    @cached_property
    def _extent(self) -> tuple[int, int]:
        """The longest side of some train images, and their channels: 3 where one has colours."""
        batches = load_source(self._task).splits["train"].batches()
        images = [image for batch in batches for image in batch.column("image").to_pylist()]
        try:
            pixels = [to_pixels(image) for image in images[:: math.ceil(len(images) / LOOKED_AT)]]
        except ValueError as error:
            raise KdcacheError(str(error)) from None
        return max(max(image.shape[:2]) for image in pixels), max(
            3 if image.ndim == 3 else 1 for image in pixels
        )


def own_study(project: Path, data: Texts | Images) -> tuple[Any, str]:
    """The template of that kind with the task of these data, and the data in words.

    How long a teacher should be trained on them is not known, so its epochs are tuned.

    Raises:
        KdcacheError: the data are not as described.
    """
    study = template.only(template.default_study(), data.modality)
    study.insert(list(study).index("comparison"), "tuning", template.whole_study(TUNED)["tuning"])
    study.yaml_set_comment_before_after_key("tuning", before=WHY_TUNED)
    name = project.resolve().name
    task, described = data.task(project)
    study["tasks"] = {name if is_name(name) else "mine": task}
    for group in ("teachers", "students"):
        for model in study[group].values():
            model.pop("tasks", None)
    return study, described


def _changed(content: bytes, changes: dict[str, Any]) -> bytes:
    """A JSON file's content with other values of some keys."""
    return f"{json.dumps({**json.loads(content), **changes}, indent=2)}\n".encode()


def _in_a_line(values: Sequence[str]) -> CommentedSeq:
    """A list as YAML has it in brackets."""
    line = CommentedSeq(values)
    line.fa.set_flow_style()
    return line


def _checked(given: dict[str, Any]) -> Task:
    try:
        return Task.model_validate(given)
    except ValidationError as error:
        raise KdcacheError(f"init: {describe_mistake(error.errors()[0])}") from None


def _look_at(data: Texts) -> tuple[str, int]:
    """The data in words, and `max_length`: tokens that 99 of 100 train texts have at most."""
    from tokenizers import Tokenizer

    files = {"train": str(data.train), "validation": str(data.validation)}
    fields = {
        "source": {"files": files},
        "text": list(data.text),
        "label": data.label,
        "metrics": ["accuracy"],
    }
    task = _checked({**fields, "max_length": LONGEST})
    loaded = load_source(task).splits
    classes = set(loaded["train"].label.unique().to_pylist()) - {None}
    rows = len(loaded["train"].label)
    if not 2 <= len(classes) <= max(2, rows // 2):
        raise KdcacheError(
            f"{data.train}: the column {data.label!r} has {len(classes)} different labels in {rows} rows; expected a "
            "few classes (a regression is written by hand, docs/adding-a-task.md)"
        )
    check_source(task)
    tokenizer = Tokenizer.from_file(str(template.root() / "data/models/bert-micro/tokenizer.json"))
    tokenizer.no_truncation()
    texts = list(_sample(loaded["train"], list(data.text)))
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    longest = min(LONGEST, STEP * math.ceil((float(np.percentile(counts, 99)) + 1) / STEP))
    return f"{rows:,} and {len(loaded['validation'].label):,} rows, {len(classes)} classes", longest


def _sample(train: Rows, columns: list[str]) -> Iterator[str]:
    """At most SAMPLE texts, evenly from all rows: a file may be sorted by class or by length."""
    step = math.ceil(len(train.label) / SAMPLE)
    reader, start = TextReader("train", columns), 0
    for batch in train.batches():
        rows = np.arange(-start % step, batch.num_rows, step)
        if len(rows):
            texts, _ = reader.read(batch.take(rows), start, None)
            for row in zip(*(column.to_pylist() for column in texts.values()), strict=True):
                yield " ".join(text or "" for text in row)
        start += batch.num_rows
