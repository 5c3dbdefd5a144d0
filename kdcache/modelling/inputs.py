"""A prepared task, encoded for one model; everything is made once and passed on."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.checkpoints.find import find_checkpoint
from kdcache.modelling.augmentation import encode_views
from kdcache.modelling.encoding import EncodedSplit, encode_split
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.study import Model
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepared import PreparedTask


class Inputs:
    """A task's splits, encoded for the model of a checkpoint; each is encoded when it is first needed."""

    def __init__(self, task: PreparedTask, checkpoint: Checkpoint) -> None:
        self.task, self.checkpoint = task, checkpoint
        self._rows: dict[str, EncodedSplit] = {}
        self._views: dict[str, EncodedSplit] = {}

    @property
    def card(self) -> TaskCard:
        return self.task.card

    @cached_property
    def preprocessor(self) -> Preprocessor:
        return load_preprocessor(self.checkpoint, self.card)

    def rows(self, split: str) -> EncodedSplit:
        """A split's rows, without augmentation."""
        if split not in self._rows:
            self._rows[split] = encode_split(self.task, split, self.preprocessor)
        return self._rows[split]

    def training_rows(self, split: str = "train") -> EncodedSplit:
        """The split train or unlabelled for training: in all its views if the task has `augment`."""
        if self.card.augment is None:
            return self.rows(split)
        if split not in self._views:
            self._views[split] = encode_views(self.task, split, self.preprocessor)
        return self._views[split]


@lru_cache(maxsize=2)
def open_inputs(task_folder: Path, model: Model, data: str) -> Inputs:
    """The inputs of a model on a prepared task. This process keeps them, and all seeds of a configuration share them.

    Args:
        data: the expected fingerprint of the data.

    Raises:
        TaskError: the task was prepared again in the meantime, from other data.
    """
    task = PreparedTask(task_folder)
    task.check(data)
    return Inputs(task, find_checkpoint(model))
