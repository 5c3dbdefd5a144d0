"""card.json: the description of a prepared task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kdcache.errors import KdcacheError, TaskError
from kdcache.hashing import fingerprint
from kdcache.study import UNLABELLED, Augment
from kdcache.system import files

CARD = "card.json"


class LabelNoise(BaseModel):
    """The train labels that were made wrong on purpose: how many, the fraction asked for, and the seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    fraction: float
    seed: int


class Unlabelled(BaseModel):
    """The rows without labels, with their own fingerprint: the `rest` of train, or a `split` of the source.

    `shared_rows` counts distinct rows whose content is also in an evaluated split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Literal["rest", "split"]
    shared_rows: int
    fingerprint: str


class TaskCard(BaseModel):
    """What a prepared task is: card.json.

    - image_size: [height, width] of the largest image; channels: 3 if any image has colour. Both are null for texts.
    - shared_rows: the number of distinct rows (content and label) that are in train and in an evaluated split. They
      belong to the data set, so they stay, but they flatter its scores.
    - positive: the class that f1 is of, if there are two. Cards of kdcache 0.1 lack it; there it is the second class.
    - fingerprint: covers the row hashes of every labelled split in order, the label names, the modality and whether
      it is a regression. It does not cover paths, metrics, max_length or augment. It does not cover unlabelled rows
      either, since most trials do not learn from them.
    - kind: rows of `language_modelling` are documents, which have no labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["labelled", "language_modelling"] = "labelled"
    modality: Literal["text", "image"]
    regression: bool
    label_names: list[str]
    positive: str | None = None
    rows: dict[str, int]
    class_counts: dict[str, list[int]]
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    source: dict[str, Any]
    dropped: dict[str, int]
    shared_rows: int = 0
    label_noise: LabelNoise | None = None
    unlabelled: Unlabelled | None = None
    metrics: list[str]
    max_length: int | None
    augment: Augment | None = None
    fingerprint: str

    @model_validator(mode="after")
    def _knows_positive(self) -> TaskCard:
        if self.positive is not None and self.positive not in self.label_names:
            raise ValueError("positive is none of label_names")
        return self

    @property
    def positive_class(self) -> int:
        """The index of the class that f1 is of."""
        return 1 if self.positive is None else self.label_names.index(self.positive)

    @property
    def language_modelling(self) -> bool:
        """Whether the rows are documents, in which every token is predicted."""
        return self.kind == "language_modelling"

    @property
    def content(self) -> dict[str, Any]:
        """The content of card.json. `kind` is left out for labelled rows, as in the cards of earlier versions."""
        return self.model_dump(mode="json", exclude=None if self.language_modelling else {"kind"})

    @property
    def classes(self) -> int:
        """K, the number of outputs: the number of classes, or 1 for a regression; 0 for documents."""
        return 1 if self.regression else len(self.label_names)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The splits that models are scored on: validation first, then the further ones."""
        others = (split for split in self.rows if split not in ("train", "validation", UNLABELLED))
        return ("validation", *others)


def rows_fingerprint(
    modality: str,
    regression: bool,
    names: list[str],
    hashes: Mapping[str, npt.NDArray[np.uint64]],
    kind: str = "labelled",
) -> str:
    """A task's fingerprint.

    Args:
        hashes: the row hashes [N] of each split that counts, in the order of its rows.
    """
    rows = {
        split: hashlib.sha256(column.astype("<u8").tobytes()).hexdigest() for split, column in hashes.items()
    }
    content = {"modality": modality, "regression": regression, "label_names": names, "rows": rows}
    return fingerprint.of_json(content if kind == "labelled" else {**content, "kind": kind})


def read_card(folder: Path) -> TaskCard:
    """The card of a prepared task.

    Raises:
        TaskError: the task is not prepared, only in part, or its card is damaged.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise TaskError(
            f"{folder}: no {CARD}, so this task is not prepared or not completely; run stage prepare"
        )
    try:
        card = TaskCard.model_validate(files.read_json(folder / CARD))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise TaskError(
            f"{folder / CARD}: not a task card (see {keys:.500}); run stage prepare again"
        ) from None
    except KdcacheError as error:
        raise TaskError(str(error)) from None
    for split in card.rows:
        if not (folder / f"{split}.parquet").is_file():
            raise TaskError(f"{folder / split}.parquet: the file is missing; run stage prepare again")
    return card
