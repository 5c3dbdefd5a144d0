"""write_token_logits: what the model is given, and the same bytes however many processes write."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import transformers

from kdcache.errors import CacheError
from kdcache.logits.tokens import RS, Full, Threshold, TokenCache, TopK, write_token_logits
from tests.launching import run_side_by_side
from tests.logits.test_writer import contents

from .conftest import FINGERPRINTS, Table, write_cache
from .families import causal_model

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
    run_side_by_side(tmp_path / "script.py", tmp_path / "two", rows_per_shard)
    write_cache(tmp_path / "one", {"train": 40, "validation": 7}, rows_per_shard=rows_per_shard, batch_size=5)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    manifests = [json.loads(found.pop("manifest.json")) for found in (one, two)]
    assert one == two
    assert manifests[0]["splits"] == manifests[1]["splits"]
    assert TokenCache(tmp_path / "two").verify("full").rows == 47


@pytest.mark.parametrize("how", [None, Threshold(draws=2), RS(n=3), TopK(2), Full()])
def test_a_batch_in_which_nothing_is_to_be_predicted(tmp_path: Path, how: Any) -> None:
    unlabelled = {"input_ids": [4, 5, 6], "labels": [-100] * 3}
    for name, last in (("one token", {"input_ids": [3]}), ("no labels", unlabelled)):
        rows = [{"input_ids": [1, 2]}] * 2 + [last]
        cache = write_token_logits(
            Table(9), rows, tmp_path / name, how, batch_size=2, fingerprints=FINGERPRINTS
        )
        assert cache.verify("full").rows == 3
        assert cache.info()["positions"] == 2
        assert cache.batch([2]).loss.sum() == 0


class Odd:
    """A teacher of 9 tokens that makes something else of its logits in each batch but the first `after`."""

    def __init__(self, change: Any, after: int = 0) -> None:
        self.table, self.change, self.left = Table(9), change, after

    def __call__(self, input_ids: torch.Tensor) -> Any:
        self.left -= 1
        logits = self.table(input_ids)
        return self.change(logits) if self.left < 0 else logits


MASKED = np.ma.masked_array(np.ones((2, 3, 9), np.float32), mask=np.eye(9, dtype=bool)[[[0, 1, 2]] * 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: None, "found builtins.NoneType; let it return them"),
        (lambda logits: (logits, logits), "found builtins.tuple; let it return them"),
        (lambda logits: "logits", "found builtins.str; let it return them"),
        (lambda logits: {"scores": logits}, "found builtins.NoneType; let it return them"),
        (lambda logits: logits.long(), r"found torch.int64 \[1, 3, 9\]"),
        (lambda logits: MASKED, "some of the model's logits are masked"),
        (lambda logits: logits.to_sparse(), "expected dense real numbers as logits"),
    ],
)
def test_a_teacher_that_gives_no_logits(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(CacheError, match=f"cache: .*{message}"):
        write_token_logits(
            Odd(change), [{"input_ids": [1, 2, 3]}] * 2, tmp_path / "cache", fingerprints=FINGERPRINTS
        )


@pytest.mark.parametrize("size", [8, 10])
def test_a_teacher_whose_vocabulary_changes(tmp_path: Path, size: int) -> None:
    teacher = Odd(lambda logits: torch.zeros(*logits.shape[:2], size), after=2)
    with pytest.raises(
        CacheError, match=rf"expected logits \[2, 3, 9\] .*found torch.float32 \[2, 3, {size}\]"
    ):
        write_token_logits(
            teacher, [{"input_ids": [1, 2, 3]}] * 4, tmp_path, batch_size=2, fingerprints=FINGERPRINTS
        )


def test_a_teacher_that_gives_a_mapping_is_the_same(tmp_path: Path) -> None:
    rows = [{"input_ids": [1, 2, 3]}] * 2
    for name, teacher in (("plain", Table(9)), ("mapping", Odd(lambda logits: {"logits": logits}))):
        write_token_logits(teacher, rows, tmp_path / name, fingerprints=FINGERPRINTS)
    plain, mapping = contents(tmp_path / "plain"), contents(tmp_path / "mapping")
    assert [plain[name] for name in plain if name.endswith(".parquet")] == [
        mapping[name] for name in mapping if name.endswith(".parquet")
    ]


def test_logits_that_are_not_finite_are_named_with_cache_and_split(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"cache: split 'test': row id 0, position 0: .* not all finite"):
        write_token_logits(
            Odd(lambda logits: logits * torch.nan),
            {"test": [{"input_ids": [1, 2, 3]}]},
            tmp_path / "cache",
            fingerprints=FINGERPRINTS,
        )


class Once:
    """A teacher that is asked about the first row, and about no more before something is refused."""

    def __init__(self, vocabulary: int = 1000) -> None:
        self.vocabulary, self.asked = vocabulary, 0

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        assert self.asked == 1, "a shard is computed that no file can hold"
        return torch.zeros(*input_ids.shape, self.vocabulary)


# Up to 4096 x 1000 tail entries a token, so up to 45 million for a row of 12 tokens.
MANY = Threshold(1 / 2000, draws=4096)


@pytest.mark.parametrize("how", [MANY, RS(1000, draws=4096)], ids=str)
def test_a_shard_that_no_file_can_hold_is_refused_before_it_is_computed(tmp_path: Path, how: Any) -> None:
    rows = [{"input_ids": list(range(12))}] * 60
    message = r"cache: split 'train': a shard of 64 rows could have 2,703,360,000 entries.*; pass rows_per_shard=47$"
    with pytest.raises(CacheError, match=message):
        write_token_logits(
            Once(), rows, tmp_path / "cache", how, rows_per_shard=64, fingerprints=FINGERPRINTS
        )
    assert not (tmp_path / "cache").exists()


def test_a_row_that_no_file_can_hold(tmp_path: Path) -> None:
    with pytest.raises(
        CacheError, match=r"could have 2,453,504,000 entries.*; cut the rows, or store less of each token"
    ):
        write_token_logits(
            Once(), [{"input_ids": list(range(600))}], tmp_path / "cache", MANY, fingerprints=FINGERPRINTS
        )


def test_by_default_a_shard_has_as_many_rows_as_a_file_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "kdcache.logits.tokens.inference.write_cache", lambda job, *_: asked.append(job.header)
    )
    for rows in ([{"input_ids": list(range(12))}] * 60, [{"input_ids": [1, 2]}] * 300):
        with pytest.raises(CacheError):  # nothing was written
            write_token_logits(Once(), rows, tmp_path / "cache", MANY, fingerprints=FINGERPRINTS)
    with pytest.raises(CacheError):
        write_token_logits(Once(), [{"input_ids": list(range(12))}] * 60, tmp_path, fingerprints=FINGERPRINTS)
    assert [header.rows_per_shard for header in asked] == [43, 256, 256]


def test_weights_without_values_are_named_with_the_cache(model: Any, tmp_path: Path) -> None:
    """Accelerate leaves such weights where it has offloaded them."""
    offloaded = accelerate.cpu_offload(copy.deepcopy(model))
    with pytest.raises(
        CacheError, match=r"cache: .*'meta' has no values to fingerprint .*pass `fingerprints`"
    ):
        write_token_logits(offloaded, [{"input_ids": FIRST}], tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "8"}, "vocabulary must be an integer, found '8'"),
        ({"vocabulary": 8.0}, "vocabulary must be an integer, found 8.0"),
        ({"vocabulary": 0}, "expected a vocabulary of 1 to 9 tokens, found 0"),
        ({"temperature": None}, "temperature must be a number, found None"),
        ({"temperature": "2"}, "temperature must be a number, found '2'"),
        ({"batch_size": "8"}, "batch_size must be an integer, found '8'"),
        ({"estimator": "full"}, "estimator must be one of Threshold.*, found 'full'"),
        ({"estimator": Full}, "estimator must be one of"),
        ({"run": None}, "run must be a text, found None"),
        ({"rows_per_shard": 0}, "rows_per_shard"),
    ],
)
def test_options_of_another_type_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(CacheError, match=f"cache: .*{message}"):
        write_token_logits(
            Table(9), [{"input_ids": [1, 2]}], tmp_path / "cache", fingerprints=FINGERPRINTS, **options
        )
    assert not (tmp_path / "cache").exists()


class Tokenizer:
    """A tokenizer whose tokens have the ids 0 to 6, and 8."""

    def get_vocab(self) -> dict[str, int]:
        return {f"token {token}": token for token in (*range(7), 8)}


@pytest.mark.parametrize(
    ("outputs", "options", "size"),
    [
        (12, {"tokenizer": Tokenizer()}, 9),
        (12, {"tokenizer": Tokenizer(), "vocabulary": 12}, 12),
        (12, {"tokenizer": "a name"}, 12),
        (12, {}, 12),
        (9, {"tokenizer": Tokenizer()}, 9),
        (8, {"tokenizer": Tokenizer()}, 8),  # the teacher knows fewer tokens than its tokenizer
    ],
)
def test_outputs_without_a_token_are_cut(
    outputs: int, options: Any, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"input_ids": [1, 2, 3]}]
    cache = write_token_logits(Table(outputs), rows, tmp_path, Full(), fingerprints=FINGERPRINTS, **options)
    assert (cache.manifest.vocabulary.size, cache.manifest.vocabulary.outputs) == (size, outputs)
    expected = Table(outputs)(torch.tensor([rows[0]["input_ids"]]))[0, :-1, :size].softmax(1)
    np.testing.assert_allclose(cache.batch([0]).dense()[0], expected, rtol=5e-3, atol=1e-6)
    said = "the teacher has 12 outputs, its tokenizer 9 tokens; the outputs beyond are cut off before the softmax"
    assert (said in caplog.text) == (size < outputs)


@pytest.mark.parametrize(("family", "most"), [("gpt2", 64), ("opt", 64), ("llama", None), ("bloom", None)])
def test_a_row_longer_than_the_learned_positions(family: str, most: int | None, tmp_path: Path) -> None:
    """Rotary models and those with ALiBi may go on."""
    teacher = causal_model(family, **({"max_position_embeddings": 64} if family == "llama" else {}))
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3] * 65}]
    splits = {"train": rows[:1], "test": rows}
    if most is None:
        assert write_token_logits(teacher, splits, tmp_path / "cache").verify().rows == 3
        return
    message = r"cache: split 'test', row 1: has a document of 65 tokens, the model has learned 64 positions; cut the"
    with pytest.raises(CacheError, match=message):
        write_token_logits(teacher, splits, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    fits = [{"input_ids": [3] * 64}]
    assert write_token_logits(teacher, fits, tmp_path / "cache").verify().rows == 1


def test_positions_of_packed_rows_begin_anew(tmp_path: Path) -> None:
    row = {"input_ids": [3] * 100, "document_starts": [0, 64]}
    assert write_token_logits(causal_model("gpt2"), [row], tmp_path).verify().rows == 1
    with pytest.raises(CacheError, match="row 0: has a document of 65 tokens"):
        write_token_logits(
            causal_model("gpt2"), [{**row, "document_starts": [0, 65 - 30]}], tmp_path / "other"
        )


def test_vocabularies_as_large_as_the_positions(tmp_path: Path) -> None:
    """The table of tokens is not taken for one of positions."""
    sizes = {"vocab_size": 50, "max_position_embeddings": 50}
    cache = write_token_logits(causal_model("llama", **sizes), [{"input_ids": [3] * 60}], tmp_path)
    assert cache.verify().rows == 1
