"""write_token_logits: what the model is given, and the same bytes however many processes write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from kdcache.logits.tokens import Full, TokenCache, write_token_logits
from tests.launching import run_in_two_processes
from tests.logits.test_writer import contents

from .conftest import write_cache

FIRST, SECOND, LONG = [3, 5, 7], [2, 4, 6, 8], [1, 9, 9, 1, 9, 9, 1, 5, 5]


@pytest.fixture(scope="module")
def model() -> Any:
    """As transformers makes it: it caches keys and values."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    network = transformers.GPT2LMHeadModel(config).eval()
    assert network.config.use_cache
    return network


def logprobs(model: Any, rows: list[dict[str, Any]], folder: Path) -> list[np.ndarray[Any, Any]]:
    cache = write_token_logits(model, rows, folder, Full(), batch_size=len(rows))
    return [cache.batch([row]).dense()[0].log().numpy() for row in range(len(rows))]


@pytest.mark.parametrize("padded", [False, True])
def test_a_document_sees_itself_alone(model: Any, tmp_path: Path, padded: bool) -> None:
    packed: dict[str, Any] = {"input_ids": FIRST + SECOND, "document_starts": [0, len(FIRST)]}
    rows = [packed, {"input_ids": LONG}] if padded else [packed]
    together = logprobs(model, rows, tmp_path / "together")
    for name, document, at in (("first", FIRST, 0), ("second", SECOND, len(FIRST))):
        alone = logprobs(model, [{"input_ids": document}], tmp_path / name)[0]
        within = together[0][at : at + len(document) - 1]
        np.testing.assert_allclose(within, alone[: len(document) - 1], atol=2e-3)  # stored as float16
    if padded:
        long = logprobs(model, [{"input_ids": LONG}], tmp_path / "long")[0]
        np.testing.assert_allclose(together[1], long, atol=2e-3)


SCRIPT = """
import sys
from pathlib import Path
from tests.logits.tokens.conftest import write_cache
write_cache(Path(sys.argv[1]), {"train": 40, "validation": 7}, rows_per_shard=int(sys.argv[2]), batch_size=3)
"""


@pytest.mark.parametrize("rows_per_shard", [10, 64])  # five shards for two processes; two, one each
def test_two_processes_write_the_bytes_of_one(tmp_path: Path, rows_per_shard: int) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    run_in_two_processes(tmp_path / "script.py", tmp_path / "two", rows_per_shard)
    write_cache(tmp_path / "one", {"train": 40, "validation": 7}, rows_per_shard=rows_per_shard, batch_size=5)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    manifests = [json.loads(found.pop("manifest.json")) for found in (one, two)]
    assert one == two
    assert manifests[0]["splits"] == manifests[1]["splits"]
    assert TokenCache(tmp_path / "two").verify("full").rows == 47
