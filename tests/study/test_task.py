"""What is wrong with one task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kdcache.study import load_study
from kdcache.tasks.labels import read_labels
from tests.study.samples import (
    ABSENT,
    ALL_UNLABELLED,
    STUDY,
    WITH_UNLABELLED,
    changed,
    mistakes_in,
    only_mistake,
    text_of,
    write,
)

ONE = [
    ({"tasks.news.source": ABSENT}, "tasks.news.source: missing"),
    ({"tasks.news.source": {}},
     "tasks.news.source: give exactly one of builtin, files, folder, saved, hub; found none"),
    ({"tasks.news.source": {"builtin": "digits", "hub": "a/b", "revision": "x"}},
     "tasks.news.source: give exactly one of builtin, files, folder, saved, hub; found builtin, hub"),
    ({"tasks.news.source": {"builtin": "imagenet"}},
     "tasks.news.source.builtin: Input should be 'bbc_headlines', 'bbc_articles' or 'digits', found 'imagenet'"),
    ({"tasks.news.source": {"hub": "nyu-mll/glue", "name": "rte"}},
     "tasks.news.source: a hub source needs a pinned"),
    ({"tasks.news.source": {"builtin": "digits", "revision": "x"}},
     "tasks.news.source: name and revision belong"),
    ({"tasks.news.source": {"files": {"train": "a.csv"}}},
     "tasks.news.source: files needs the keys train and"),
    ({"tasks.news.source": {"hub": "a/b", "revision": "x", "splits": {"validation": ""}}},
     "tasks.news.source.splits.validation: String should have at least 1 character, found ''"),
    ({"tasks.news.source": {"files": {"train": "a.csv", "validation": 3}}},
     "tasks.news.source.files.validation: expected a file or a list of files, found 3"),
    ({"tasks.news.source": {"files": {"train": [], "validation": "b.csv"}}},
     "tasks.news.source.files.train: expected a file or a list of files, found []"),
    ({"tasks.news.source": {"folder": {"train": "birds"}}},
     "tasks.news.source: folder needs the keys train and validation, found train"),
    ({"tasks.news.source": {"folder": 3}},
     "tasks.news.source.folder: Input should be a valid string, found 3"),
    ({"tasks.news.source": {"folder": {"train": "a", "validation": "b", "to test": "c"}}},
     "tasks.news.source.folder.to test: a name has letters, digits"),
    ({"tasks.news.source": {"folder": "birds", "splits": {"validation": "test"}}},
     "tasks.news.source: splits belongs to a hub or a saved source"),
    ({"tasks.news.source": {"saved": ""}},
     "tasks.news.source.saved: String should have at least 1 character, found ''"),
    ({"tasks.news.source": {"files": {"train": "a.csv", "validation": "b.csv", "views": "c.csv"}}},
     "tasks.news.source: no split can be named views: a logit cache has a folder of that name for other rows; rename"),
    ({"tasks.digits.source": {"folder": {"train": "a", "validation": "b", "views": "c"}}},
     "tasks.digits.source: no split can be named views"),
    ({"tasks.news.source": {"hub": "a/b", "revision": "x", "splits": {"views": "test"}}},
     "tasks.news.source: no split can be named views"),
    ({"tasks.news.source": {"folder": "birds"}},
     "tasks.news: a folder has the columns image and label; write `image: image`, and leave out text and label"),
    ({"tasks.news.label_noise": 1.0}, "tasks.news.label_noise: Input should be less than 1, found 1.0"),
    ({"tasks.news.noise_seed": 1}, "tasks.news: noise_seed says which labels label_noise makes wrong"),
    ({"tasks.news.unlabelled": "rest"},
     "tasks.news: unlabelled: rest is the train rows that train_size does not draw; without it, there are none"),
    ({"tasks.news.train_size": 9, "tasks.news.unlabelled": "unsupervised"},
     "tasks.news.unlabelled: Input should be 'rest', found 'unsupervised'"),
    ({"tasks.news": {**STUDY["tasks"]["news"], "train_size": 9, "unlabelled": "rest", "source": WITH_UNLABELLED}},
     "tasks.news: the source has a split named unlabelled already; leave out unlabelled: rest"),
    ({"tasks.news.text": ABSENT, "tasks.news.max_length": ABSENT}, "tasks.news: give exactly one of text"),
    ({"tasks.news.image": "image"}, "tasks.news: give exactly one of text (one or two columns) and image"),
    ({"tasks.news.text": "text"}, "tasks.news.text: expected a list, such as [text], found 'text'"),
    ({"tasks.news.text": ["a", "b", "c"]}, "tasks.news.text: expected at most 2, found 3"),
    ({"tasks.news.text": ["a", "label"]}, "tasks.news: the label column 'label' is also an input column"),
    ({"tasks.news.max_length": ABSENT}, "tasks.news: a text task needs max_length (tokens)"),
    ({"tasks.news.max_length": 99999999999999999999},
     "tasks.news.max_length: Input should be less than or equal to 1048576, found 99999999999999999999"),
    ({"tasks.news.max_length": 0},
     "tasks.news.max_length: Input should be greater than or equal to 4, found 0"),
    ({"tasks.digits.max_length": 8}, "tasks.digits: max_length belongs to a text task"),
    ({"tasks.news.metrics": []}, "tasks.news.metrics: expected at least 1, found 0"),
    ({"tasks.news.metrics": ["bleu"]}, "tasks.news.metrics.0: Input should be 'accuracy', 'f1', 'macro_f1'"),
    ({"tasks.news.metrics": ["accuracy", "pearson"]},
     "tasks.news: metrics mixes classification and regression"),
    ({"tasks.news.metrics": ["accuracy", "accuracy"]}, "tasks.news: a metric is listed twice"),
    ({"tasks.news.label": 3}, "tasks.news.label: Input should be a valid string, found 3"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), ONE, ids=[expected[:50] for _, expected in ONE])
def test_a_mistake_in_a_task(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert only_mistake(tmp_path, changes).startswith(expected)


def test_the_names_of_other_splits_may_be_any(tmp_path: Path) -> None:
    """The card and manifest of a folder are files with a suffix, so a split of that name is another file or folder."""
    names = ["train", "validation", "unlabelled", "card", "manifest", "cost", "teacher", "test"]
    source = {"files": dict.fromkeys(names, "a.csv")}
    study = load_study(write(tmp_path, changed({"tasks.news.source": source})))
    assert list(study.tasks["news"].source.split_names) == names


@pytest.mark.parametrize(
    ("value", "name"),
    [("true", "true"), ("false", "false"), ("True", "true"), ('"True"', "True"), ("0", "0"), ("yes", "yes")],
)
def test_a_class_may_be_written_as_yaml_reads_it(tmp_path: Path, value: str, name: str) -> None:
    """With a mistake elsewhere in the task too: the checks between entries then read the key alone."""
    given = text_of(changed({"tasks.news.positive": "POSITIVE"})).replace("POSITIVE", value)
    assert load_study(write(tmp_path, given)).tasks["news"].positive == name
    (mistake,) = mistakes_in(tmp_path, given.replace("max_length: 24", "max_length: 0"))
    assert mistake.startswith("tasks.news.max_length: ")


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_the_class_of_a_column_of_booleans(tmp_path: Path, value: bool) -> None:
    study = load_study(write(tmp_path, changed({"tasks.news.positive": value})))
    classes = read_labels({"train": pa.chunked_array([[True, False]])}, None, regression=False).names
    assert study.tasks["news"].positive == classes[value]


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
