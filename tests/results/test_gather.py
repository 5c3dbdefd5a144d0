from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import CacheError
from kdcache.logits import Cost, Fingerprints, LogitCache, LogitWriter
from kdcache.results.gather import ResultsError, cost_table, curves_table, read_trials, trials_table
from kdcache.results.provenance import provenance
from kdcache.results.validation import Validation
from kdcache.study import Study
from kdcache.system.files import read_json, write_json
from kdcache.trials.result import TrialResult, write_result

MODEL = {"checkpoint": "models/m", "learning_rate": 0.1, "epochs": 1, "batch_size": 4}


def study(**changes: Any) -> Study:
    source = {"builtin": "digits"}
    task = {"source": source, "image": "image", "metrics": ["accuracy"]}
    fields: dict[str, Any] = {
        "seeds": [0, 1],
        "tasks": {"one": task, "two": task},
        "teachers": {"big": {**MODEL, "tasks": ["one"]}},
        "students": {
            "small": {**MODEL, "teacher": "big", "tasks": ["one"]},
            "tiny": {**MODEL, "tasks": ["two"]},
        },
        "regularizers": {"base": {}},
        "distillers": {},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    }
    return Study.model_validate({**fields, **changes})


def put_trial(
    root: Path, task: str, student: str, regularizer: str, seed: int, accuracy: float, **changes: Any
) -> None:
    folder = root / "trials" / task / student / regularizer / f"seed-{seed}"
    result = TrialResult(
        identity=f"{task}{seed}",
        task=task,
        student=student,
        family="vit",
        init="scratch",
        checkpoint="models/m",
        layers=None,
        teacher=None,
        regularizer=regularizer,
        seed=seed,
        params={},
        metrics={"accuracy": accuracy, "nll": 0.5},
        steps=1,
        losses=[0.5],
        seconds=1.5,
        peak_memory_mb=100.0,
        device="cpu",
        precision="float32",
        versions={"torch": "2.0"},
    )
    write_result(folder, result.model_copy(update=changes))


def put_teacher(root: Path) -> None:
    folder = root / "logits" / "one" / "big"
    prints = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
    with LogitWriter(folder, classes=2, label_names=["a", "b"], fingerprints=prints) as writer:
        writer.write("train", np.arange(2), np.arange(2, dtype=np.uint64), np.zeros((2, 2), dtype=np.float32))
        writer.finish(cost=Cost(seconds=0.5, rows_per_second=4.0, device="cpu", peak_memory_mb=50.0))
    write_json(folder / "teacher.json", {"seconds": 9.0, "peak_memory_mb": 200.0, "device": "cpu"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (0, 1):
        put_trial(tmp_path, "one", "small", "base", seed, 0.9 + seed / 100)
        put_trial(tmp_path, "two", "tiny", "base", seed, 0.8)
    put_teacher(tmp_path)
    return tmp_path


def table_of(root: Path, of: Study) -> pd.DataFrame:
    return trials_table(of, read_trials(of, root / "trials"), lambda result: result.metrics or {})


def costs_of(root: Path, of: Study) -> pd.DataFrame:
    return cost_table(of, root, read_trials(of, root / "trials"))


def test_the_scores_of_a_further_split_have_columns_of_their_own(root: Path) -> None:
    for seed in (0, 1):
        metrics = {"accuracy": 0.9, "nll": 0.5, "accuracy_hard": 0.5 + seed / 10}
        put_trial(root, "one", "small", "base", seed, 0.9, metrics=metrics)
    table = table_of(root, study())
    assert table.columns[9:12].tolist() == ["accuracy", "nll", "accuracy_hard"]
    assert table["accuracy_hard"].tolist()[:2] == [0.5, 0.6]
    assert table["accuracy_hard"].isna().tolist() == [False, False, True, True]  # a task without that split


def test_a_cache_of_views_has_a_cost_of_its_own(root: Path) -> None:
    cache = root / "logits/one/big"
    shutil.copytree(cache, root / "views")
    shutil.move(root / "views", cache / "views")
    task = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    table = costs_of(root, study(tasks={"one": {**task, "augment": {"crop": 1}}, "two": task}))
    assert table["kind"].tolist() == ["teacher", "cache", "views", "trial", "trial", "trial", "trial"]
    assert table["seconds"].tolist()[:3] == [9.0, 0.5, 0.5]


def test_a_cache_of_unlabelled_rows_has_a_cost_and_an_identity_of_its_own(root: Path) -> None:
    cache = root / "logits/one/big"
    shutil.copytree(cache, root / "more")
    shutil.move(root / "more", cache / "unlabelled")
    task = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    some = study(tasks={"one": {**task, "train_size": 9, "unlabelled": "rest"}, "two": task})
    table = costs_of(root, some)
    assert table["kind"].tolist() == ["teacher", "cache", "unlabelled", "trial", "trial", "trial", "trial"]
    put_task(root)
    put_task(root, name="two")
    made = provenance(some, root, read_trials(some, root / "trials"))
    assert made["caches"][0]["unlabelled"] == LogitCache(cache / "unlabelled").identity
    assert [list(facts) for facts in made["tasks"].values()] == [
        ["rows", "data"]
    ] * 2  # as their cards have it
    card = read_json(root / "tasks/one/card.json")
    card["unlabelled"] = {"origin": "rest", "shared_rows": 0, "fingerprint": "u"}
    write_json(root / "tasks/one/card.json", card)
    assert provenance(some, root, read_trials(some, root / "trials"))["tasks"]["one"]["unlabelled"] == "u"


def test_one_row_per_trial_in_the_order_of_the_study(root: Path) -> None:
    table = table_of(root, study())
    assert list(table.columns) == [
        *("task", "student", "family", "init", "checkpoint", "layers", "teacher", "regularizer", "seed"),
        *("accuracy", "nll", "device", "identity"),
    ]
    assert table[["task", "student", "seed", "accuracy"]].values.tolist() == [
        ["one", "small", 0, 0.9],
        ["one", "small", 1, 0.91],
        ["two", "tiny", 0, 0.8],
        ["two", "tiny", 1, 0.8],
    ]


def test_a_trial_s_teacher_is_the_one_that_it_learned_from(root: Path) -> None:
    """The student's or the method's own, by the names they have now; the members of an ensemble are joined."""
    kd = {"soft_labels": "teacher", "alpha": 0.5}
    teachers = {name: {**MODEL, "tasks": ["one"]} for name in ("big", "huge")}
    methods = {
        "kd": kd,
        "kd_both": {**kd, "teacher": ["huge", "big"]},
        "self_kd": {**kd, "soft_labels": "self"},
    }
    for method in methods:
        put_trial(root, "one", "small", method, 0, 0.9, teacher="as it was called then")
        put_trial(root, "two", "tiny", method, 0, 0.9)
    table = table_of(root, study(seeds=[0], teachers=teachers, distillers=methods))
    found = table[table["student"] == "small"].set_index("regularizer")["teacher"].fillna("none")
    assert found.to_dict() == {"base": "none", "kd": "big", "kd_both": "huge+big", "self_kd": "none"}


def test_what_the_study_does_not_ask_for_is_in_no_table(root: Path) -> None:
    put_trial(root, "one", "small", "removed", 0, 0.1)
    put_trial(root, "one", "small", "base", 9, 0.1)
    assert len(table_of(root, study())) == 4
    assert len(table_of(root, study(seeds=[1]))) == 2


def test_missing_trials_are_an_error_that_names_them(root: Path) -> None:
    with pytest.raises(ResultsError, match=r"2 trials are missing(.|\n)*one/small/base/seed-5"):
        read_trials(study(seeds=[0, 5]), root / "trials")


def test_costs_of_teacher_cache_and_trials(root: Path) -> None:
    table = costs_of(root, study())
    rows = table[["kind", "model", "seconds", "peak_memory_mb"]].values.tolist()
    assert rows == [
        ["teacher", "big", 9.0, 200.0],
        ["cache", "big", 0.5, 50.0],
        *[["trial", "small", 1.5, 100.0]] * 2,
        *[["trial", "tiny", 1.5, 100.0]] * 2,
    ]


def test_the_loss_of_each_epoch_is_a_mean_over_seeds(root: Path) -> None:
    put_trial(root, "one", "small", "base", 0, 0.9, losses=[2.0, 1.0])
    put_trial(root, "one", "small", "base", 1, 0.9, losses=[4.0, 1.0])
    put_trial(root, "two", "tiny", "base", 1, 0.9, losses=[0.5, 0.25])  # seed 0 has one epoch: 0.5
    table = curves_table(read_trials(study(), root / "trials"))
    assert table.columns.tolist() == [
        *("task", "student", "init", "regularizer", "epoch", "seeds", "loss", "sd")
    ]
    rows = table.drop(columns=["init", "regularizer"]).astype(object)
    # sd of 2 and 4 with n - 1: the square root of 2; of one value: none
    assert rows.where(rows.notna(), None).values.tolist() == [
        ["one", "small", 1, 2, 3.0, pytest.approx(2**0.5)],
        ["one", "small", 2, 2, 1.0, 0.0],
        ["two", "tiny", 1, 2, 0.5, 0.0],
        ["two", "tiny", 2, 1, 0.25, None],
    ]


def test_what_the_numbers_were_made_of(root: Path) -> None:
    put_task(root)
    put_task(root, name="two")
    put_trial(root, "two", "tiny", "base", 1, 0.8, versions={"torch": "2.1"})
    found = provenance(study(), root, read_trials(study(), root / "trials"))
    assert (found["trials"], found["versions"], found["devices"]) == (
        4,
        {"torch": ["2.0", "2.1"]},
        {"cpu, float32": 4},
    )
    assert found["tasks"] == {name: {"rows": {"validation": 4}, "data": "d"} for name in ("one", "two")}
    (cache,) = found["caches"]
    prints = {"data": "d", "weights": "w", "preprocessing": "p", "code": "c"}
    assert cache == {
        "task": "one",
        "teacher": "big",
        "cache": LogitCache(root / "logits/one/big").identity,
        **prints,
    }
    assert {"kdcache", "scipy", "python"} < set(found["statistics"])


LABELS = np.array([1, 0, 1, 1])
LOGITS = np.array([[0.0, 1], [2, 1], [5, 4], [-1, 0]], dtype=np.float32)  # classes 1 0 0 1
HASHES = np.array([11, 12, 13, 14], dtype=np.uint64)


def put_task(
    root: Path, labels: np.ndarray = LABELS, regression: bool = False, name: str = "one", **more: Any
) -> None:
    folder = root / "tasks" / name
    folder.mkdir(parents=True)
    rows = {"id": np.arange(len(labels)), "row_hash": HASHES[: len(labels)], "label": labels}
    pq.write_table(pa.table(rows), folder / "validation.parquet")
    names = [] if regression else ["a", "b"]
    card = {"name": name, "modality": "image", "regression": regression, "label_names": names,
            "rows": {"validation": len(labels)}, "class_counts": {}, "source": {}, "dropped": {},
            "metrics": ["accuracy"], "max_length": None, "fingerprint": "d", **more}  # fmt: skip
    write_json(folder / "card.json", card)


def put_logits(root: Path, seed: int, logits: np.ndarray, hashes: np.ndarray, order: list[int]) -> None:
    """A trial's logit cache, its rows written in another order than their ids, in two shards."""
    folder = root / "trials" / "one" / "small" / "base" / f"seed-{seed}" / "logits"
    prints = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
    names = ["a", "b"] if logits.shape[1] > 1 else []
    writer = LogitWriter(
        folder, classes=logits.shape[1], label_names=names, fingerprints=prints, rows_per_shard=2
    )
    with writer:
        writer.write("validation", np.array(order), hashes[order], logits[order])
        writer.finish()


def test_validation_outputs_are_in_the_order_of_the_task(tmp_path: Path) -> None:
    put_task(tmp_path)
    put_logits(tmp_path, 0, LOGITS, HASHES, [0, 1, 2, 3])
    put_logits(tmp_path, 1, -LOGITS, HASHES, [2, 0, 3, 1])
    found = Validation(study(), tmp_path).outputs("one", "small", "base")
    assert found.seeds == (0, 1)
    assert found.labels.tolist() == [1, 0, 1, 1]
    assert found.outputs.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]


def test_the_class_that_f1_is_of_is_1_in_validation_outputs(tmp_path: Path) -> None:
    put_task(tmp_path, positive="a")  # of a, b
    put_logits(tmp_path, 0, LOGITS, HASHES, [0, 1, 2, 3])
    found = Validation(study(seeds=[0]), tmp_path).outputs("one", "small", "base")
    assert found.labels.tolist() == [0, 1, 0, 0]
    assert found.outputs.tolist() == [[0, 1, 1, 0]]


def test_validation_outputs_of_a_regression_are_its_numbers(tmp_path: Path) -> None:
    put_task(tmp_path, np.array([0.5, 2.5]), regression=True)
    put_logits(tmp_path, 0, np.array([[0.25], [3.0]], dtype=np.float32), HASHES, [1, 0])
    found = Validation(study(seeds=[0]), tmp_path).outputs("one", "small", "base")
    assert found.outputs.tolist() == [[0.25, 3.0]]


@pytest.mark.parametrize(
    ("hashes", "order", "said"),
    [
        (HASHES + np.uint64(1), [0, 1, 2, 3], "logits of other rows than the prepared task"),
        (HASHES, [0, 1, 3], "lacks 1 of the task's 4 rows, the first is row 2"),
    ],
)
def test_logits_of_other_rows_are_refused(
    tmp_path: Path, hashes: np.ndarray, order: list[int], said: str
) -> None:
    put_task(tmp_path)
    put_logits(tmp_path, 0, LOGITS, hashes, order)
    with pytest.raises(CacheError, match=said):
        Validation(study(seeds=[0]), tmp_path).outputs("one", "small", "base")


def test_validation_logits_come_with_their_labels_whatever_the_order(tmp_path: Path) -> None:
    put_task(tmp_path)
    put_logits(tmp_path, 0, LOGITS, HASHES, [0, 1, 2, 3])
    put_logits(tmp_path, 1, -LOGITS, HASHES, [2, 0, 3, 1])
    blocks = list(Validation(study(), tmp_path).logits("one", "small", "base"))
    logits, labels = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    assert logits.tolist() == [*LOGITS.tolist(), *(-LOGITS[[2, 0, 3, 1]]).tolist()]
    assert labels.tolist() == [1, 0, 1, 1, 1, 1, 1, 0]


def test_trials_of_a_student_that_began_differently_are_not_compared(root: Path) -> None:
    """A branch of the hub moved between two stages."""
    put_trial(root, "one", "small", "base", 0, 0.9, start="x", commit="aaa")
    put_trial(root, "one", "small", "base", 1, 0.9, start="y", commit="bbb")
    message = (
        r"students\.small: its trials on one did not begin with the same weights and tokenizer "
        r"\(models/m at base seed 0: aaa; base seed 1: bbb\); pin `revision`"
    )
    with pytest.raises(ResultsError, match=message):
        read_trials(study(), root / "trials")


def test_another_commit_with_the_same_content_is_the_same_start(root: Path) -> None:
    for seed, commit in ((0, "aaa"), (1, "bbb")):
        put_trial(root, "one", "small", "base", seed, 0.9, start="x", commit=commit)
    assert len(table_of(root, study())) == 4
