"""For which study a choice of tuning counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import load_study
from kdcache.study.tuned import asked_for
from tests.study.samples import STUDY, changed, write


def asked(folder: Path, changes: dict[str, Any]) -> str:
    return asked_for(load_study(write(folder, changed(changes) if changes else STUDY)))


@pytest.mark.parametrize(
    "changes", [{"students.small.keep": [0]}, {"students.small.keep": "all"}, {"seeds": [3, 4]}]
)
def test_what_is_kept_and_which_seeds_run_change_no_choice(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert asked(tmp_path, changes) == asked(tmp_path, {})


@pytest.mark.parametrize(
    "changes",
    [{"students.small.epochs": 3}, {"distillers.kd.alpha": 0.6}, {"tasks.news.max_length": 23}],
)
def test_what_a_score_depends_on_changes_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert asked(tmp_path, changes) != asked(tmp_path, {})
