"""What takes longest is made once: a tokenizer and a checkpoint of each family."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools.pretraining.samples import FAMILIES, SIZES, TEXTS, Tokenizers, run
from tools.pretraining import train_tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> Tokenizers:
    return {family: train_tokenizer(family, TEXTS, 300, 16) for family in FAMILIES}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and one checkpoint of each family, made by the command; tests do not change it."""
    root = tmp_path_factory.mktemp("pretrain")
    pq.write_table(pa.table({"text": TEXTS}), root / "corpus.parquet")
    recipes = {family: {"family": family, "tokens": 384, **SIZES} for family in FAMILIES}
    (root / "recipes.yaml").write_text(json.dumps(recipes))
    for family in FAMILIES:
        run(root, family)
    return root
