"""write_logits: every row's own logits, the same bytes however it was interrupted or shared out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdcache.errors import CacheError
from kdcache.hashing import fingerprint
from kdcache.hashing.rows import hash_row
from kdcache.logits import LogitCache, write_logits
from tests.launching import run_side_by_side

from .conftest import FINGERPRINTS
from .test_writer import contents

ROWS = 50


class Net(torch.nn.Module):
    """Three classes from four numbers; dropout, so that evaluation mode matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.dropout = torch.nn.Linear(4, 3), torch.nn.Dropout(0.5)
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return self.dropout(self.linear(x))


def data(count: int = ROWS, seed: int = 1) -> list[dict]:
    values = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return [{"x": values[i], "label": i % 3} for i in range(count)]


def expected(net: Net, rows: list[dict]) -> np.ndarray:
    return net.linear(torch.stack([row["x"] for row in rows])).detach().numpy()


def write(path: Path, net: Net | None = None, rows: object = None, **options: object) -> LogitCache:
    defaults = {"label": "label", "batch_size": 7, "rows_per_shard": 16}
    return write_logits(net or Net(), data() if rows is None else rows, path, **{**defaults, **options})


def test_every_row_has_its_logits_and_its_hash(tmp_path):
    net, rows = Net(), data()
    cache = write(tmp_path / "cache", net, rows, label_names=["a", "b", "c"], run="test")
    hashes = np.array([hash_row(row, label="label") for row in rows], np.uint64)
    found = cache.logits("train", np.arange(ROWS), hashes)
    assert np.allclose(found, expected(net, rows), atol=1e-6)
    assert [shard.rows for shard in cache.manifest.splits["train"].shards] == [16, 16, 16, 2]
    assert cache.cost.run == "test"
    assert cache.cost.device == "cpu"
    assert net.training  # as before


def test_batches_stay_inside_their_shard(tmp_path):
    net = Net()
    write(tmp_path / "cache", net)
    first, *batches = net.batches
    assert first == 7  # looked at for the classes and the fingerprint
    assert batches == [7, 7, 2, 7, 7, 2, 7, 7, 2, 2]


def test_rows_of_similar_length_share_a_batch(tmp_path):
    seen = []
    lengths = np.array([5, 1, 4, 2, 3, 9, 1, 7])

    def collate(rows: list[dict]) -> torch.Tensor:
        seen.append([row["n"] for row in rows])
        return torch.tensor([[float(row["n"])] for row in rows])

    cache = write_logits(
        lambda x: torch.cat([x, -x], 1),
        [{"n": n} for n in range(8)],
        tmp_path / "cache",
        collate=collate,
        lengths=lengths,
        batch_size=2,
        rows_per_shard=5,
        fingerprints=FINGERPRINTS,
    )
    assert seen[1:] == [[1, 3], [4, 2], [0], [6, 7], [5]]
    assert cache.logits("train", np.arange(8))[:, 0].tolist() == list(range(8))


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(lambda rows: {"x": torch.stack([r["x"] for r in rows])}, id="keywords"),
        pytest.param(lambda rows: torch.stack([r["x"] for r in rows]), id="one argument"),
    ],
)
def test_models_get_what_collate_gives(tmp_path, batch):
    net, rows = Net(), data()
    cache = write(tmp_path / "cache", net, rows, collate=batch)
    assert np.allclose(cache.logits("train", np.arange(ROWS)), expected(net, rows), atol=1e-6)


def test_rows_that_are_tuples_give_their_first_element(tmp_path):
    net, rows = Net(), data()
    pairs = torch.utils.data.TensorDataset(torch.stack([row["x"] for row in rows]), torch.arange(ROWS) % 3)
    cache = write(tmp_path / "cache", net, pairs, label=1)
    assert np.allclose(cache.logits("train", np.arange(ROWS)), expected(net, rows), atol=1e-6)


def test_a_datasets_dataset_in_several_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    net, parts = Net(), {"train": data(20), "validation": data(9, seed=2)}
    splits = {
        name: datasets.Dataset.from_list([{**row, "x": row["x"].tolist()} for row in rows])
        for name, rows in parts.items()
    }
    cache = write(
        tmp_path / "cache", net, splits, collate=lambda rows: torch.tensor([row["x"] for row in rows])
    )
    for name, rows in parts.items():
        assert np.allclose(cache.logits(name, np.arange(len(rows))), expected(net, rows), atol=1e-6)


def test_a_complete_cache_is_opened_not_written(tmp_path):
    write(tmp_path / "cache")
    before = contents(tmp_path / "cache")
    net = Net()
    write(tmp_path / "cache", net)
    assert net.batches == [7]  # for the fingerprint
    assert contents(tmp_path / "cache") == before


def test_another_cache_is_replaced_only_when_asked(tmp_path):
    write(tmp_path / "cache")
    before = contents(tmp_path / "cache")
    other = Net()
    torch.nn.init.zeros_(other.linear.weight)
    with pytest.raises(
        CacheError, match=r"another complete cache \(it differs in fingerprints\).*overwrite=True"
    ):
        write(tmp_path / "cache", other)
    with pytest.raises(CacheError, match="it differs in fingerprints, rows"):
        write(tmp_path / "cache", rows=data(49))
    assert contents(tmp_path / "cache") == before
    cache = write(tmp_path / "cache", other, overwrite=True)
    assert (cache.logits("train", [0]) == cache.logits("train", [1])).all()


@pytest.mark.parametrize(
    "lost", [["manifest.json"], ["train/part-00001.parquet"], ["manifest.json", "train/part-00003.parquet"]]
)
def test_what_is_lost_is_written_again_and_nothing_else(tmp_path, lost):
    write(tmp_path / "cache")
    before = contents(tmp_path / "cache")
    for file in lost:
        (tmp_path / "cache" / file).unlink()
    net = Net()
    write(tmp_path / "cache", net)
    rows = {"train/part-00001.parquet": [7, 7, 2], "train/part-00003.parquet": [2]}
    assert net.batches[1:] == [size for file in lost for size in rows.get(file, [])]
    after = contents(tmp_path / "cache")
    assert {name: data for name, data in after.items() if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert LogitCache(tmp_path / "cache").verify("full").rows == ROWS


def test_a_shard_of_rows_that_have_changed_is_written_again(tmp_path):
    """Fingerprints given by the caller may say too little; the rows' hashes still tell."""
    rows = data()
    write(tmp_path / "cache", rows=rows, fingerprints=FINGERPRINTS)
    (tmp_path / "cache" / "manifest.json").unlink()
    rows[20] = {"x": torch.zeros(4), "label": 0}
    net = Net()
    cache = write(tmp_path / "cache", net, rows, fingerprints=FINGERPRINTS)
    assert net.batches[1:] == [7, 7, 2]  # the second shard
    assert np.allclose(cache.logits("train", [20]), net.linear.bias.detach().numpy(), atol=1e-6)


def test_default_fingerprints_tell_what_changed(tmp_path):
    first = write(tmp_path / "a").manifest.fingerprints
    other = Net()
    torch.nn.init.zeros_(other.linear.bias)
    rows = data()
    rows[49] = {**rows[49], "label": 2}
    changed = {
        "weights": write(tmp_path / "b", other).manifest.fingerprints,
        "data": write(tmp_path / "c", rows=rows).manifest.fingerprints,
        "preprocessing": write(
            tmp_path / "d", collate=lambda rows: torch.stack([r["x"] for r in rows]) / 2
        ).manifest.fingerprints,
    }
    for name, found in changed.items():
        different = [key for key in type(first).model_fields if getattr(found, key) != getattr(first, key)]
        assert different == [name]


def test_a_smaller_batch_goes_on_where_a_larger_one_was_interrupted(tmp_path):
    class Stops(Net):
        def forward(self, x):
            if sum(self.batches) >= 30:
                raise MemoryError
            return super().forward(x)

    with pytest.raises(MemoryError):
        write(tmp_path / "cache", Stops(), batch_size=8, fingerprints=None)
    net = Stops()
    net.forward = lambda x: Net.forward(net, x)
    cache = write(tmp_path / "cache", net, batch_size=4)
    assert sum(net.batches) == 4 + ROWS - 16  # the first batch for the classes; a shard of 16 was there
    assert write(tmp_path / "cache", net, batch_size=7).manifest == cache.manifest  # opened
    assert sum(net.batches) == 4 + ROWS - 16 + 7


def test_another_padding_is_another_preprocessing(tmp_path):
    def padded(left: bool):
        def collate(rows: list[dict]) -> torch.Tensor:
            values = [torch.ones(1 + row["label"]) for row in rows]
            longest = max(map(len, values))
            return torch.stack(
                [F.pad(v, (longest - len(v), 4 - longest) if left else (0, 4 - len(v))) for v in values]
            )

        return collate

    first = write(tmp_path / "a", collate=padded(left=False)).manifest.fingerprints
    second = write(tmp_path / "b", collate=padded(left=True)).manifest.fingerprints
    assert first.preprocessing != second.preprocessing


def test_scores_are_of_the_whole_split_in_order(tmp_path):
    net, rows = Net(), data()
    seen = {}

    def score(split: str, logits: np.ndarray) -> dict[str, float]:
        seen[split] = logits
        return {"first": float(logits[0, 0])}

    cache = write(tmp_path / "cache", net, rows, score=score)
    assert np.allclose(seen["train"], expected(net, rows), atol=1e-6)
    assert cache.manifest.scores == {"train": {"first": float(seen["train"][0, 0])}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": []}, "has no rows"),
        ({"rows": iter([1])}, "must have a length.*list_iterator"),
        ({"rows": {"../up": [1]}}, "is no split name"),
        ({"rows": {"x": [1.0], "label": [0]}}, "found a mapping of columns"),
        ({"rows": "rows.csv"}, "found str; read the file first"),
        ({"batch_size": 0}, "batch_size must be 1 or more, found 0"),
        ({"row_hashes": np.arange(3, dtype=np.uint64)}, "expected 50 row hashes"),
        ({"net": lambda x: x}, "a function has no weights to fingerprint"),
        ({"net": lambda x: x.sum(1), "fingerprints": FINGERPRINTS}, r"expected logits \[rows, classes\]"),
        ({"net": lambda x: x[:3], "fingerprints": FINGERPRINTS}, "gave 8 rows of logits for 16 rows"),
        ({"net": lambda x: x / 0, "fingerprints": FINGERPRINTS}, "not all finite"),
        ({"label_names": ["a"]}, "1 label names for 3 classes"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, options, message):
    with pytest.raises(CacheError, match=message):
        write(tmp_path / "cache", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, r"batch_size must be an integer, found 2.5 \(builtins.float\)"),
        ({"batch_size": "4"}, "batch_size must be an integer, found '4'"),
        ({"batch_size": True}, "batch_size must be an integer, found True"),
        ({"lengths": 5}, r"split 'train': expected 50 lengths \(integers\), found int64 \[\]"),
        ({"lengths": ["1"] * ROWS}, "expected 50 lengths"),
        ({"lengths": {"test": [1] * ROWS}}, "lengths has no split 'train', found 'test'"),
        ({"row_hashes": {}}, "row_hashes has no split 'train', found none"),
        (
            {"row_hashes": np.ma.masked_array(np.arange(ROWS, dtype=np.uint64), [True] * ROWS)},
            "row hashes .*masked",
        ),
        ({"score": 0.5}, "score must be a function, found 0.5"),
        ({"run": 5}, "run must be a text, found 5"),
        ({"label_names": "abc"}, "label_names must be a list of names, found 'abc'"),
        ({"columns": (name for name in ["x"])}, "columns must be a list or tuple of names"),
        ({"columns": {"x"}}, "columns must be a list or tuple of names"),
    ],
)
def test_options_of_another_type_are_refused_before_the_model_runs(tmp_path, options, message):
    net = Net()
    with pytest.raises(CacheError, match=message):
        write(tmp_path / "cache", net, **options)
    assert net.batches == []


def test_what_a_score_must_return(tmp_path):
    with pytest.raises(CacheError, match=r"split 'train': score must return a mapping .* builtins.float"):
        write(tmp_path / "cache", score=lambda split, logits: 0.5)
    net = Net()
    write(tmp_path / "cache", net, score=lambda split, logits: {"nll": 0.5})
    assert len(net.batches) == 1  # the first batch alone: the logits were kept


def test_masked_logits_are_refused(tmp_path):
    masked = np.ma.masked_array([[9.0, 1.0]] * 2, mask=[[1, 0]] * 2)
    of_torch = torch.masked.masked_tensor(torch.ones(2, 2), torch.tensor([[True, False]] * 2))
    for output in (masked, {"logits": masked}, of_torch):
        with pytest.raises(CacheError, match="some of the model's logits are masked"):
            write(tmp_path / "cache", lambda x: output, data(2), fingerprints=FINGERPRINTS)  # noqa: B023
    whole = np.ma.masked_array(np.ones((2, 2), np.float32), mask=np.zeros((2, 2), bool))
    assert write(tmp_path / "cache", lambda x: whole, data(2), fingerprints=FINGERPRINTS)


SCRIPT = """
import sys
from pathlib import Path
from tests.logits.test_inference import write
write(Path(sys.argv[1]), rows_per_shard=int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "rows_per_shard", [16, 64]
)  # four shards for two processes; one shard, so one has no work
def test_two_processes_write_the_bytes_of_one(tmp_path, rows_per_shard):
    (tmp_path / "script.py").write_text(SCRIPT)
    run_side_by_side(tmp_path / "script.py", tmp_path / "two", rows_per_shard)
    write(tmp_path / "one", rows_per_shard=rows_per_shard)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    manifests = [json.loads(found.pop("manifest.json")) for found in (one, two)]
    assert one == two
    assert manifests[0]["splits"] == manifests[1]["splits"]


def test_value_fingerprints_are_of_content_not_layout():
    values = torch.arange(6.0).reshape(2, 3)
    nest = {"a": values, "b": [1, None, "x"]}
    same = {"b": [1, None, "x"], "a": values.T.contiguous().T}
    assert fingerprint.of_value(nest) == fingerprint.of_value(same)
    assert fingerprint.of_value(values) == fingerprint.of_value(values.numpy())
    for other in (values.T, values.double(), values + 1, values.bfloat16(), values.tolist()):
        assert fingerprint.of_value(other) != fingerprint.of_value(values)
