"""What may be a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.samples import STUDY, only_mistake

ONE = [
    ({"tasks.a b": STUDY["tasks"]["news"]},
     "tasks.a b: a name has letters, digits, '-' and '_' only, found 'a b'"),
    ({"students.-x": STUDY["students"]["small"]}, "students.-x: a name has letters"),
    ({"regularizers": {"base": {}, "": {}}}, "regularizers.: a name has letters"),
    ({"regularizers": {"base": {}, 3: {}}},
     "regularizers.3: a name has letters, digits, '-' and '_' only, found 3 (quote it"),
    ({"tasks.news.source": {"files": {"train": "a.csv", "validation": "b.csv", "hard ones": "c.csv"}}},
     "tasks.news.source.files.hard ones: a name has letters, digits, '-' and '_' only, found 'hard ones'"),
    ({"students.small.teacher": []},
     "students.small.teacher: expected a teacher or a list of different teachers, found []"),
    ({"students.small.teacher": ["big", "big"]},
     "students.small.teacher: expected a teacher or a list of different teachers, found ['big', 'big']"),
    ({"students.small.teacher": ["big", 3]},
     "students.small.teacher: a name has letters, digits, '-' and '_' only, found 3 (quote it"),
    ({"distillers.kd.teacher": []},
     "distillers.kd.teacher: expected a teacher or a list of different teachers, found []"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_what_is_no_name_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)
