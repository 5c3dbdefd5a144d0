"""A prepared task of documents as one language model takes it; everything is made once and handed on."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import TaskError
from kdcache.modelling.inputs import Inputs, open_inputs
from kdcache.modelling.preprocessors import Preprocessor
from kdcache.modelling.tokens.building import load_tokenizer
from kdcache.modelling.tokens.packing import Packed, pack
from kdcache.study import Model

DOCUMENTS = 1024  # tokenised at a time


class DocumentInputs(Inputs):
    """A task's splits as the model of a checkpoint takes them: packed sequences, made when they are first asked for."""

    @cached_property
    def preprocessor(self) -> Preprocessor:
        return load_tokenizer(self.checkpoint, self.card)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: what distributions are over, whatever outputs the model has beside."""
        return len(self.preprocessor.tokenizer)

    @cached_property
    def _packed(self) -> dict[str, Packed]:
        return {}

    def packed(self, split: str) -> Packed:
        """A split's documents in sequences of the task's max_length.

        Raises:
            TaskError: the task is not prepared, or a document has no token.
        """
        if split not in self._packed:
            self._packed[split] = self._pack(split)
        return self._packed[split]

    def _pack(self, split: str) -> Packed:
        texts, tokenizer = self.task.rows(split, ["text"]).column("text"), self.preprocessor.tokenizer
        documents: list[Any] = []
        for start in range(0, len(texts), DOCUMENTS):
            part = texts.slice(start, DOCUMENTS).to_pylist()
            encoded = tokenizer(
                part, add_special_tokens=False, return_attention_mask=False, verbose=False, truncation=False
            )
            documents += [np.array(tokens, dtype=np.int64) for tokens in encoded["input_ids"]]
        empty = next((row for row, tokens in enumerate(documents) if not len(tokens)), None)
        if empty is not None:
            raise TaskError(
                f"task {self.card.name!r}, {split}, row {empty}: the tokenizer finds no token in this text; remove it"
            )
        return pack(documents, tokenizer.eos_token_id, self.card.max_length or 0)


@lru_cache(maxsize=2)
def open_documents(task_folder: Path, model: Model, data: str) -> DocumentInputs:
    """The documents of a prepared task as a model takes them, kept by this process; see `open_inputs`."""
    opened = open_inputs(task_folder, model, data)
    return DocumentInputs(opened.task, opened.checkpoint)
