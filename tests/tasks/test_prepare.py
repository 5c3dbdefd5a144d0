"""Prepared tasks: what is on disk, the card, refusals, and the encoded form."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import KdcacheError, TaskError
from kdcache.modelling.encoding import encode_split, from_png
from kdcache.study import Task
from kdcache.tasks.card import LabelNoise, TaskCard, read_card
from kdcache.tasks.images import to_png
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.sources import load_source

TRAIN = {"text": ["good film", "bad film", "so so"], "label": ["pos", "neg", "pos"]}
VALIDATION = {"text": ["bad", "good"], "label": ["neg", "pos"]}


def blake(content: bytes) -> int:
    """The first 8 bytes of BLAKE2b with 16, little-endian."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest()[:8], "little")


def save(folder: Path, train: Any, validation: Any, kind: str = "parquet") -> dict[str, str]:
    """Write both splits as files and return what `source.files` names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, columns in (("train", train), ("validation", validation)):
        path = folder / f"{split}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        paths[split] = str(path)
    return paths


def text_task(files: dict[str, str], **changes: Any) -> Task:
    given = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return Task.model_validate({**given, **changes})


def image_task(files: dict[str, str], **changes: Any) -> Task:
    given = {"source": {"files": files}, "image": "image", "metrics": ["accuracy"]}
    return Task.model_validate({**given, **changes})


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    prepare_task(text_task(save(tmp_path / "in", TRAIN, VALIDATION)), folder)
    return folder


def test_the_prepared_form(prepared: Path) -> None:
    table = PreparedTask(prepared).rows("train")
    assert table.schema.names == ["id", "row_hash", "text", "label"]
    assert [str(kind) for kind in table.schema.types] == ["int64", "uint64", "string", "int64"]
    assert table["id"].to_pylist() == [0, 1, 2]
    assert table["text"].to_pylist() == TRAIN["text"]
    assert table["label"].to_pylist() == [1, 0, 1]
    assert PreparedTask(prepared).rows("validation", ["label"]).to_pydict() == {"label": [0, 1]}
    assert sorted(path.name for path in prepared.iterdir()) == [
        "card.json",
        "train.parquet",
        "validation.parquet",
    ]


def test_row_hashes_cover_text_and_label(prepared: Path) -> None:
    # BLAKE2b over: length (8 bytes), text, "i", label (8 bytes)
    content = (8).to_bytes(8, "little") + b"bad film" + b"i" + (0).to_bytes(8, "little")
    assert PreparedTask(prepared).rows("train")["row_hash"][1].as_py() == blake(content)


def test_the_card(prepared: Path) -> None:
    card = read_card(prepared)
    assert (card.name, card.modality, card.regression, card.classes) == ("films", "text", False, 2)
    assert card.label_names == ["neg", "pos"]
    assert card.rows == {"train": 3, "validation": 2}
    assert card.class_counts == {"train": [1, 2], "validation": [1, 1]}
    assert (card.metrics, card.max_length, card.dropped, card.shared_rows) == (["accuracy"], 8, {}, 0)
    assert (card.image_size, card.channels) == (None, None)
    assert list(card.source["files"]) == ["train", "validation"]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    task = text_task(save(tmp_path / "in", TRAIN, VALIDATION))
    for folder in ("a", "b"):
        prepare_task(task, tmp_path / folder, "films")
    for name in ("train.parquet", "validation.parquet", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def fingerprint(folder: Path, train: Any = TRAIN, validation: Any = VALIDATION, **changes: Any) -> str:
    kind = changes.pop("kind", "parquet")
    return prepare_task(
        text_task(save(folder / "in", train, validation, kind), **changes), folder
    ).fingerprint


def test_the_fingerprint_is_the_contents(tmp_path: Path) -> None:
    first = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "b", max_length=16, metrics=["macro_f1"], kind="jsonl") == first
    reordered = {key: [values[row] for row in (1, 0, 2)] for key, values in TRAIN.items()}
    assert fingerprint(tmp_path / "c", reordered) != first
    assert fingerprint(tmp_path / "d", {**TRAIN, "text": ["good film ", "bad film", "so so"]}) != first
    assert fingerprint(tmp_path / "e", {**TRAIN, "label": ["pos", "neg", "neg"]}) != first
    renamed = {"label": ["positive", "neg", "positive"]}, {"label": ["neg", "positive"]}
    assert fingerprint(tmp_path / "f", {**TRAIN, **renamed[0]}, {**VALIDATION, **renamed[1]}) != first


def test_the_fingerprint_of_a_task_with_two_splits_never_changes(prepared: Path) -> None:
    known = "b9b99f06a3bb04650657f30ef7aff85faee2c0b415ec5e82e768ddb06c87566d"
    assert read_card(prepared).fingerprint == known


def further_files(folder: Path, columns: Any) -> dict[str, str]:
    """A third split, named so that it sorts before the other two."""
    files = save(folder, TRAIN, VALIDATION)
    pq.write_table(pa.table(columns), folder / "hard.parquet")
    return {"hard": str(folder / "hard.parquet"), **files}


def test_a_further_split_is_prepared_checked_and_hashed(tmp_path: Path, prepared: Path) -> None:
    hard = {"text": ["not good", "bad film", "not bad"], "label": ["neg", "neg", "pos"]}
    card = prepare_task(text_task(further_files(tmp_path / "three", hard)), tmp_path / "out")
    assert read_card(tmp_path / "out") == card
    assert card.evaluated == ("validation", "hard")
    assert card.rows == {"train": 3, "validation": 2, "hard": 3}
    assert card.class_counts["hard"] == [2, 1]
    assert card.shared_rows == 1  # "bad film" of the further split
    assert card.fingerprint != read_card(prepared).fingerprint
    assert PreparedTask(tmp_path / "out").rows("hard", ["text", "label"]).to_pydict() == {
        "text": hard["text"],
        "label": [0, 0, 1],
    }
    again = prepare_task(
        text_task(further_files(tmp_path / "four", {**hard, "label": ["neg", "neg", "neg"]})),
        tmp_path / "other",
    )
    assert again.fingerprint != card.fingerprint


def test_a_class_that_only_a_further_split_has_is_refused(tmp_path: Path) -> None:
    files = further_files(tmp_path, {"text": ["odd"], "label": ["unknown"]})
    with pytest.raises(TaskError, match="hard: labels that train does not have: unknown"):
        prepare_task(text_task(files), tmp_path / "out")


def test_a_further_split_of_a_regression(tmp_path: Path) -> None:
    files = save(tmp_path, {**TRAIN, "label": [0.5, 1.0, 2.0]}, {**VALIDATION, "label": [0.0, 5.0]})
    pq.write_table(pa.table({"text": ["far"], "label": [4.5]}), tmp_path / "far.parquet")
    task = text_task({**files, "far": str(tmp_path / "far.parquet")}, metrics=["pearson"])
    prepare_task(task, tmp_path / "out")
    assert PreparedTask(tmp_path / "out").rows("far", ["label"]).to_pydict() == {"label": [4.5]}


def test_label_noise_is_in_train_alone_and_in_its_hashes(tmp_path: Path, prepared: Path) -> None:
    texts = [f"film {row}" for row in range(10)]
    files = save(tmp_path, {"text": texts, "label": ["neg", "pos"] * 5}, VALIDATION)
    clean = prepare_task(text_task(files), tmp_path / "clean")
    noisy = prepare_task(text_task(files, label_noise=0.3, noise_seed=4), tmp_path / "noisy")
    assert clean.label_noise is None
    assert noisy.label_noise == LabelNoise(rows=3, fraction=0.3, seed=4)
    assert read_card(tmp_path / "noisy") == noisy
    before, after = (PreparedTask(tmp_path / name).rows("train") for name in ("clean", "noisy"))
    changed = np.flatnonzero(before["label"].to_numpy() != after["label"].to_numpy())
    assert len(changed) == 3
    assert (
        np.flatnonzero(before["row_hash"].to_numpy() != after["row_hash"].to_numpy()).tolist()
        == changed.tolist()
    )
    assert after["text"] == before["text"]
    assert noisy.class_counts["train"] == np.bincount(after["label"].to_numpy()).tolist()
    assert (
        PreparedTask(tmp_path / "noisy")
        .rows("validation")
        .equals(PreparedTask(tmp_path / "clean").rows("validation"))
    )
    assert noisy.fingerprint != clean.fingerprint


def test_a_regression_has_no_label_noise() -> None:
    with pytest.raises(ValueError, match="label_noise replaces a class by another; a regression has none"):
        text_task({"train": "a.csv", "validation": "b.csv"}, metrics=["pearson"], label_noise=0.1)


def test_label_noise_is_of_the_rows_that_train_size_leaves(tmp_path: Path) -> None:
    files = save(
        tmp_path, {"text": list("abcdefgh"), "label": [0, 1] * 4}, {"text": ["i", "j"], "label": [0, 1]}
    )
    card = prepare_task(text_task(files, train_size=4, label_noise=0.5), tmp_path / "out")
    assert card.rows["train"] == 4
    assert card.label_noise is not None
    assert card.label_noise.rows == 2


def test_pairs(tmp_path: Path) -> None:
    columns = {"a": ["one", "two"], "b": ["three", "four"], "label": [0, 1]}
    folder = tmp_path / "out"
    prepare_task(text_task(save(tmp_path, columns, columns), text=["a", "b"]), folder)
    table = PreparedTask(folder).rows("validation", ["text", "text_pair"])
    assert table.to_pydict() == {"text": ["one", "two"], "text_pair": ["three", "four"]}


def test_rows_on_both_sides_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    validation = {"text": ["good film", "bad film", "new"], "label": ["pos", "pos", "neg"]}
    card = prepare_task(text_task(save(tmp_path, TRAIN, validation)), tmp_path / "out")
    assert card.shared_rows == 1  # "bad film" has another label in train
    assert "1 rows are in train and in validation alike" in caplog.text


def test_a_regression(tmp_path: Path) -> None:
    columns = {"text": ["a", "b"], "label": pa.array([0.5, 5.0], pa.float32())}
    folder = tmp_path / "out"
    card = prepare_task(text_task(save(tmp_path, columns, columns), metrics=["pearson"]), folder)
    assert (card.regression, card.classes, card.label_names) == (True, 1, [])
    assert card.class_counts == {"train": [], "validation": []}
    assert PreparedTask(folder).rows("train")["label"].to_pylist() == [0.5, 5.0]
    encoded = encode_split(PreparedTask(folder), "train", text_preprocessor())
    assert encoded.labels.dtype == np.float32


GREY = np.array([[0, 255], [51, 102], [1, 2]], dtype=np.uint8)
COLOUR = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    images = [{"bytes": to_png(GREY), "path": "a.png"}, {"bytes": to_png(COLOUR), "path": None}]
    columns = {"image": images, "label": [0, 1]}
    prepare_task(image_task(save(tmp_path / "in", columns, columns)), tmp_path / "out", "pictures")
    return tmp_path / "out"


def test_images(pictures: Path) -> None:
    card = read_card(pictures)
    assert (card.modality, card.image_size, card.channels, card.max_length) == ("image", (3, 2), 3, None)
    table = PreparedTask(pictures).rows("train")
    assert [str(kind) for kind in table.schema.types] == ["int64", "uint64", "binary", "int64"]
    assert np.array_equal(from_png(table["image"][1].as_py()), COLOUR)


def test_an_images_hash_is_of_its_pixels(tmp_path: Path, pictures: Path) -> None:
    numbers = {"image": [GREY.tolist()] * 2, "label": [0, 1]}
    prepare_task(image_task(save(tmp_path / "numbers", numbers, numbers, "jsonl")), tmp_path / "again")
    hashes = [PreparedTask(folder).rows("train")["row_hash"][0] for folder in (tmp_path / "again", pictures)]
    assert hashes[0] == hashes[1]


def test_nan_images(tmp_path: Path) -> None:
    columns = {"image": [[[0.0, 1.0]], [[float("nan"), 0.0]]], "label": [0, 1]}
    message = r"task 'nan': train: image column 'image', row 1: the image has NaN or infinite values"
    with pytest.raises(TaskError, match=message):
        prepare_task(image_task(save(tmp_path, columns, columns)), tmp_path / "nan")
    assert not (tmp_path / "nan" / "card.json").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", " "]}, r"train: text column 'text' is empty in 1 row \(row 1\)"),
        ({"text": ["a", None]}, r"train: text column 'text' is empty in 1 row \(row 1\)"),
        ({"label": [0, 2]}, r"train: no row of class 1 \(classes: 0, 1, 2\)"),
        ({"label": [0, 0]}, r"train: no row of class 1 \(classes: 0, 1\)"),
        ({"label": [0.0, 1.0]}, "train: the labels are double"),
        ({"label": [-1, -1]}, "train: the label is -1 in 2 rows"),
        ({"label": ["a", "b"]}, "different types"),
    ],
)
def test_bad_rows_leave_no_card(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    good = {"text": ["a", "b"], "label": [0, 1]}
    folder = tmp_path / "out"
    prepare_task(text_task(save(tmp_path / "good", good, good)), folder)
    bad = text_task(save(tmp_path / "bad", {**good, **columns}, good))
    with pytest.raises(TaskError, match=f"task 'films': .*({message})"):
        prepare_task(bad, folder, "films")
    with pytest.raises(TaskError, match=r"out: no card\.json, so this task is not prepared"):
        read_card(folder)
    assert not list(folder.glob(".*"))


def test_an_empty_text_in_validation_leaves_no_card(tmp_path: Path) -> None:
    bad = {**VALIDATION, "text": ["", "x"]}
    with pytest.raises(TaskError, match=r"validation: text column 'text' is empty in 1 row \(row 0\)"):
        prepare_task(text_task(save(tmp_path / "in", TRAIN, bad)), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.parquet"]


@pytest.mark.parametrize(
    ("train", "validation", "names"),
    [
        (['"0"', '"00"', '"1"', '"01"'], ['"01"'], ["0", "00", "01", "1"]),
        (['"1"', '"2"', '"3"', '"4"', '"5"'], ['"3"'], ["1", "2", "3", "4", "5"]),
        (["2020-01-01", "2021-01-01"], ["2020-01-01"], ["2020-01-01", "2021-01-01"]),
        (["4A", "12", "7"], ["12", "7"], ["12", "4A", "7"]),
        (["NA", "EU", "null"], ["NA"], ["EU", "NA", "null"]),
        (["true", "True", "false"], ["True"], ["True", "false", "true"]),
        (["1.0", "1.00", "1e0"], ["1.00"], ["1.0", "1.00", "1e0"]),
        ([str(number) for number in range(12)], ["11"], [str(number) for number in range(12)]),
    ],
)
def test_classes_of_csv_files_are_as_written(
    tmp_path: Path, train: list[str], validation: list[str], names: list[str]
) -> None:
    files = {}
    for split, written in (("train", train), ("validation", validation)):
        files[split] = str(tmp_path / f"{split}.csv")
        Path(files[split]).write_text("label,text\n" + "".join(f"{label},a\n" for label in written))
    card = prepare_task(text_task(files), tmp_path / "out")
    assert card.label_names == names
    indices = PreparedTask(tmp_path / "out").rows("validation")["label"].to_pylist()
    assert [names[index] for index in indices] == [label.strip('"') for label in validation]


def test_f1_is_for_two_classes(tmp_path: Path) -> None:
    columns = {"text": ["a", "b", "c"], "label": [0, 1, 2]}
    with pytest.raises(
        TaskError, match=r"metric f1 is for two classes, there are 3 \(0, 1, 2\); use macro_f1"
    ):
        prepare_task(text_task(save(tmp_path, columns, columns), metrics=["f1"]), tmp_path / "out")


@pytest.mark.parametrize(("chosen", "positive"), [(None, "pos"), ("pos", "pos"), ("neg", "neg")])
def test_the_class_that_f1_is_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chosen: str | None, positive: str
) -> None:
    changes = {} if chosen is None else {"positive": chosen}
    task = text_task(save(tmp_path / "in", TRAIN, VALIDATION), metrics=["accuracy", "f1"], **changes)
    card = prepare_task(task, tmp_path / "films")
    assert card.positive == positive
    assert card.positive_class == ["neg", "pos"].index(positive)
    assert PreparedTask(tmp_path / "films").card == card
    note = "task films: f1 is of class pos, the second of neg, pos; to choose the other, add `positive: neg`"
    assert (note in caplog.text) is (chosen is None)


def test_the_class_that_f1_is_of_changes_no_fingerprint(tmp_path: Path, prepared: Path) -> None:
    task = text_task(save(tmp_path / "in", TRAIN, VALIDATION), metrics=["f1"], positive="neg")
    assert prepare_task(task, tmp_path / "again").fingerprint == PreparedTask(prepared).card.fingerprint


def test_a_number_names_the_class_that_f1_is_of(tmp_path: Path) -> None:
    columns = {"text": ["a", "b"], "label": [0, 1]}
    task = text_task(save(tmp_path, columns, columns), metrics=["f1"], positive=0)
    assert prepare_task(task, tmp_path / "out").positive_class == 0


def test_the_class_that_f1_is_of_is_one_of_two(tmp_path: Path) -> None:
    task = text_task(save(tmp_path, TRAIN, VALIDATION), positive="good")
    with pytest.raises(TaskError, match="positive: good is to be one of two classes; there are neg, pos"):
        prepare_task(task, tmp_path / "out")
    columns = {"text": ["a", "b", "c"], "label": [0, 1, 2]}
    task = text_task(save(tmp_path, columns, columns), positive="2")
    with pytest.raises(TaskError, match="positive: 2 is to be one of two classes; there are 0, 1, 2"):
        prepare_task(task, tmp_path / "out")
    with pytest.raises(
        ValueError, match="positive names the class that f1 is of; a regression has no classes"
    ):
        text_task({"train": "a.csv", "validation": "b.csv"}, metrics=["pearson"], positive="1")


def test_a_card_of_kdcache_0_1_has_f1_of_the_second_class(prepared: Path) -> None:
    path = prepared / "card.json"
    card = json.loads(path.read_text())
    del card["positive"]
    path.write_text(json.dumps(card))
    assert PreparedTask(prepared).card.positive_class == 1


def test_warnings_about_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {"text": ["a", "b", "c"], "label": ["Pos", "pos", " neg"]}
    prepare_task(text_task(save(tmp_path, columns, columns)), tmp_path / "out")
    assert "task out: classes that differ in case only: Pos, pos" in caplog.text
    assert "task out: class names begin or end in white space: ' neg', Pos, pos" in caplog.text
    assert "task out: 3 classes in 3 train rows: is 'label' the column of the labels?" in caplog.text


def test_one_text_column_twice() -> None:
    with pytest.raises(ValueError, match="text names the column 'a' twice; a pair has two different columns"):
        text_task({"train": "a.csv", "validation": "b.csv"}, text=["a", "a"])


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = save(tmp_path, TRAIN, VALIDATION)
    read = load_source(text_task(files))
    monkeypatch.setattr("kdcache.tasks.prepare.load_source", lambda spec: read)
    for columns in (VALIDATION, {**TRAIN, "text": list("abcd"), "label": list("abcd")}):
        pq.write_table(pa.table(columns), files["train"])
        with pytest.raises(
            TaskError, match=r"train: 3 labels, but . rows: its file changed meanwhile; run again"
        ):
            prepare_task(text_task(files), tmp_path / "out")


def test_splits_that_declare_different_names(tmp_path: Path) -> None:
    files = {}
    for split, names in (("train", ["x", "y"]), ("validation", ["y", "x"])):
        info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = pa.table({"text": ["a", "b"], "label": [0, 1]})
        files[split] = str(tmp_path / f"{split}.parquet")
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), files[split])
    with pytest.raises(TaskError, match="train declares the classes x, y, validation y, x"):
        prepare_task(text_task(files), tmp_path / "out")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    task = text_task(save(tmp_path / "in", TRAIN, VALIDATION))
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(KdcacheError, match=r"train\.parquet: cannot be written: No space left"):
        prepare_task(task, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_run_is_not_taken_for_whole(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    task = text_task(
        {split: str(prepared.parent / "in" / f"{split}.parquet") for split in TRAIN_AND_VALIDATION}
    )
    monkeypatch.setattr("kdcache.tasks.prepare._card", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_task(task, prepared)
    with pytest.raises(TaskError, match="not completely"):
        read_card(prepared)


TRAIN_AND_VALIDATION = ("train", "validation")


def test_damaged_or_missing_files(prepared: Path) -> None:
    with pytest.raises(TaskError, match="no split 'test'; there are: train, validation"):
        PreparedTask(prepared).rows("test")
    path = prepared / "train.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(TaskError, match=r"train\.parquet: cannot be read .*run stage prepare again"):
        PreparedTask(prepared).rows("train")
    path.write_bytes((prepared / "validation.parquet").read_bytes())
    with pytest.raises(TaskError, match=r"train\.parquet: has 2 rows, the card says 3"):
        PreparedTask(prepared).rows("train")
    path.unlink()
    with pytest.raises(TaskError, match=r"train\.parquet: the file is missing"):
        read_card(prepared)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"card\.json: is not valid JSON"), ('{"name": 3}', "not a task card .*name, mod")],
)
def test_a_damaged_card(prepared: Path, text: str, message: str) -> None:
    (prepared / "card.json").write_text(text)
    with pytest.raises(TaskError, match=message):
        read_card(prepared)


def test_a_task_that_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"nowhere: no card\.json, so this task is not prepared"):
        PreparedTask(tmp_path / "nowhere").rows("train")


def text_preprocessor() -> Any:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "so"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    return SimpleNamespace(kind="text", tokenizer=tokenizer, size=0, channels=0, mean=[], std=[])


def test_encoded_texts(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    encoded = encode_split(PreparedTask(prepared), "train", text_preprocessor())
    assert len(encoded) == 3
    assert encoded.ids.tolist() == [0, 1, 2]
    assert encoded.row_hashes.dtype == np.uint64
    assert encoded.row_hashes.tolist() == PreparedTask(prepared).rows("train")["row_hash"].to_pylist()
    assert encoded.labels.tolist() == [1, 0, 1]
    assert encoded.labels.dtype == np.int64
    assert encoded.input_ids is not None
    assert [row.tolist() for row in encoded.input_ids] == [[2, 4, 6, 3], [2, 5, 6, 3], [2, 7, 7, 3]]
    assert encoded.images is None
    assert "longer than max_length" not in caplog.text


def test_truncation_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    columns = {"text": ["good " * 9, "bad"], "label": [0, 1]}
    prepare_task(text_task(save(tmp_path, columns, columns), max_length=4), tmp_path / "out", "long")
    encoded = encode_split(PreparedTask(tmp_path / "out"), "train", text_preprocessor())
    assert encoded.input_ids is not None
    assert [len(row) for row in encoded.input_ids] == [4, 3]
    assert "task long, train: 1 of 2 texts are longer than max_length 4 and were cut" in caplog.text


def test_encoded_images(pictures: Path) -> None:
    preprocessor = SimpleNamespace(
        kind="image", tokenizer=None, size=4, channels=3, mean=[0.5] * 3, std=[0.5] * 3
    )
    encoded = encode_split(PreparedTask(pictures), "train", preprocessor)
    assert encoded.images is not None
    assert encoded.images.pixels.shape == (2, 3, 4, 4)
    assert encoded.images.pixels.dtype == np.uint8
    assert (encoded.images.mean, encoded.images.std) == ([0.5] * 3, [0.5] * 3)
    assert encoded.input_ids is None


def test_the_wrong_kind_of_model(pictures: Path) -> None:
    with pytest.raises(TaskError, match="task 'pictures' has images, but the model takes texts"):
        encode_split(PreparedTask(pictures), "train", text_preprocessor())


def test_card_fields_are_fixed(prepared: Path) -> None:
    card = read_card(prepared)
    assert TaskCard.model_validate(card.model_dump(mode="json")) == card
    with pytest.raises(ValueError, match="frozen"):
        card.name = "other"  # type: ignore[misc]
