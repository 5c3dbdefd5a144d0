"""Studies with language modelling: what is taken, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcache.study import load_study
from tests.study.samples import ABSENT, MODEL, changed, mistakes_in, only_mistake, write

TASK = {
    "kind": "language_modelling", "source": {"builtin": "bbc_articles"}, "text": ["text"], "max_length": 64,
    "metrics": ["nll", "bits_per_byte"],
}  # fmt: skip
DISTILLERS = {
    "kd": {"soft_labels": "teacher", "alpha": 0.5},
    "self_kd": {"soft_labels": "self", "alpha": 0.5},
}


def language(changes: dict[str, Any]) -> dict[str, Any]:
    """A correct study of language modelling with some values replaced."""
    return {
        "tasks": {"bbc": TASK},
        "teachers": {"big": {**MODEL, "epochs": 0, "cache": {"eps": 0.02, "draws": 2}}},
        "students": {"small": {**MODEL, "teacher": "big"}},
        "distillers": DISTILLERS,
        "comparison.margin": {"nll": 0.01},
        **changes,
    }


def teacher(**cache: Any) -> dict[str, Any]:
    return {"teachers": {"big": {**MODEL, "epochs": 0, "cache": cache}}}


def kd(**values: Any) -> dict[str, Any]:
    return {"distillers": {"kd": {"soft_labels": "teacher", "alpha": 0.5, **values}}}


def test_a_correct_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, changed(language({}))))
    assert study.tasks["bbc"].language_modelling
    assert study.teachers["big"].estimate.values == {"eps": 0.02, "draws": 2, "seed": 0}
    assert study.students["small"].estimate.values == {"eps": 1 / 64, "draws": 1, "seed": 0}
    assert study.unit.plural == "nats"


TUNING = {"seeds": [9], "budget": 2}
WRONG = [
    ({"tuning": {**TUNING, "space": {"base": {"epochs": [1, 2]}, "self_kd": {"epochs": [1, 2]},
                                     "smooth": {"epochs": [1, 2]}, "kd": {"temperature": [1, 2]}}}},
     "tuning.space.kd.temperature: 2: task 'bbc' is language modelling: teachers.big.cache: a threshold cache serves"),
    ({"tuning": {**TUNING, "teachers": {"epochs": [1, 2]}}},
     "tuning.teachers: teachers.big has epochs: 0, it is as its checkpoint is; leave one of them out"),
    ({"tasks": {"bbc": {**TASK, "label": "topic", "augment": {"flip": 0.5}}}},
     "tasks.bbc: label, augment: for rows with labels; language modelling predicts the text itself"),
    ({"tasks": {"bbc": {**TASK, "metrics": ["nll", "accuracy"]}}},
     "tasks.bbc: metrics of language modelling are nll, bits_per_byte, found accuracy"),
    ({"tasks": {"bbc": {**TASK, "text": ["a", "b"]}}}, "tasks.bbc: language modelling needs text, one column"),
    ({"tasks": {"bbc": {key: value for key, value in TASK.items() if key != "max_length"}}},
     "tasks.bbc: language modelling needs max_length"),
    (kd(temperature=2), "distillers.kd: task 'bbc' is language modelling: teachers.big.cache: a threshold cache "
     "serves the temperature that it was made at, 1: another one needs every token's probability"),
    (kd(divergence="reverse_kl"), "distillers.kd: task 'bbc' is language modelling: teachers.big.cache: reverse KL "
     "needs the teacher's log-probability of every token that the student may give"),
    (kd(divergence="mse"),
     "distillers.kd: task 'bbc' is language modelling: divergence: mse needs the teacher's logits"),
    (kd(tail="bucket"), "distillers.kd: task 'bbc' is language modelling: teachers.big.cache: tail is what becomes of "
     "the probability that a top-k cache lacks; a threshold cache lacks none"),
    ({"distillers": {"mine": {"soft_labels": "teacher", "function": "a:b"}}},
     "distillers.mine: task 'bbc' is language modelling: an own function is given logits [B, K] of classes"),
    ({"regularizers.smooth": {"soft_labels": "uniform_others", "alpha": 0.1}},
     "regularizers.smooth: task 'bbc' is language modelling: soft_labels: uniform_others has no loss in closed form"),
    ({"regularizers.smooth": {"soft_labels": "uniform", "alpha": 0.1, "divergence": "reverse_kl"}},
     "regularizers.smooth: task 'bbc' is language modelling: divergence: reverse_kl has no loss in closed form here"),
    (teacher(estimator="topk", eps=0.1), "teachers.big.cache: estimator: topk has no eps"),
    (teacher(estimator="all"), "teachers.big.cache.estimator: Input should be 'threshold', 'rs', 'topk' or 'full'"),
    ({"teachers": {"big": {**MODEL, "epochs": 0, "init": "scratch"}}},
     "teachers.big.epochs: 0 with init: scratch is a model that has learned nothing"),
    ({"comparison.margin": {"accuracy": 1.0}}, "comparison.margin: no margin for 'nll'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), WRONG, ids=[expected[:60] for _, expected in WRONG])
def test_a_mistake(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, language(changes)).startswith(expected)


def test_a_full_cache_serves_other_temperatures_and_reverse_kl(tmp_path: Path) -> None:
    for values in ({"temperature": 2}, {"divergence": "reverse_kl"}, {"temperature": {"start": 4, "end": 1}}):
        changes = {**teacher(estimator="full"), **kd(**values)}
        load_study(write(tmp_path, changed(language(changes))))


def test_a_top_k_cache_has_a_tail(tmp_path: Path) -> None:
    changes = {**teacher(estimator="topk", k=32), **kd(tail="renormalise")}
    load_study(write(tmp_path, changed(language(changes))))


def test_classification_has_no_token_cache_and_trains_its_head(tmp_path: Path) -> None:
    assert only_mistake(tmp_path, {"teachers.big.cache": {"estimator": "full"}}).startswith(
        "teachers.big.cache: says what is stored of a language model"
    )
    assert only_mistake(tmp_path, {"teachers.big.epochs": 0}) == (
        "teachers.big.epochs: 0 is for language modelling; the head for task 'news' has to be trained"
    )
    assert only_mistake(tmp_path, {"distillers.kd.tail": "bucket"}).startswith(
        "distillers.kd.tail: is about token"
    )
    assert only_mistake(tmp_path, {"students.small.epochs": 0}).startswith(
        "students.small.epochs: Input should"
    )


def test_articles_have_no_labels(tmp_path: Path) -> None:
    assert only_mistake(tmp_path, {"tasks.news.source": {"builtin": "bbc_articles"}}).endswith(
        "write kind: language_modelling"
    )


def test_a_loss_can_judge_a_classification(tmp_path: Path) -> None:
    changes = {"tasks.news.metrics": ["nll", "accuracy"], "tasks.digits": ABSENT, "teachers.eye": ABSENT,
               "students.glance": ABSENT, "comparison.margin": {"nll": 0.02}}  # fmt: skip
    assert load_study(write(tmp_path, changed(changes))).unit.sign == -1


def test_one_study_has_one_unit(tmp_path: Path) -> None:
    changes = {"tasks.news.metrics": ["nll"], "comparison.margin": {"nll": 0.02, "accuracy": 1.0}}
    assert mistakes_in(tmp_path, changed(changes)) == [
        "tasks.digits.metrics: judged in points, but task 'news' in nats; the first metrics of one study are of one "
        "unit, so write two studies"
    ]
