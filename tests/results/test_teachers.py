"""teachers.csv from cached logits, against numbers by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import CacheError
from kdcache.logits import Fingerprints, LogitWriter
from kdcache.results.teachers import teachers_table
from tests.results.samples import HASHES, LOGITS, MODEL, put_task, study

TRAIN_LABELS = np.array([0, 0, 1, 0])
LOG3 = math.log(3.0)
TRAIN_LOGITS = np.array([[LOG3, 0.0], [0.0, LOG3], [0.0, LOG3], [LOG3, 0.0]], dtype=np.float32)


def put(root: Path, order: tuple[int, ...] = (0, 1, 2, 3), hashes: np.ndarray = HASHES) -> None:
    """The task `one` with four rows in each split, and its teacher's logits."""
    put_task(root, rows={"train": 4, "validation": 4})
    rows = {"id": np.arange(4), "row_hash": HASHES, "label": TRAIN_LABELS}
    pq.write_table(pa.table(rows), root / "tasks/one/train.parquet")
    prints = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
    places = list(order)
    with LogitWriter(
        root / "logits/one/big", classes=2, label_names=["a", "b"], fingerprints=prints
    ) as writer:
        for split, logits in (("train", TRAIN_LOGITS), ("validation", LOGITS)):
            writer.write(split, np.array(places), hashes[places], logits[places])
        writer.finish()


def trials(**scores: list[float]) -> pd.DataFrame:
    rows = [
        {"task": "one", "student": student, "regularizer": "base", "accuracy": score}
        for student, of_seeds in scores.items()
        for score in of_seeds
    ]
    return pd.DataFrame([*rows, {"task": "one", "student": "small", "regularizer": "kd", "accuracy": 0.9}])


def test_the_numbers(tmp_path: Path) -> None:
    """Probabilities are 3/4 and 1/4 on train; 3 of 4 rows are right in both splits."""
    put(tmp_path)
    (row,) = teachers_table(study(), tmp_path, trials(small=[0.2, 0.3])).to_dict("records")
    assert (row["task"], row["teacher"], row["metric"], row["classes"]) == ("one", "big", "accuracy", 2)
    assert (row["train"], row["validation"]) == (75.0, 75.0)
    assert row["majority"] == 25.0  # train's commonest class is 0, one of four rows in validation
    assert row["entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert row["confidence"] == pytest.approx(0.75)
    assert (row["student"], row["student_score"], row["gap"]) == ("small", 25.0, 50.0)


def test_the_order_of_writing_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "a")
    put(tmp_path / "b", order=(2, 0, 3, 1))
    first, second = (teachers_table(study(), tmp_path / name, trials(small=[0.5])) for name in ("a", "b"))
    pd.testing.assert_frame_equal(first, second)


def test_the_gap_is_to_the_best_student_that_may_learn_from_it(tmp_path: Path) -> None:
    """Its own students; a method that names the teacher makes every student one of them."""
    put(tmp_path)
    students = {
        name: {**MODEL, "tasks": ["one"], **more}
        for name, more in {"small": {"teacher": "big"}, "named": {"teacher": "other"}, "alone": {}}.items()
    }
    scores = trials(small=[0.25], named=[0.5], alone=[1.0])
    own = study(students=students)
    assert teachers_table(own, tmp_path, scores)["student"].tolist() == ["small"]
    by_name = {"kd": {"soft_labels": "teacher", "teacher": "big", "alpha": 0.5}}
    everybody = study(students=students, distillers=by_name)
    assert teachers_table(everybody, tmp_path, scores)["student"].tolist() == ["alone"]


def test_a_teacher_without_students_has_no_gap(tmp_path: Path) -> None:
    put(tmp_path)
    students = {"small": {**MODEL, "tasks": ["one"]}}
    (row,) = teachers_table(study(students=students), tmp_path, trials(small=[0.5])).to_dict("records")
    assert (row["student"], row["gap"]) == ("", None)


def test_logits_of_other_rows_are_refused(tmp_path: Path) -> None:
    put(tmp_path, hashes=HASHES + np.uint64(1))
    with pytest.raises(CacheError, match="logits of other rows"):
        teachers_table(study(), tmp_path, trials(small=[0.5]))
