"""Reading a corpus, and what is no corpus."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tools.pretraining import PretrainingError, read_hub_texts, read_texts


def test_texts_are_read_from_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n')
    pq.write_table(pa.table({"text": ["four", None, " "]}), tmp_path / "c.parquet")
    found = read_texts([tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")])
    assert found == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "x", r"a.csv: expected a .txt, .jsonl or .parquet file, found '.csv'"),
        ("a.txt", " \n", "no text found in .*a.txt"),
        ("a.jsonl", '{"body": 1}\n', r"a.jsonl, line 1: expected an object with a string 'text'"),
        ("a.jsonl", "{oops\n", r"a.jsonl, line 1: not JSON"),
    ],
)
def test_unusable_texts_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(PretrainingError, match=message):
        read_texts([tmp_path / name])


def test_missing_file_and_column_are_named(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(PretrainingError, match=r"a.parquet: expected a column 'text', found \['body'\]"):
        read_texts([tmp_path / "a.parquet"])
    with pytest.raises(PretrainingError, match=r"b\.txt: no such file"):
        read_texts([tmp_path / "b.txt"])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_another_encoding_is_named(name, tmp_path):
    (tmp_path / name).write_bytes('{"text": "café"}\n'.encode("latin-1"))
    with pytest.raises(PretrainingError, match=rf"{name}: not in UTF-8"):
        read_texts([tmp_path / name])


def test_a_column_of_numbers_and_a_broken_file_are_named(tmp_path):
    pq.write_table(pa.table({"text": [7, 8]}), tmp_path / "a.parquet")
    with pytest.raises(PretrainingError, match=r"a\.parquet: expected strings in the column 'text', found 7"):
        read_texts([tmp_path / "a.parquet"])
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(PretrainingError, match=r"b\.parquet: not a readable Parquet file"):
        read_texts([tmp_path / "b.parquet"])


def test_rows_of_the_hub_without_a_text_are_left_out(monkeypatch):
    rows = datasets.Dataset.from_dict({"text": ["one", None, " ", "two"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert read_hub_texts("some/texts", 4) == ["one", "two"]
