"""Views: the student's input is bit for bit the teacher's, beside the logits of exactly that view."""

import hashlib
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from kdcache import Augmentation, AugmentedDataset, LogitCache, LogitWriter, write_logits
from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.hashing.rows import hash_row
from kdcache.logits import format as cache_format
from kdcache.logits import manifests, records, replay, view_seed
from tests.launching import run_side_by_side

from .conftest import FINGERPRINTS, rows, write_cache
from .test_writer import contents

ROWS, VIEWS, SEED = 30, 3, 7
AUGMENTATION = Augmentation(views=VIEWS, seed=SEED, description="pad 2, crop 8, flip, scale")


def crop_and_flip(image: torch.Tensor) -> torch.Tensor:
    """Pad by 2 and crop at random, flip, and scale: each step with another library's random numbers."""
    padded = torch.nn.functional.pad(image.float(), (2, 2, 2, 2))
    top, left = torch.randint(0, 5, (2,)).tolist()
    crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    if np.random.rand() < 0.5:
        crop = crop.flip(2)
    return crop * random.uniform(0.5, 1.5)


class Net(torch.nn.Module):
    """Three classes of an image; remembers the inputs it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3 * 8 * 8, 3)
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(image)
        return self.linear(image.flatten(1))


def images(count: int = ROWS) -> list[dict]:
    values = np.random.default_rng(1).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return [{"image": torch.from_numpy(values[i]), "label": i % 3} for i in range(count)]


def write(path: Path, net: Net | None = None, data: object = None, **options: object) -> LogitCache:
    defaults = {
        "label": "label",
        "batch_size": 4,
        "rows_per_shard": 8,
        "augment": crop_and_flip,
        "augment_column": "image",
        "augmentation": AUGMENTATION,
    }
    return write_logits(net or Net(), images() if data is None else data, path, **{**defaults, **options})


def student(cache: LogitCache, data: object = None, **options: object) -> AugmentedDataset:
    defaults = {"augment_column": "image", "columns": ["image"], "label": "label"}
    return AugmentedDataset(
        cache, images() if data is None else data, crop_and_flip, **{**defaults, **options}
    )


def by_content(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> tuple[LogitCache, Net]:
    net = Net()
    return write(tmp_path_factory.mktemp("taught") / "cache", net), net


@pytest.fixture(scope="module")
def views(tmp_path_factory) -> LogitCache:
    """A cache by hand: 25 rows of 2 views and 3 classes in shards of 10."""
    path = tmp_path_factory.mktemp("views") / "cache"
    ids, hashes, _ = rows(25)
    with LogitWriter(path, **by_hand()) as writer:
        writer.write("train", ids, hashes, values(25))
        writer.finish()
    return LogitCache(path)


def by_hand(**options: object) -> dict:
    defaults = {"classes": 3, "label_names": ["a", "b", "c"], "rows_per_shard": 10}
    augmentation = Augmentation(views=2, seed=SEED, description="by hand")
    return {**defaults, "fingerprints": FINGERPRINTS, "augmentation": augmentation, **options}


def values(count: int, views: int = 2, classes: int = 3) -> np.ndarray:
    """Logits whose value says whose they are: 100 i + 10 v + k."""
    i, v, k = np.indices((count, views, classes))
    return (100 * i + 10 * v + k).astype(np.float32)


# ---- seeds and replay ----


@pytest.mark.parametrize(("seed", "row_id", "view"), [(0, 0, 0), (7, 17, 3), (2**63 - 1, 2**62, 999)])
def test_a_views_seed_is_what_the_format_says(seed, row_id, view):
    digest = hashlib.sha256(b"%d:%d:%d" % (seed, row_id, view)).hexdigest()
    from_the_left = bytes.fromhex(digest[:16])[::-1].hex()  # little-endian, written as one number
    assert view_seed(seed, row_id, view) == int(from_the_left, 16) % 2**63


def test_a_known_seed():
    """For readers in other languages; printf '0:17:3' | sha256sum begins with 7324cee7a079801b."""
    assert view_seed(0, 17, 3) == 0x1B8079A0E7CE2473


def draws() -> list:
    return [
        random.random(),
        random.gauss(0, 1),
        *np.random.rand(2).tolist(),
        np.random.randn(),
        *torch.rand(2).tolist(),
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), before=st.integers(0, 3))
def test_replay_depends_on_the_seed_alone_and_uses_nothing_up(seed, before):
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(5)
    expected = [draws() for _ in range(before + 2)]
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(5)
    first = replay(lambda _: draws(), None, seed)
    found = [draws() for _ in range(before + 1)]
    assert replay(lambda _: draws(), None, seed) == first
    assert [*found, draws()] == expected
    assert first not in expected


def test_another_seed_gives_another_input_in_each_library():
    """And no library has another's numbers: decisions that one makes must not follow another's."""
    seeds = [1, 2, view_seed(0, 0, 0), view_seed(0, 0, 1)]
    found = [number for seed in seeds for number in replay(lambda _: draws(), None, seed)]
    assert len(set(found)) == len(found)


def test_a_failing_augmentation_leaves_the_generators_as_they_were():
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(5)
    expected = draws()
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(5)
    with pytest.raises(ZeroDivisionError):
        replay(lambda _: draws() and 1 / 0, None, 3)
    assert draws() == expected


# ---- what the student gets ----


def test_the_student_sees_exactly_what_the_teacher_saw(taught):
    cache, net = taught
    data = student(cache)
    teachers = [by_content(image) for batch in net.seen[1:] for image in batch]  # the first was a look
    assert len(set(teachers)) == ROWS * VIEWS
    students = []
    for epoch in range(VIEWS):
        data.set_epoch(epoch)
        for row in (data[i] for i in range(ROWS)):
            students.append(by_content(row["image"]))
            expected = net.linear(row["image"].flatten())
            torch.testing.assert_close(row["teacher_logits"], expected, rtol=1e-5, atol=1e-4)
    assert sorted(students) == sorted(teachers)


def test_a_view_is_the_transform_under_its_seed(taught):
    data = student(taught[0])
    data.set_epoch(VIEWS + 1)
    assert data.view == 1
    row = data[17]
    expected = replay(crop_and_flip, images()[17]["image"], view_seed(SEED, 17, 1))
    assert torch.equal(row["image"], expected)
    assert row["label"] == 17 % 3
    assert row["teacher_logits"].numpy().tolist() == taught[0].logits("train", [17])[0, 1].tolist()


def seen_in(loader: DataLoader, data: AugmentedDataset, epochs: int) -> list[set]:
    """What each epoch consists of: (image, label, logits), in any order."""
    found = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        rows = itertools.chain.from_iterable(
            zip(batch["image"], batch["label"].tolist(), batch["teacher_logits"].tolist(), strict=True)
            for batch in loader
        )
        found.append({(by_content(image), label, tuple(logits)) for image, label, logits in rows})
    return found


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"batch_size": 7, "shuffle": True}, id="shuffled"),
        pytest.param({"batch_size": 4, "num_workers": 2}, id="workers"),
        pytest.param(
            {
                "batch_size": 5,
                "shuffle": True,
                "num_workers": 2,
                "persistent_workers": True,
                "multiprocessing_context": "fork",
            },
            id="forked workers that stay",
        ),
        pytest.param(
            {
                "batch_size": 9,
                "num_workers": 1,
                "persistent_workers": True,
                "multiprocessing_context": "spawn",
            },
            id="a spawned worker that stays",
        ),
    ],
)
def test_neither_order_nor_workers_change_a_row(taught, options):
    data = student(taught[0])
    expected = []
    for epoch in range(VIEWS):
        data.set_epoch(epoch)
        expected.append(
            {
                (by_content(row["image"]), row["label"], tuple(row["teacher_logits"].tolist()))
                for row in (data[i] for i in range(ROWS))
            }
        )
    assert all(len(epoch) == ROWS for epoch in expected)
    assert not set.intersection(*expected)
    found = seen_in(DataLoader(data, **options), data, VIEWS + 1)
    assert found == [*expected, expected[0]]


def test_getting_rows_draws_no_random_numbers(taught):
    data = student(taught[0])
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = draws()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    data.__getitems__([4, 2])
    assert draws() == expected


def test_a_filtered_and_shuffled_data_set_keeps_its_views(taught):
    """Ids are found by content: a row's views follow it to any place."""
    whole = student(taught[0])
    chosen = [21, 3, 28, 3]
    part = student(taught[0], [images()[i] for i in chosen])
    for place, i in enumerate(chosen):
        assert torch.equal(part[place]["image"], whole[i]["image"])
        assert torch.equal(part[place]["teacher_logits"], whole[i]["teacher_logits"])


def test_rows_with_ids_and_hashes_of_their_own(taught):
    data = [{**row, "id": i, "row_hash": hash_row(row, ["image"], "label")} for i, row in enumerate(images())]
    found, expected = student(taught[0], data, columns=None, label=None), student(taught[0])
    for i in (0, 13, 29):
        assert torch.equal(found[i]["image"], expected[i]["image"])
    data[13]["row_hash"] = 5
    with pytest.raises(CacheError, match=r"no row with the hash 0000000000000005 .*its id 13"):
        found[13]


def test_tuples_by_position(tmp_path):
    pairs = [(row["image"], row["label"]) for row in images(8)]
    net = Net()
    cache = write(tmp_path / "cache", net, pairs, augment_column=0, label=1)
    data = student(cache, pairs, augment_column=0, columns=[0], label=1)
    image, label, logits = data[5]
    assert label == 5 % 3
    assert torch.equal(image, replay(crop_and_flip, pairs[5][0], view_seed(SEED, 5, 0)))
    torch.testing.assert_close(logits, net.linear(image.flatten()), rtol=1e-5, atol=1e-4)
    listed = student(cache, [list(pair) for pair in pairs], augment_column=0, columns=[0], label=1)[5]
    assert isinstance(listed, list)
    assert torch.equal(listed[0], image)


def whole_row(row: dict) -> dict:
    return {**row, "image": crop_and_flip(row["image"])}


def test_an_augmentation_of_whole_rows_in_a_datasets_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(
        [{"image": row["image"].tolist(), "label": row["label"]} for row in images(8)]
    )
    data = data.with_format("torch")  # the hashes cover what is stored, whatever the format
    options = {"augment": whole_row, "augment_column": None}
    net = Net()
    cache = write(tmp_path / "cache", net, data, **options, columns=["image"])
    found = AugmentedDataset(cache, data, whole_row, columns=["image"], label="label")
    for row in (found[i] for i in range(8)):
        expected = net.linear(row["image"].flatten())
        torch.testing.assert_close(row["teacher_logits"], expected, rtol=1e-5, atol=1e-4)


def flip_in_place(image: np.ndarray) -> np.ndarray:
    if np.random.rand() < 0.5:
        image[:] = image[:, :, ::-1].copy()
    return image


def test_an_augmentation_may_work_in_place(tmp_path):
    data = [{"image": row["image"].numpy().astype(np.float32), "label": row["label"]} for row in images(6)]
    before = [row["image"].copy() for row in data]
    net = Net()
    cache = write(tmp_path / "cache", net, data, augment=flip_in_place)
    found = AugmentedDataset(
        cache, data, flip_in_place, augment_column="image", columns=["image"], label="label"
    )
    for epoch in range(VIEWS):
        found.set_epoch(epoch)
        for row in (found[i] for i in range(6)):
            expected = net.linear(torch.tensor(row["image"].flatten()))
            torch.testing.assert_close(row["teacher_logits"], expected, rtol=1e-5, atol=1e-4)
    assert all((row["image"] == image).all() for row, image in zip(data, before, strict=True))


# ---- what is refused ----


def test_a_row_that_is_another_or_changed_is_refused(taught):
    data = images()
    data[3]["image"][0, 0, 0] ^= 1
    data[4]["label"] = 2
    found = student(taught[0], data)
    for index in (3, 4):
        with pytest.raises(CacheError, match="has no row with the hash"):
            found[index]
    found[5]


def test_rows_that_were_augmented_already_are_refused(taught):
    data = [{**row, "image": crop_and_flip(row["image"])} for row in images()]
    with pytest.raises(CacheError, match="has no row with the hash"):
        student(taught[0], data)[0]


def test_what_makes_no_augmented_data_set(taught, tmp_path):
    cache = taught[0]
    with pytest.raises(CacheError, match="has no views: its logits are of the rows as they are"):
        student(LogitCache(write_cache(tmp_path / "plain")))
    with pytest.raises(CacheError, match="no split 'test' in this cache"):
        student(cache, split="test")
    with pytest.raises(CacheError, match=r"no column 'picture' to augment.*'image', 'label'"):
        student(cache, augment_column="picture")[0]
    with pytest.raises(CacheError, match="nothing tells which rows these are"):
        student(cache, columns=None, label=None)[0]
    with pytest.raises(CacheError, match="already"):
        student(cache, column="label")[0]
    with pytest.raises(CacheError, match="made a Tensor of a row"):
        AugmentedDataset(cache, images(), lambda row: row["image"], columns=["image"], label="label")[0]
    for epoch in (-1, 1.0, True):
        with pytest.raises(CacheError, match="an epoch must be an integer of 0 or more"):
            student(cache).set_epoch(epoch)


GENERATOR = np.random.default_rng(0)


def of_its_own(image: torch.Tensor) -> torch.Tensor:
    return image.float() * GENERATOR.random()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": of_its_own}, "does not replay: under one seed it made 8 different inputs of row id 0"),
        ({"augment_column": "picture"}, "no column 'picture' to augment"),
        ({"augment": None}, "views need both `augment`.*and `augmentation`"),
        ({"augmentation": None}, "views need both"),
        ({"augment": None, "augmentation": None}, "`augment_column` only with them"),
    ],
)
def test_what_makes_no_views(tmp_path, options, message):
    with pytest.raises(CacheError, match=message):
        write(tmp_path / "cache", **options)


# ---- writing ----


def test_interrupted_and_completed_it_has_the_same_bytes(tmp_path):
    class Interrupted(Net):
        def forward(self, image):
            if len(self.seen) > 15:  # a look, two shards of 2 batches x 3 views, and a part of the third
                raise KeyboardInterrupt
            return super().forward(image)

    write(tmp_path / "whole")
    before = contents(tmp_path / "whole")
    prints = LogitCache(tmp_path / "whole").manifest.fingerprints
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", Interrupted(), fingerprints=prints)
    left = contents(tmp_path / "cache")
    assert 0 < len(left) < 4
    assert "manifest.json" not in left
    net = Net()
    write(tmp_path / "cache", net)
    after = contents(tmp_path / "cache")
    assert {name: data for name, data in after.items() if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert LogitCache(tmp_path / "cache").identity == LogitCache(tmp_path / "whole").identity
    assert len(net.seen) - 1 == 3 * (8 - 2 * len(left))  # of 8 batches x 3 views, less the kept shards'


@pytest.mark.parametrize(
    "other",
    [
        Augmentation(views=VIEWS, seed=SEED + 1, description=AUGMENTATION.description),
        Augmentation(views=VIEWS, seed=SEED, description="something else"),
        None,
    ],
)
def test_shards_of_another_augmentation_are_not_kept(tmp_path, other):
    """Even where the caller's fingerprints say nothing of it."""
    write(tmp_path / "cache", fingerprints=FINGERPRINTS)
    (tmp_path / "cache" / "manifest.json").unlink()
    net = Net()
    options = {} if other else {"augment": None, "augment_column": None, "collate": plain_batch}
    cache = write(tmp_path / "cache", net, fingerprints=FINGERPRINTS, augmentation=other, **options)
    assert len(net.seen) - 1 == 8 * (VIEWS if other else 1)
    with pytest.raises(CacheError, match="differs in augmentation"):
        write(tmp_path / "cache", fingerprints=FINGERPRINTS)
    assert cache.views == (VIEWS if other else None)


def plain_batch(rows: list[dict]) -> torch.Tensor:
    return torch.stack([row["image"].float() for row in rows])


def test_scores_are_of_all_views(tmp_path):
    seen = {}

    def score(split: str, logits: np.ndarray) -> dict[str, float]:
        seen[split] = logits
        return {}

    cache = write(tmp_path / "cache", score=score)
    assert np.array_equal(seen["train"], cache.logits("train", np.arange(ROWS)))
    assert seen["train"].shape == (ROWS, VIEWS, 3)


SCRIPT = """
import sys
from pathlib import Path
from tests.logits.test_views import write
write(Path(sys.argv[1]))
"""


def test_two_processes_write_the_bytes_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run_side_by_side(tmp_path / "script.py", tmp_path / "two")
    assert write(tmp_path / "one").identity == LogitCache(tmp_path / "two").identity


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 23),
    views=st.integers(1, 5),
    classes=st.integers(1, 4),
    rows_per_shard=st.integers(1, 12),
    batch=st.integers(1, 9),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_round_trip(tmp_path_factory, count, views, classes, rows_per_shard, batch, dtype, seed):
    folder = tmp_path_factory.mktemp("cache")
    random = np.random.default_rng(seed)
    logits = random.standard_normal((count, views, classes)).astype(dtype)
    ids, hashes = random.permutation(count), rows(count)[1]
    augmentation = Augmentation(views=views, seed=seed, description="é")
    options = by_hand(classes=classes, label_names=[], augmentation=augmentation)
    with LogitWriter(folder, **{**options, "rows_per_shard": rows_per_shard, "dtype": dtype}) as writer:
        for start in range(0, max(count, 1), batch):
            part = slice(start, start + batch)
            writer.write("train", ids[part], hashes[part], logits[part])
        writer.finish()
    cache = LogitCache(folder)
    assert cache.manifest.augmentation == augmentation
    assert cache.views == views
    assert cache.verify("full").rows == count
    found = cache.logits("train", ids, hashes)
    assert found.shape == (count, views, classes)
    assert np.array_equal(found, logits.astype(np.float32))
    streamed = list(cache.stream("train", 4))
    assert sum(len(part.ids) for part in streamed) == count
    for part in streamed:
        assert np.array_equal(part.logits, cache.logits("train", part.ids))


# ---- reading ----


def test_one_view_all_views_or_one_for_each_row(views):
    expected, ids = values(25), [17, 3, 3]
    assert np.array_equal(views.logits("train", ids), expected[ids])
    for view in (1, np.int64(1), torch.tensor(1)):
        assert np.array_equal(views.logits("train", ids, view=view), expected[ids, 1])
    for each in ([1, 0, 1], torch.tensor([1, 0, 1])):
        assert np.array_equal(views.logits("train", ids, view=each), expected[ids, [1, 0, 1]])
    found = views.logits("train", ids, rows(25)[1][ids], view=0)
    found[:] = 0  # a copy
    assert np.array_equal(views.logits("train", ids, view=0), expected[ids, 0])


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (2, r"no view 2 in this cache, which has 2 of each row \(0 to 1\)"),
        (-1, "no view -1"),
        ([0, 5, 1], "no view 5"),
        ([0, 1], r"one for each of the 3 rows, found int64 \[2\]"),
        (0.0, "expected one view"),
        (True, "expected one view"),
        ("0", "expected one view"),
    ],
)
def test_a_view_that_is_not_there(views, view, message):
    with pytest.raises(CacheError, match=message):
        views.logits("train", [17, 3, 3], view=view)


def test_a_plain_cache_has_no_views(cache):
    plain = LogitCache(cache)
    assert plain.views is None
    assert plain.info()["augmentation"] is None
    with pytest.raises(CacheError, match=r"has no views.*leave out view=0"):
        plain.logits("train", [1], view=0)
    with pytest.raises(CacheError, match="has no views"):
        plain.join([], view=0)


def test_a_stream_has_all_views(views):
    batches = list(views.stream("train", 4, seed=3))
    assert sorted(i for batch in batches for i in batch.ids.tolist()) == list(range(25))
    for batch in batches:
        assert np.array_equal(batch.logits, values(25)[batch.ids])
    in_order = next(iter(views.stream("train", 4, seed=None)))
    assert np.array_equal(in_order.logits, values(25)[:4])


def test_a_join_needs_a_view_to_be_named(views):
    batch = {"id": torch.tensor([4, 2]), "row_hash": rows(25)[1][[4, 2]]}
    with pytest.raises(
        CacheError, match=r"must not be joined to rows as they are; kdcache\.AugmentedDataset"
    ):
        views.join([batch])
    with pytest.raises(CacheError, match="no view 2"):
        views.join([batch], view=2)
    (joined,) = views.join([batch], view=1)
    assert np.array_equal(joined["teacher_logits"], values(25)[[4, 2], 1])
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({key: np.asarray(value) for key, value in batch.items()})
    assert views.join(data, view=0)[1]["teacher_logits"] == values(25)[2, 0].tolist()


def test_the_file_is_what_the_format_says(views):
    """V K values a row, view after view; the manifest and every shard's footer say how they were augmented."""
    augmentation = {"views": 2, "seed": SEED, "description": "by hand"}
    table = pq.read_table(views.path / "train" / "part-00001.parquet")
    element = pa.field("element", pa.float32(), nullable=False)
    assert table.schema.field("logits").type == pa.list_(element, 6)
    assert table["logits"].to_pylist()[0] == [1000, 1001, 1002, 1010, 1011, 1012]
    assert json.loads(table.schema.metadata[b"kdcache"])["augmentation"] == augmentation
    manifest = json.loads((views.path / "manifest.json").read_text())
    assert manifest["augmentation"] == augmentation
    assert manifest["classes"] == 3
    assert views.info()["augmentation"] == augmentation


def test_wide_rows_still_have_row_groups_of_some_megabytes():
    """20 views of 5,000 classes are 400 kB a row: 8 rows come to 3.2 MB."""
    ids, hashes, logits = np.arange(20), rows(20)[1], np.zeros((20, 20, 5000), np.float32)
    data = cache_format.encode_shard(ids, hashes, logits, {})
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [8, 8, 4]


# ---- a plain cache is what it was ----

PLAIN = {
    "train/part-00000.parquet": "40b80785c98871f6027388eb8ae04da7dd3e30c555c4d1540ac128af83ddc2cf",
    "train/part-00001.parquet": "c4a6eb7fa3124977859a31e2de43d50246175050e49e78131c288f3795607709",
    "train/part-00002.parquet": "54b5640e091ff4c360878969e51ff1a600eee0d56467237c3d60df5dd47599ae",
    "validation/part-00000.parquet": "0a76a2e1be803769c755383e45cbcd80da95ef2c4095d79506690d3e2cdfc16e",
}  # of the cache in conftest.py, written with pyarrow 26.0.1 before there were views


@pytest.mark.skipif(pa.__version__ != "26.0.1", reason="other versions of pyarrow may write other bytes")
def test_a_plain_cache_has_the_bytes_it_had_before_there_were_views(cache):
    found = contents(cache)
    del found["manifest.json"]
    assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == PLAIN
    old = LogitCache(cache).manifest.model_copy(update={"row_hash": "xxh3"})  # then the only hash of rows
    assert old.identity == "4875855ecdac182f69e8f5b3e0fdba2391468553dbf69183b26b5944c5947e7e"


def test_a_plain_manifest_says_nothing_of_views(cache):
    shard = records.ShardInfo(file="train/part-00000.parquet", rows=3, bytes=5, sha256="a" * 64)
    manifest = cache_format.Manifest(
        classes=2,
        label_names=["no", "yes"],
        dtype="float32",
        rows_per_shard=10,
        fingerprints=FINGERPRINTS,
        splits={"train": records.SplitInfo(rows=3, shards=[shard])},
    )
    assert manifest.identity == "f046db74199981ddb040cfb4c7688b8ebdd134f8514da62558b6a8c0f82ef179"
    checksum = "eb332dbb3a1fe163115b043f6411718f2e30a63c9f3d09b8c0de1cde6275b026"
    assert manifests.manifest_json(manifest)["checksum"] == checksum
    assert "augmentation" not in json.loads((cache / "manifest.json").read_text())


def test_every_part_of_the_augmentation_is_part_of_the_identity(tmp_path):
    parts = [
        {"views": 2, "seed": 0, "description": "a"},
        {"views": 2, "seed": 1, "description": "a"},
        {"views": 2, "seed": 0, "description": "b"},
    ]
    identities = set()
    for number, part in enumerate(parts):
        with LogitWriter(
            tmp_path / str(number), **by_hand(augmentation=Augmentation(**part))
        ) as writer:  # no rows: the shards alone would tell them apart
            writer.write("train", [], np.zeros(0, np.uint64), np.zeros((0, 2, 3), np.float32))
            identities.add(writer.finish().identity)
    assert len(identities) == 3


# ---- damage ----


def edit(path: Path, change) -> None:
    """Change the manifest and make its checksum fit, as somebody who means harm would."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    change(manifest)
    manifest["checksum"] = fingerprint.of_json(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def copied(views, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(views.path, tmp_path / "copied"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("views", 0),
        ("views", -1),
        ("views", 2**31),
        ("views", 2**80),
        ("views", 1.0),
        ("views", None),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", "7"),
        ("description", 3),
        ("unknown", 1),
    ],
)
def test_a_hostile_manifest_is_refused(copied, key, value):
    edit(copied, lambda manifest: manifest["augmentation"].__setitem__(key, value))
    with pytest.raises(CacheError, match="is no manifest of format version 1"):
        LogitCache(copied)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m["augmentation"].update(views=3), id="more views"),
        pytest.param(lambda m: m["augmentation"].update(views=700_000_000), id="very many views"),
        pytest.param(lambda m: m["augmentation"].update(seed=8), id="another seed"),
        pytest.param(lambda m: m["augmentation"].update(description="x"), id="another description"),
        pytest.param(lambda m: m.update(augmentation=None), id="none"),
        pytest.param(lambda m: m.update(augmentation=None, classes=6, label_names=[]), id="as classes"),
        pytest.param(
            lambda m: (m.update(classes=2, label_names=[]), m["augmentation"].update(views=3)), id="turned"
        ),
    ],
)
def test_shards_of_another_augmentation_are_refused(copied, change):
    edit(copied, change)
    for look in (
        lambda: LogitCache(copied).verify("quick"),
        lambda: LogitCache(copied).logits("train", [0]),
    ):
        with pytest.raises(CacheError, match=r"part-00000\.parquet"):
            look()


def test_one_view_is_not_taken_for_none(tmp_path):
    """V = 1 has a plain cache's columns: only the footer tells the two apart."""
    with LogitWriter(
        tmp_path, **by_hand(augmentation=Augmentation(views=1, seed=0, description=""))
    ) as writer:
        writer.write("train", *rows(5)[:2], values(5, views=1))
        writer.finish()
    assert LogitCache(tmp_path).logits("train", [2]).shape == (1, 1, 3)
    edit(tmp_path, lambda manifest: manifest.pop("augmentation"))
    with pytest.raises(CacheError, match="is not the shard that the manifest means"):
        LogitCache(tmp_path).logits("train", [2])


@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 6), (4, 3, 2), (4, 1, 3), (4, 2, 3, 1), (4,)], ids=lambda shape: str(shape)
)
def test_logits_of_another_shape_are_not_written(tmp_path, shape):
    with LogitWriter(tmp_path, **by_hand()) as writer:
        with pytest.raises(CacheError, match=r"expected logits \[n, 2, 3\]"):
            writer.write("train", *rows(4)[:2], np.zeros(shape, np.float32))
        writer.write("train", *rows(4)[:2], values(4))
        writer.finish()


def test_logits_that_are_not_finite_are_not_written(tmp_path):
    logits = values(4)
    logits[2, 1, 0] = np.nan
    with (
        pytest.raises(CacheError, match=r"row id 2 has the logits \[200.0, 201.0, 202.0, nan"),
        LogitWriter(tmp_path, **by_hand()) as writer,
    ):
        writer.write("train", *rows(4)[:2], logits)


# ---- CIFAR-10 ----

CIFAR = Path(os.environ.get("KDCACHE_CIFAR10", "not-set")) / "train.parquet"


@pytest.mark.skipif(
    not CIFAR.is_file(), reason="KDCACHE_CIFAR10 names no folder with CIFAR-10's train.parquet (img, label)"
)
def test_crop_and_flip_on_cifar10(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_parquet(str(CIFAR), cache_dir=str(tmp_path / "hub")).select(range(200))
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 10)
    ).eval()
    cache = write(
        tmp_path / "cache",
        model,
        data,
        augment=of_pil,
        augment_column="img",
        columns=["img"],
        collate=lambda rows: torch.stack([row["img"] for row in rows]),
        batch_size=32,
        rows_per_shard=64,
    )
    student = AugmentedDataset(cache, data, of_pil, augment_column="img", columns=["img"], label="label")
    loader = DataLoader(student, batch_size=50, shuffle=True, num_workers=2)
    inputs = set()
    for epoch in range(VIEWS):
        student.set_epoch(epoch)
        for batch in loader:
            with torch.no_grad():
                expected = model(batch["img"])
            torch.testing.assert_close(batch["teacher_logits"], expected, rtol=1e-4, atol=1e-4)
            inputs |= {by_content(image) for image in batch["img"]}
    assert len(inputs) == 200 * VIEWS


def of_pil(image) -> torch.Tensor:
    return crop_and_flip(torch.from_numpy(np.array(image)).permute(2, 0, 1)) / 255
