"""Reading a corpus, and what is no corpus."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tools.pretraining import PretrainingError, read_texts


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
