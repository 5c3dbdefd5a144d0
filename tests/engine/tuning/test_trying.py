"""The study that tuning runs, beside the one that it is for."""

from __future__ import annotations

from pathlib import Path

from kdcache.engine.tuning.trying import study_of
from kdcache.study import load_study
from tests.study.samples import changed, write


def test_it_has_its_own_seeds_and_keeps_no_model(tmp_path: Path) -> None:
    tuning = {"seeds": [1000, 1001], "budget": 2, "space": {"all": {"epochs": [1, 2]}}}
    study = load_study(write(tmp_path, changed({"students.small.keep": "all", "tuning": tuning})))
    assert study.students["small"].keeps(0)
    tuned = study_of(study)
    assert tuned.seeds_of("news", "small", "base") == [1000, 1001]
    assert not any(tuned.students["small"].keeps(seed) for seed in (0, 1000, 1001))
