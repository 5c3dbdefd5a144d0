"""Pydantic's errors in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import load_study
from kdcache.study.wording import describe_mistake
from tests.study.samples import ABSENT, changed, mistakes_in, only_mistake, write

ONE = [
    ({"speeds": [0]}, "speeds: unknown key; did you mean 'seeds'?"),
    ({"zebra": 1}, "zebra: unknown key (there are: seeds, tasks, teachers, students, regularizers,"),
    ({"distillers": None}, "distillers: expected a mapping of keys, found None (write {} for none)"),
    ({"students": None}, "students: expected a mapping of keys, found None (name at least one)"),
    ({"comparison": None}, "comparison: expected a mapping of keys, found None (give it baseline and margin)"),
    ({"tasks.news.source": {"builtin": "bbc_headlines", "splitz": {}}},
     "tasks.news.source.splitz: unknown key; did"),
    ({"students.small.lerning_rate": 1},
     "students.small.lerning_rate: unknown key; did you mean 'learning_rate'?"),
    ({"students.small.seed": 1}, "students.small.seed: unknown key (there are: checkpoint,"),
    ({"teachers.big": None}, "teachers.big: expected a mapping of keys, found None"),
    ({"regularizers.smooth.epsilon": 0.1},
     "regularizers.smooth.epsilon: unknown key (there are: soft_labels, teacher, alpha,"),
    ({"regularizers.base": None},
     "regularizers.base: expected a mapping of keys, found None (write {} for none)"),
    ({"distillers.kd.alpha": {"start": 1.0, "stop": 0.0, "end": 0.5}},
     "distillers.kd.alpha.stop: unknown key (there are: start, end)"),
    ({"students.small.tasks": "news"}, "students.small.tasks: expected a list, such as [news], found 'news'"),
    ({"tasks.news.metrics": "accuracy"}, "tasks.news.metrics: expected a list, such as [accuracy], found 'accuracy'"),
    ({"comparison.looks": 5}, "comparison.looks: expected a list, such as [5], found 5"),
    ({"tasks.news.metrics": {"accuracy": 1}}, "tasks.news.metrics: expected a list, found {'accuracy': 1}"),
    ({"students.small.lora": {"rank": 1, "alpha": 1, "targets": ""}},
     "students.small.lora.targets: expected a list, found ''"),
]  # fmt: skip


KEYS = {
    "tasks.T": "kind, source, text,",
    "tasks.T.source": "builtin, files, folder,",
    "tasks.T.augment": "crop, flip, views, seed)",
    "students.M": "checkpoint, revision, init,",
    "students.M.lora": "rank, alpha, dropout, targets)",
    "students.M.cache": "estimator, eps, n,",
    "teachers.M": "checkpoint, revision, init,",
    "teachers.M.lora": "rank, alpha, dropout, targets)",
    "regularizers.R": "soft_labels, teacher, alpha,",
    "distillers.R.alpha": "start, end)",
    "distillers.R.temperature": "start, end)",
    "comparison": "baseline, alpha, margin,",
    "tuning": "hold_out, seeds, budget,",
    "tuning.teachers": "learning_rate, epochs, batch_size, weight_decay, warmup, max_grad_norm)",
    "tuning.space.R": "learning_rate, epochs, batch_size, weight_decay, warmup, max_grad_norm, alpha,",
}
NAMES = ("source", "augment", "lora", "cache", "alpha", "temperature", "teachers", "tuning", "space")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", KEYS)
def test_an_unknown_key_lists_those_of_its_place_whatever_names_are(place: str, name: str) -> None:
    path = tuple(name if part in ("T", "M", "R") else part for part in place.split("."))
    said = describe_mistake({"type": "extra_forbidden", "loc": (*path, "zebra")})
    assert said.startswith(f"{'.'.join(path)}.zebra: unknown key (there are: {KEYS[place]}")


PLACES = [
    *("tasks", "teachers", "students", "regularizers", "distillers", "comparison"),
    *("tasks.news", "teachers.big", "students.small", "regularizers.base", "distillers.kd"),
    *("tasks.news.source", "comparison.margin"),
]


@pytest.mark.parametrize("path", PLACES)
def test_an_empty_mapping_is_advised_where_it_is_allowed(tmp_path: Path, path: str) -> None:
    advised = [
        mistake for mistake in mistakes_in(tmp_path, changed({path: None})) if "write {} for none" in mistake
    ]
    assert bool(advised) == (path in ("teachers", "distillers", "regularizers.base"))
    if not advised:
        assert [mistake for mistake in mistakes_in(tmp_path, changed({path: {}})) if mistake.startswith(path)]


def test_what_is_advised_is_right(tmp_path: Path) -> None:
    without = {
        "distillers": {},
        "teachers": {},
        "students.small.teacher": ABSENT,
        "students.glance.teacher": ABSENT,
    }
    load_study(write(tmp_path, changed(without)))


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_an_error_is_a_sentence(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)
