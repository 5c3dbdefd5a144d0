"""What a cache's logits say, with numbers by hand: two classes, few rows."""

import json
from math import log
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.cli.analysis import diff, stats, task_rows
from kdcache.errors import CacheError, TaskError
from kdcache.logits import Fingerprints, LogitCache, LogitWriter, scan
from kdcache.study import Task
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.scoring import ScoringError

HASHES = np.array([11, 22, 33], np.uint64)
EVEN, QUARTER, SURE = [0.0, 0.0], [0.0, log(3)], [1000.0, 0.0]  # probabilities 1/2 1/2, 1/4 3/4, 1 0
ENTROPY = -(0.25 * log(0.25) + 0.75 * log(0.75))


def write(
    path: Path, logits, ids=(0, 1, 2), hashes=HASHES, names=("no", "yes"), split="train", rows_per_shard=100
) -> LogitCache:
    facts = {"fingerprints": Fingerprints(data="d", weights="w", preprocessing="p", code="c")}
    facts |= {"classes": np.shape(logits)[1], "label_names": names, "rows_per_shard": rows_per_shard}
    with LogitWriter(path, **facts) as writer:
        writer.write(split, list(ids), hashes, np.asarray(logits, np.float32))
        writer.finish()
    return LogitCache(path)


@pytest.fixture
def cache(tmp_path: Path) -> LogitCache:
    return shuffled(tmp_path / "cache")


def shuffled(path: Path, rows_per_shard: int = 100) -> LogitCache:
    return write(
        path,
        [SURE, EVEN, QUARTER],
        ids=[2, 0, 1],
        hashes=HASHES[[2, 0, 1]],
        rows_per_shard=rows_per_shard,
    )


# ---- one cache ----


@pytest.mark.parametrize("rows_per_shard", [1, 2, 100])  # 2: the shards' ids overlap
def test_stats_of_three_rows(tmp_path: Path, monkeypatch, rows_per_shard) -> None:
    monkeypatch.setattr(scan, "PIECE", 2)
    found = stats(shuffled(tmp_path, rows_per_shard), "train")
    assert (found["split"], found["rows"], found["classes"]) == ("train", 3, 2)
    assert found["entropy"]["mean"] == pytest.approx((log(2) + ENTROPY + 0) / 3)
    assert found["entropy"]["p50"] == pytest.approx(ENTROPY)
    assert found["entropy"]["p25"] == pytest.approx(ENTROPY / 2)  # half way from 0 to the median
    assert found["top_probability"]["mean"] == pytest.approx((0.5 + 0.75 + 1) / 3)
    assert found["top_probability"]["p95"] == pytest.approx(0.75 + 0.9 * 0.25)
    assert found["predictions"] == {"no": 2, "yes": 1}  # an even row is the first class's
    assert "labels" not in found
    json.dumps(found, allow_nan=False)


def test_stats_with_labels(cache: LogitCache) -> None:
    found = stats(cache, "train", [1, 1, 0])["labels"]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx((log(2) - log(0.75)) / 3)
    assert found["brier"] == pytest.approx((0.5 + 2 / 16 + 0) / 3)
    # each row has a bin of its own: |0 - 1/2|, |1 - 3/4|, |1 - 1|
    assert found["ece"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert found["agreement"] == {"no": 1.0, "yes": 0.5}


def test_a_class_without_rows_has_no_agreement(cache: LogitCache) -> None:
    assert stats(cache, "train", [0, 0, 0])["labels"]["agreement"] == {
        "no": pytest.approx(2 / 3),
        "yes": None,
    }


@pytest.mark.parametrize(("labels", "message"), [([0, 1], "expected 3 labels"), ([0, 1, 2], "row 2 is 2")])
def test_labels_that_do_not_fit(cache: LogitCache, labels, message) -> None:
    with pytest.raises(ScoringError, match=message):
        stats(cache, "train", labels)


def test_stats_of_a_regression(tmp_path: Path) -> None:
    cache = write(tmp_path / "cache", [[1.0], [2.0], [6.0]], names=())
    found = stats(cache, "train", [1.0, 2.0, 3.0])
    assert found["output"] == {
        "mean": 3.0,
        "p5": 1.1,
        "p25": 1.5,
        "p50": 2.0,
        "p75": 4.0,
        "p95": pytest.approx(5.6),
    }
    assert found["labels"]["mse"] == pytest.approx(3.0)
    assert found["labels"]["spearman"] == pytest.approx(1.0)
    assert "entropy" not in found


def test_no_such_split(cache: LogitCache) -> None:
    with pytest.raises(CacheError, match="no split 'test'"):
        stats(cache, "test")


# ---- two caches ----


def test_diff_of_three_rows(cache: LogitCache, tmp_path: Path) -> None:
    # rows 0 and 2 agree but for a constant; row 1 is even here
    other = write(tmp_path / "other", [[5.0, 5.0], [1.0, 1.0], [1007.0, 7.0]])
    found = diff(cache, other, "train")
    forward, backward = 0.25 * log(0.5) + 0.75 * log(1.5), 0.5 * log(2) + 0.5 * log(2 / 3)
    assert (found["rows"], found["only_a"], found["only_b"]) == (3, 0, 0)
    assert found["disagreement"] == pytest.approx(1 / 3)
    assert found["kl_a_b"] == {"mean": pytest.approx(forward / 3), "max": pytest.approx(forward)}
    assert found["kl_b_a"] == {"mean": pytest.approx(backward / 3), "max": pytest.approx(backward)}
    assert found["max_logit_difference"] == pytest.approx(log(3) / 2)
    assert found["largest"][0] == {"id": 1, "kl": pytest.approx(forward), "a": "yes", "b": "no"}
    assert [row["id"] for row in found["largest"]] == [1, 0, 2]
    json.dumps(found, allow_nan=False)


def test_rows_are_joined_by_id(cache: LogitCache, tmp_path: Path) -> None:
    other = write(tmp_path / "other", [QUARTER, EVEN], ids=[7, 0], hashes=np.array([77, 11], np.uint64))
    found = diff(cache, other, "train")
    assert (found["rows"], found["only_a"], found["only_b"]) == (1, 2, 1)
    assert (found["disagreement"], found["kl_a_b"]["max"]) == (0.0, 0.0)


def test_only_the_ten_largest_are_named(tmp_path: Path, monkeypatch) -> None:
    hashes = np.arange(12, dtype=np.uint64)
    one = write(tmp_path / "a", [[k, 0] for k in range(12)], range(12), hashes, rows_per_shard=5)
    other = write(tmp_path / "b", [[0, 0]] * 12, range(12), hashes, rows_per_shard=7)
    monkeypatch.setattr(LogitCache, "split", None)  # nothing holds a split whole
    assert [row["id"] for row in diff(one, other, "train")["largest"]] == list(range(11, 1, -1))


def test_diff_of_regressions(tmp_path: Path) -> None:
    one, other = (
        write(tmp_path / name, values, names=())
        for name, values in (("a", [[1], [2], [3]]), ("b", [[1], [0], [2]]))
    )
    found = diff(one, other, "train")
    assert (found["mean_difference"], found["max_difference"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": np.array([11, 23, 34], np.uint64)}, "row id 1: .*0016, found 0+17 .2 of 3 rows differ"),
        ({"ids": (7, 8, 9)}, "no row id in common"),
        ({"names": ("yes", "no")}, "other label names"),
        ({"split": "test"}, "no split 'train'"),
        ({"logits": [[1, 2, 3]] * 3, "names": ()}, "other classes: expected 2, found 3"),
    ],
)
def test_caches_that_cannot_be_compared(cache: LogitCache, tmp_path: Path, changes, message) -> None:
    other = write(tmp_path / "other", **{"logits": [EVEN] * 3, **changes})
    with pytest.raises(CacheError, match=message):
        diff(cache, other, "train")


# ---- the task's rows ----


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = {"text": ["good film", "bad film", "so so"], "label": ["yes", "no", "yes"]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "rows.parquet"))
    spec = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    prepare_task(Task.model_validate(spec), tmp_path / "task")
    return tmp_path / "task"


def test_the_rows_of_a_task_come_in_the_caches_order(task: Path, tmp_path: Path) -> None:
    hashes = PreparedTask(task).rows("train")["row_hash"].to_numpy()
    part = write(tmp_path / "cache", [EVEN, QUARTER], ids=[2, 0], hashes=hashes[[2, 0]])
    assert task_rows(part, "train", task, ["text"])["text"].to_pylist() == ["good film", "so so"]
    assert task_rows(part, "train", task).column_names == ["id", "row_hash", "text", "label"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "row id 0: is another row than in"),
        ({"ids": (0, 1, 3)}, "has row id 3, but .* has 3 rows there"),
        ({"names": ("yes", "no")}, "of another task .*expected the labels"),
    ],
)
def test_a_task_of_other_rows_is_refused(task: Path, tmp_path: Path, changes, message) -> None:
    cache = write(tmp_path / "cache", [EVEN] * 3, **changes)
    with pytest.raises(CacheError, match=message):
        task_rows(cache, "train", task)


def test_a_split_that_the_task_lacks(task: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no split 'test'"):
        task_rows(write(tmp_path / "cache", [EVEN] * 3, split="test"), "test", task)
