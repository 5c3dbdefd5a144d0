"""The token cache: what was written is read, in any order and by any way; other rows are refused."""

import gc
import json
import pickle
import tracemalloc

import datasets
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import kdcache
from kdcache.errors import CacheError
from kdcache.logits import LogitCache, LogitWriter
from kdcache.logits.tokens import RS, Full, Threshold, TokenCache, TopK, write_token_logits
from kdcache.logits.tokens import format as token_format

from .conftest import FINGERPRINTS, VOCABULARY, OfDocuments, Table, sequences, write_cache


def expected_dense(rows: list[dict], longest: int) -> np.ndarray:
    """The teacher's distributions [n, longest - 1, V], one row at a time."""
    dense = np.zeros((len(rows), longest - 1, VOCABULARY))
    for line, row in zip(dense, rows, strict=True):
        ids = torch.tensor([row["input_ids"]])
        line[: ids.shape[1] - 1] = Table()(ids).double().softmax(2)[0, :-1].numpy()
    return dense


def test_a_full_cache_is_the_teacher(tmp_path):
    cache = TokenCache(write_cache(tmp_path, estimator=Full()))
    rows = sequences(25)
    asked = [7, 3, 3, 24]
    batch = cache.batch(asked)
    chosen = [rows[k] for k in asked]
    longest = max(len(row["input_ids"]) for row in chosen)
    np.testing.assert_allclose(batch.dense(), expected_dense(chosen, longest), rtol=5e-3, atol=1e-6)
    assert batch.ids.tolist() == asked
    for line, mask, row in zip(batch.tokens, batch.attention_mask, chosen, strict=True):
        assert line[: mask.sum()].tolist() == row["input_ids"]


@pytest.mark.parametrize("estimator", [Threshold(1 / 12, draws=2), RS(9, draws=3)], ids=str)
def test_a_sampled_cache_is_unbiased_through_the_disk(tmp_path, estimator):
    rows = sequences(1) * 1000  # the row id decides the draw
    write_token_logits(Table(), rows, tmp_path, estimator, fingerprints=FINGERPRINTS)
    cache = TokenCache(tmp_path)
    draws = (
        torch.cat([cache.batch(np.arange(1000), epoch=epoch).dense() for epoch in (0, 1)]).double().numpy()
    )
    length = len(rows[0]["input_ids"])
    truth = expected_dense(rows[:1], length)[0]
    np.testing.assert_allclose(draws.sum(axis=2), 1, atol=1e-6)
    theory = np.sqrt(
        truth / 9 / len(draws)
    )  # of weights up to 1/9: rare tokens have too few draws to show it
    error = np.maximum(draws.std(axis=0) / np.sqrt(len(draws)), theory)
    rounding = 2.0**-8 * truth  # of heads to float16, and what that leaves for the tail
    assert (np.abs(draws.mean(axis=0) - truth) <= 4 * error + rounding).all()


def test_top_k_keeps_what_is_missing(tmp_path):
    cache = TokenCache(write_cache(tmp_path, estimator=TopK(5)))
    batch = cache.batch([2])
    truth = expected_dense([sequences(25)[2]], batch.tokens.shape[1])
    best = np.sort(truth, axis=2)[..., -5:]
    np.testing.assert_allclose(np.sort(batch.dense(), axis=2)[..., -5:], best, rtol=5e-3)
    assert (batch.dense() > 0).sum(2).tolist() == [[5] * truth.shape[1]]


def test_entropy_and_the_true_token(tmp_path):
    cache = TokenCache(write_cache(tmp_path))
    row = sequences(25)[4]
    batch = cache.batch([4])
    truth = expected_dense([row], len(row["input_ids"]))[0]
    np.testing.assert_allclose(batch.entropy[0], -(truth * np.log(truth)).sum(axis=1), rtol=1e-3)
    labels = np.log(truth[np.arange(len(truth)), row["input_ids"][1:]])
    np.testing.assert_allclose(batch.label_logprob[0], labels, rtol=1e-3)


def test_nothing_depends_on_batches_or_shards(tmp_path):
    small = TokenCache(write_cache(tmp_path / "a", batch_size=1, rows_per_shard=3))
    large = TokenCache(write_cache(tmp_path / "b", batch_size=25, rows_per_shard=100))
    for split in small.splits:
        one, other = small.split(split), large.split(split)
        np.testing.assert_array_equal(one.row_hashes, other.row_hashes)
        for name in one.columns:
            np.testing.assert_array_equal(one.columns[name].values, other.columns[name].values, err_msg=name)


def test_the_draws_of_the_epochs(cache):
    draws = [cache.batch([1, 2], epoch=epoch).dense() for epoch in range(3)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("epoch", [1.0, 0.5, -1, True, None, "1"])
def test_an_epoch_that_is_no_whole_number(cache, epoch):
    """Such as the Trainer's `state.epoch`."""
    rows = sequences(25)[:2]
    for take in (
        lambda: cache.batch([0, 1], epoch=epoch),
        lambda: cache.match(rows, epoch=epoch),
        lambda: cache.join([{"input_ids": [row["input_ids"] for row in rows]}], epoch=epoch),
    ):
        with pytest.raises(
            CacheError, match=f"cache: epoch must be an integer of 0 or more, found {epoch!r}"
        ):
            take()
    numpys = cache.batch([0, 1], epoch=np.int64(3))
    assert torch.equal(numpys.token, cache.batch([0, 1], epoch=3).token)


def test_match_finds_rows_in_any_order_and_padding(cache):
    rows = sequences(25)
    chosen = [rows[k] for k in (9, 0, 17)]
    ids = torch.full((3, 20), 3)
    mask = torch.zeros((3, 20), dtype=torch.int64)
    for k, row in enumerate(chosen):
        ids[k, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[k, : len(row["input_ids"])] = 1
    batch = cache.match({"input_ids": ids, "attention_mask": mask})
    assert batch.ids.tolist() == [9, 0, 17]
    assert batch.tokens.shape == (3, 20)
    narrow = cache.batch([9, 0, 17]).dense()
    assert torch.equal(batch.dense()[:, : narrow.shape[1]], narrow)
    (joined,) = cache.join([{"input_ids": ids, "attention_mask": mask, "mine": 1}])
    assert joined["mine"] == 1
    assert torch.equal(joined["teacher"].dense(), batch.dense())


def test_a_stream_gives_every_row_once_an_epoch(cache):
    stream = cache.stream("train", 4, seed=3)
    for epoch in range(2):
        batches = list(stream)
        ids = np.concatenate([batch.ids for batch in batches])
        assert sorted(ids) == list(range(25))
        for batch in batches:
            assert torch.equal(batch.dense(), cache.batch(batch.ids, epoch=epoch).dense())
    shares = [cache.stream("train", 4, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(np.concatenate([batch.ids for share in shares for batch in share])) == list(range(25))


def test_a_stream_goes_on_where_it_was(cache):
    whole = [batch.ids.tolist() for batch in cache.stream("train", 4)]
    stream = cache.stream("train", 4)
    first = iter(stream)
    begun = [next(first).ids.tolist() for _ in range(3)]
    again = cache.stream("train", 4)
    again.load_state_dict(stream.state_dict())
    assert begun + [batch.ids.tolist() for batch in again] == whole


def needed_for(path, count):
    """The memory that each use of a full cache of so many rows needs at its peak; and that of its values."""
    needed, rows = {}, sequences(count, vocabulary=1000)

    def measured(name, work):
        gc.collect()  # garbage that is freed meanwhile would hide a part of what is needed
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        work()
        needed[name] = tracemalloc.get_traced_memory()[1] - before

    how = {"fingerprints": FINGERPRINTS, "rows_per_shard": 20}
    measured("write", lambda: write_token_logits(Table(1000), rows, path, Full(), **how))
    cache = TokenCache(path)
    measured("verify", lambda: cache.verify("full"))
    measured("stream", lambda: [None for _ in cache.stream("train", 8)])
    measured("info", cache.info)
    measured("split", lambda: cache.split("train"))
    return needed, cache.split("train").columns["head_logprobs"].values.nbytes


def test_a_cache_larger_than_memory_is_written_verified_and_streamed(tmp_path, monkeypatch):
    """Row group by row group: beyond what is needed for any cache, such as buffers, less than a tenth of its growth."""
    monkeypatch.setattr(token_format, "GROUP_VALUES", 1 << 15)
    tracemalloc.start()
    try:
        needed_for(tmp_path / "first", 20)  # imports what is imported when it is used
        few, small = needed_for(tmp_path / "few", 100)
        many, large = needed_for(tmp_path / "many", 700)
    finally:
        tracemalloc.stop()
    growth = {name: (many[name] - few[name]) / (large - small) for name in few}
    assert growth.pop("split") > 1  # the measure sees them
    assert {name: share for name, share in growth.items() if share > 0.1} == {}


def test_more_rows_than_memory_holds(cache, monkeypatch):
    def refuse(*_):
        raise MemoryError("8 TiB")

    monkeypatch.setattr(token_format.TokenHeader, "whole", refuse)
    for use in (lambda: cache.batch([0]), lambda: cache.match(sequences(3))):
        with pytest.raises(
            CacheError, match=r"does not fit in memory \(8 TiB\); `stream` reads it in pieces"
        ):
            use()


def test_workers_of_a_loader(cache):
    loader = torch.utils.data.DataLoader(cache.stream("train", 4), batch_size=None, num_workers=2)
    assert sorted(np.concatenate([batch.ids for batch in loader])) == list(range(25))
    assert pickle.loads(pickle.dumps(cache)).batch([3]).ids.tolist() == [3]


def test_masked_positions_store_nothing(tmp_path):
    rows = [{"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, -100]}]
    cache = write_token_logits(Table(), rows, tmp_path, Threshold(1 / 8), fingerprints=FINGERPRINTS)
    batch = cache.batch([0])
    assert batch.loss.tolist() == [[False, True, True, False]]
    np.testing.assert_allclose(batch.dense().sum(2), [[0, 1, 1, 0]], atol=1e-6)
    assert cache.match(rows).ids.tolist() == [0]
    with pytest.raises(CacheError, match="no sequence like row 0"):
        cache.match([{"input_ids": [5, 6, 7, 8, 9]}])  # another mask


def test_position_j_is_about_token_j_plus_1(tmp_path):
    """A teacher that knows the next token: an offset by one would show at once."""

    def successor(input_ids, attention_mask=None):
        return 30.0 * torch.nn.functional.one_hot((input_ids + 1) % 50, 50)

    rows = [{"input_ids": [k, k + 1, k + 2, k + 3]} for k in range(20)]
    cache = write_token_logits(successor, rows, tmp_path, fingerprints=FINGERPRINTS)
    batch = cache.batch(np.arange(20))
    assert torch.equal(batch.dense().argmax(2), batch.tokens[:, 1:])
    assert batch.label_logprob.min() > -1e-3
    assert cache.info()["predicts"] == "next"


def test_documents_of_one_row_have_their_own_positions(tmp_path):
    seen = {}

    def teacher(input_ids, position_ids=None):
        seen["positions"] = position_ids
        return OfDocuments()(input_ids, position_ids=position_ids)

    rows = [{"input_ids": [1, 2, 3, 4, 5], "document_starts": [0, 3]}]
    cache = write_token_logits(teacher, rows, tmp_path, fingerprints=FINGERPRINTS)
    assert seen["positions"].tolist() == [[0, 1, 2, 0, 1]]
    with pytest.raises(CacheError, match="no sequence like row 0"):
        cache.match([{"input_ids": [1, 2, 3, 4, 5]}])


def test_outputs_beyond_the_vocabulary_are_cut(tmp_path):
    rows = [{"input_ids": [1, 2, 3]}]
    cache = write_token_logits(Table(), rows, tmp_path, Full(), vocabulary=100, fingerprints=FINGERPRINTS)
    assert cache.batch([0]).dense().shape == (1, 2, 100)
    np.testing.assert_allclose(cache.batch([0]).dense().sum(2), 1, atol=2e-3)
    assert cache.manifest.vocabulary.model_dump() == {"size": 100, "tokenizer": None, "outputs": 150}


def test_a_second_run_opens_what_is_there(tmp_path):
    write_cache(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    write_cache(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    with pytest.raises(CacheError, match="holds another complete cache"):
        write_cache(tmp_path, estimator=TopK(3))
    write_cache(tmp_path, estimator=TopK(3), overwrite=True)
    assert TokenCache(tmp_path).info()["estimator"] == {"kind": "topk", "k": 3}


def test_what_a_missing_shard_costs(tmp_path):
    write_cache(tmp_path / "whole")
    write_cache(tmp_path / "resumed")
    (tmp_path / "resumed" / "manifest.json").unlink()
    (tmp_path / "resumed" / "train" / "part-00001.parquet").unlink()
    kept = tmp_path / "resumed" / "train" / "part-00000.parquet"
    before = kept.stat().st_mtime_ns
    write_cache(tmp_path / "resumed")
    assert kept.stat().st_mtime_ns == before
    for file in (tmp_path / "whole").rglob("*.parquet"):
        assert file.read_bytes() == (tmp_path / "resumed" / file.relative_to(tmp_path / "whole")).read_bytes()


def test_kinds_of_caches_are_not_confused(tmp_path):
    write_cache(tmp_path / "tokens")
    with pytest.raises(
        CacheError, match=r"expected format version 1, found 2, .* open it with kdcache\.TokenCache"
    ):
        LogitCache(tmp_path / "tokens")
    with LogitWriter(tmp_path / "rows", classes=2, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0], [5], np.zeros((1, 2), np.float32))
        writer.finish()
    with pytest.raises(
        CacheError, match=r"expected format version 2, found 1, .* open it with kdcache\.LogitCache"
    ):
        TokenCache(tmp_path / "rows")
    with pytest.raises(CacheError, match="of another weights"):
        TokenCache(tmp_path / "tokens", FINGERPRINTS.model_copy(update={"weights": "others"}))


def test_what_the_manifest_says(tmp_path):
    write_cache(tmp_path, tokenizer={"a": 0})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    sampler = {"kind": "threshold", "eps": 1 / 12, "draws": 2, "seed": 0, "sampler": "systematic-v3"}
    assert manifest["estimator"] == sampler
    assert (manifest["format_version"], manifest["kind"], manifest["predicts"]) == (2, "tokens", "next")
    assert len(manifest["vocabulary"]["tokenizer"]) == 64
    footer = json.loads(pq.read_schema(tmp_path / "train" / "part-00000.parquet").metadata[b"kdcache"])
    assert footer["estimator"] == sampler


def test_every_option_is_part_of_the_identity(tmp_path):
    options = [
        {}, {"estimator": Threshold(1 / 12, draws=2, seed=1)}, {"estimator": Threshold(1 / 12)}, {"temperature": 2.0},
        {"tokenizer": "two"}, {"tokenizer": "one"}, {"estimator": RS(3)},
    ]  # fmt: skip
    caches = [TokenCache(write_cache(tmp_path / str(k), **each)) for k, each in enumerate(options)]
    assert len({cache.identity for cache in caches}) == len(options)


def test_info(cache):
    facts = cache.info()
    rows = sequences(25) + sequences(7, 1)
    assert facts["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert facts["positions"] == facts["tokens"] - 32
    assert facts["rows"] == {"train": 25, "validation": 7}
    assert cache.verify("full").rows == 32


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_ids": [1, 2]}, {"input_ids": [1, 200]}], "row 1: expected tokens from 0 to 149, found 200"),
        ([{"input_ids": []}], "expected token ids"),
        ([{"input_ids": [1.5]}], "input_ids must be integers"),
        ([{"input_ids": [1, -2]}], "expected token ids of 0 or more"),
        ([{"tokens": [1]}], "expected a mapping with `input_ids`"),
        ([{"input_ids": [1, 2], "attention_mask": [0, 1]}], "pad on the right"),
        ([{"input_ids": [1, 2], "labels": [2, 3]}], "labels must be the input_ids themselves"),
        ([{"input_ids": [1, 2], "document_starts": [1]}], "document_starts must rise from 0"),
        ([], "there are no sequences"),
    ],
)
def test_rows_that_cannot_be_cached(tmp_path, rows, message):
    with pytest.raises(CacheError, match=message):
        write_token_logits(Table(), rows, tmp_path, fingerprints=FINGERPRINTS)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda input_ids: torch.full((*input_ids.shape, 9), torch.nan), "logits are not all finite"),
        (lambda input_ids: torch.zeros(input_ids.shape), "expected logits"),
        (lambda input_ids: torch.zeros(1, 1, 9), "expected logits"),
    ],
)
def test_teachers_that_cannot_be_cached(tmp_path, teacher, message):
    with pytest.raises(CacheError, match=message):
        write_token_logits(teacher, [{"input_ids": [1, 2, 3]}] * 2, tmp_path, fingerprints=FINGERPRINTS)
    assert not (tmp_path / "manifest.json").exists()


def test_a_callable_needs_fingerprints(tmp_path):
    with pytest.raises(CacheError, match="has no weights to fingerprint"):
        write_token_logits(Table(), sequences(2), tmp_path)


def test_public_names():
    for name in kdcache.TOKENS:
        assert getattr(kdcache, name).__module__.startswith("kdcache.logits.tokens")


def changed(row: list[int], random: np.random.Generator) -> list[int]:
    """A row that is not the cached one: re-packed, re-tokenised, off by one, shuffled, or wrong."""
    way = random.integers(6)
    if way == 0:
        return row[1:] if len(row) > 2 else [*row, 1]
    if way == 1:
        return row[:-1] if len(row) > 2 else [1, *row]
    if way == 2:
        return [*row, int(random.integers(VOCABULARY))]
    if way == 3:
        return [int(random.integers(VOCABULARY)), *row[:-1]]
    if way == 4:
        order = random.permutation(len(row))
        return [row[k] for k in order]
    at = int(random.integers(len(row)))
    return [*row[:at], (row[at] + 1 + int(random.integers(VOCABULARY - 1))) % VOCABULARY, *row[at + 1 :]]


def test_other_rows_are_refused_a_thousand_times(tmp_path):
    rows = [row["input_ids"] for row in sequences(200, longest=30)]
    cache = write_token_logits(
        Table(), [{"input_ids": row} for row in rows], tmp_path, fingerprints=FINGERPRINTS
    )
    random, known, tries = np.random.default_rng(0), {tuple(row) for row in rows}, 0
    while tries < 1000:
        wrong = changed(rows[random.integers(200)], random)
        if tuple(wrong) in known:
            continue
        tries += 1
        batch = [{"input_ids": rows[random.integers(200)]} for _ in range(3)]
        batch.insert(int(random.integers(4)), {"input_ids": wrong})
        with pytest.raises(CacheError, match="no sequence like row"):
            cache.match(batch)


@pytest.mark.parametrize("kind", ["dataset", "arrow", "pandas", "polars"])
def test_sequences_in_a_table_are_those_of_the_list(tmp_path, kind):
    rows = sequences(5)
    table = pa.Table.from_pylist(rows)
    made = {
        "dataset": datasets.Dataset(table),
        "arrow": table,
        "pandas": table.to_pandas(),
        "polars": polars.from_arrow(table),
    }
    cache = write_token_logits(Table(), made[kind], tmp_path / "cache", fingerprints=FINGERPRINTS)
    assert cache.match(rows).ids.tolist() == [0, 1, 2, 3, 4]


def test_sequences_that_are_no_rows_are_refused(tmp_path):
    for wrong, message in (
        (iter([]), "split 'train': rows must have a length"),
        ("rows.csv", "read the file first"),
    ):
        with pytest.raises(CacheError, match=message):
            write_token_logits(Table(), wrong, tmp_path / "cache", fingerprints=FINGERPRINTS)


def test_workers_that_stay_give_each_epoch_its_draw(tmp_path):
    """And an epoch that was left early is one, too."""
    cache = TokenCache(write_cache(tmp_path, {"train": 12}, Threshold(1 / 12, draws=4)))
    loader = torch.utils.data.DataLoader(
        cache.stream("train", 4), batch_size=None, num_workers=1, persistent_workers=True
    )
    for epoch in range(5):
        for batch in loader:
            assert torch.equal(batch.dense(), cache.batch(batch.ids, epoch=epoch).dense())
            if epoch == 1:
                break
