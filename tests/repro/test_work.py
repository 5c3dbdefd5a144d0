"""Which stages are expected to have nothing to do, and how many trials the others have."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcache.repro.pipeline import Pipeline
from kdcache.repro.work import Work, expected_work
from tests.study.samples import STUDY, write

TRIALS = Path("data/trials")
OUTS = {
    "prepare@news": Path("data/tasks/news"),
    "teach@news-big": Path("data/teachers/news/big"),
    "teach@news-eye": Path("data/teachers/news/eye"),  # eye is for digits alone
    "cache@news-eye": Path("data/logits/news/eye"),
    "cache@digits-eye": Path("data/logits/digits/eye"),
    "train@news-small-base": TRIALS / "news/small/base",
    "train@news-small-smooth": TRIALS / "news/small/smooth",
    "train@digits-small-base": TRIALS / "digits/small/base",  # small is for news alone
    "compare": Path("metrics/trials.csv"),
}


def pipeline(**changed: set[str]) -> Pipeline:
    names = list(OUTS)
    everything = {
        name: changed.get(name.replace("@", "_").replace("-", "_"), {"params.yaml"}) for name in names
    }
    return Pipeline(
        names, {name: set() for name in names}, {name: [out] for name, out in OUTS.items()}, everything, set()
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, STUDY)
    return tmp_path


def finish(*seeds: int, method: str) -> None:
    for seed in seeds:
        folder = TRIALS / "news/small" / method / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")


def test_what_the_study_excludes_is_idle(project: Path) -> None:
    work = expected_work(pipeline(), list(OUTS))
    assert work.trials == {"train@news-small-base": 2, "train@news-small-smooth": 2}
    assert work.idle == {"teach@news-eye", "cache@news-eye", "train@digits-small-base"}


def test_a_configuration_that_has_its_trials_is_idle_when_only_settle_json_has_changed(project: Path) -> None:
    finish(0, 1, method="base")
    finish(0, method="smooth")
    asked = {"train_news_small_base": {"settle.json"}, "train_news_small_smooth": {"settle.json"}}
    work = expected_work(pipeline(**asked), list(OUTS))
    assert "train@news-small-base" in work.idle
    assert "train@news-small-smooth" not in work.idle  # a trial is missing
    assert work.trials == {"train@news-small-base": 0, "train@news-small-smooth": 1}  # the others are kept
    asked["train_news_small_base"] = {"settle.json", "kdcache/training"}
    changed = expected_work(pipeline(**asked), list(OUTS))
    assert "train@news-small-base" not in changed.idle
    assert changed.trials["train@news-small-base"] == 2


def test_models_are_needed_to_teach_to_cache_and_for_trials_that_are_missing(project: Path) -> None:
    """For the server that imports torch once for all stages; a stage that finds none starts its own."""
    finish(0, 1, method="base")
    asked = {"train_news_small_base": {"settle.json"}}
    idle = ["prepare@news", "teach@news-eye", "cache@news-eye", "train@news-small-base", "compare"]
    assert expected_work(pipeline(**asked), idle).models == []
    for stage in ("teach@news-big", "cache@digits-eye", "train@news-small-smooth"):
        assert len(expected_work(pipeline(**asked), [*idle, stage]).models) == 4


def test_trials_are_not_counted_as_kept_while_what_they_learn_from_may_change(project: Path) -> None:
    finish(0, 1, method="base")
    work = expected_work(pipeline(train_news_small_base=set()), list(OUTS))
    assert work.trials["train@news-small-base"] == 2
    assert "train@news-small-base" not in work.idle


def test_tune_has_the_trials_of_every_setting_that_has_no_result(project: Path) -> None:
    tuning = {
        "seeds": [100, 101],
        "budget": 2,
        "space": {"all": {"epochs": [1, 2, 4]}},
        "teachers": {"epochs": [1, 2]},
    }
    write(project, {**STUDY, "tuning": tuning})
    tune = Pipeline(
        ["tune"], {"tune": set()}, {"tune": [Path("data/tuning")]}, {"tune": {"params.yaml"}}, set()
    )
    asked = 2 * (2 * 2 * 4 + 2 * 2)  # seeds x (settings x students x methods + settings x teachers)
    assert expected_work(tune, ["tune"]).trials == {"tune": asked}
    for place in ("trials/news/small/base", "teacher-trials/news/big/base"):
        folder = Path("data/tuning") / place / "setting-0" / "seed-100"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    assert expected_work(tune, ["tune"]).trials == {"tune": asked - 2}


def test_nothing_is_known_without_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected_work(pipeline(), list(OUTS)) == Work()
