"""Joining: every row gets its own logits, whatever was done to the data, or there is an error."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CacheError
from kdcache.hashing.rows import hash_rows
from kdcache.logits import LogitCache, LogitWriter
from kdcache.logits.join import join
from tests.logits.conftest import FINGERPRINTS

datasets.disable_progress_bars()

N, K = 23, 3
TEXTS = [f"text {index}" for index in range(N)]
LABELS = [index % K for index in range(N)]
CONTENT: dict[str, Any] = {"columns": ["text"], "label": "label"}
TEACHER = np.random.default_rng(1).standard_normal((N, K)).astype(np.float32)
LOGITS = dict(zip(TEXTS, TEACHER, strict=True))  # what each text must get


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LogitCache:
    path = tmp_path_factory.mktemp("join") / "cache"
    order = np.random.default_rng(2).permutation(N)  # a cache's order is nobody's business
    hashes = hash_rows(data(id=None, row_hash=None), **CONTENT)
    with LogitWriter(
        path, classes=K, label_names=["a", "b", "c"], fingerprints=FINGERPRINTS, rows_per_shard=8
    ) as writer:
        writer.write("train", order, hashes[order], TEACHER[order])
        writer.finish()
    return LogitCache(path)


def data(**changes: Any) -> datasets.Dataset:
    """The rows with id and row_hash; a column that is None is left out."""
    columns: dict[str, Any] = {"text": TEXTS, "label": LABELS, "id": np.arange(N), **changes}
    whole = datasets.Dataset.from_dict(
        {name: column for name, column in columns.items() if column is not None}
    )
    if "row_hash" not in changes:
        whole = whole.add_column("row_hash", hash_rows(whole, **CONTENT))
    return whole


def assert_joined(joined: datasets.Dataset, count: int) -> None:
    found = np.asarray(joined.with_format("numpy")["teacher_logits"][:])
    assert (found.shape, found.dtype) == ((count, K), np.float32)
    np.testing.assert_array_equal(found, [LOGITS[text] for text in joined["text"]])


WAYS = {
    "by id and hash": (["id", "row_hash"], {"id_column": "id"}),
    "by hash with an id beside it": (["id", "row_hash"], {}),
    "by hash": (["row_hash"], {}),
    "by id and content": (["id"], {**CONTENT, "id_column": "id"}),
    "by content with an id beside it": (["id"], CONTENT),
    "by content": ([], CONTENT),
    "by all content": (["row_hash"], {"label": "label"}),
    "by id alone": (["id"], {"hash_column": None}),
}
CHANGES = {
    "nothing": lambda rows: rows,
    "shuffled": lambda rows: rows.shuffle(seed=3),
    "filtered": lambda rows: rows.filter(lambda row: row["label"] != 1),
    "sharded": lambda rows: rows.shard(4, 1),
    "sorted": lambda rows: rows.sort("text", reverse=True),
    "repeated": lambda rows: rows.repeat(2).shuffle(seed=4),
    "batched": lambda rows: rows.map(lambda row: {"length": len(row["text"])}).remove_columns("length"),
    "formatted": lambda rows: rows.shuffle(seed=5).with_format("torch"),
    "joined": lambda rows: datasets.concatenate_datasets([rows.select([9, 2]), rows.shuffle(seed=6)]),
    "none": lambda rows: rows.select([]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_data_set_gets_every_rows_own_logits(cache: LogitCache, way: str, change: str) -> None:
    kept, options = WAYS[way]
    changed = CHANGES[change](data().select_columns(["text", "label", *kept]))
    joined = join(cache, changed, **options)
    assert joined.column_names == [*changed.column_names, "teacher_logits"]
    assert joined.features["teacher_logits"] == datasets.List(datasets.Value("float32"), length=K)
    assert joined.format["type"] == changed.format["type"]
    assert joined["text"][:] == changed["text"][:]
    if len(changed):
        assert_joined(joined, len(changed))
    else:
        assert len(joined) == 0


def batches(rows: datasets.Dataset, **options: Any) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(rows, batch_size=4, **options)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, N - 1), max_size=2 * N), st.sampled_from(sorted(WAYS)), st.booleans())
def test_any_selection_of_rows(cache: LogitCache, chosen: list[int], way: str, loader: bool) -> None:
    kept, options = WAYS[way]
    rows = data().select_columns(["text", "label", *kept]).select(chosen)
    expected = [TEACHER[row] for row in chosen]
    if loader:  # the torch format makes int64 of the uint64 hashes, with the same bits
        found = [
            row
            for batch in join(cache, batches(rows.with_format("torch")), **options)
            for row in batch["teacher_logits"]
        ]
    else:
        found = join(cache, rows, **options).with_format("numpy")["teacher_logits"][:]
    np.testing.assert_array_equal(np.asarray(found).reshape(-1, K), np.reshape(expected, (-1, K)))


def test_a_shuffled_data_set_is_not_written_again(cache: LogitCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def flatten(*arguments: Any, **options: Any) -> None:
        raise AssertionError("some thousand rows a second")

    monkeypatch.setattr(datasets.Dataset, "flatten_indices", flatten)
    rows = data().shuffle(seed=1).select(range(5, N)).with_format("numpy", columns=["label"])
    joined = join(cache, rows, **CONTENT)
    assert joined.data.column("text").equals(rows.data.column("text"))
    assert joined.format["columns"] == ["label", "teacher_logits"]
    assert_joined(joined.with_format(None), N - 5)


def test_a_small_part_of_a_large_data_set_is(cache: LogitCache) -> None:
    joined = join(cache, data().select([7, 3]), **CONTENT)
    assert_joined(joined, 2)
    assert joined.data.num_rows == 2


def test_the_logits_survive_what_comes_after_the_join(cache: LogitCache, tmp_path: Path) -> None:
    joined = join(cache, data()).shuffle(seed=1).filter(lambda row: row["label"] == 2)
    assert_joined(joined, len([label for label in LABELS if label == 2]))
    joined.save_to_disk(tmp_path / "joined")
    assert_joined(datasets.load_from_disk(tmp_path / "joined"), len(joined))


def test_rows_that_changed_are_refused(cache: LogitCache) -> None:
    edited = data(text=[*TEXTS[:7], "edited", *TEXTS[8:]])
    by_id: dict[str, Any] = {"id_column": "id"}
    for kept, options in (["id", "row_hash"], by_id), (["id"], {**CONTENT, **by_id}):
        with pytest.raises(CacheError, match="row id 7: the logits were cached for another row"):
            join(cache, edited.select_columns(["text", "label", *kept]), **options)
    for kept, options in (["id", "row_hash"], {}), (["id"], CONTENT), ([], CONTENT):
        with pytest.raises(CacheError, match=r"no row with the hash [0-9a-f]{16} \(position 7[^)]*\)"):
            join(cache, edited.select_columns(["text", "label", *kept]), **options)
    stale = data(text=edited["text"][:], row_hash=data().with_format("arrow")[:]["row_hash"])
    with pytest.raises(CacheError, match="position 7"):  # an old hash column does not hide it
        join(cache, stale, **CONTENT)
    with pytest.raises(CacheError, match="position 0"):
        join(cache, data(label=[2, *LABELS[1:]]))


def test_ids_that_are_named_must_be_right(cache: LogitCache) -> None:
    renumbered = data(id=np.arange(N)[::-1].copy())
    with pytest.raises(CacheError, match="row id 22: the logits were cached for another row"):
        join(cache, renumbered, id_column="id")
    with pytest.raises(
        CacheError, match=r"cannot be checked without row hashes; the data have .*hash_column=None"
    ):
        join(cache, renumbered.remove_columns("row_hash"))
    with pytest.raises(CacheError, match="row id 1000"):
        join(cache, data(id=1000 + np.arange(N)), id_column="id")
    with pytest.raises(CacheError, match="ids must be integers"):
        join(cache, data(id=[str(index) for index in range(N)]), id_column="id")


OWN_IDS: dict[str, list[Any]] = {
    "texts": [f"doc-{index}" for index in range(N)],
    "an offset": list(range(1000, 1000 + N)),
    "permuted": list(range(N))[::-1],
    "negative": list(range(-5, N - 5)),
    "missing": [None, *range(1, N)],
    "the same": list(range(N)),
}


@pytest.mark.parametrize("ids", OWN_IDS.values(), ids=OWN_IDS)
@pytest.mark.parametrize("by_hash", [True, False])
def test_an_id_of_the_users_own_is_not_taken_for_ours(
    cache: LogitCache, ids: list[Any], by_hash: bool
) -> None:
    rows = data(id=ids) if by_hash else data(id=ids, row_hash=None)
    options = {} if by_hash else CONTENT
    assert_joined(join(cache, rows.shuffle(seed=1), **options), N)
    kept = rows.remove_columns("id") if ids[0] is None else rows  # torch has no missing values
    for batch in join(cache, batches(kept.with_format("torch")), **options):
        np.testing.assert_array_equal(batch["teacher_logits"], [LOGITS[text] for text in batch["text"]])


def test_a_row_hash_of_the_users_own(cache: LogitCache) -> None:
    own = data(row_hash=[f"h{index}" for index in range(N)])
    assert_joined(join(cache, own, **CONTENT), N)
    with pytest.raises(CacheError, match="if it is one of your own, say with columns= and label="):
        join(cache, own)


def test_an_id_chooses_among_rows_of_one_content(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "a"], "id": [0, 1, 2]})
    hashes = hash_rows(rows, ["text"])
    rows = rows.add_column("row_hash", hashes)
    logits = np.arange(6, dtype=np.float32).reshape(3, 2)
    with LogitWriter(tmp_path, classes=2, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0, 1, 2], hashes, logits)
        writer.finish()
    cache = LogitCache(tmp_path)
    turned = rows.select([2, 1, 0])
    np.testing.assert_array_equal(join(cache, turned)["teacher_logits"][:], logits[::-1])
    np.testing.assert_array_equal(
        join(cache, turned, columns=["text"])["teacher_logits"][:], logits[[0, 1, 0]]
    )


# ---- tables and lists of rows ----


def frames() -> dict[str, Any]:
    shuffled = data(id=None, row_hash=None).shuffle(seed=2)
    table = shuffled.with_format("arrow")[:]
    return {
        "arrow": table,
        "record batch": table.combine_chunks().to_batches()[0],
        "pandas": shuffled.to_pandas(),
        "pandas with an index": shuffled.to_pandas().sample(frac=1, random_state=0),
        "polars": shuffled.to_polars(),
    }


@pytest.mark.parametrize("kind", ["arrow", "record batch", "pandas", "pandas with an index", "polars"])
def test_a_table_gets_a_column(cache: LogitCache, kind: str) -> None:
    frame = frames()[kind]
    joined = join(cache, frame, **CONTENT)
    assert isinstance(joined, pa.Table if kind == "record batch" else type(frame))
    texts, found = list(joined["text"]), list(joined["teacher_logits"])
    if kind in ("arrow", "record batch"):
        texts, found = joined["text"].to_pylist(), joined["teacher_logits"].to_pylist()
    np.testing.assert_array_equal(np.asarray(found, np.float32), [LOGITS[text] for text in texts])
    assert "teacher_logits" not in list(frame.schema.names if isinstance(joined, pa.Table) else frame.columns)
    if kind.startswith("pandas"):
        assert list(joined.index) == list(frame.index)
    with pytest.raises(CacheError, match="already"):
        join(cache, joined, **CONTENT)
    with pytest.raises(CacheError, match="no column 'other'"):
        join(cache, frame, columns=["other"])


def test_a_list_of_rows(cache: LogitCache) -> None:
    rows = data(row_hash=None).shuffle(seed=2).to_list()
    for row, joined in zip(rows, join(cache, rows, **CONTENT), strict=True):
        assert joined == {**row, "teacher_logits": joined["teacher_logits"]}
        np.testing.assert_array_equal(joined["teacher_logits"], LOGITS[row["text"]])
    pairs = [(row["text"], row["label"]) for row in rows]
    for pair, joined in zip(pairs, join(cache, pairs, columns=[0], label=1), strict=True):
        assert joined[:2] == pair
        np.testing.assert_array_equal(joined[2], LOGITS[pair[0]])
    with pytest.raises(CacheError, match="row 3: no column 'text'"):
        join(cache, [*rows[:3], {"label": 1}], **CONTENT)
    with pytest.raises(CacheError, match="no row with the hash"):
        join(cache, [{"text": "other", "label": 1}], **CONTENT)


class MapStyle(torch.utils.data.Dataset):
    """A torch data set whose index never raises, and which counts how often it is asked."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows, self.asked = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return self.rows[index % len(self.rows)]


def test_a_torch_data_set(cache: LogitCache) -> None:
    rows = [data().select_columns(["text", "label"])[index] for index in (3, 5, 5)]
    mine = MapStyle(rows)
    joined = join(cache, mine, columns=["text"], label="label")
    before = mine.asked
    assert len(joined) == 3
    for index, row in enumerate(rows):
        found = joined[index]
        torch.testing.assert_close(found.pop("teacher_logits"), torch.tensor(LOGITS[row["text"]]))
        assert found == row
    assert mine.asked == before + 3  # rows are read when they are asked for
    pairs = join(cache, MapStyle([(row["text"], row["label"]) for row in rows]), columns=[0], label=1)
    torch.testing.assert_close(pairs[1][2], torch.tensor(LOGITS[rows[1]["text"]]))
    loaded = torch.utils.data.DataLoader(joined, batch_size=2)
    np.testing.assert_array_equal(
        torch.cat([batch["teacher_logits"] for batch in loaded]),
        np.stack([LOGITS[row["text"]] for row in rows]),
    )
    changed = MapStyle([{**rows[0], "text": "another"}])
    with pytest.raises(CacheError, match="no row with the hash"):
        join(cache, changed, columns=["text"], label="label")


def test_every_split_of_a_mapping(cache: LogitCache) -> None:
    joined = join(cache, datasets.DatasetDict(train=data().select([4, 2])))
    assert isinstance(joined, datasets.DatasetDict)
    assert_joined(joined["train"], 2)
    frames = join(cache, {"train": data().to_pandas()})
    np.testing.assert_array_equal(np.stack(frames["train"]["teacher_logits"]), TEACHER)


def test_a_frame_of_values_that_have_no_one_type(cache: LogitCache) -> None:
    frame = pd.DataFrame({"text": ["a", 1], "label": [0, 1]})
    with pytest.raises(CacheError, match="cannot be read as an Arrow table"):
        join(cache, frame, **CONTENT)


def test_another_data_set_is_refused(cache: LogitCache) -> None:
    other = data(text=[f"other {index}" for index in range(N)])
    with pytest.raises(CacheError, match="23 of 23 asked rows differ"):
        join(cache, other, id_column="id")
    with pytest.raises(CacheError, match="and 22 more of the 23 asked rows"):
        join(cache, other)
    with pytest.raises(CacheError):
        join(cache, other.remove_columns("id"))


def test_what_cannot_be_joined(cache: LogitCache) -> None:
    with pytest.raises(
        CacheError, match=r"nothing tells which rows these are: expected row hashes in 'row_hash'"
    ):
        join(cache, data().select_columns(["text"]))
    with pytest.raises(CacheError, match="there is a column 'text' already"):
        join(cache, data(), column="text")
    with pytest.raises(CacheError, match="already"):
        join(cache, join(cache, data()))
    with pytest.raises(CacheError, match="row hashes must be uint64"):
        join(cache, data(row_hash=["x"] * N))
    with pytest.raises(CacheError, match="no split 'test'"):
        join(cache, data(), "test")
    with pytest.raises(CacheError, match="no split 'test'"):
        join(cache, datasets.DatasetDict(train=data(), test=data()))
    for other, kind in ((5, "int"), ({"text": ["a"], "label": [0]}, "dict"), ("train.csv", "str")):
        with pytest.raises(CacheError, match=f"cannot join logits to a {kind}"):
            join(cache, other)


def test_other_names(cache: LogitCache) -> None:
    renamed = data().rename_columns({"id": "uid", "row_hash": "hash"})
    joined = join(cache, renamed, column="soft", id_column="uid", hash_column="hash")
    assert_joined(joined.rename_column("soft", "teacher_logits"), N)


# ---- loaders ----


def test_a_loader_of_texts_by_their_content(cache: LogitCache) -> None:
    loader = batches(data().select_columns(["text", "label"]), shuffle=True)
    joined = join(cache, loader, **CONTENT)
    assert len(joined) == len(loader) == 6
    for _ in range(2):  # epochs, in different orders
        seen = []
        for batch in joined:
            assert batch["teacher_logits"].dtype == torch.float32
            np.testing.assert_array_equal(batch["teacher_logits"], [LOGITS[text] for text in batch["text"]])
            seen += batch["text"]
        assert sorted(seen) == sorted(TEXTS)


def test_a_loader_with_workers_and_a_collate_function(cache: LogitCache) -> None:
    rows = data()

    def collate(items: list[dict[str, Any]]) -> UserDict[str, Any]:  # a tokenizer's BatchEncoding is one
        return UserDict({name: [item[name] for item in items] for name in ("text", "id", "row_hash")})

    loader = batches(
        rows, collate_fn=collate, sampler=[5, 5, 0, 22, 13], num_workers=1, multiprocessing_context="fork"
    )
    found = list(join(cache, loader))
    assert [type(batch) for batch in found] == [UserDict, UserDict]
    texts = [text for batch in found for text in batch["text"]]
    assert texts == [TEXTS[row] for row in (5, 5, 0, 22, 13)]
    np.testing.assert_array_equal(
        torch.cat([b["teacher_logits"] for b in found]), [LOGITS[text] for text in texts]
    )


def test_batches_are_not_changed_and_need_not_be_a_loaders(cache: LogitCache) -> None:
    plain = [{"id": np.array([3, 1])}, {"id": [torch.tensor(2)]}]
    found = list(join(cache, plain, hash_column=None))
    np.testing.assert_array_equal(found[0]["teacher_logits"], TEACHER[[3, 1]])
    np.testing.assert_array_equal(found[1]["teacher_logits"], TEACHER[[2]])
    assert [list(batch) for batch in plain] == [["id"], ["id"]]

    def endless() -> Iterator[dict[str, Any]]:
        yield from plain

    with pytest.raises(TypeError):
        len(join(cache, endless(), hash_column=None))


def test_the_logits_go_where_the_ids_are(cache: LogitCache) -> None:
    class Elsewhere(
        torch.Tensor
    ):  # this machine has one device; a tensor that claims another shows who is asked
        device = torch.device("meta")

    batch = {"x": torch.zeros(2), "id": torch.tensor([1, 2]).as_subclass(Elsewhere)}
    assert next(iter(join(cache, [batch], hash_column=None)))["teacher_logits"].device.type == "meta"
    batch = {"row_hash": data()["row_hash"][:2], "x": torch.zeros(2, device="meta")}
    assert next(iter(join(cache, [batch])))["teacher_logits"].device.type == "meta"


def test_batches_that_are_refused(cache: LogitCache) -> None:
    def first(batch: Any, **options: Any) -> Any:
        return list(join(cache, [batch], **options))

    hashes = data()["row_hash"][:]
    with pytest.raises(CacheError, match=r"batch 0: .*row id 1: the logits were cached for another row"):
        first({"id": [0, 1], "row_hash": [hashes[0], hashes[2]]}, id_column="id")
    with pytest.raises(CacheError, match=r"batch 1: .*no logits for row id 99"):
        list(join(cache, [{"id": [1]}, {"id": [99]}], hash_column=None))
    with pytest.raises(CacheError, match=r"batch 0: .*nothing tells which rows"):
        first({"text": ["a"]})
    with pytest.raises(CacheError, match="cannot be checked without row hashes"):
        first({"id": [1]})
    with pytest.raises(CacheError, match="already"):
        first({"id": [1], "teacher_logits": 0}, hash_column=None)
    with pytest.raises(CacheError, match=r"no \['label'\] in the batch, which has \['id', 'text'\]"):
        first({"id": [1], "text": ["a"]}, **CONTENT)
    with pytest.raises(CacheError, match=r"batch 0: column 'text' of the batch holds builtins\.int"):
        next(iter(join(cache, iter([{"text": 5, "label": [1]}]), **CONTENT)))
    with pytest.raises(CacheError, match=r"batch 0: the batch's columns have different lengths"):
        first({"text": ["a"], "label": [1, 2]}, **CONTENT)
    with pytest.raises(CacheError, match="expected a mapping from column to values, found list"):
        first([torch.zeros(2)])
    with pytest.raises(CacheError, match="ids must be integers"):
        first({"id": torch.tensor([0.5])}, hash_column=None)
    with pytest.raises(CacheError, match="ids must be integers"):
        next(iter(join(cache, iter([{"id": torch.tensor(1)}]), hash_column=None)))


# ---- float32 ----


@pytest.mark.parametrize("values", [[[0.1, 0.7], [0.2, 0.3]], [0.1, 0.2]], ids=["lists", "numbers"])
def test_float32_that_was_cached_as_float64_is_explained(values: list[Any], tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"x": values, "label": [0, 1]})
    by: dict[str, Any] = {"columns": ["x"], "label": "label"}
    with LogitWriter(tmp_path, classes=K, label_names=[], fingerprints=FINGERPRINTS) as writer:
        writer.write("train", [0, 1], hash_rows(rows, **by), TEACHER[:2])
        writer.finish()
    cache, tensors = LogitCache(tmp_path), rows.with_format("torch")
    np.testing.assert_array_equal(join(cache, tensors, **by)["teacher_logits"][:], TEACHER[:2])
    for data in (batches(tensors), list(tensors), batches(tensors, collate_fn=lambda items: {
        name: [item[name] for item in items] for name in items[0]
    })):  # fmt: skip
        with pytest.raises(
            CacheError, match=r"These columns hold float32: 'x'. .* join the rows before they are"
        ):
            list(join(cache, data, **by))
    other = [{"x": value, "label": 2} for value in values]
    with pytest.raises(CacheError, match=r"no row with the hash .* cache the logits of this data$"):
        join(cache, other, **by)
