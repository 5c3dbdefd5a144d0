"""Teacher, cache, baseline and distillers on a task of a few rows, without DVC."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import transformers

from kdcache.checkpoints import fingerprints
from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.logits.ensemble import ensemble
from kdcache.modelling import inputs
from kdcache.study import Regularizer, Student, Task, Teacher
from kdcache.tasks import prepared
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import read_cost, read_result
from kdcache.trials.run import run_trial
from kdcache.trials.scores import trial_scores
from tests.doing import cache_logits, teach, trial_plan

RECIPE = {"init": "scratch", "learning_rate": 0.003, "epochs": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared task (digits 0 and 1 of a smaller set would do; the built-in one is small) and a checkpoint."""
    root = tmp_path_factory.mktemp("experiment")
    spec = Task.model_validate({"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]})
    prepare_task(spec, root / "digits", "digits")
    transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=1,
    ).save_pretrained(root / "vit")
    settings = {"size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.5]}
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    return root


def student(root: Path, **changes: Any) -> Student:
    return Student(checkpoint=str(root / "vit"), teacher="big", **{**RECIPE, **changes})


def plan(root: Path, name: str, method: Regularizer, *soft_labels: Path, seed: int = 0) -> TrialPlan:
    return trial_plan(
        folder=root / "trials" / name,
        identity=name,
        task="digits",
        task_folder=root / "digits",
        student="vit",
        model=student(root),
        regularizer=name,
        method=method,
        seed=seed,
        soft_labels=soft_labels,
        keep_train_logits=name == "base",
    )


@pytest.fixture(scope="module")
def taught(folder: Path) -> Path:
    """The teacher's logit cache."""
    teacher = Teacher(checkpoint=str(folder / "vit"), seed=5, **RECIPE)
    teach("big", folder / "digits", teacher, folder / "teacher", "identity")
    cache_logits("big", folder / "digits", teacher, folder / "teacher", folder / "cache")
    return folder / "cache"


def test_a_teacher_is_a_checkpoint_and_its_cache_has_its_own_logits(folder: Path, taught: Path) -> None:
    card = json.loads((folder / "teacher" / "teacher.json").read_text())
    cache = LogitCache(taught)
    assert cache.manifest.scores["validation"] == pytest.approx(card["metrics"])
    assert {name: split.rows for name, split in cache.manifest.splits.items()} == {
        "train": 1297,
        "validation": 500,
    }
    assert cache.manifest.label_names == [str(digit) for digit in range(10)]
    assert json.loads((taught / "teacher.json").read_text()) == card
    model = transformers.AutoModelForImageClassification.from_pretrained(folder / "teacher")
    assert model.config.id2label[7] == "7"


def scores(trial: Path, task: Path) -> dict[str, float]:
    return trial_scores(trial, PreparedTask(task))


def test_a_trial_keeps_its_validation_logits_which_its_scores_follow_from(folder: Path) -> None:
    run_trial(plan(folder, "smooth", Regularizer(soft_labels="uniform", alpha=0.1)))
    result = read_result(folder / "trials" / "smooth")
    assert result is not None
    assert (result.family, result.init, result.steps, result.device) == ("vit", "scratch", 2 * 21, "cpu")
    cache = LogitCache(folder / "trials" / "smooth" / "logits")
    assert cache.splits == ["validation"]
    metrics = scores(folder / "trials" / "smooth", folder / "digits")
    assert set(metrics) == {"accuracy", "macro_f1", "matthews", "nll", "brier", "ece"}
    labels = PreparedTask(folder / "digits").rows("validation", ["label"])["label"].to_numpy()
    right = cache.logits("validation", np.arange(500)).argmax(axis=1) == labels
    assert metrics["accuracy"] == right.mean()


def test_what_a_trial_took_is_no_part_of_its_result(folder: Path) -> None:
    contents = []
    for name in ("timed", "timed"):
        trial = plan(folder, name, Regularizer())
        shutil.rmtree(trial.folder, ignore_errors=True)
        run_trial(trial)
        cost = read_cost(trial.folder)
        assert cost is not None
        assert cost.seconds > 0
        files = [file for file in trial.folder.rglob("*") if file.is_file() and file.name != "cost.json"]
        contents.append({file.relative_to(trial.folder): file.read_bytes() for file in files})
    assert contents[0] == contents[1]


def test_a_trial_opens_its_task_and_its_checkpoint_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(name: str, inner: Any) -> Any:
        return lambda *arguments: (opened.append(name), inner(*arguments))[1]

    monkeypatch.setattr("kdcache.tasks.prepared.read_card", counted("task", prepared.read_card))
    monkeypatch.setattr(
        "kdcache.modelling.inputs.find_checkpoint", counted("checkpoint", inputs.find_checkpoint)
    )
    monkeypatch.setattr(
        "kdcache.checkpoints.fingerprints.of_config", counted("weights", fingerprints.of_config)
    )
    model = student(folder, weight_decay=0.5)
    plans = [replace(plan(folder, "once", Regularizer(), seed=seed), model=model) for seed in (0, 1)]
    opened.clear()
    for trial in plans:
        run_trial(trial)
        assert opened == ["task", "checkpoint", "weights"]  # by this process, for both trials


def test_distillers_learn_from_the_teacher_and_from_the_baseline_of_the_same_seed(
    folder: Path, taught: Path
) -> None:
    run_trial(plan(folder, "base", Regularizer()))
    own = folder / "trials" / "base" / "logits"
    assert LogitCache(own).splits == ["train", "validation"]
    kd = Regularizer(soft_labels="teacher", alpha=1.0, divergence="mse")
    self_kd = kd.model_copy(update={"soft_labels": "self"})
    run_trial(plan(folder, "kd", kd, taught))
    run_trial(plan(folder, "self_kd", self_kd, own))
    ids = np.arange(500)
    teacher, base, by_teacher, by_self = (
        LogitCache(path).logits("validation", ids)
        for path in (taught, own, folder / "trials/kd/logits", folder / "trials/self_kd/logits")
    )
    # Each ends nearer to the logits it was taught with than to the other's.
    assert np.mean((by_teacher - teacher) ** 2) < np.mean((by_teacher - base) ** 2)
    assert np.mean((by_self - base) ** 2) < np.mean((by_self - teacher) ** 2)


def test_several_teachers_teach_the_mean_of_their_logits(folder: Path, taught: Path, tmp_path: Path) -> None:
    """As the ensemble of their caches, written beforehand, does."""
    teacher = Teacher(checkpoint=str(folder / "vit"), seed=6, **{**RECIPE, "epochs": 1})
    teach("other", folder / "digits", teacher, tmp_path / "other", "identity")
    cache_logits("other", folder / "digits", teacher, tmp_path / "other", tmp_path / "cache")
    together = ensemble([taught, tmp_path / "cache"], tmp_path / "mean")
    kd = Regularizer(soft_labels="teacher", alpha=0.9, temperature=2)
    both = plan(folder, "kd_both", kd, taught, tmp_path / "cache")
    run_trial(replace(both, method=kd.model_copy(update={"teacher": ("big", "other")})))
    run_trial(plan(folder, "kd_mean", kd, together.path))
    run_trial(plan(folder, "kd_one", kd, taught))
    results = [read_result(folder / "trials" / name) for name in ("kd_both", "kd_mean", "kd_one")]
    found, expected, one = (result for result in results if result is not None)
    assert (found.teacher, expected.teacher) == ("big+other", "big")
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.losses != pytest.approx(one.losses, rel=1e-3)
    task = folder / "digits"
    metrics = [scores(folder / "trials" / name, task) for name in ("kd_both", "kd_mean")]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)


def test_a_trial_is_the_same_twice_and_another_with_another_seed(folder: Path) -> None:
    results = []
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        run_trial(plan(folder, name, Regularizer(), seed=seed))
        results.append(read_result(folder / "trials" / name))
    first, second, other = results
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.losses == second.losses
    assert scores(folder / "trials/first", folder / "digits") == scores(
        folder / "trials/second", folder / "digits"
    )
    assert first.losses != other.losses


def test_further_splits_are_scored_and_their_logits_kept(folder: Path, tmp_path: Path) -> None:
    tables = {
        split: PreparedTask(folder / "digits").rows(split, ["image", "label"])
        for split in ("train", "validation")
    }
    tables["backwards"] = tables["validation"].take(list(range(499, 449, -1)))
    for split, table in tables.items():
        pq.write_table(table, tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in tables}
    spec = Task.model_validate({"source": {"files": files}, "image": "image", "metrics": ["accuracy"]})
    card = prepare_task(spec, tmp_path / "task", "digits")
    teacher = Teacher(checkpoint=str(folder / "vit"), seed=5, precision="float32", **RECIPE)
    teach("big", tmp_path / "task", teacher, tmp_path / "teacher", "identity")
    cache_logits("big", tmp_path / "task", teacher, tmp_path / "teacher", tmp_path / "cache")
    mine = {
        "task_folder": tmp_path / "task",
        "data": card.fingerprint,
        "evaluated": card.evaluated,
        "folder": tmp_path / "trials/base",
    }
    run_trial(
        replace(plan(folder, "base", Regularizer()), model=student(folder, precision="float32"), **mine)
    )
    own = LogitCache(tmp_path / "trials/base/logits")
    assert own.splits == ["train", "validation", "backwards"]
    for cache, metrics in (
        (
            LogitCache(tmp_path / "cache"),
            json.loads((tmp_path / "teacher/teacher.json").read_text())["metrics"],
        ),
        (own, scores(tmp_path / "trials/base", tmp_path / "task")),
    ):
        # The same rows in another order: the same logits, and the score that their labels give.
        again = cache.logits("backwards", np.arange(50))
        np.testing.assert_allclose(again, cache.logits("validation", np.arange(499, 449, -1)), atol=1e-5)
        labels = tables["backwards"]["label"].to_numpy()
        assert metrics["accuracy_backwards"] == np.mean(again.argmax(axis=1) == labels)
        assert metrics["nll_backwards"] == pytest.approx(metrics["nll"], abs=5)
    teacher_scores = LogitCache(tmp_path / "cache").manifest.scores
    assert teacher_scores["backwards"]["nll"] == pytest.approx(
        json.loads((tmp_path / "teacher/teacher.json").read_text())["metrics"]["nll_backwards"]
    )


def test_logits_of_other_data_are_refused(folder: Path, taught: Path, tmp_path: Path) -> None:
    rows = [{"pixels": np.eye(8).tolist(), "label": label} for label in (0, 1) for _ in range(4)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    spec = Task.model_validate({"source": {"files": files}, "image": "pixels", "metrics": ["accuracy"]})
    prepare_task(spec, tmp_path / "other", "other")
    kd = Regularizer(soft_labels="teacher", alpha=0.5)
    other = {"task_folder": tmp_path / "other", "data": PreparedTask(tmp_path / "other").card.fingerprint}
    wrong = replace(plan(folder, "wrong", kd, taught), folder=tmp_path / "trial", **other)
    with pytest.raises(CacheError, match="its logits are of other data"):
        run_trial(wrong)
    assert not (tmp_path / "trial" / "result.json").exists()
