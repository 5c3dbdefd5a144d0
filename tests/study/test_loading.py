"""params.yaml: every kind of mistake, with its path, all at once, before anything runs."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.errors import ParamsError
from kdcache.study import Regularizer, Schedule, Study, load_study

ROOT = Path(__file__).parents[2]
MODEL = {"checkpoint": "data/models/m", "learning_rate": 1e-3, "epochs": 2, "batch_size": 8}
STUDY: dict[str, Any] = {
    "seeds": [0, 1],
    "tasks": {
        "news": {
            "source": {"builtin": "bbc_headlines"},
            "text": ["text"],
            "metrics": ["accuracy"],
            "max_length": 24,
        },
        "digits": {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy", "macro_f1"]},
    },
    "teachers": {"big": {**MODEL, "tasks": ["news"]}, "eye": {**MODEL, "tasks": ["digits"]}},
    "students": {
        "small": {**MODEL, "tasks": ["news"], "teacher": "big"},
        "glance": {**MODEL, "tasks": ["digits"], "teacher": "eye", "init": "scratch"},
    },
    "regularizers": {"base": {}, "smooth": {"soft_labels": "uniform", "alpha": 0.1}},
    "distillers": {
        "kd": {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2},
        "self_kd": {"soft_labels": "self", "alpha": 1.0, "temperature": 2},
    },
    "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
}
ABSENT = object()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """STUDY with the values at dotted paths replaced, or removed when ABSENT."""
    study = copy.deepcopy(STUDY)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = study
        for key in parents:
            at = at[key]
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
    return study


def write(folder: Path, study: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(study if isinstance(study, str) else yaml.safe_dump(study, sort_keys=False))
    return path


def mistakes(folder: Path, study: object) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        load_study(write(folder, study))
    return caught.value.mistakes


# ---- a correct file ----


def test_a_correct_study_is_read_with_its_defaults(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    assert study.students["small"].init == "pretrained"
    assert study.students["small"].warmup == 0.1
    assert study.comparison.alpha == 0.05
    assert study.tasks["news"].modality == "text"
    assert study.tasks["digits"].modality == "image"
    assert study.regularizers["base"].is_base


def test_the_grid_leaves_out_pairs_that_tasks_excludes(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    methods = ["base", "smooth", "kd", "self_kd"]
    assert list(study.configurations()) == [
        *[("news", "small", method) for method in methods],
        *[("digits", "glance", method) for method in methods],
    ]
    assert list(study.taught()) == [("news", "big"), ("digits", "eye")]
    assert study.method("kd").soft_labels == "teacher"
    assert study.method("smooth").alpha == 0.1


def test_values_never_change_after_reading(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, STUDY))
    with pytest.raises(ValueError, match="frozen"):
        study.regularizers["smooth"].alpha = 0.2  # type: ignore[misc]


SHIPPED = ["params.yaml", *sorted(f"studies/{path.name}" for path in (ROOT / "studies").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED)
def test_the_studies_that_are_shipped_are_correct(path: str) -> None:
    assert list(load_study(ROOT / path).configurations())


def test_reading_imports_no_heavy_library() -> None:
    code = (
        "import sys, kdcache.study.mistakes; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# ---- the file itself ----


def test_a_missing_file_says_where_to_copy_one_from(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nothing\.yaml: 1 mistake\n.*does not exist.*studies/"):
        load_study(tmp_path / "nothing.yaml")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="cannot be read: Is a directory"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0, 1", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("", "found an empty file"),
        ("# only a comment\n", "found an empty file"),
        ("- a\n- b\n", "found list"),
        ("hello", "found str"),
    ],
)
def test_a_file_that_is_no_yaml_mapping(tmp_path: Path, text: str, message: str) -> None:
    assert message in mistakes(tmp_path, text)[0]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00seeds")
    with pytest.raises(ParamsError, match="is not valid YAML"):
        load_study(path)


def test_a_key_given_twice_is_not_silently_the_last_one(tmp_path: Path) -> None:
    text = yaml.safe_dump(STUDY).replace("  smooth:\n", "  base:\n    alpha: 0.3\n  smooth:\n")
    (mistake,) = mistakes(tmp_path, text)
    assert "the key 'base' is given twice" in mistake
    assert "line " in mistake


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed({"students": ABSENT})) + (
        "students:\n"
        "  small: &m {tasks: [news], teacher: big, checkpoint: c,\n"
        "    learning_rate: 1, epochs: 1, batch_size: 1}\n"
        "  small-scratch: {<<: *m, init: scratch, epochs: 3}\n"
        "  smaller-scratch: {<<: *m, init: scratch, layers: 1}\n"
    )
    study = load_study(write(tmp_path, text))
    assert study.students["small-scratch"].epochs == 3
    assert study.students["smaller-scratch"].epochs == 1


# ---- one mistake ----

REGRESSION = {
    "source": {"files": {"train": "a.csv", "validation": "b.csv"}},
    "text": ["s1", "s2"],
    "metrics": ["pearson"],
    "max_length": 32,
}
BOTH = {**MODEL, "teacher": "big"}
DIGITS = STUDY["tasks"]["digits"]
WITH_UNLABELLED = {"files": {"train": "a.csv", "validation": "b.csv", "unlabelled": "c.csv"}}
ALL_UNLABELLED = {
    f"tasks.{name}": {**task, "train_size": 9, "unlabelled": "rest"} for name, task in STUDY["tasks"].items()
}
ONE = [
    # top level
    ({"seeds": ABSENT}, "seeds: missing"),
    ({"seeds": []}, "seeds: expected at least 1, found 0"),
    ({"seeds": [0, 1, 0]}, "seeds: a seed is listed twice: [0, 1, 0]"),
    ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, found -1"),
    ({"seeds": [2**32]}, "seeds.0: Input should be less than 4294967296"),
    ({"seeds": [0.5]}, "seeds.0: Input should be a valid integer"),
    ({"seeds": [True]}, "seeds: true and false are no values here"),
    ({"seeds": 3}, "seeds: Input should be a valid list, found 3"),
    ({"tasks": {}}, "tasks: expected at least 1, found 0"),
    ({"comparison": ABSENT}, "comparison: missing"),
    ({"speeds": [0]}, "speeds: unknown key; did you mean 'seeds'?"),
    ({"zebra": 1}, "zebra: unknown key (there are: seeds, tasks, teachers, students, regularizers,"),
    # dvc.yaml reads these by name
    ({"distillers": ABSENT}, "distillers: missing; dvc.yaml reads it, so write `distillers: {}` for none"),
    ({"comparison.baseline": ABSENT}, "comparison.baseline: missing"),
    ({"distillers": None}, "distillers: expected a mapping of keys, found None (write {} for none)"),
    # names
    ({"tasks.a b": STUDY["tasks"]["news"]},
     "tasks.a b: a name has letters, digits, '-' and '_' only, found 'a b'"),
    ({"students.-x": STUDY["students"]["small"]}, "students.-x: a name has letters"),
    ({"regularizers": {"base": {}, "": {}}}, "regularizers.: a name has letters"),
    ({"regularizers": {"base": {}, 3: {}}},
     "regularizers.3: a name has letters, digits, '-' and '_' only, found 3 (quote it"),
    # tasks
    ({"tasks.news.source": ABSENT}, "tasks.news.source: missing"),
    ({"tasks.news.source": {}}, "tasks.news.source: give exactly one of builtin, files, hub; found none"),
    ({"tasks.news.source": {"builtin": "digits", "hub": "a/b", "revision": "x"}},
     "tasks.news.source: give exactly one of builtin, files, hub; found builtin, hub"),
    ({"tasks.news.source": {"builtin": "imagenet"}},
     "tasks.news.source.builtin: Input should be 'bbc_headlines' or 'digits', found 'imagenet'"),
    ({"tasks.news.source": {"hub": "nyu-mll/glue", "name": "rte"}},
     "tasks.news.source: a hub source needs a pinned"),
    ({"tasks.news.source": {"builtin": "digits", "revision": "x"}},
     "tasks.news.source: name, revision and splits"),
    ({"tasks.news.source": {"files": {"train": "a.csv"}}},
     "tasks.news.source: files needs the keys train and"),
    ({"tasks.news.source": {"files": {"train": "a.csv", "validation": "b.csv", "hard ones": "c.csv"}}},
     "tasks.news.source.files.hard ones: a name has letters, digits, '-' and '_' only, found 'hard ones'"),
    ({"tasks.news.source": {"hub": "a/b", "revision": "x", "splits": {"validation": ""}}},
     "tasks.news.source.splits.validation: String should have at least 1 character, found ''"),
    ({"tasks.news.source": {"files": {"train": "a.csv", "validation": 3}}},
     "tasks.news.source.files.validation: expected a file or a list of files, found 3"),
    ({"tasks.news.source": {"files": {"train": [], "validation": "b.csv"}}},
     "tasks.news.source.files.train: expected a file or a list of files, found []"),
    ({"tasks.news.source": {"builtin": "bbc_headlines", "splitz": {}}},
     "tasks.news.source.splitz: unknown key; did"),
    ({"tasks.news.label_noise": 1.0}, "tasks.news.label_noise: Input should be less than 1, found 1.0"),
    ({"tasks.news.noise_seed": 1}, "tasks.news: noise_seed says which labels label_noise makes wrong"),
    ({"tasks.news.unlabelled": "rest"},
     "tasks.news: unlabelled: rest is the train rows that train_size does not draw; without it, there are none"),
    ({"tasks.news.train_size": 9, "tasks.news.unlabelled": "unsupervised"},
     "tasks.news.unlabelled: Input should be 'rest', found 'unsupervised'"),
    ({"tasks.news.train_size": 9, "tasks.news.unlabelled": True},
     "tasks.news.unlabelled: true and false are no values here"),
    ({"tasks.news": {**STUDY["tasks"]["news"], "train_size": 9, "unlabelled": "rest", "source": WITH_UNLABELLED}},
     "tasks.news: the source has a split named unlabelled already; leave out unlabelled: rest"),
    ({"tasks.news.text": ABSENT, "tasks.news.max_length": ABSENT}, "tasks.news: give exactly one of text"),
    ({"tasks.news.image": "image"}, "tasks.news: give exactly one of text (one or two columns) and image"),
    ({"tasks.news.text": "text"}, "tasks.news.text: Input should be a valid list, found 'text'"),
    ({"tasks.news.text": ["a", "b", "c"]}, "tasks.news.text: expected at most 2, found 3"),
    ({"tasks.news.text": ["a", "label"]}, "tasks.news: the label column 'label' is also an input column"),
    ({"tasks.news.max_length": ABSENT}, "tasks.news: a text task needs max_length (tokens)"),
    ({"tasks.news.max_length": 0},
     "tasks.news.max_length: Input should be greater than or equal to 4, found 0"),
    ({"tasks.digits.max_length": 8}, "tasks.digits: max_length belongs to a text task"),
    ({"tasks.news.metrics": []}, "tasks.news.metrics: expected at least 1, found 0"),
    ({"tasks.news.metrics": ["bleu"]}, "tasks.news.metrics.0: Input should be 'accuracy', 'f1', 'macro_f1'"),
    ({"tasks.news.metrics": ["accuracy", "pearson"]},
     "tasks.news: metrics mixes classification and regression"),
    ({"tasks.news.metrics": ["accuracy", "accuracy"]}, "tasks.news: a metric is listed twice"),
    ({"tasks.news.label": 3}, "tasks.news.label: Input should be a valid string, found 3"),
    # models
    ({"students.small.checkpoint": ABSENT}, "students.small.checkpoint: missing"),
    ({"students.small.checkpoint": ""}, "students.small.checkpoint: String should have at least 1 character"),
    ({"students.small.lerning_rate": 1},
     "students.small.lerning_rate: unknown key; did you mean 'learning_rate'?"),
    ({"students.small.learning_rate": 0},
     "students.small.learning_rate: Input should be greater than 0, found 0"),
    ({"students.small.learning_rate": "fast"},
     "students.small.learning_rate: Input should be a valid number, unable"),
    ({"students.small.learning_rate": float("inf")},
     "students.small.learning_rate: Input should be a finite number"),
    ({"students.small.learning_rate": float("nan")}, "students.small.learning_rate: Input should be"),
    ({"students.small.epochs": True}, "students.small.epochs: true and false are no values here"),
    ({"students.small.epochs": 1.5}, "students.small.epochs: Input should be a valid integer"),
    ({"students.small.warmup": 1}, "students.small.warmup: Input should be less than 1, found 1"),
    ({"students.small.init": "random"},
     "students.small.init: Input should be 'pretrained' or 'scratch', found 'rand"),
    ({"students.small.seed": 1}, "students.small.seed: unknown key (there are: checkpoint,"),
    ({"students.small.tasks": []}, "students.small.tasks: expected at least 1, found 0"),
    ({"students.small.tasks": ["news", "rte"]},
     "students.small.tasks: no task 'rte' (there are: news, digits)"),
    ({"teachers.big.tasks": ["news", "rte"]}, "teachers.big.tasks: no task 'rte' (there are: news, digits)"),
    ({"teachers.big": None}, "teachers.big: expected a mapping of keys, found None"),
    ({"students.small.teacher": "huge"}, "students.small.teacher: no teacher 'huge' (there are: big, eye)"),
    ({"students.small.teacher": "eye"}, "students.small.teacher: 'eye' is not declared for task 'news'"),
    ({"students.small.teacher": ABSENT},
     "students.small.teacher: missing, but distillers.kd needs a teacher"),
    ({"students.small.teacher": []},
     "students.small.teacher: expected a teacher or a list of different teachers, found []"),
    ({"students.small.teacher": ["big", "big"]},
     "students.small.teacher: expected a teacher or a list of different teachers, found ['big', 'big']"),
    ({"students.small.teacher": ["big", 3]},
     "students.small.teacher: a name has letters, digits, '-' and '_' only, found 3 (quote it"),
    ({"students.small.teacher": ["big", "huge"]},
     "students.small.teacher: no teacher 'huge' (there are: big, eye)"),
    ({"students.small.teacher": ["big", "eye"]},
     "students.small.teacher: 'eye' is not declared for task 'news'"),
    # regularizers
    ({"regularizers": {}}, "regularizers: expected at least 1, found 0"),
    ({"regularizers.smooth.epsilon": 0.1},
     "regularizers.smooth.epsilon: unknown key (there are: soft_labels, teacher, alpha,"),
    ({"regularizers.base": None},
     "regularizers.base: expected a mapping of keys, found None (write {} for none)"),
    ({"regularizers.base": {"alpha": 0.1}},
     "regularizers.base: without soft_labels or function, alpha has no effect"),
    ({"regularizers.smooth.alpha": ABSENT}, "regularizers.smooth: alpha must be given and above 0"),
    ({"regularizers.smooth.alpha": 1.5},
     "regularizers.smooth.alpha: Input should be less than or equal to 1, found"),
    ({"regularizers.smooth.alpha": -0.1},
     "regularizers.smooth.alpha: Input should be greater than or equal to 0"),
    ({"regularizers.smooth.alpha": 1},
     "regularizers.smooth: with alpha: 1 and soft_labels: uniform nothing teaches"),
    ({"regularizers.smooth.alpha": True}, "regularizers.smooth.alpha: true and false are no values here"),
    ({"regularizers.smooth.temperature": 0},
     "regularizers.smooth.temperature: Input should be greater than 0"),
    ({"regularizers.smooth.temperature": float("inf")},
     "regularizers.smooth.temperature: Input should be a finite"),
    ({"regularizers.smooth.soft_labels": "designed"},
     "regularizers.smooth: soft_labels: designed needs `correct`"),
    ({"regularizers.smooth.correct": 0.9},
     "regularizers.smooth: `correct` (probability on the true class) belongs"),
    ({"regularizers.smooth.variant": "released"},
     "regularizers.smooth: variant: released is defined for soft_labels"),
    ({"regularizers.smooth.multiplier": 2}, "regularizers.smooth: multiplier belongs to variant: released"),
    ({"regularizers.smooth.divergence": "mse"},
     "regularizers.smooth: divergence: mse compares logits, so it needs"),
    ({"regularizers.smooth": {"soft_labels": "uniform_others", "alpha": 0.1, "divergence": "reverse_kl"}},
     "regularizers.smooth: divergence: reverse_kl is infinite where soft labels are 0"),
    ({"regularizers.smooth": {"soft_labels": "designed", "correct": 0.9, "alpha": 0.1, "variant": "released",
                              "divergence": "reverse_kl"}},
     "regularizers.smooth: variant: released is defined with divergence: kl only"),
    ({"regularizers.smooth": {"soft_labels": "designed", "correct": 1.0, "alpha": 0.1}},
     "regularizers.smooth.correct: Input should be less than 1, found 1.0"),
    ({"regularizers.smooth.soft_labels": "teacher"},
     "regularizers.smooth.soft_labels: 'teacher' needs cached logits; move it to distillers"),
    ({"regularizers.mine": {"function": "my loss"}},
     "regularizers.mine.function: expected package.module:name, found"),
    ({"regularizers.mine": {"function": "m:f", "alpha": 0.5, "temperature": 2}},
     "regularizers.mine: beside function, alpha, temperature has no effect"),
    ({"regularizers.mine": {"function": "m:f", "soft_labels": "uniform"}},
     "regularizers.mine: a function is given cached logits (teacher or self) or none, not 'uniform'"),
    # distillers
    ({"distillers.kd.soft_labels": "uniform"},
     "distillers.kd.soft_labels: a distiller needs teacher or self, found"),
    ({"distillers.kd": {}}, "distillers.kd.soft_labels: a distiller needs teacher or self, found none"),
    ({"distillers.kd.divergence": "mse"}, "distillers.kd: temperature has no effect with divergence: mse"),
    ({"distillers.kd.divergence": "jensen"},
     "distillers.kd.divergence: Input should be 'kl', 'reverse_kl', 'mse' or 'dkd'"),
    ({"distillers.kd.divergence": "dkd"}, "distillers.kd: divergence: dkd needs `beta`"),
    ({"distillers.kd.beta": 8}, "distillers.kd: beta belongs to divergence: dkd"),
    ({"distillers.kd.beta": -1}, "distillers.kd.beta: Input should be greater than or equal to 0, found -1"),
    ({"regularizers.smooth.divergence": "dkd", "regularizers.smooth.beta": 8},
     "regularizers.smooth: divergence: dkd takes logits apart, so it needs soft_labels: teacher or self"),
    ({"distillers.kd.teacher": "huge"},
     "distillers.kd.teacher: no teacher 'huge' (there are: big, eye)"),
    ({"distillers.kd.teacher": "big"},
     "distillers.kd.teacher: 'big' is not declared for task 'digits'"),
    ({"distillers.kd.teacher": []},
     "distillers.kd.teacher: expected a teacher or a list of different teachers, found []"),
    ({"distillers.self_kd.teacher": "big"},
     "distillers.self_kd: teacher says whose logits soft_labels: teacher stands for, but soft_labels is 'self'"),
    ({"regularizers.mine": {"function": "m:f", "teacher": "big"}},
     "regularizers.mine: teacher says whose logits soft_labels: teacher stands for, but soft_labels is none"),
    ({"regularizers.base": {"teacher": "big"}},
     "regularizers.base: without soft_labels or function, teacher has no effect"),
    ({"distillers.kd.unlabelled": "yes", "tasks.digits": {**DIGITS, "train_size": 9, "unlabelled": "rest"}},
     "distillers.kd.unlabelled: Input should be 'ignore' or 'use', found 'yes'"),
    ({"distillers.kd.unlabelled": "use", "tasks.digits": {**DIGITS, "train_size": 9, "unlabelled": "rest"}},
     "tasks.news: has no unlabelled rows for distillers.kd; give it `unlabelled: rest` beside train_size, or"),
    ({"distillers.self_kd.unlabelled": "use", **ALL_UNLABELLED},
     "distillers.self_kd: unlabelled: use needs a teacher: the baseline's trials keep no logits of unlabelled rows"),
    ({"regularizers.smooth.unlabelled": "use", **ALL_UNLABELLED},
     "regularizers.smooth: unlabelled: use needs soft_labels: teacher; 'uniform' says nothing of such rows"),
    ({"distillers.kd.unlabelled": "use", "distillers.kd.divergence": "dkd", "distillers.kd.beta": 8, **ALL_UNLABELLED},
     "distillers.kd: unlabelled: use has no divergence: dkd, which takes the true class apart: there is none"),
    ({"distillers.own": {"function": "m:f", "soft_labels": "teacher", "unlabelled": "use"}, **ALL_UNLABELLED},
     "distillers.own: beside function, unlabelled has no effect"),
    ({"distillers.smooth": {"soft_labels": "self", "alpha": 0.5}},
     "distillers.smooth: the name is also a regularizer's; names must differ"),
    # schedules
    ({"distillers.kd.alpha": {"start": 1.0}}, "distillers.kd.alpha.end: missing"),
    ({"distillers.kd.alpha": {"start": 2, "end": 0}},
     "distillers.kd.alpha.start: Input should be less than or equal to 1, found 2"),
    ({"distillers.kd.alpha": {"start": "high", "end": 0}},
     "distillers.kd.alpha.start: Input should be a valid number, unable to parse string as a number, found 'high'"),
    ({"distillers.kd.alpha": {"start": 0.5, "end": 0.5}},
     "distillers.kd.alpha: start and end are the same; write the number 0.5"),
    ({"distillers.kd.alpha": {"start": 1.0, "end": True}}, "distillers.kd.alpha: true and false are no values"),
    ({"distillers.kd.alpha": {"start": 1.0, "stop": 0.0, "end": 0.5}},
     "distillers.kd.alpha.stop: unknown key (there are: start, end)"),
    ({"distillers.kd.alpha": [1.0, 0.0]}, "distillers.kd.alpha: Input should be a valid number"),
    ({"distillers.kd.temperature": {"start": 4, "end": 0}},
     "distillers.kd.temperature.end: Input should be greater than 0, found 0"),
    ({"distillers.kd.temperature": {"start": 4, "end": float("inf")}},
     "distillers.kd.temperature.end: Input should be a finite number"),
    ({"distillers.kd.divergence": "mse", "distillers.kd.temperature": {"start": 4, "end": 1}},
     "distillers.kd: temperature has no effect with divergence: mse"),
    ({"regularizers.base": {"alpha": {"start": 1.0, "end": 0.0}}},
     "regularizers.base: without soft_labels or function, alpha has no effect"),
    ({"regularizers.mine": {"function": "m:f", "temperature": {"start": 4, "end": 1}}},
     "regularizers.mine: beside function, temperature has no effect"),
    ({"comparison.alpha": {"start": 0.1, "end": 0.05}}, "comparison.alpha: Input should be a valid number"),
    # comparison
    ({"comparison.baseline": "plain"},
     "comparison.baseline: no regularizer 'plain' (there are: base, smooth)"),
    ({"comparison.baseline": "kd"},
     "comparison.baseline: 'kd' is a distiller; name a regularizer (there are: base"),
    ({"comparison.margin": ABSENT}, "comparison.margin: missing"),
    ({"comparison.margin": {"accuracy": 0}},
     "comparison.margin.accuracy: Input should be greater than 0, found 0"),
    ({"comparison.margin": {"accuracy": True}}, "comparison.margin: true and false are no values here"),
    ({"comparison.margin": {"accuracy": 1, "bleu": 1}},
     "comparison.margin.bleu: Input should be 'accuracy', 'f1'"),
    ({"comparison.alpha": 0.5}, "comparison.alpha: Input should be less than 0.5, found 0.5"),
    ({"comparison.correction": "tukey"},
     "comparison.correction: Input should be 'holm', 'bonferroni', 'fdr_bh' or"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_one_mistake_is_reported_once_with_its_path(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    (mistake,) = mistakes(tmp_path, changed(changes))
    assert mistake.startswith(expected)


def test_a_margin_for_another_metric_is_no_margin(tmp_path: Path) -> None:
    assert mistakes(tmp_path, changed({"comparison.margin": {"macro_f1": 1.0}})) == [
        "comparison.margin: no margin for 'accuracy', the first metric of task 'news'",
        "comparison.margin: no margin for 'accuracy', the first metric of task 'digits'",
    ]


# ---- regression ----


def test_a_regression_refuses_what_needs_classes(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        changed(
            {
                "tasks.sts": REGRESSION,
                "comparison.margin": {"accuracy": 1.0, "pearson": 1.0},
                "distillers.match": {"soft_labels": "teacher", "alpha": 0.5, "divergence": "mse"},
                "regularizers.mine": {"function": "losses:huber"},
            }
        ),
    )
    assert [line.split(":")[0] for line in found] == [
        "regularizers.smooth",
        "distillers.kd",
        "distillers.self_kd",
    ]
    assert "task 'sts' is a regression (one output)" in found[0]


def test_a_regression_with_base_and_mse_is_correct(tmp_path: Path) -> None:
    changes = {
        "tasks.sts": REGRESSION,
        "comparison.margin": {"accuracy": 1.0, "pearson": 1.0},
        "regularizers": {"base": {}},
        "distillers": {"match": {"soft_labels": "teacher", "alpha": 0.5, "divergence": "mse"}},
    }
    assert load_study(write(tmp_path, changed(changes))).tasks["sts"].regression


# ---- names that DVC would confuse ----


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    # "a" + "b-c" and "a-b" + "c" are both train@a-b-c-base, of which DVC keeps one.
    news, student = STUDY["tasks"]["news"], {**MODEL, "teacher": "big"}
    changes = {
        "tasks": {"a": news, "a-b": news},
        "teachers": {"big": MODEL},
        "students": {"c": student, "b-c": student},
    }
    found = mistakes(tmp_path, changed(changes))
    assert found[0] == (
        "tasks, students, regularizers: "
        "a + b-c + base and a-b + c + base both become 'a-b-c-base'; rename one"
    )
    assert found[1].startswith("tasks, students, distillers: a + b-c + kd and a-b + c + kd")
    assert len(found) == 2


# ---- all at once ----


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        changed(
            {
                "seeds": [0, 0],
                "speed": 1,
                "tasks.news.metrics": ["accuracy", "accuracy"],
                "students.small.teacher": "huge",  # a mistake between entries, beside entries with their own
                "students.small.tasks": ["news", "rte"],
                "students.glance.epochs": 0,
                "regularizers.smooth": {"soft_labels": "designed", "multiplier": 3},
                "distillers.kd.soft_labels": "uniform",
                "comparison.baseline": "plain",
                "comparison.margin": {"macro_f1": 1.0},
            }
        ),
    )
    assert {line.split(": ")[0] for line in found} == {
        "seeds",
        "speed",
        "tasks.news",
        "students.small.teacher",
        "students.small.tasks",
        "students.glance.epochs",
        "regularizers.smooth",
        "distillers.kd.soft_labels",
        "comparison.baseline",
        "comparison.margin",
    }
    assert len(found) == len(set(found)) == 11  # the margin is missing for two tasks


def test_all_mistakes_of_one_regularizer_are_in_its_line(tmp_path: Path) -> None:
    (line,) = mistakes(
        tmp_path, changed({"regularizers.smooth": {"soft_labels": "designed", "multiplier": 3}})
    )
    for part in ("alpha must be given", "needs `correct`", "multiplier belongs to variant: released"):
        assert part in line


def test_a_mistake_within_an_entry_hides_none_between_entries(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        changed(
            {
                "students.small.epoch": 3,
                "students.small.teacher": "huge",
                "students.glance.teacher": ABSENT,
                "distillers.kd.alpha": 0,
                "tasks.digits.max_length": 8,
                "comparison.alpha": 2,
                "comparison.margin": {"macro_f1": 1.0},
            }
        ),
    )
    assert sorted(line.split(": ")[0] for line in found) == [
        "comparison.alpha",
        "comparison.margin",  # of news
        "comparison.margin",  # of digits
        "distillers.kd",
        "students.glance.teacher",  # missing, though the distiller that needs it has a mistake
        "students.small.epoch",
        "students.small.teacher",
        "tasks.digits",
    ]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [("students.small.teacher", 3), ("students.small.tasks", "news"), ("distillers.kd.soft_labels", "tutor")],
)
def test_a_faulty_value_is_not_reported_as_a_missing_one(tmp_path: Path, path: str, wrong: object) -> None:
    (mistake,) = mistakes(tmp_path, changed({path: wrong}))
    assert mistake.startswith(f"{path}: ")


def test_an_entry_with_a_mistake_still_exists_for_others(tmp_path: Path) -> None:
    # The teacher is faulty, not missing: only its own mistake is reported.
    (line,) = mistakes(tmp_path, changed({"teachers.big.epochs": 0}))
    assert line.startswith("teachers.big.epochs")


def test_the_message_counts_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, changed({"seeds": [], "zebra": 1}))
    with pytest.raises(ParamsError) as caught:
        load_study(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 2 mistakes"
    assert [line[:2] for line in lines[1:]] == ["  ", "  "]


# ---- numbers as text ----


def test_a_number_without_a_dot_is_text_to_yaml_and_a_number_here(tmp_path: Path) -> None:
    text = yaml.safe_dump(STUDY).replace("learning_rate: 0.001", "learning_rate: 5e-4")
    assert yaml.safe_load(text)["students"]["small"]["learning_rate"] == "5e-4"  # YAML 1.1
    assert load_study(write(tmp_path, text)).students["small"].learning_rate == 5e-4


def test_a_quoted_number_is_the_number(tmp_path: Path) -> None:
    quoted = load_study(
        write(tmp_path, changed({"regularizers.smooth.alpha": "0.1", "students.small.epochs": "2"}))
    )
    assert quoted == load_study(write(tmp_path, STUDY))


# ---- regularizers that are allowed ----


@pytest.mark.parametrize(
    "params",
    [
        {},
        {
            "soft_labels": "uniform",
            "alpha": 0.1,
            "temperature": 4,
        },  # tempered student: documented, not refused
        {"soft_labels": "uniform", "alpha": 0.1, "divergence": "reverse_kl"},
        {"soft_labels": "uniform_others", "alpha": 0.1},
        {"soft_labels": "designed", "correct": 0.99, "alpha": 1.0, "temperature": 20},
        {"soft_labels": "designed", "correct": 0.99, "alpha": 0.1, "variant": "released", "multiplier": 100},
        {"soft_labels": "teacher", "alpha": 1.0},
        {"soft_labels": "teacher", "alpha": 0.5, "divergence": "reverse_kl", "temperature": 2},
        {"soft_labels": "self", "alpha": 0.5, "divergence": "mse"},
        {"soft_labels": "self", "alpha": 0.5, "divergence": "dkd", "beta": 0, "temperature": 4},
        {"soft_labels": "teacher", "alpha": {"start": 1.0, "end": 0.0}, "divergence": "mse"},
        {"soft_labels": "teacher", "alpha": 0.5, "temperature": {"start": 8, "end": 1}},
        {"soft_labels": "uniform", "alpha": {"start": "0", "end": 1}},
        {"function": "package.module:name"},
        {"function": "module:name", "soft_labels": "teacher"},
    ],
)
def test_regularizers_that_are_allowed(params: dict[str, Any]) -> None:
    assert Regularizer(**params).is_base == (params == {})


def test_a_study_can_be_built_without_a_file() -> None:
    assert Study.model_validate(STUDY).comparison.baseline == "base"


# ---- ensembles and schedules ----


def test_a_student_has_no_teacher_one_or_several(tmp_path: Path) -> None:
    several = changed(
        {"teachers.other": STUDY["teachers"]["big"], "students.small.teacher": ["big", "other"]}
    )
    study = load_study(write(tmp_path, several))
    assert study.students["small"].teachers == ("big", "other")
    assert study.students["glance"].teachers == ("eye",)
    assert study.students["small"].model_copy(update={"teacher": None}).teachers == ()
    assert hash(study.students["small"])  # its encoded rows are kept by it


def test_a_distiller_has_the_students_teacher_or_its_own(tmp_path: Path) -> None:
    own = {"soft_labels": "teacher", "alpha": 0.5, "teacher": ["other", "big"]}
    everywhere = {**MODEL, "tasks": ["news", "digits"]}
    changes = {"teachers.other": everywhere, "teachers.big": everywhere, "distillers.kd_own": own}
    study = load_study(write(tmp_path, changed(changes)))
    small, kd, kd_own = study.students["small"], study.method("kd"), study.method("kd_own")
    assert (kd.teachers_of(small), kd.teacher_name(small)) == (("big",), "big")
    assert (kd_own.teachers_of(small), kd_own.teacher_name(small)) == (("other", "big"), "other+big")
    for free in ("base", "smooth", "self_kd"):
        assert (study.method(free).teachers_of(small), study.method(free).teacher_name(small)) == ((), None)


def test_a_student_needs_no_teacher_where_every_distiller_names_its_own(tmp_path: Path) -> None:
    changes = {
        "teachers.big.tasks": ABSENT,
        "distillers.kd.teacher": "big",
        "students.small.teacher": ABSENT,
        "students.glance.teacher": ABSENT,
    }
    assert load_study(write(tmp_path, changed(changes))).students["small"].teachers == ()
    other = {"soft_labels": "teacher", "alpha": 0.9}
    found = mistakes(tmp_path, changed({**changes, "distillers.kd_other": other}))
    assert [line.split(" (")[0] for line in found] == [
        f"students.{name}.teacher: missing, but distillers.kd_other needs a teacher"
        for name in ("small", "glance")
    ]


def test_a_mistake_beside_an_ensemble_hides_no_missing_member(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, changed({"students.small.epoch": 3, "students.small.teacher": ["big", "huge", "eye"]})
    )
    assert sorted(line.split(": ")[0] for line in found) == [
        "students.small.epoch",
        "students.small.teacher",  # no huge
        "students.small.teacher",  # eye is for another task
    ]


def test_unlabelled_rows_are_the_rest_of_train_or_a_split_of_that_name(tmp_path: Path) -> None:
    news = {**STUDY["tasks"]["news"], "source": WITH_UNLABELLED}
    hub = {"hub": "a/b", "revision": "x", "splits": {"unlabelled": "unsupervised"}}
    changes = {
        **ALL_UNLABELLED,
        "tasks.news": news,
        "tasks.hub": {**news, "source": hub},
        "distillers.kd.unlabelled": "use",
    }
    changes |= {"students.small.tasks": ["news", "hub"], "teachers.big.tasks": ["news", "hub"]}
    study = load_study(write(tmp_path, changed(changes)))
    assert [task.has_unlabelled for task in study.tasks.values()] == [True, True, True]
    assert [task.has_unlabelled for task in load_study(write(tmp_path, STUDY)).tasks.values()] == [
        False,
        False,
    ]
    assert study.methods()["kd"].unlabelled == "use"
    assert study.methods()["self_kd"].unlabelled == "ignore"


def test_a_schedule_is_written_as_it_was_read() -> None:
    alpha = Regularizer(soft_labels="teacher", alpha={"start": 1.0, "end": 0.2}).alpha
    assert isinstance(alpha, Schedule)
    assert Regularizer(soft_labels="teacher", alpha=alpha).model_dump()["alpha"] == {"start": 1.0, "end": 0.2}
