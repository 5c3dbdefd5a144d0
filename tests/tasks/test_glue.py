"""The studies' GLUE tasks: columns, label order, metrics and splits, as the hub's nyu-mll/glue has them.

Real files are tested where KDCACHE_MIRROR holds them; the hub's form is imitated with made-up rows.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy import stats
from sklearn import metrics as sk

from kdcache.checkpoints.hub import COMMIT
from kdcache.checkpoints.mirror import MIRROR
from kdcache.cli.planning.estimates import describe
from kdcache.cli.planning.plan import plan_study
from kdcache.cli.planning.runs import Size
from kdcache.engine.tuning.search import known_settings
from kdcache.errors import ParamsError
from kdcache.study import Study, Task, load_study
from kdcache.study.tuning import grid
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.scoring import score

STUDIES = Path(__file__).parents[2] / "studies"
PAIR = ("sentence1", "sentence2")
# The hub's columns and class names (none: a score), the metrics of the GLUE benchmark, and the rows of each split
# (Wang et al. 2019, table 1, whose test splits have no labels).
GLUE: dict[str, tuple[tuple[str, ...], list[str], list[str], dict[str, int]]] = {
    "cola": (
        ("sentence",),
        ["unacceptable", "acceptable"],
        ["matthews"],
        {"train": 8551, "validation": 1043},
    ),
    "sst2": (("sentence",), ["negative", "positive"], ["accuracy"], {"train": 67349, "validation": 872}),
    "mrpc": (PAIR, ["not_equivalent", "equivalent"], ["accuracy", "f1"], {"train": 3668, "validation": 408}),
    "qqp": (
        ("question1", "question2"),
        ["not_duplicate", "duplicate"],
        ["accuracy", "f1"],
        {"train": 363846, "validation": 40430},
    ),
    "mnli": (
        ("premise", "hypothesis"),
        ["entailment", "neutral", "contradiction"],
        ["accuracy"],
        {"train": 392702, "validation": 9815, "validation_mismatched": 9832},
    ),
    "qnli": (
        ("question", "sentence"),
        ["entailment", "not_entailment"],
        ["accuracy"],
        {"train": 104743, "validation": 5463},
    ),
    "rte": (PAIR, ["entailment", "not_entailment"], ["accuracy"], {"train": 2490, "validation": 277}),
    "wnli": (PAIR, ["not_entailment", "entailment"], ["accuracy"], {"train": 635, "validation": 71}),
    "stsb": (PAIR, [], ["pearson", "spearman"], {"train": 5749, "validation": 1500}),
}
HUB_NAMES = {("mnli", "validation"): "validation_matched"}


def entry(name: str) -> Task:
    return load_study(STUDIES / ("glue-stsb.yaml" if name == "stsb" else "glue.yaml")).tasks[name]


def write_split(file: Path, columns: tuple[str, ...], names: list[str], seed: int) -> list[float]:
    """Twelve rows as the hub has them: label int64 ClassLabel, or a float32 score, then idx; their labels."""
    rng = np.random.default_rng(seed)
    labels = (
        rng.permutation(np.arange(12) % len(names)) if names else rng.uniform(0, 5, 12).astype(np.float32)
    )
    texts = {column: [f"{column} {seed} {row}" for row in range(12)] for column in columns}
    label = pa.array(labels, pa.int64() if names else pa.float32())
    table = pa.table({**texts, "label": label, "idx": pa.array(range(12), pa.int32())})
    kind = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "float32", "_type": "Value"}
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": kind}}})}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return [float(value) for value in labels]


@pytest.mark.parametrize("name", GLUE)
def test_every_task_is_prepared_from_the_form_that_the_hub_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, names, metrics, rows = GLUE[name]
    folder = tmp_path / "mirror" / "nyu-mll" / "glue" / name
    labels = {
        split: write_split(folder / f"{HUB_NAMES.get((name, split), split)}.parquet", columns, names, seed)
        for seed, split in enumerate(rows)
    }
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    card = prepare_task(entry(name), tmp_path / "task", name)
    check(card, name)
    assert card.rows == dict.fromkeys(rows, 12)
    assert set(metrics) <= set(card.metrics)
    for seed, (split, expected) in enumerate(labels.items()):
        table = PreparedTask(tmp_path / "task").rows(split)
        assert table["label"].to_pylist() == expected
        for column, original in zip(("text", "text_pair"), columns, strict=False):
            assert table[column][3].as_py() == f"{original} {seed} 3"


def check(card: TaskCard, name: str) -> None:
    _, names, metrics, _ = GLUE[name]
    assert (card.label_names, card.regression) == (names, name == "stsb")
    assert card.metrics[: len(metrics)] == metrics
    assert card.max_length == 128


@pytest.mark.parametrize("name", GLUE)
def test_the_real_files(name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get(MIRROR, "nowhere"), "nyu-mll", "glue", name)
    wanted = [folder / f"{HUB_NAMES.get((name, split), split)}.parquet" for split in GLUE[name][3]]
    absent = [str(file) for file in wanted if not file.is_file()]
    if absent:
        pytest.skip(f"no {', '.join(absent)} ({MIRROR} names a folder that may hold real data)")
    card = prepare_task(entry(name), tmp_path, name)
    check(card, name)
    assert card.rows == GLUE[name][3]


def test_f1_is_of_the_class_that_glue_calls_positive() -> None:
    # 6 rows, predicted 1 1 1 0 0 0 of 1 1 0 1 0 0: of class 1 two right of three predicted and three present: 2/3
    logits = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    labels = np.array([1, 1, 0, 1, 0, 0])
    assert score(logits, labels, ["f1"])["f1"] == pytest.approx(2 / 3)
    assert [GLUE[name][1][1] for name in ("mrpc", "qqp")] == ["equivalent", "duplicate"]


@pytest.mark.parametrize("name", GLUE)
def test_scores_are_the_benchmark_s(name: str) -> None:
    """On made-up predictions: what the benchmark computes with scikit-learn and scipy."""
    _, names, _, _ = GLUE[name]
    rng = np.random.default_rng(len(name))
    task = entry(name)
    if task.regression:
        labels = rng.uniform(0, 5, 300).round(1)
        predicted = labels + rng.normal(size=300)
        found = score(predicted[:, None], labels, task.metrics, regression=True)
        expected = {
            "pearson": stats.pearsonr(predicted, labels)[0],
            "spearman": stats.spearmanr(predicted, labels)[0],
        }
    else:
        labels = rng.integers(len(names), size=300)
        logits = np.eye(len(names))[labels] + rng.normal(size=(300, len(names)))
        predicted, found = logits.argmax(axis=1), score(logits, labels, task.metrics)
        official: dict[str, Any] = {
            "accuracy": (predicted == labels).mean(),
            "matthews": sk.matthews_corrcoef(labels, predicted),
            "f1": sk.f1_score(labels, predicted) if len(names) == 2 else None,
        }
        expected = {metric: official[metric] for metric in task.metrics}
    assert {metric: found[metric] for metric in task.metrics} == pytest.approx(expected)


def test_label_smoothing_of_a_regression_is_refused_by_name(tmp_path: Path) -> None:
    study = yaml.safe_load((STUDIES / "glue-stsb.yaml").read_text())
    study["regularizers"]["label_smoothing"] = {"soft_labels": "uniform", "alpha": 0.1}
    study["distillers"]["kd"] = {"soft_labels": "teacher", "alpha": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(ParamsError) as refused:
        load_study(tmp_path / "params.yaml")
    assert [mistake.split(" (")[0] for mistake in refused.value.mistakes] == [
        "regularizers.label_smoothing: task 'stsb' is a regression",
        "distillers.kd: task 'stsb' is a regression",
    ]


# ---- the other studies ----


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_revision_is_a_commit_or_says_main(file: Path) -> None:
    study = load_study(file)
    revisions = [task.source.revision for task in study.tasks.values() if task.source.hub]
    revisions += [model.revision for model in (*study.teachers.values(), *study.students.values())]
    assert all(revision in (None, "main") or COMMIT.fullmatch(revision) for revision in revisions)


def test_tasks_that_two_studies_share_are_the_same() -> None:
    glue, paper = (load_study(STUDIES / f"{name}.yaml") for name in ("glue", "paper"))
    assert set(paper.tasks) == {"cola", "sst2", "mrpc", "qnli", "rte"}
    assert all(task == glue.tasks[name] for name, task in paper.tasks.items())


def test_the_paper_s_study_has_more_than_600_trials_and_five_methods_and_seeds() -> None:
    study = load_study(STUDIES / "paper.yaml")
    assert len(list(study.configurations())) * len(study.seeds) == 5 * 6 * 5 * 20
    assert study.looks[0] == 5
    starts = {(student.checkpoint, student.init) for student in study.students.values()}
    checkpoints = {"google-bert/bert-base-uncased", "distilbert/distilroberta-base", "distilbert/distilgpt2"}
    assert starts == {(name, init) for name in checkpoints for init in ("pretrained", "scratch")}
    assert set(study.methods()) == {"base", "label_smoothing", "tf_reg", "kd", "self_kd"}


# ---- docs/reproducing-the-paper.md ----

ROWS = {
    **{name: (rows["train"], sum(rows.values()) - rows["train"]) for name, (_, _, _, rows) in GLUE.items()},
    "ag-news": (120000, 7600),
    "trec": (5452, 500),
    "imdb": (25000, 25000),
    "cifar10": (50000, 10000),
    "cifar100": (50000, 10000),
}


def documented() -> dict[str, list[str]]:
    """The page's table: a study's file, and its trials, teachers, optimizer steps, and those of tuning."""
    text = (STUDIES.parent / "docs" / "reproducing-the-paper.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().replace(",", "") for cell in line[1:-1]] for line in lines]
    return {line[0].strip("`"): line[2:6] for line in cells}


def steps_of_tuning(study: Study) -> int:
    """Of every setting of the students and the teachers, and of the teachers that are learned from there."""
    tuning, steps = study.tuning, 0
    if tuning is None:
        return 0
    of_teachers = tuning.of_teachers("base")
    assert of_teachers is not None
    for name, task in study.tasks.items():
        train = task.train_size or ROWS[name][0]
        batches = -(-(train - round(tuning.hold_out * train)) // 32)  # every model here has batches of 32
        for model in study.teachers.values():
            tried = [setting["epochs"] for setting in grid(of_teachers.values("base"))]
            steps += batches * sum([*tried, model.epochs])
        for method in study.methods():
            settings = known_settings(tuning, method)
            assert settings is not None
            steps += batches * len(study.students) * sum(int(setting["epochs"]) for setting in settings)
    return steps


@pytest.mark.parametrize("file", documented())
def test_the_page_s_counts_are_the_studies(file: str) -> None:
    study = load_study(STUDIES / file)
    steps = teachers = trials = 0
    for name, task in study.tasks.items():
        train = task.train_size or ROWS[name][0]
        for model in study.teachers.values():
            if study.applies(model, name):
                teachers, steps = teachers + 1, steps + model.epochs * -(-train // model.batch_size)
        for student in study.students.values():
            runs = len(study.methods()) * study.looks[0]
            trials, steps = trials + runs, steps + runs * student.epochs * -(-train // student.batch_size)
    tuned = steps_of_tuning(study)
    assert documented()[file] == [str(trials), str(teachers), str(steps), str(tuned)]
    sizes = {
        name: Size(task.train_size or ROWS[name][0], ROWS[name][1]) for name, task in study.tasks.items()
    }
    plan = describe(plan_study(study, Path("nowhere"), sizes))
    assert (plan["trials"]["total"], plan["teachers"]["total"]) == (trials, teachers)
    assert plan["steps"] == {"total": steps + tuned, "left": steps + tuned}
