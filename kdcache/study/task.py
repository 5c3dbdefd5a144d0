"""A task as params.yaml declares it: where its rows come from, its columns, its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from kdcache.study.metrics import CLASSIFICATION_METRICS, LANGUAGE_METRICS, REGRESSION_METRICS, Metric
from kdcache.study.names import Name
from kdcache.study.values import UNLABELLED, Files, Folder, Params, Seed, Text
from kdcache.system.names import VIEWS
from kdcache.system.quoting import listed, quoted

SOURCES = ("builtin", "files", "folder", "saved", "hub")


def _as_class_name(value: object) -> object:
    """The name as text. YAML reads the classes 0 and true as a number and a boolean."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


ClassName = Annotated[Text, BeforeValidator(_as_class_name)]


class Source(Params):
    """Where a task's rows come from: exactly one of `builtin`, `files`, `folder`, `saved` and `hub`."""

    builtin: Literal["bbc_headlines", "bbc_articles", "digits"] | None = None
    files: dict[Name, Files] | None = None
    folder: Folder | None = (
        None  # images: <split>/<class>/<image> in it; or split -> a folder with the classes
    )
    saved: Text | None = None  # a DatasetDict that save_to_disk wrote
    hub: Text | None = None
    name: str | None = None  # the hub data set's configuration, e.g. `rte` of nyu-mll/glue
    revision: str | None = None
    splits: dict[Name, Text] | None = None  # the names that train, validation and further splits have there

    @property
    def split_names(self) -> tuple[str, ...]:
        """train, validation, and the further ones in the file's order; all but `unlabelled` are evaluated like it."""
        folders = self.folder if isinstance(self.folder, dict) else {}
        named = {**(self.files or {}), **folders, **(self.splits or {})}
        return tuple(dict.fromkeys(["train", "validation", *named]))

    @property
    def places(self) -> dict[str, list[Path]]:
        """Split -> its files in order, or its folder of images; empty where rows come from neither."""
        if isinstance(self.folder, str):
            return {split: [Path(self.folder) / split] for split in self.split_names}
        given = self.files or self.folder or {}
        return {
            split: [Path(path) for path in ([paths] if isinstance(paths, str) else paths)]
            for split, paths in given.items()
        }

    def _mistakes(self) -> Iterator[str]:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            yield f"give exactly one of {', '.join(SOURCES)}; found {listed(given)}"
        for key in ("files", "folder"):
            splits = getattr(self, key)
            if isinstance(splits, dict) and not {"train", "validation"} <= set(splits):
                yield f"{key} needs the keys train and validation, found {listed(splits)}"
        if self.hub is not None and self.revision is None:
            yield "a hub source needs a pinned revision (a commit hash, or `main` to accept changes)"
        if given and self.hub is None and (self.name or self.revision):
            yield "name and revision belong to a hub source"
        if given and self.hub is None and self.saved is None and self.splits:
            yield "splits belongs to a hub or a saved source"
        if VIEWS in self.split_names:
            yield f"no split can be named {VIEWS}: a logit cache has a folder of that name for other rows; rename it"


class Augment(Params):
    """Random crops and flips of the train images: `views` views of each row; epoch e trains on view e mod `views`."""

    crop: int = Field(default=0, ge=0)  # pixels by which the prepared image may shift in each direction
    flip: float = Field(default=0.0, ge=0, le=1)  # probability of a left-right flip
    views: int = Field(default=4, ge=1)
    seed: Seed = 0

    def _mistakes(self) -> Iterator[str]:
        if not (self.crop or self.flip):
            yield "give crop (pixels, such as 4), flip (a probability, such as 0.5), or both"


# What belongs to rows with labels, and has no meaning for a text of which every token is predicted.
LABELLED_ONLY = ("image", "label", "positive", "unlabelled", "label_noise", "noise_seed", "augment")


class Task(Params):
    """A data set with train and validation splits, its columns and its metric.

    Its rows have labels; those of `kind: language_modelling` are documents, whose every token is to be predicted.
    """

    kind: Literal["labelled", "language_modelling"] = "labelled"
    source: Source
    text: list[Text] | None = Field(default=None, min_length=1, max_length=2)
    image: Text | None = None
    label: Text = "label"
    metrics: list[Metric] = Field(min_length=1)
    positive: ClassName | None = None  # the positive class of f1, with two classes; default: the second
    max_length: int | None = Field(default=None, ge=4, le=2**20)  # tokens; no model takes more
    train_size: int | None = Field(default=None, ge=1)  # so many train rows, stratified; default: all
    sample_seed: Seed = 0  # decides which rows train_size draws
    unlabelled: Literal["rest"] | None = None  # use the train rows outside train_size as rows without labels
    label_noise: float = Field(default=0.0, ge=0, lt=1)  # the fraction of train labels that are made wrong
    noise_seed: Seed = 0  # decides which labels label_noise replaces, and by what
    augment: Augment | None = None

    @field_validator("positive", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """The class's name as text, before booleans are refused."""
        return _as_class_name(value)

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are rows without labels: a split `unlabelled`, or the rest of train."""
        return self.unlabelled is not None or UNLABELLED in self.source.split_names

    @property
    def regression(self) -> bool:
        """True if the label is a real number (STS-B): K = 1 output, scored by correlation."""
        return self.metrics[0] in REGRESSION_METRICS

    @property
    def language_modelling(self) -> bool:
        """True where every token of a document is predicted from those before it."""
        return self.kind == "language_modelling"

    @property
    def modality(self) -> Literal["text", "image"]:
        return "text" if self.text is not None else "image"

    def _mistakes(self) -> Iterator[str]:
        if len(set(self.metrics)) != len(self.metrics):
            yield f"a metric is listed twice: {listed(self.metrics)}"
        if self.train_size is None and "sample_seed" in self.model_fields_set:
            yield "sample_seed says which rows train_size draws; without it, it has no effect"
        yield from self._language_mistakes() if self.language_modelling else self._labelled_mistakes()

    def _language_mistakes(self) -> Iterator[str]:
        useless = [key for key in LABELLED_ONLY if key in self.model_fields_set]
        if useless:
            yield f"{listed(useless)}: for rows with labels; language modelling predicts the text itself"
        if self.text is None or len(self.text) != 1:
            yield "language modelling needs text, one column of documents"
        if self.max_length is None:
            yield "language modelling needs max_length, the tokens of a packed sequence"
        if UNLABELLED in self.source.split_names:
            yield "the split unlabelled is for rows with labels beside it; language modelling has none"
        wrong = [metric for metric in self.metrics if metric not in LANGUAGE_METRICS]
        if wrong:
            yield f"metrics of language modelling are {listed(LANGUAGE_METRICS)}, found {listed(wrong)}"

    def _labelled_mistakes(self) -> Iterator[str]:
        if self.source.builtin == "bbc_articles":
            yield "bbc_articles are documents without labels: write kind: language_modelling"
        if (self.text is None) == (self.image is None):
            yield "give exactly one of text (one or two columns) and image (one column)"
        elif self.text is not None and self.max_length is None:
            yield "a text task needs max_length (tokens)"
        elif self.image is not None and self.max_length is not None:
            yield "max_length belongs to a text task"
        if self.source.folder is not None:
            yield from self._folder_mistakes()
        if self.label in [*(self.text or []), self.image]:
            yield f"the label column {quoted(self.label)} is also an input column"
        if self.text is not None and len(set(self.text)) != len(self.text):
            yield f"text names the column {quoted(self.text[0])} twice; a pair has two different columns"
        if self.positive is not None and self.regression:
            yield "positive names the class that f1 is of; a regression has no classes"
        known = REGRESSION_METRICS if self.regression else CLASSIFICATION_METRICS
        if not set(self.metrics) & set(known) or "bits_per_byte" in self.metrics:
            yield f"metrics: {listed(self.metrics)} is for kind: language_modelling"
        elif not set(self.metrics) <= set(known):
            yield "metrics mixes classification and regression"
        if self.augment is not None and self.image is None:
            yield "augment (crop, flip) is for an image task"
        if self.label_noise and self.regression:
            yield "label_noise replaces a class by another; a regression has none"
        if self.label_noise == 0 and "noise_seed" in self.model_fields_set:
            yield "noise_seed says which labels label_noise makes wrong; without it, it has no effect"
        if self.unlabelled and self.train_size is None:
            yield "unlabelled: rest is the train rows that train_size does not draw; without it, there are none"
        if self.unlabelled and UNLABELLED in self.source.split_names:
            yield "the source has a split named unlabelled already; leave out unlabelled: rest"

    def _folder_mistakes(self) -> Iterator[str]:
        if self.text is not None or self.image not in (None, "image") or self.label != "label":
            yield "a folder has the columns image and label; write `image: image`, and leave out text and label"
        if self.regression:
            yield "a folder has classes, but the metrics are those of a regression"
