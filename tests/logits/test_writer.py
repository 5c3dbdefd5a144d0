"""The writer: whole shards, a manifest last, the same bytes for the same rows, no bad rows."""

import errno
import hashlib
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CacheError
from kdcache.logits import LogitCache, LogitWriter

from .conftest import FINGERPRINTS, rows, write_cache


def contents(folder):
    """All files but what writing took, which differs each time."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "cost.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def writer(path, **options):
    defaults = {"classes": 3, "label_names": ["a", "b", "c"], "fingerprints": FINGERPRINTS}
    return LogitWriter(path, **{**defaults, **options})


def test_layout_and_plain_parquet(cache):
    assert list(contents(cache)) == [
        "manifest.json",
        "train/part-00000.parquet",
        "train/part-00001.parquet",
        "train/part-00002.parquet",
        "validation/part-00000.parquet",
    ]
    table = pq.read_table(cache / "train" / "part-00001.parquet")
    ids, hashes, logits = rows(25)
    assert table["id"].to_pylist() == ids[10:20].tolist()
    assert table["row_hash"].to_pylist() == hashes[10:20].tolist()
    assert table["logits"].to_pylist() == logits[10:20].tolist()
    assert table.schema.field("logits").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 3)


def test_manifest_says_what_is_there(cache):
    manifest = json.loads((cache / "manifest.json").read_text())
    shards = manifest["splits"]["train"]["shards"]
    assert [shard["rows"] for shard in shards] == [10, 10, 5]
    for shard in shards:
        data = (cache / shard["file"]).read_bytes()
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
    checksum = manifest.pop("checksum")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert checksum == hashlib.sha256(canonical).hexdigest()
    assert manifest["label_names"] == ["no", "maybe", "yes"]
    assert manifest["versions"]["pyarrow"] == pa.__version__


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    classes=st.integers(1, 4),
    rows_per_shard=st.integers(1, 12),
    dtype=st.sampled_from(["float32", "float16"]),
    data=st.data(),
)
def test_round_trip(tmp_path_factory, sizes, classes, rows_per_shard, dtype, data):
    folder, count = tmp_path_factory.mktemp("cache"), sum(sizes)
    finite = st.floats(width=16 if dtype == "float16" else 32, allow_nan=False, allow_infinity=False)
    values = data.draw(st.lists(finite, min_size=count * classes, max_size=count * classes))
    logits = np.array(values, np.float32).reshape(count, classes)
    unique = st.lists(st.integers(0, 2**63 - 1), min_size=count, max_size=count, unique=True)
    ids = np.array(data.draw(unique), np.int64)
    hashes = rows(count)[1]
    with writer(folder, classes=classes, label_names=[], rows_per_shard=rows_per_shard, dtype=dtype) as w:
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            w.write("s", ids[part], hashes[part], logits[part])
            start += size
        w.finish()
    cache = LogitCache(folder)
    assert cache.logits("s", ids, hashes).tobytes() == logits.tobytes()  # bitwise, -0.0 too
    split = cache.split("s")
    assert split.ids.tolist() == sorted(ids.tolist())
    assert cache.verify("full").rows == count


def test_same_rows_give_the_same_bytes_whatever_the_batches(tmp_path):
    ids, hashes, logits = rows(25)
    seen = []
    for batch in (1, 4, 10, 25):
        folder = tmp_path / str(batch)
        with writer(folder, rows_per_shard=10) as w:
            for i in range(0, 25, batch):
                w.write("train", ids[i : i + batch], hashes[i : i + batch], logits[i : i + batch])
            w.finish()
        seen.append(contents(folder))
    assert all(other == seen[0] for other in seen)


def test_identity_is_that_of_the_content(tmp_path):
    one = LogitCache(write_cache(tmp_path / "one"))
    assert one.identity == LogitCache(write_cache(tmp_path / "two")).identity
    other = write_cache(tmp_path / "three", {"train": 25, "validation": 6})
    assert one.identity != LogitCache(other).identity


def test_float16_rounds_once(tmp_path):
    ids, hashes, logits = rows(5)
    with writer(tmp_path, dtype="float16") as w:
        w.write("train", ids, hashes, logits)
        w.finish()
    assert np.array_equal(
        LogitCache(tmp_path).split("train").logits, logits.astype(np.float16).astype(np.float32)
    )


IDS, HASHES, LOGITS = rows(4)


def with_value(value):
    logits = LOGITS.copy()
    logits[2, 1] = value
    return logits


@pytest.mark.parametrize(
    ("ids", "hashes", "logits", "message"),
    [
        (IDS, HASHES, with_value(np.nan), r"split 'train': row id 2 has the logits .* not all finite"),
        (IDS, HASHES, with_value(np.inf), r"row id 2 .* not all finite"),
        (IDS, HASHES, LOGITS[:, :2], r"expected logits \[n, 3\], found the shape \[4, 2\]"),
        (IDS, HASHES, LOGITS[0], r"found the shape \[3\]"),
        (IDS, HASHES, LOGITS.astype(np.float64), r"expected float32 or float16 logits, found float64"),
        (IDS, HASHES, LOGITS.astype(np.int32), r"found int32"),
        (IDS[:3], HASHES, LOGITS, r"3 ids, 4 row hashes and 4 rows of logits do not match"),
        (np.array([0, 1, 1, 2]), HASHES, LOGITS, r"split 'train': id 1 was written twice"),
        (np.array([0, 1, -1, 2]), HASHES, LOGITS, r"an id must be from 0 to"),
        (IDS.astype(np.float32), HASHES, LOGITS, r"ids must be integers"),
        (IDS, HASHES.astype(np.float64), LOGITS, r"row hashes must be uint64"),
    ],
)
def test_bad_rows_are_refused(tmp_path, ids, hashes, logits, message):
    with writer(tmp_path) as w:
        with pytest.raises(CacheError, match=message):
            w.write("train", ids, hashes, logits)
        w.write("train", IDS, HASHES, LOGITS)  # the refused rows left nothing behind
        w.finish()
    assert LogitCache(tmp_path).split("train").ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("masked", ["ids", "hashes", "logits"])
def test_masked_values_are_refused(tmp_path, masked):
    """What is below a mask is nobody's value."""
    rows = {
        "ids": np.arange(2),
        "hashes": np.arange(2, dtype=np.uint64),
        "logits": np.ones((2, 2), np.float32),
    }
    rows = {name: np.ma.masked_array(values) for name, values in rows.items()}
    with LogitWriter(tmp_path, classes=2, label_names=["a", "b"], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", *rows.values())
        rows[masked][1] = np.ma.masked
        with pytest.raises(CacheError, match="some of its values are masked"):
            writer.write("validation", *rows.values())
        writer.finish()


def test_float16_overflow_is_refused(tmp_path):
    with (
        pytest.raises(CacheError, match=r"row id 2 .* finite in float16"),
        writer(tmp_path, dtype="float16") as w,
    ):
        w.write("train", IDS, HASHES, with_value(70000.0))


@pytest.mark.parametrize("first", [[3], [2**40]])
def test_duplicate_id_of_an_earlier_batch(tmp_path, first):
    with writer(tmp_path) as w:
        w.write("validation", first, HASHES[:1], LOGITS[:1])  # another split may have the same ids
        w.write("train", first, HASHES[:1], LOGITS[:1])
        with pytest.raises(CacheError, match=f"id {first[0]} was written twice"):
            w.write("train", [0, first[0]], HASHES[:2], LOGITS[:2])
        w.finish()
    assert LogitCache(tmp_path).split("train").ids.tolist() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 2}, "3 label names for 2 classes"),
        ({"label_names": ["a", "b", "a"]}, "a label name is there twice"),
        ({"classes": 0, "label_names": []}, "should be greater than or equal to 1"),
        ({"rows_per_shard": 0}, "should be greater than or equal to 1"),
        ({"dtype": "float64"}, "dtype: Input should be .float32. or .float16., found .float64."),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(CacheError, match=message):
        writer(tmp_path, **options)


def test_bad_finish_is_refused(tmp_path):
    with writer(tmp_path) as w:
        with pytest.raises(CacheError, match="manifest cannot be written"):
            w.finish()  # no split at all
        w.write("train", IDS, HASHES, LOGITS)
        for scores in ({"train": {"accuracy": float("nan")}}, {"train": {"f1": None}}, {"test": {}}):
            with pytest.raises(CacheError, match="manifest cannot be written"):
                w.finish(scores=scores)
        with pytest.raises(CacheError, match="cache is incomplete"):
            LogitCache(tmp_path)
        w.finish()
    assert LogitCache(tmp_path).verify("full").rows == 4


def test_writing_outside_the_with_block(tmp_path):
    w = writer(tmp_path)
    with pytest.raises(CacheError, match="inside its `with` block"):
        w.write("train", IDS, HASHES, LOGITS)
    with w:
        w.write("train", IDS, HASHES, LOGITS)
        w.finish()
        with pytest.raises(CacheError, match="the writer is finished"):
            w.write("train", [9], HASHES[:1], LOGITS[:1])
    with pytest.raises(CacheError, match="writes one cache"), w:
        pass


def test_split_names_stay_in_the_cache(tmp_path):
    with writer(tmp_path) as w:
        for name in ("../x", "a/b", "", ".", "a b"):
            with pytest.raises(CacheError, match="a split's name has"):
                w.write(name, IDS, HASHES, LOGITS)
        w.write("train", IDS, HASHES, LOGITS)
        w.finish()


def test_no_finish_means_no_cache(tmp_path):
    with pytest.raises(CacheError, match=r"finish\(\) was not called"), writer(tmp_path) as w:
        w.write("train", IDS, HASHES, LOGITS)
    with pytest.raises(CacheError, match="incomplete"):
        LogitCache(tmp_path)


def test_an_error_in_the_block_passes_through(tmp_path):
    with pytest.raises(ZeroDivisionError), writer(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(CacheError, match="incomplete"):
        LogitCache(tmp_path)


def test_overwriting_removes_the_old_cache_first(cache):
    (cache / "train" / ".part-00009.parquet.abc.tmp").write_bytes(b"left by a killed process")
    (cache / "notes.txt").write_text("not ours")
    with writer(cache) as w:
        assert list(contents(cache)) == ["notes.txt"]
        w.write("train", IDS, HASHES, LOGITS)
        w.finish()
    assert list(contents(cache)) == ["manifest.json", "notes.txt", "train/part-00000.parquet"]


def test_path_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="is a file"), writer(tmp_path / "file"):
        pass


def test_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = r"part-00000\.parquet: cannot be written: No space left.*cache is incomplete"
    with writer(tmp_path, rows_per_shard=2) as w:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(CacheError, match=message):
                w.write("train", IDS, HASHES, LOGITS)
        assert contents(tmp_path) == {}
        with pytest.raises(CacheError, match="the writer is broken by an earlier error"):
            w.finish()  # would leave rows out


def test_an_empty_split_is_a_split(tmp_path):
    with writer(tmp_path) as w:
        w.write("train", *rows(0))
        w.finish()
    cache = LogitCache(tmp_path)
    assert cache.splits == ["train"]
    assert cache.logits("train", []).shape == (0, 3)
    with pytest.raises(CacheError, match="no logits for row id 0"):
        cache.logits("train", [0])


def test_a_shard_that_does_not_fit_into_memory_says_what_to_do(tmp_path):
    with (
        pytest.raises(CacheError, match=r"cache: a shard does not fit into memory .*; lower rows_per_shard"),
        writer(tmp_path / "cache", classes=2**20, label_names=[], rows_per_shard=2**30) as w,
    ):
        w.write("train", [0], np.array([1], np.uint64), np.zeros((1, 2**20), np.float32))
