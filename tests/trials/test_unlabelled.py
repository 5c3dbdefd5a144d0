"""Rows without labels: how they are prepared, that students learn from them, that nothing else depends on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.checkpoints.find import find_checkpoint
from kdcache.cli import main
from kdcache.errors import CacheError, TaskError
from kdcache.hashing.rows import hash_row
from kdcache.logits import LogitCache, LogitWriter, replay, view_seed
from kdcache.modelling.augmentation import CropAndFlip, encode_views
from kdcache.modelling.encoding import encode_split, from_png
from kdcache.modelling.preprocessors import load_preprocessor
from kdcache.study import Regularizer, Task, Teacher
from kdcache.tasks.card import Unlabelled, read_card
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.tasks.sources import load_source
from kdcache.trials.identity import teacher_caches
from kdcache.trials.plan import TrialPlan
from kdcache.trials.result import TrialResult, read_result
from kdcache.trials.run import run_trial
from tests import tiny_models
from tests.doing import cache_logits, teach, trial_plan

COLOURS = ("red", "blue", "grey", "old", "tree", "noon", "sky", "sea")
TRAIN = [(f"the dog sat on the {colour} mat", row % 2) for row, colour in enumerate(COLOURS)]
VALIDATION = [("a cat", 0), ("a dog", 1), ("the old sea", 0)]
POOL = ["a bird sings", "a dog", "red and blue", "a dog"]


def write_files(folder: Path, pool: dict[str, Any] | None = None) -> dict[str, str]:
    """What `source.files` names: CSV files, and for the split `unlabelled` a Parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", TRAIN), ("validation", VALIDATION)):
        lines = ["text,label", *(f"{text},{'yes' if label else 'no'}" for text, label in rows)]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    if pool is not None:
        pq.write_table(pa.table(pool), folder / "pool.parquet")
        files["unlabelled"] = str(folder / "pool.parquet")
    return files


def text_task(files: dict[str, str], **changes: Any) -> Task:
    given = {"source": {"files": files}, "text": ["text"], "metrics": ["accuracy"], "max_length": 8}
    return Task.model_validate({**given, **changes})


# ---- prepared ----


def test_the_rest_of_train_without_its_labels(tmp_path: Path) -> None:
    files = write_files(tmp_path / "in")
    card = prepare_task(text_task(files, train_size=4, unlabelled="rest"), tmp_path / "task")
    assert card.rows == {"train": 4, "validation": 3, "unlabelled": 4}
    assert (card.evaluated, list(card.class_counts)) == (("validation",), ["train", "validation"])
    train, rest = (PreparedTask(tmp_path / "task").rows(split) for split in ("train", "unlabelled"))
    assert rest.column_names == ["id", "row_hash", "text"]
    assert rest["id"].to_pylist() == [0, 1, 2, 3]
    drawn = set(train["text"].to_pylist())
    assert rest["text"].to_pylist() == [text for text, _ in TRAIN if text not in drawn]
    assert rest["row_hash"].to_pylist() == [hash_row(row, ["text"]) for row in rest.to_pylist()]
    assert card.dropped == {}  # nothing is left out


def test_what_is_labelled_is_the_same_task_with_and_without_them(tmp_path: Path) -> None:
    files = write_files(tmp_path / "in")
    alone = prepare_task(text_task(files, train_size=4), tmp_path / "alone")
    card = prepare_task(text_task(files, train_size=4, unlabelled="rest"), tmp_path / "more")
    other = prepare_task(text_task(files, train_size=5, unlabelled="rest"), tmp_path / "other")
    assert (card.fingerprint, alone.unlabelled) == (alone.fingerprint, None)
    assert card.unlabelled is not None
    assert other.unlabelled is not None
    assert card.unlabelled.origin == "rest"
    assert card.unlabelled.fingerprint != other.unlabelled.fingerprint
    for name in ("train.parquet", "validation.parquet"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()
    assert read_card(tmp_path / "more") == card


def test_no_rest_is_an_error(tmp_path: Path) -> None:
    spec = text_task(write_files(tmp_path), train_size=8, unlabelled="rest")
    with pytest.raises(
        TaskError, match="unlabelled: rest: train_size: 8 draws all rows of train, so no rest"
    ):
        prepare_task(spec, tmp_path / "task")


@pytest.mark.parametrize("more", [{}, {"label": [-1] * 4}, {"label": ["who", "knows", None, ""]}])
def test_a_split_without_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, more: dict[str, Any]
) -> None:
    """Whether it has a label column or not: none is read."""
    spec = text_task(write_files(tmp_path / "in", {"text": POOL, **more}))
    card = prepare_task(spec, tmp_path / "task", "films")
    assert card.rows == {"train": 8, "validation": 3, "unlabelled": 4}
    assert card.unlabelled is not None
    # "a dog" is in validation, twice in the pool: one distinct row, which stays, as in train
    assert (card.unlabelled.origin, card.unlabelled.shared_rows) == ("split", 1)
    assert "task films: 1 unlabelled rows are also in validation" in caplog.text
    assert PreparedTask(tmp_path / "task").rows("unlabelled", ["text"])["text"].to_pylist() == POOL
    assert list(card.source["files"]) == ["train", "validation", "unlabelled"]
    with pytest.raises(
        TaskError, match=r"unlabelled\.parquet: has no column label; there are: id, row_hash, text"
    ):
        PreparedTask(tmp_path / "task").rows("unlabelled", ["text", "label"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pool.csv", "text\na bird sings\nred\n"),
        ("pool.jsonl", '{"text": "a bird sings"}\n{"text": "red", "label": 7}\n'),
    ],
)
def test_unlabelled_files_of_other_kinds(tmp_path: Path, name: str, content: str) -> None:
    files = write_files(tmp_path)
    (tmp_path / name).write_text(content)
    files["unlabelled"] = str(tmp_path / name)
    prepare_task(text_task(files), tmp_path / "task")
    assert PreparedTask(tmp_path / "task").rows("unlabelled")["text"].to_pylist() == ["a bird sings", "red"]


def test_unlabelled_rows_are_checked_as_others_are(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"unlabelled: text column 'text' is empty in 1 row \(row 1\)"):
        prepare_task(text_task(write_files(tmp_path, {"text": ["a", " "]})), tmp_path / "task")
    with pytest.raises(TaskError, match=r"unlabelled: .*pool\.parquet: no column 'text'; there are: words"):
        prepare_task(text_task(write_files(tmp_path, {"words": ["a"]})), tmp_path / "task")
    with pytest.raises(TaskError, match=r"unlabelled: .*pool\.parquet: there are no rows"):
        prepare_task(text_task(write_files(tmp_path, {"text": pa.array([], pa.string())})), tmp_path / "task")


def test_the_unlabelled_split_of_a_mirrored_hub_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "someone/films"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(pa.table({"text": ["a cat", "a dog"], "label": [0, 1]}), folder / f"{split}.parquet")
    pq.write_table(pa.table({"text": POOL, "label": [-1] * 4}), folder / "unsupervised.parquet")
    monkeypatch.setenv("KDCACHE_MIRROR", str(tmp_path))
    splits = {"validation": "test", "unlabelled": "unsupervised"}
    source = {"hub": "someone/films", "revision": "main", "splits": splits}
    loaded = load_source(text_task({}, source=source))
    assert list(loaded.splits) == ["train", "validation", "unlabelled"]
    assert loaded.splits["unlabelled"].label.null_count == 4


def test_the_unlabelled_split_of_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = {"text": ["a cat", "a dog"], "label": [0, 1]}
    pool = datasets.Dataset.from_dict({"text": POOL, "label": [-1] * 4})
    answers = {
        "train": datasets.Dataset.from_dict(rows),
        "test": datasets.Dataset.from_dict(rows),
        "unsupervised": pool,
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: answers[split])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    splits = {"validation": "test", "unlabelled": "unsupervised"}
    source = {
        "hub": "someone/films",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "splits": splits,
    }
    prepare_task(text_task({}, source=source), tmp_path / "task")
    assert PreparedTask(tmp_path / "task").rows("unlabelled")["text"].to_pylist() == POOL


def test_a_regression_and_pairs(tmp_path: Path) -> None:
    rows = {"a": ["x", "y", "z"], "b": ["u", "v", "w"], "score": [0.5, 1.0, 2.5]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    files = {split: str(tmp_path / "rows.parquet") for split in ("train", "validation")}
    spec = text_task(
        files, text=["a", "b"], label="score", metrics=["pearson"], train_size=2, unlabelled="rest"
    )
    card = prepare_task(spec, tmp_path / "task")
    rest = PreparedTask(tmp_path / "task").rows("unlabelled")
    assert rest.column_names == ["id", "row_hash", "text", "text_pair"]
    assert rest["row_hash"][0].as_py() == hash_row(rest.to_pylist()[0], ["text", "text_pair"])
    assert card.unlabelled is not None
    assert card.unlabelled.shared_rows == 1  # validation has all of them


# ---- learned from ----

RECIPE = {"init": "scratch", "learning_rate": 0.01, "epochs": 3, "batch_size": 4, "precision": "float32"}
KD = {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`alone`, with 4 of 8 train rows, `task`, with the rest unlabelled too, a teacher and its logits of both."""
    root = tmp_path_factory.mktemp("unlabelled")
    files = write_files(root / "in")
    tiny_models.save_checkpoint(root / "bert", "bert", **tiny_models.STILL["bert"])
    prepare_task(text_task(files, train_size=4), root / "alone", "films")
    prepare_task(text_task(files, train_size=4, unlabelled="rest"), root / "task", "films")
    teacher = Teacher(checkpoint=str(root / "bert"), seed=5, **RECIPE)
    teach("big", root / "task", teacher, root / "teacher", "identity")
    for task, cache in (("alone", "cache-alone"), ("task", "cache")):
        cache_logits("big", root / task, teacher, root / "teacher", root / cache)
    return root


def plan(root: Path, name: str, task: str = "task", **changes: Any) -> TrialPlan:
    values: dict[str, Any] = {
        "folder": root / "trials" / name,
        "identity": name,
        "task": "films",
        "task_folder": root / task,
        "student": "bert",
        "model": tiny_models.student(root / "bert", **RECIPE),
        "regularizer": name,
        "method": Regularizer(),
        "seed": 0,
        "soft_labels": (),
        "keep_train_logits": name.startswith("base"),
    }
    return trial_plan(**{**values, **changes})


def result(plan: TrialPlan) -> TrialResult:
    run_trial(plan)
    found = read_result(plan.folder)
    assert found is not None
    return found


def test_a_teachers_logits_of_unlabelled_rows_are_a_cache_of_their_own(folder: Path) -> None:
    plain, more = LogitCache(folder / "cache"), LogitCache(folder / "cache" / "unlabelled")
    assert (plain.splits, more.splits) == (["train", "validation"], ["unlabelled"])
    assert plain.identity == LogitCache(folder / "cache-alone").identity
    assert not (folder / "cache-alone" / "unlabelled").exists()
    rows = PreparedTask(folder / "task").rows("unlabelled")
    logits = more.logits("unlabelled", rows["id"].to_numpy(), rows["row_hash"].to_numpy())
    assert logits.shape == (4, 2)
    # The very rows: as a task of their own, labelled, the teacher gives them the same logits
    texts = rows["text"].to_pylist()
    for split in ("train", "validation"):
        lines = [f"{text},{'yes' if row % 2 else 'no'}" for row, text in enumerate(texts)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    prepare_task(text_task(files), folder / "again", "again")
    teacher = Teacher(checkpoint=str(folder / "bert"), seed=5, **RECIPE)
    cache_logits("big", folder / "again", teacher, folder / "teacher", folder / "cache-again")
    again = LogitCache(folder / "cache-again").logits("train", np.arange(4))
    np.testing.assert_allclose(logits, again, atol=1e-5)


def test_a_student_learns_from_unlabelled_rows_and_nothing_else_changes(folder: Path) -> None:
    taught, alone = (folder / "cache",), (folder / "cache-alone",)
    kd = result(plan(folder, "kd", method=Regularizer(**KD), soft_labels=taught))
    before = result(plan(folder, "kd-alone", "alone", method=Regularizer(**KD), soft_labels=alone))
    assert (kd.losses, kd.steps) == (before.losses, 3)
    base, plain = result(plan(folder, "base")), result(plan(folder, "base-alone", "alone"))
    assert base.losses == plain.losses
    trained = [LogitCache(folder / "trials" / name / "logits") for name in ("base", "base-alone")]
    np.testing.assert_array_equal(*(cache.split("validation").logits for cache in trained))
    assert LogitCache(folder / "trials/base/logits").splits == ["train", "validation"]
    use = Regularizer(**KD, unlabelled="use")
    more = result(plan(folder, "kd-more", method=use, soft_labels=taught))
    assert more.steps == 6  # 3 epochs of 4 + 4 rows, by 4
    assert more.losses != kd.losses


def test_a_student_does_what_its_teacher_says_of_unlabelled_rows(folder: Path, tmp_path: Path) -> None:
    """They are validation's here, so that the trial keeps its logits of them; the teacher's are made up."""
    pool = {"text": [text for text, _ in VALIDATION]}
    card = prepare_task(
        text_task(write_files(tmp_path / "in", pool), train_size=4), tmp_path / "task", "films"
    )
    prints = teacher_caches(card, find_checkpoint(tiny_models.student(folder / "bert")), "w")
    for part, split, logits in ((".", "train", [-3.0, 3.0]), ("unlabelled", "unlabelled", [3.0, -3.0])):
        rows = PreparedTask(tmp_path / "task").rows(split)
        ids, hashes = rows["id"].to_numpy(), rows["row_hash"].to_numpy()
        cache, names = tmp_path / "cache" / part, card.label_names
        with LogitWriter(cache, classes=2, label_names=names, fingerprints=prints[part]) as writer:
            writer.write(split, ids, hashes, np.array([logits] * len(ids), dtype=np.float32))
            writer.finish()
    student = tiny_models.student(folder / "bert", **{**RECIPE, "epochs": 20})
    predicted = {}
    for how in ("ignore", "use"):
        match = Regularizer(soft_labels="teacher", alpha=1.0, divergence="mse", unlabelled=how)
        trial = plan(tmp_path, how, model=student, method=match, soft_labels=(tmp_path / "cache",))
        run_trial(trial)
        logits = LogitCache(trial.folder / "logits").logits("validation", np.arange(3))
        predicted[how] = logits.argmax(axis=1).tolist()
    assert predicted == {"ignore": [1, 1, 1], "use": [0, 0, 0]}


def test_an_ensemble_teaches_unlabelled_rows_too(folder: Path, tmp_path: Path) -> None:
    """Twice the same teacher is that teacher; another one beside it is not."""
    teacher = Teacher(checkpoint=str(folder / "bert"), seed=6, **RECIPE)
    teach("other", folder / "task", teacher, tmp_path / "other", "identity")
    cache_logits("other", folder / "task", teacher, tmp_path / "other", tmp_path / "cache")
    use, taught = Regularizer(**KD, unlabelled="use"), folder / "cache"
    one = result(plan(folder, "one", method=use, soft_labels=(taught,)))
    twice = result(plan(folder, "twice", method=use, soft_labels=(taught, taught)))
    both = result(plan(folder, "both", method=use, soft_labels=(taught, tmp_path / "cache")))
    assert twice.losses == pytest.approx(one.losses, rel=1e-6)
    assert both.losses != pytest.approx(one.losses, rel=1e-4)


def test_logits_of_other_unlabelled_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "task").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = read_card(tmp_path)
    facts = Unlabelled(origin="rest", shared_rows=0, fingerprint="other")
    (tmp_path / "card.json").write_text(card.model_copy(update={"unlabelled": facts}).model_dump_json())
    use = Regularizer(**KD, unlabelled="use")
    wrong = replace(plan(folder, "wrong", method=use, soft_labels=(folder / "cache",)), task_folder=tmp_path)
    with pytest.raises(
        CacheError, match=r"unlabelled: its logits are of other data: .*has fingerprint other"
    ):
        run_trial(wrong)


def test_caches_that_are_whole_are_left_as_they_are(folder: Path, tmp_path: Path) -> None:
    """Asking for unlabelled rows computes their logits alone; asking for them no longer removes them."""
    teacher, cache = Teacher(checkpoint=str(folder / "bert"), seed=5, **RECIPE), tmp_path / "cache"
    cache_logits("big", folder / "alone", teacher, folder / "teacher", cache)
    manifest, cost = (cache / "manifest.json").read_bytes(), LogitCache(cache).cost
    cache_logits("big", folder / "task", teacher, folder / "teacher", cache)
    assert (cache / "manifest.json").read_bytes() == manifest
    more = LogitCache(cache / "unlabelled").cost
    assert cost is not None
    assert more is not None
    assert (cost.run, more.run) == ("teacher big", "teacher big, unlabelled")
    cache_logits("big", folder / "alone", teacher, folder / "teacher", cache)
    assert (cache / "manifest.json").read_bytes() == manifest
    assert not (cache / "unlabelled").exists()


def test_a_damaged_cache_of_unlabelled_rows_is_written_again(folder: Path, tmp_path: Path) -> None:
    teacher, cache = Teacher(checkpoint=str(folder / "bert"), seed=5, **RECIPE), tmp_path / "cache"
    cache_logits("big", folder / "task", teacher, folder / "teacher", cache)
    shard = cache / "unlabelled/unlabelled/part-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    cache_logits("big", folder / "task", teacher, folder / "teacher", cache)
    assert shard.read_bytes() == whole


def test_the_teacher_can_be_run_again_on_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--against", str(folder / "teacher"), "--task", str(folder / "task"), "--json"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["verify", str(folder / "cache/unlabelled"), *options])
    found = json.loads(capsys.readouterr().out)["against"]
    assert (found["rows"], found["other_fingerprints"]) == (4, [])


def test_statistics_of_their_logits_ask_for_no_labels(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["stats", str(folder / "cache/unlabelled"), "--task", str(folder / "task"), "--json"])
    found = json.loads(capsys.readouterr().out)["splits"]["unlabelled"]
    assert (found["rows"], found.get("labels")) == (4, None)


# ---- images ----


def image_files(root: Path) -> dict[str, str]:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8))
    rows = [json.dumps({"image": image.tolist(), "label": row % 2}) for row, image in enumerate(images)]
    for split, part in (("train", rows[:8]), ("validation", rows[8:])):
        (root / f"{split}.jsonl").write_text("\n".join(part))
    return {split: str(root / f"{split}.jsonl") for split in ("train", "validation")}


@pytest.mark.parametrize("augment", [None, {"crop": 2, "flip": 0.5, "views": 3, "seed": 9}])
def test_unlabelled_images_and_their_views(tmp_path: Path, augment: Any) -> None:
    given = {
        "source": {"files": image_files(tmp_path)},
        "image": "image",
        "metrics": ["accuracy"],
        "augment": augment,
    }
    spec = Task.model_validate({**given, "train_size": 4, "unlabelled": "rest"})
    prepare_task(spec, tmp_path / "task", "toy")
    tiny_models.save_checkpoint(tmp_path / "vit", "vit")
    teacher = Teacher(checkpoint=str(tmp_path / "vit"), **RECIPE)
    teach("big", tmp_path / "task", teacher, tmp_path / "teacher", "identity")
    cache_logits("big", tmp_path / "task", teacher, tmp_path / "teacher", tmp_path / "cache")
    cache = LogitCache(tmp_path / "cache/unlabelled")
    assert (cache.views, cache.manifest.splits["unlabelled"].rows) == (augment and 3, 4)
    student = tiny_models.student(tmp_path / "vit", **RECIPE)
    use = Regularizer(**KD, unlabelled="use")
    kd = plan(tmp_path, "kd", model=student, method=use, soft_labels=(tmp_path / "cache",))
    assert result(kd).steps == 6
    preprocessor = load_preprocessor(find_checkpoint(student), read_card(tmp_path / "task"))
    encoded = encode_split(PreparedTask(tmp_path / "task"), "unlabelled", preprocessor)
    assert (len(encoded), encoded.labels.tolist()) == (4, [])
    if augment is None:
        return
    views = encode_views(PreparedTask(tmp_path / "task"), "unlabelled", preprocessor).images
    assert views is not None
    images = [
        from_png(png) for png in PreparedTask(tmp_path / "task").rows("unlabelled")["image"].to_pylist()
    ]
    for row, image in enumerate(images):
        for number in range(3):
            pixels = replay(CropAndFlip(2, 0.5), image, view_seed(9, row, number))
            np.testing.assert_array_equal(views.pixels[number, row, 0], pixels)
