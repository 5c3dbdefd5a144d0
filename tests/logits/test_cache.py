"""The reader: the right row's logits, or one clear CacheError."""

import hashlib
import json
import os
import pickle
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.logits import Fingerprints, LogitCache, LogitWriter, disk
from kdcache.logits import format as cache_format

from .conftest import FINGERPRINTS, rows, write_cache


def rewrite_manifest(cache, change, checksum=True):
    """Edit manifest.json; with `checksum`, as somebody would who recomputes it."""
    path = cache / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    if checksum:
        raw.pop("checksum", None)
        raw["checksum"] = fingerprint.of_json(raw)
    path.write_text(json.dumps(raw))


def reseal(cache, split="train", index=0):
    """Write a changed shard's size and checksum into the manifest."""

    def change(raw):
        shard = raw["splits"][split]["shards"][index]
        data = (cache / shard["file"]).read_bytes()
        shard["bytes"], shard["sha256"] = len(data), hashlib.sha256(data).hexdigest()

    rewrite_manifest(cache, change)


def write_one_split(path, count, classes):
    """A cache of one split in one shard."""
    options = {"label_names": [], "fingerprints": FINGERPRINTS, "rows_per_shard": count}
    with LogitWriter(path, classes=classes, **options) as writer:
        writer.write("train", *rows(count, classes=classes))
        writer.finish()
    return path


def test_gathers_by_id_in_the_asked_order(cache):
    _, hashes, logits = rows(25)
    asked = np.array([24, 0, 7, 7, 11])
    found = LogitCache(cache).logits("train", asked, hashes[asked])
    assert np.array_equal(found, logits[asked])
    assert found.dtype == np.float32


def test_gathers_from_shuffled_sparse_ids(tmp_path):
    order = np.random.default_rng(1).permutation(25)
    ids, hashes, logits = rows(25)
    ids = ids * 3 + 5
    with LogitWriter(
        tmp_path, classes=3, label_names=[], fingerprints=FINGERPRINTS, rows_per_shard=4
    ) as writer:
        writer.write("train", ids[order], hashes[order], logits[order])
        writer.finish()
    cache = LogitCache(tmp_path)
    assert np.array_equal(cache.split("train").ids, ids)
    assert np.array_equal(cache.split("train").row_hashes, hashes)
    assert np.array_equal(cache.logits("train", ids[::-2], hashes[::-2]), logits[::-2])
    for missing in (0, 6, 78, -1):
        with pytest.raises(CacheError, match=f"no logits for row id {missing} and 0 more of the 2"):
            cache.logits("train", [5, missing])


@pytest.mark.parametrize("missing", [25, -1, 2**62])
def test_missing_ids(cache, missing):
    with pytest.raises(CacheError, match=f"split 'train' has no logits for row id {missing} and 0 more"):
        LogitCache(cache).logits("train", [3, missing])


def test_another_row_under_the_id_is_refused(cache):
    ids, hashes, _ = rows(25)
    shuffled = hashes.copy()
    shuffled[[4, 9]] = shuffled[[9, 4]]
    with pytest.raises(CacheError) as error:
        LogitCache(cache).logits("train", ids, shuffled)
    message = str(error.value)
    assert "row id 4: the logits were cached for another row" in message
    assert f"{int(hashes[9]):016x}" in message
    assert f"{int(hashes[4]):016x}" in message
    assert str(cache) in message
    assert "2 of 25" in message


def test_bad_questions(cache):
    opened = LogitCache(cache)
    with pytest.raises(CacheError, match=r"no split 'test' .*train, validation"):
        opened.logits("test", [0])
    with pytest.raises(CacheError, match="ids must be integers"):
        opened.logits("train", [0.5])
    with pytest.raises(CacheError, match="expected 2 row hashes"):
        opened.logits("train", [0, 1], rows(3)[1])
    with pytest.raises(CacheError, match="no verification level"):
        opened.verify("deep")


def test_ids_and_hashes_as_tensors_and_signed(cache):
    torch = pytest.importorskip("torch")
    ids, hashes, logits = rows(25)
    signed = hashes.view(np.int64)
    assert (signed < 0).any()
    opened = LogitCache(cache)
    assert np.array_equal(
        opened.logits("train", torch.tensor([3, 1]), torch.from_numpy(signed)[[3, 1]]), logits[[3, 1]]
    )
    assert np.array_equal(opened.logits("train", ids.astype(np.uint8), torch.from_numpy(hashes)), logits)
    assert opened.logits("train", []).shape == (0, 3)
    for bad in (
        torch.tensor([0.5]),
        [[0, 1]],
        [[0], [1, 2]],
        [True],
        ["0"],
        [None],
        3,
        torch.tensor([0]).bool(),
    ):
        with pytest.raises(CacheError, match="ids must be integers"):
            opened.logits("train", bad)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), stride=st.sampled_from([1, 3]), first=st.sampled_from([0, 5]))
def test_gather_agrees_with_a_dictionary(tmp_path_factory, data, stride, first):
    path = tmp_path_factory.mktemp("cache")
    count = data.draw(st.integers(0, 12))
    _, hashes, logits = rows(count)
    ids = first + stride * np.array(data.draw(st.permutations(range(count))), np.int64)
    with LogitWriter(path, classes=3, label_names=[], fingerprints=FINGERPRINTS, rows_per_shard=5) as writer:
        writer.write("train", ids, hashes, logits)
        writer.finish()
    expected = dict(zip(ids.tolist(), logits.tolist(), strict=True))
    asked = data.draw(st.lists(st.integers(-2, 45) | st.sampled_from([*expected, 2**63]), max_size=6))
    if all(i in expected for i in asked):
        assert LogitCache(path).logits("train", asked).tolist() == [expected[i] for i in asked]
    else:
        with pytest.raises(CacheError, match=r"has no logits for row id|ids must be integers"):
            LogitCache(path).logits("train", asked)


def test_ids_by_content(tmp_path):
    ids, hashes, logits = rows(6)
    ids, hashes[[1, 4]], hashes[[0, 5]] = ids[::-1] * 10, 7, 2**64 - 1  # two contents are there twice
    with LogitWriter(tmp_path, classes=3, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", ids, hashes, logits)
        writer.write("empty", ids[:0], hashes[:0], logits[:0])
        writer.finish()
    cache = LogitCache(tmp_path)
    asked = hashes[[5, 3, 4, 1, 0, 2]]
    found = cache.row_ids_of("train", asked)
    assert found.tolist() == [0, 20, 10, 10, 0, 30]
    assert found.dtype == np.int64
    assert cache.row_ids_of("train", asked.view(np.int64)).tolist() == found.tolist()
    assert cache.row_ids_of("train", []).tolist() == []
    for split in ("train", "empty"):
        with pytest.raises(
            CacheError, match=rf"split '{split}' has no row with the hash 000000000000002a \(position"
        ):
            cache.row_ids_of(split, np.array([42], np.uint64))
    with pytest.raises(
        CacheError, match=r"hash 0000000000000005 \(position 1\) and 1 more of the 3 asked rows"
    ):
        cache.row_ids_of("train", np.array([7, 5, 8], np.uint64))
    with pytest.raises(CacheError, match="row hashes must be integers"):
        cache.row_ids_of("train", [0.5])


@pytest.fixture
def grouped(tmp_path, monkeypatch):
    """25 + 7 rows in shards of 10 rows, of row groups of 4, 4 and 2."""
    monkeypatch.setattr(cache_format, "rows_per_group", lambda *_: 4)
    return write_cache(tmp_path / "grouped")


def test_row_groups(grouped):
    cache = LogitCache(grouped)
    groups = cache.groups("train")
    assert [(g.shard, g.group, g.rows) for g in groups] == [
        (0, 0, 4), (0, 1, 4), (0, 2, 2), (1, 0, 4), (1, 1, 4), (1, 2, 2), (2, 0, 4), (2, 1, 1)
    ]  # fmt: skip
    assert {g.split for g in groups} == {"train"}
    for group in groups:
        part = cache.read_group(group)
        table = pq.ParquetFile(grouped / "train" / f"part-0000{group.shard}.parquet").read_row_group(
            group.group
        )
        assert part.ids.tolist() == table["id"].to_pylist()
        assert part.row_hashes.tolist() == table["row_hash"].to_pylist()
        assert part.logits.tolist() == table["logits"].to_pylist()
        assert (part.ids.dtype, part.row_hashes.dtype, part.logits.dtype) == ("int64", "uint64", "float32")
        assert not part.logits.flags.writeable


def test_no_such_row_group(grouped):
    cache = LogitCache(grouped)
    group = cache.groups("train")[2]
    changes = [{"rows": 4}, {"group": 3}, {"group": -1}, {"shard": 3}, {"shard": -1}, {"split": "test"}]
    for change in changes:
        with pytest.raises(CacheError, match=r"no row group|no split"):
            cache.read_group(replace(group, **change))
    with pytest.raises(CacheError, match="no split 'test'"):
        cache.groups("test")


def test_a_checksum_is_compared_once_while_the_file_stays(grouped, monkeypatch):
    compared, inner = [], fingerprint.of_file
    monkeypatch.setattr(fingerprint, "of_file", lambda path: compared.append(path.name) or inner(path))
    cache = LogitCache(grouped)
    groups = cache.groups("train")
    assert compared == []
    for _ in range(2):
        for group in groups:
            cache.read_group(group)
    assert compared == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    sent = pickle.loads(pickle.dumps(cache))  # to a worker process
    assert np.array_equal(sent.read_group(groups[0]).logits, cache.read_group(groups[0]).logits)
    assert len(compared) == 3
    shard = grouped / "train" / "part-00001.parquet"
    os.utime(shard, ns=(1, 1))
    cache.read_group(groups[0])
    assert len(compared) == 3
    cache.read_group(groups[3])
    assert compared[3:] == ["part-00001.parquet"]


def test_a_shard_that_is_damaged_later(grouped):
    cache = LogitCache(grouped)
    assert cache.verify("full").rows == 32
    groups = cache.groups("train")
    shard = grouped / "train" / "part-00000.parquet"
    times, data = shard.stat(), bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(CacheError, match=r"part-00000\.parquet: is damaged"):
        cache.read_group(groups[0])
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk that rots leaves no trace
    with pytest.raises(CacheError, match=r"part-00000\.parquet: is damaged"):
        cache.verify("full")


def test_a_shard_that_changes_while_it_is_read(grouped, monkeypatch):
    cache, inner = LogitCache(grouped), cache_format.decoded
    shard = grouped / "train" / "part-00000.parquet"

    def touching(*arguments):
        os.utime(shard, ns=(1, 1))
        return inner(*arguments)

    monkeypatch.setattr(cache_format, "decoded", touching)
    with pytest.raises(CacheError, match=r"part-00000\.parquet: was changed while it was read"):
        cache.read_group(cache.groups("train")[0])


def test_verification_needs_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_format, "rows_per_group", lambda *_: 64)
    logits = rows(4096, classes=500)[2]
    write_one_split(tmp_path, 4096, classes=500)
    cache = LogitCache(tmp_path)
    tracemalloc.start()
    try:
        assert cache.verify("full").rows == 4096
        needed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        cache.split("train")
        assert tracemalloc.get_traced_memory()[1] > logits.nbytes  # 8 MB: the measure sees them
    finally:
        tracemalloc.stop()
    assert needed < logits.nbytes / 3


def test_streams_and_workers_find_the_cache_again(grouped):
    cache = LogitCache(grouped)
    cache.split("train")
    sent = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 20_000  # the manifest, not the logits or footers
    assert np.array_equal(sent.logits("train", [3]), cache.logits("train", [3]))
    assert sum(len(batch.ids) for batch in sent.stream("train", 6)) == 25


def test_arrays_cannot_be_changed_by_accident(cache):
    opened = LogitCache(cache)
    with pytest.raises(ValueError, match="read-only"):
        opened.split("train").logits[0] = 0
    copy = opened.logits("train", [0])
    copy[:] = 0  # a copy
    assert opened.logits("train", [0]).any()


def test_expected_fingerprints(cache):
    assert LogitCache(cache, FINGERPRINTS).manifest.fingerprints == FINGERPRINTS
    other = Fingerprints(**{**FINGERPRINTS.model_dump(), "weights": "other"})
    with pytest.raises(CacheError) as error:
        LogitCache(cache, other)
    message = str(error.value)
    assert "another weights (weights: expected other, found wwwwwwww)" in message
    assert str(cache / "manifest.json") in message


def test_info_and_verify(cache):
    opened = LogitCache(cache)
    info = opened.info()
    assert info["rows"] == {"train": 25, "validation": 7}
    assert info["bytes"] == sum(path.stat().st_size for path in cache.rglob("*.parquet"))
    for level in ("quick", "full"):
        found = opened.verify(level)
        assert (found.shards, found.rows, found.bytes) == (4, 32, info["bytes"])


def read_all(folder):
    opened = LogitCache(folder)
    return {name: opened.split(name) for name in opened.splits}


def assert_refused(folder, match):
    with pytest.raises(CacheError, match=match):
        read_all(folder)


def test_incomplete(cache, tmp_path):
    (cache / "manifest.json").unlink()
    assert_refused(cache, r"there is no manifest\.json, so the cache is incomplete")
    assert_refused(tmp_path / "none", "no such folder")


def test_missing_truncated_and_longer_shards_are_seen_on_opening(cache):
    shard = cache / "train" / "part-00001.parquet"
    data = shard.read_bytes()
    for broken in (data[:-1], data[:10], b"", data + b"x"):
        shard.write_bytes(broken)
        with pytest.raises(
            CacheError, match=rf"part-00001\.parquet: expected {len(data)} bytes, found {len(broken)}"
        ):
            LogitCache(cache)
    shard.unlink()
    with pytest.raises(CacheError, match=r"part-00001\.parquet: the shard is missing"):
        LogitCache(cache)


def test_flipped_bit(cache):
    shard = cache / "train" / "part-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    opened = LogitCache(cache)
    for ask in (lambda: opened.split("train"), lambda: opened.verify("full")):
        with pytest.raises(CacheError, match=r"part-00001\.parquet: is damaged: expected the checksum"):
            ask()
    assert len(opened.split("validation").ids) == 7


def test_swapped_shards(cache):
    one, two = (cache / "train" / f"part-0000{k}.parquet" for k in (0, 1))
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    with pytest.raises(CacheError, match=r"expected \d+ bytes|is damaged"):
        read_all(cache)
    reseal(cache, index=0)
    reseal(cache, index=1)  # even with checksums made to fit
    with pytest.raises(CacheError, match=r"part-00000\.parquet: is not the shard that the manifest means"):
        LogitCache(cache).verify("quick")
    assert_refused(cache, "is not the shard that the manifest means")


def test_a_shard_of_another_cache(cache, tmp_path):
    other = write_cache(
        tmp_path / "other", fingerprints=Fingerprints(data="x", weights="x", preprocessing="x", code="x")
    )
    shutil.copy(other / "train" / "part-00000.parquet", cache / "train" / "part-00000.parquet")
    reseal(cache)
    assert_refused(cache, "is not the shard that the manifest means")


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["label_names"].reverse(),
        lambda raw: raw.update(classes=2),
        lambda raw: raw["fingerprints"].update(weights="other"),
        lambda raw: raw["scores"]["train"].update(accuracy=0.9),
        lambda raw: raw["splits"]["train"]["shards"].reverse(),
        lambda raw: raw["splits"]["train"]["shards"].pop(),
        lambda raw: raw["splits"].pop("train"),
        lambda raw: raw.update(extra=1),
        lambda raw: raw.pop("checksum"),
    ],
)
def test_edited_manifest(cache, change):
    rewrite_manifest(cache, change, checksum=False)
    assert_refused(cache, r"manifest\.json: was edited or damaged: its checksum")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(extra=1), "extra: Extra inputs"),
        (lambda raw: raw.update(classes="3"), "classes: Input should be a valid integer"),
        (lambda raw: raw.pop("dtype"), "dtype: Field required"),
        (lambda raw: raw["splits"]["train"]["shards"].reverse(), "shard 0 of split 'train' must be"),
        (lambda raw: raw["splits"]["train"].update(rows=24), "has 24 rows, its shards have another"),
        (lambda raw: raw["splits"]["train"]["shards"][0].update(file="../../x.parquet"), "must be 'train/"),
        (lambda raw: raw["splits"].update({"../t": raw["splits"].pop("train")}), "is no split name"),
        (lambda raw: raw.update(rows_per_shard=8), "does not fit rows_per_shard"),
        (lambda raw: raw["label_names"].pop(), "2 label names for 3 classes"),
        (lambda raw: raw.update(splits={}), "splits: "),
    ],
)
def test_edited_manifest_with_a_fitting_checksum(cache, change, message):
    rewrite_manifest(cache, change)
    assert_refused(cache, message)


def test_newer_format(cache):
    rewrite_manifest(cache, lambda raw: raw.update(format_version=2, new_thing={}))
    assert_refused(cache, r"manifest\.json: expected format version 1, found the newer 2; update kdcache")


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_no_format(cache, version):
    rewrite_manifest(cache, lambda raw: raw.update(format_version=version))
    assert_refused(cache, "is no logit cache's manifest")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '{"format_version": NaN}', "[" * 99999])
def test_manifest_that_is_none(cache, text):
    (cache / "manifest.json").write_text(text)
    assert_refused(cache, "manifest.json: is n")


def edit_shard(cache, edit):
    path = cache / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(edit(table), path)
    reseal(cache)


def test_shards_with_fitting_checksums_and_wrong_content(cache):
    edit_shard(cache, lambda table: table.slice(0, 9))
    assert_refused(cache, "expected 10 rows, found 9")
    edit_shard(cache, lambda table: table.drop_columns("row_hash"))
    assert_refused(cache, r"expected the columns id int64, row_hash uint64, .*; found id int64, logits")
    (cache / "train" / "part-00000.parquet").write_bytes(b"PAR1 no parquet PAR1")
    reseal(cache)
    assert_refused(cache, "is no whole Parquet file")


def test_non_finite_and_duplicates_with_fitting_checksums(cache):
    def nan(table):
        values = table["logits"].combine_chunks().flatten().to_numpy().copy()
        values[4] = np.nan
        return replaced(table, "logits", values)

    def twice(table):
        ids = table["id"].to_numpy().copy()
        ids[3] = 4
        return replaced(table, "id", ids)

    edit_shard(cache, twice)
    assert_refused(cache, "split 'train' has row id 4 twice")
    edit_shard(cache, nan)
    assert_refused(cache, r"part-00000\.parquet: has logits that are not finite")


def replaced(table, column, values):
    import pyarrow as pa

    kind = table.schema.field(column).type
    array = pa.FixedSizeListArray.from_arrays(values, type=kind) if column == "logits" else pa.array(values)
    return table.set_column(table.schema.get_field_index(column), table.schema.field(column), array)


def varint(value):
    """A signed integer as Parquet's footer has it: zigzag, then seven bits a byte, lowest first."""
    value, out = value << 1, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def lie(cache, rows_found, rows_claimed, times):
    """Let a shard's footer claim other numbers of rows (the first `times` places that say them)."""
    path = cache / "train" / "part-00000.parquet"
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    assert footer.count(varint(rows_found)) >= max(times, 1)
    footer = footer.replace(varint(rows_found), varint(rows_claimed), times)
    path.write_bytes(data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    reseal(cache)


@pytest.mark.parametrize("claimed", [12346, 2**33, 2**40, 2**62])
def test_a_footer_that_claims_other_rows(tmp_path, claimed):
    for times in (1, 2, 3, 4):
        cache = write_one_split(tmp_path / str(times), 12345, classes=1)
        lie(cache, 12345, claimed, times)
        for look in (
            read_all,
            lambda folder: LogitCache(folder).verify("quick"),
            lambda folder: stream_all(folder),
        ):
            with pytest.raises(
                CacheError, match=r"part-00000\.parquet: (expected 12345 rows|row group 0 says|cannot)"
            ):
                look(cache)


def stream_all(folder):
    opened = LogitCache(folder)
    return [list(opened.stream(split, 4)) for split in opened.splits]


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        (2**20, "its columns are not what its footer says|cannot be decoded"),
        (2**40, "bytes cannot hold"),
        (2**60, "bytes cannot hold"),
    ],
)
def test_absurd_sizes_on_which_all_agree(tmp_path, claimed, message):
    cache = write_one_split(tmp_path, 12345, classes=1)
    path = cache / "train" / "part-00000.parquet"
    said = json.loads(pq.ParquetFile(path).schema_arrow.metadata[b"kdcache"])
    path.write_bytes(cache_format.encode_shard(*rows(12345, classes=1), {**said, "rows_per_shard": claimed}))
    lie(cache, 12345, claimed, -1)

    def change(raw):
        raw["rows_per_shard"] = claimed
        raw["splits"]["train"]["rows"] = raw["splits"]["train"]["shards"][0]["rows"] = claimed

    rewrite_manifest(cache, change)
    for look in (read_all, lambda folder: LogitCache(folder).verify("full"), stream_all):
        with pytest.raises(CacheError, match=rf"part-00000\.parquet: .*({message})"):
            look(cache)


def test_more_rows_than_the_file_can_hold(cache, monkeypatch):
    monkeypatch.setattr(disk, "MOST_COMPRESSION", 0)
    with pytest.raises(CacheError, match=r"part-00000\.parquet: \d+ bytes cannot hold 10 rows x 3"):
        LogitCache(cache).groups("train")


def test_more_rows_than_memory_holds(cache, monkeypatch):
    def refuse(*_):
        raise MemoryError("8 TiB")

    opened = LogitCache(cache)
    opened.verify("full")
    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(
        CacheError, match=r"25 rows x 3 does not fit in memory \(8 TiB\); `stream` reads it in pieces"
    ):
        opened.split("train")


@pytest.mark.parametrize("classes", [2, 2**31, 2**40])
def test_a_manifest_with_absurd_classes(cache, classes):
    rewrite_manifest(cache, lambda raw: raw.update(classes=classes, label_names=[]))
    expected = r"part-00000\.parquet: " if classes < 2**31 else f"a row of {classes} logits is too long"
    assert_refused(cache, expected)


def test_shards_that_are_no_files(cache, tmp_path):
    shard = cache / "train" / "part-00001.parquet"
    kept = shard.rename(tmp_path / "elsewhere")
    shard.mkdir()
    with pytest.raises(CacheError, match=r"part-00001\.parquet: is no regular file"):
        LogitCache(cache)
    shard.rmdir()
    os.mkfifo(shard)
    with pytest.raises(CacheError, match=r"part-00001\.parquet: is no regular file"):
        LogitCache(cache)
    shard.unlink()
    shard.symlink_to("/dev/zero")
    with pytest.raises(CacheError, match=r"part-00001\.parquet: is no regular file"):
        LogitCache(cache)
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(CacheError, match=r"part-00001\.parquet: cannot be read"):
        LogitCache(cache)
    shard.unlink()
    shard.symlink_to(kept)  # as tools do that keep large files elsewhere: the checksum decides
    assert len(LogitCache(cache).split("train").ids) == 25
    data = bytearray(kept.read_bytes())
    data[100] ^= 1
    kept.write_bytes(data)
    with pytest.raises(CacheError, match=r"part-00001\.parquet: is damaged"):
        LogitCache(cache).split("train")


def test_a_cache_that_is_a_link(cache, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(cache, target_is_directory=True)
    assert LogitCache(link).verify("full").rows == 32


def flip(file, random):
    """Change one byte, at random or a digit into another digit (which stays valid JSON)."""
    data = bytearray(file.read_bytes())
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if file.suffix == ".json" and random.random() < 0.5:
        position = random.choice(digits)
        data[position] = 48 + (data[position] - 48 + random.integers(1, 10)) % 10
    else:
        data[random.integers(len(data))] ^= random.integers(1, 256)
    return bytes(data)


def same(one, two):
    return one.keys() == two.keys() and all(
        getattr(one[name], field).tobytes() == getattr(two[name], field).tobytes()
        for name in one
        for field in ("ids", "row_hashes", "logits")
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_byte_flips_never_change_values_silently(cache, seed):
    random = np.random.default_rng(seed)
    whole, manifest = read_all(cache), LogitCache(cache).manifest
    files = sorted(path for path in cache.rglob("*") if path.is_file() and path.name != "cost.json")
    refused = 0
    for _ in range(100):
        file = files[random.integers(len(files))]
        original = file.read_bytes()
        file.write_bytes(flip(file, random))
        try:
            found = read_all(cache)
            assert same(found, whole)
            assert LogitCache(cache).manifest == manifest
        except CacheError:
            refused += 1
        file.write_bytes(original)
    assert refused >= 95  # a flip in the manifest's white space may be harmless, nothing else


@pytest.mark.parametrize("seed", range(2))
def test_random_byte_flips_behind_fitting_checksums_give_only_cache_errors(cache, seed):
    random = np.random.default_rng(seed)
    file = cache / "train" / "part-00000.parquet"
    original, manifest = file.read_bytes(), (cache / "manifest.json").read_bytes()
    refused = 0
    for _ in range(100):
        file.write_bytes(flip(file, random))
        reseal(cache)
        try:
            LogitCache(cache).verify("quick")
            read_all(cache)
        except CacheError:
            refused += 1
        file.write_bytes(original)
        (cache / "manifest.json").write_bytes(manifest)
    assert refused > 0
