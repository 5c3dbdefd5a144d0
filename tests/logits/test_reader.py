"""The reader: the right row's logits, or one clear CacheError."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdcache import fingerprint
from kdcache.errors import CacheError
from kdcache.logits import Fingerprints, LogitCache, LogitWriter

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
    files = sorted(path for path in cache.rglob("*") if path.is_file())
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
