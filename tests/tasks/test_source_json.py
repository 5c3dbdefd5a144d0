"""JSON Lines: what is read, and what each failure says. Python's json reads the same rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.errors import TaskError
from kdcache.tasks.rows import Columns
from kdcache.tasks.source_json import read_json_lines
from kdcache.tasks.sources import load_source
from tests.tasks.files import ROWS, parquet, read, refusal, task, write


def test_json_lines(tmp_path: Path) -> None:
    lines = ['{"text": "a", "label": 0, "more": [1]}', "", '{"label": 1, "text": "é"}']
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert read(load_source(task(path, path))) == {"text": ["a", "é"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{oops\n', "line 2: is not JSON"),
        ('[{"text": "a"}]', "line 1: expected one JSON object a line, found list"),
        ('{"text": "a", "label": 0}\n{"text": "b", "label": "one"}', "column 'label' mixes types"),
        ('{"text": "a", "label": 0, "text": "b"}', "line 1: is not JSON .the key 'text' is there twice."),
        (
            '{"text": "a", "label": 0, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "line 1: is nested too deep",
        ),
        (
            '{"text": "x", "label": 0}\n{"text": "\\ud83d", "label": 0}',
            "column 'text' has half of .* pair in row 1",
        ),
        ('{"text": "x", "label": "\\udc00"}', "column 'label' has half of a surrogate pair in row 0"),
        ('{"text": "x", "label": ' + "9" * 5000 + "}", "line 1: is not JSON .*digits"),
        (
            '{"text": "x", "label": ' + "9" * 30 + "}",
            "column 'label' has an integer in row 0 that is too large",
        ),
        (
            '{"text": "x", "label": 0.5}\n{"text": "y", "label": 9007199254740993}',
            "column 'label' has an integer in row 1 that is too large to be kept exactly",
        ),
        (
            '{"text": "x", "label": 0.5}\n{"text": "y", "label": true}',
            r"column 'label' mixes numbers \(first in row 0\) and true/false \(first in row 1\)",
        ),
        (
            '{"text": "x", "label": true}\n{"text": "y", "label": 0}',
            r"column 'label' mixes numbers \(first in row 1\) and true/false \(first in row 0\)",
        ),
        ('{"text": "x", "label": {"\\ud800": 1}}', "column 'label' has half of a surrogate pair"),
        ('{"\\ud800": "x", "label": 0}', r"no column 'text'; there are: '\\ud800', label"),
        ('{"text": [["a"], 1], "label": 0}', "column 'text' mixes types"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str, message: str) -> None:
    good = parquet(tmp_path / "a.parquet", ROWS)
    path = write(tmp_path / "b.jsonl", content)
    refusal(rf"train: .*b\.jsonl(, |: ){message}", path, good)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.text(max_size=3), max_size=3)
)
OBJECTS = st.dictionaries(st.sampled_from(["text", "label", "more", "é", ""]), VALUES)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=9), min_size=1),
    extra=OBJECTS,
    plain=st.booleans(),
    end=st.sampled_from("\n\r"),
)
def test_rows_are_those_that_json_reads(
    tmp_path: Path, texts: list[str], extra: dict[str, Any], plain: bool, end: str
) -> None:
    rows = [{**extra, "text": text, "label": number} for number, text in enumerate(texts)]
    lines = [json.dumps(row, ensure_ascii=plain) for row in rows]
    path = tmp_path / "a.jsonl"
    path.write_bytes((end.join(lines) + end).encode("utf-8", "surrogatepass"))
    expected = [json.loads(line) for line in lines]
    table = read_json_lines("", path, Columns(["text"], None, "label"))
    assert table.column("text").to_pylist() == [row["text"] for row in expected]
    assert table.column("label").to_pylist() == [row["label"] for row in expected]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (
            ([[0, 1]], [[0.0, 0.5019607843137255]]),
            "floats (first in row 1) and integers (first in row 0)",
        ),
        (([[0, 255]], [[7, 7.0]]), "floats (first in row 1) and integers (first in row 0)"),
        (([[0, 1.0]],), "floats (first in row 0) and integers (first in row 0)"),
        (([[[0.5], [1.0]]], [[[True], [1.0]]]), "floats (first in row 0) and true/false (first in row 1)"),
    ],
)
def test_images_of_several_kinds_of_numbers(tmp_path: Path, images: Any, found: str) -> None:
    """Arrow would make integers floats: a level of 1 would become 255 through another row."""
    lines = [json.dumps({"image": image, "label": 0}) for image in images]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    with pytest.raises(TaskError, match=re.escape(f"column 'image' mixes {found}; write every value")):
        read_json_lines("a.jsonl", path, Columns([], "image", "label"))


@pytest.mark.parametrize(
    ("first", "second"), [(2**63 - 1, -(2**63)), (0.5, 2**53), (1, 0.5), (True, False), (None, 1)]
)
def test_numbers_that_are_kept_exactly(tmp_path: Path, first: Any, second: Any) -> None:
    lines = [json.dumps({"text": "", "label": label}) for label in (first, second)]
    table = read_json_lines(
        "", write(tmp_path / "a.jsonl", "\n".join(lines)), Columns(["text"], None, "label")
    )
    assert table.column("label").to_pylist() == [first, second]


def test_lists_about_as_deep_as_pythons_stack(tmp_path: Path) -> None:
    """They are refused in words, as too deep or beside a number; the search for what is wrong does not recurse."""
    for depth in range(300, 1000, 10):
        deep = "[" * depth + "1" + "]" * depth
        path = write(tmp_path / "a.jsonl", f'{{"text": "", "label": {deep}}}\n{{"text": "", "label": 1}}')
        with pytest.raises(TaskError, match=r"nested too deep|mixes types"):
            read_json_lines("a.jsonl", path, Columns(["text"], None, "label"))
