"""A prepared task as one model takes it; everything is made once and handed on."""

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
    """A task's splits as the model of a checkpoint takes them, each encoded when it is first asked for."""

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
        """A split's rows as they are."""
        if split not in self._rows:
            self._rows[split] = encode_split(self.task, split, self.preprocessor)
        return self._rows[split]

    def training_rows(self, split: str = "train") -> EncodedSplit:
        """A split to train on, train or unlabelled: in every view where the task is augmented."""
        if self.card.augment is None:
            return self.rows(split)
        if split not in self._views:
            self._views[split] = encode_views(self.task, split, self.preprocessor)
        return self._views[split]


@lru_cache(maxsize=2)
def open_inputs(task_folder: Path, model: Model, data: str) -> Inputs:
    """The inputs of a model on a prepared task, kept by this process: all seeds of a configuration share them.

    Args:
        data: the fingerprint of the data that are expected there.

    Raises:
        TaskError: the task was prepared anew meanwhile, from other data.
    """
    task = PreparedTask(task_folder)
    task.check(data)
    return Inputs(task, find_checkpoint(model))
