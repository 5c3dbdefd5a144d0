"""Files that are no text in UTF-8: each says what it seems to be."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from kdcache.errors import TaskError
from kdcache.tasks.text_files import open_text
from tests.tasks.files import ROWS, parquet, refusal

TEXT = "text,label\ngood film,pos\nbad film,neg\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TEXT.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "is text in UTF-16"),
        (TEXT.encode("utf-32"), "is text in UTF-32"),
        (TEXT.encode("utf-16-le"), "begins with zero bytes, as text in UTF-16"),
        (TEXT.encode("utf-16-be"), "begins with zero bytes, as text in UTF-16"),
        (TEXT.encode("utf-32-be"), "begins with zero bytes, as text in UTF-16 or UTF-32"),
        (gzip.compress(TEXT.encode(), mtime=0), "is compressed with gzip; unpack it"),
        (bz2.compress(TEXT.encode()), "is compressed with bzip2"),
        (lzma.compress(TEXT.encode()), "is compressed with xz"),
        (pa.compress(TEXT.encode(), "zstd", asbytes=True), "is compressed with zstd"),
        (b"PK\x03\x04\x14\0\x08\x08\x99\xff", "is a zip archive or an Excel workbook"),
        ("caf\xe9,label\n".encode("latin-1"), r"is not in UTF-8 \(byte 0xe9 in line 1\); .*latin1"),
        ("text,label\na,b\nb,\xfcber\n".encode("latin-1"), r"is not in UTF-8 \(byte 0xfc in line 3\)"),
        (TEXT.encode() + b"\xf0\x9f", r"is not in UTF-8 \(byte 0xf0 in line 4\)"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_a_file_seems_to_be(tmp_path: Path, data: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    with pytest.raises(TaskError, match=f"train: it: {message}"), open_text("train: it", path) as file:
        file.read()
    if suffix == "csv":
        refusal(message, path, path)


def test_a_parquet_file_of_another_name(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ROWS).rename(tmp_path / "a.csv")
    refusal("is a Parquet file; name it .parquet|begins with zero bytes", path, path)


def test_line_ends_stay_and_a_mark_goes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    with open_text("", tmp_path / "a.csv") as file:
        assert file.read() == "a\r\nb\rc\n"


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(TaskError, match="it: cannot be read: No such file"),
        open_text("it", tmp_path / "none"),
    ):
        pass
