"""CSV: what is read, and what each failure says. Python's csv, and the writer of the texts, know the same rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.tasks import source_csv
from kdcache.tasks.rows import Columns
from kdcache.tasks.source_csv import read_csv
from kdcache.tasks.sources import load_source
from tests.tasks.files import ROWS, parquet, read, refusal, task, write

BLOCK = 1 << 20  # what Arrow's reader reads at a time


def test_texts_and_labels_are_as_in_the_file(tmp_path: Path) -> None:
    text = '\ufefftext,label\n"a, ""b""\nc",0\n2020-01-01,00\n007,2020-01-01\nNA,NA\n'
    path = write(tmp_path / "a.csv", text)
    assert read(load_source(task(path, path))) == {
        "text": ['a, "b"\nc', "2020-01-01", "007", "NA"],
        "label": ["0", "00", "2020-01-01", "NA"],
    }


def test_scores_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\na,1\nb," -2.5e-3"\nc,\nd,.5\n')
    loaded = load_source(task(path, path, metrics=["pearson"]))
    assert read(loaded)["label"] == [1.0, -0.0025, None, 0.5]


@pytest.mark.parametrize("score", ["NA", "1,5", "0x10", "one", "1_000", "--1", "1.5 points"])
def test_scores_that_are_no_numbers(tmp_path: Path, score: str) -> None:
    path = write(tmp_path / "a.csv", f'text,label\na,1\nb,"{score}"\nc,2\n')
    message = rf"column 'label' has no number in 1 row \(row 1\), the first is '?{score}'?; a regression"
    refusal(message, path, path, metrics=["pearson"])


def test_a_missing_label_is_an_empty_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\na,\nb,""\nc, \nd,null\n')
    assert read(load_source(task(path, path)))["label"] == [None, None, " ", "null"]


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\n\r\ntext,label\n\na,0\r\n\r\n\r\nb,1")
    assert read(load_source(task(path, path))) == {"text": ["a", "b"], "label": ["0", "1"]}


def test_a_text_of_megabytes_beyond_the_first_block(tmp_path: Path) -> None:
    long = "word " * 500_000
    rows = "".join(f"some text {row},pos\n" for row in range(1000))
    path = write(tmp_path / "a.csv", f'text,label\n{rows}"{long}",neg\nx,pos\n')
    texts = read(load_source(task(path, path)))["text"]
    assert (len(texts), texts[1000], texts[1001]) == (1002, long, "x")
    assert csv.field_size_limit() == 131_072  # as before


def test_a_field_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_csv, "LONGEST_FIELD", 1000)
    path = write(tmp_path / "a.csv", 'text,label\n"' + "x" * 2000 + '",0\n')
    refusal(r"cannot be read: line 2: field larger than field limit \(1000\)", path, path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_end_in_quotes_across_a_block(tmp_path: Path, end: str) -> None:
    for offset in range(-3, 4):
        head, text = f"text,label{end}", "z" * (BLOCK - 13 - len(end) + offset) + "\r\nsecond line"
        path = tmp_path / "a.csv"
        path.write_bytes(f'{head}a,b{end}"{text}",c{end}d,e{end}'.encode())
        assert read(load_source(task(path, path))) == {"text": ["a", text, "d"], "label": ["b", "c", "e"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,label\na,0,9\n",
            "line 2 has 3 fields, the first line has 2; a text with commas or line ends must be",
        ),
        ('text,label\n"a\r\nb\nc",0\nb\n', "line 5 has 1 field, the first line has 2"),
        ("text,label\n" + "a,0\n" * 3000 + "b\n", "line 3002 has 1 field"),
        ("text,label\n\na,0\n\n   \n", "line 5 has 1 field"),
        ('text,label\na,0\n"b,1\nc,2\n', "line 4: unexpected end of data"),
        ('text,label\n"a"b,0\n', "line 2: ',' expected after '\"'"),
        ("text, label\na,0\n", "no column 'label'; there are: text, ' label'"),
        ("text;label\na;0\n", "no column 'text'; there are: text;label"),
        ("text\u00a0,label\na,0\n", r"no column 'text'; there are: 'text\\xa0', label"),
        ("text,text,label\na,b,0\n", "2 columns are named 'text'"),
        ("\n\n", "no column 'text'; there are: none"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str, message: str) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    path = tmp_path / "b.csv"
    path.write_bytes(content.encode())
    refusal(rf"train: .*b\.csv: (cannot be read: )?{message}", path, good)


# Whatever fields are made of: quotes, commas, all line ends, white space, other scripts.
FIELD = st.text(
    st.sampled_from('\r\n",;\t aé😀\0\x0b\x85\u2028\ufeff') | st.characters(codec="utf-8"), max_size=12
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=30),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    minimal=st.booleans(),
    filler=st.just(0) | st.integers(-40, 40),
)
def test_rows_are_those_that_were_written(
    tmp_path: Path, rows: list[tuple[str, str, str]], end: str, minimal: bool, filler: int
) -> None:
    """`filler` puts the rows across the byte 8,192, which is what Python reads at a time."""
    buffer = io.StringIO(newline="")
    # Python's writer leaves a line end bare that is not the lines' own.
    quoting = csv.QUOTE_MINIMAL if minimal and end == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(buffer, lineterminator=end, quoting=quoting)
    writer.writerow(["label", "text", "more"])
    if filler:
        rows = [("x", "z" * (8192 - 50 + filler), "y"), *rows]
    writer.writerows(rows)
    path = tmp_path / "a.csv"
    path.write_bytes(buffer.getvalue().encode())
    table = read_csv("", path, Columns(["text", "more"], None, "label"))
    assert table.column("text").to_pylist() == [text for _, text, _ in rows]
    assert table.column("more").to_pylist() == [more for _, _, more in rows]
    assert table.column("label").to_pylist() == [label or None for label, _, _ in rows]
    with path.open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == table.column("text").to_pylist()
