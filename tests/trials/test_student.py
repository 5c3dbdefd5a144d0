"""A kept student is the model that was scored, whole, in transformers' pipelines; `hand_out` gives it or refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from kdcache.errors import KdcacheError, TrialError
from kdcache.logits import LogitCache, LogitWriter
from kdcache.study import Study
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.trials import run as running
from kdcache.trials.layout import Layout
from kdcache.trials.missing import cache_to_write, check_still_asked_for, teacher_to_train, trials_to_run
from kdcache.trials.plan import Planner, TrialPlan
from kdcache.trials.scores import trial_scores
from kdcache.trials.store import Store, run_and_store
from kdcache.trials.student import HandedOut, hand_out
from tests import tiny_models
from tests.forked import forked

RECIPE = {"learning_rate": 0.01, "epochs": 2, "batch_size": 4, "precision": "float32"}
MODELS = {"films": "bert", "shapes": "vit", "greys": "vit-grey"}


def study(root: Path, **keep: Any) -> Study:
    """A task of texts, one of pictures in colour and one of grey ones, with a student each.

    Args:
        keep: of students, by their task.
    """
    made = {
        name: {**RECIPE, "checkpoint": str(root / model), "tasks": [name]} for name, model in MODELS.items()
    }
    pictures = {"image": "image", "metrics": ["accuracy"]}
    tasks = {
        "films": {"text": ["text"], "metrics": ["accuracy"], "max_length": 6},
        "shapes": pictures,
        "greys": pictures,
    }
    content = {
        "seeds": [0, 1],
        "tasks": {name: {**task, "source": source(root, name)} for name, task in tasks.items()},
        "teachers": {f"big-{name}": {**model, "seed": 9} for name, model in made.items()},
        "students": {
            f"of-{name}": {**model, "teacher": f"big-{name}", "keep": keep.get(name, "none")}
            for name, model in made.items()
        },
        "regularizers": {"base": {}},
        "distillers": {"kd": {"soft_labels": "teacher", "alpha": 0.5, "temperature": 2}},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    }
    return Study.model_validate(content)


def source(root: Path, name: str) -> dict[str, Any]:
    return {"files": {split: str(root / f"{name}-{split}.jsonl") for split in ("train", "validation")}}


def put_rows(root: Path) -> None:
    """Texts of which some are longer than max_length; pictures of 8 x 8 and of other sizes."""
    random = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {
        "films": [
            {"text": f"{a} {b}", "label": f"says {a[0]}"}
            for a in tiny_models.TEXTS
            for b in tiny_models.TEXTS
        ],
        "shapes": [
            {"image": random.integers(0, 256, (8 + row % 3, 8, 3)).tolist(), "label": "ab"[row // 2 % 2]}
            for row in range(24)
        ],
        "greys": [
            {"image": random.integers(0, 256, (8, 8 + row % 3)).tolist(), "label": "ab"[row // 2 % 2]}
            for row in range(24)
        ],
    }
    for name, found in rows.items():
        for split, part in (("train", found[::2]), ("validation", found[1::2])):
            (root / f"{name}-{split}.jsonl").write_text("\n".join(map(json.dumps, part)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study is done; no model was kept."""
    from kdcache.trials.cache import cache_logits
    from kdcache.trials.teach import teach

    root = tmp_path_factory.mktemp("finished")
    put_rows(root)
    tiny_models.save_checkpoint(root / "bert", "bert")
    tiny_models.save_checkpoint(root / "vit", "vit", num_channels=3)
    settings = {
        "size": {"height": 8, "width": 8},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.3, 0.4, 0.5],
    }
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    tiny_models.save_checkpoint(root / "vit-grey", "vit")
    asked, layout = study(root), Layout(root)
    for name in MODELS:
        prepare_task(asked.tasks[name], layout.task(name), name)
        teacher = teacher_to_train(asked, layout, name, f"big-{name}")
        assert teacher is not None
        teach(teacher)
        cache = cache_to_write(asked, layout, name, f"big-{name}")
        assert cache is not None
        cache_logits(cache)
        for method in ("base", "kd"):
            assert ran(asked, layout, name, method) == [0, 1]
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture(autouse=True)
def without_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_STORE", "off")


def ran(asked: Study, layout: Layout, task: str, method: str, store: Store | None = None) -> list[int]:
    """What the stage of a configuration does; the seeds that it trained."""
    plans = trials_to_run(asked, layout, task, f"of-{task}", method, store)
    run_all(plans)
    return [plan.seed for plan in plans]


def run_all(plans: Sequence[TrialPlan]) -> None:
    for plan in plans:
        run_and_store(plan)


def contents(folder: Path, without: str = "model") -> dict[str, tuple[bytes, int]]:
    """The files of a folder, with the times at which they were written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and without not in path.relative_to(folder).parts
    }


def handed(
    finished: Path,
    project: Path,
    out: Path,
    task: str = "films",
    method: str = "kd",
    seed: int | None = None,
    **keep: Any,
) -> HandedOut:
    def run(plans: Sequence[TrialPlan]) -> None:
        for plan in plans:
            running.run_trial(plan)

    return hand_out(study(finished, **keep), Layout(project), task, f"of-{task}", method, seed, out, run)


# ---- keep ----


def test_what_is_kept_is_no_part_of_an_identity(finished: Path, project: Path) -> None:
    def identities(keep: str | list[int]) -> list[str]:
        asked = study(finished, films=keep)
        planner = Planner(asked, Layout(project))
        return [plan.identity for name in asked.configurations() for plan in planner.trials(*name)]

    assert identities("none") == identities("all") == identities([1])


def test_a_seed_that_is_now_kept_is_trained_again_and_nothing_else_is_touched(
    finished: Path, project: Path
) -> None:
    layout = Layout(project)
    configuration = layout.configuration("films", "of-films", "kd")
    before = contents(configuration)
    assert ran(study(finished), layout, "films", "kd") == []
    asked = study(finished, films=[0])
    assert ran(asked, layout, "films", "kd") == [0]
    assert (configuration / "seed-0" / "model" / "model.safetensors").is_file()
    assert not (configuration / "seed-1" / "model").exists()
    assert contents(configuration) == before
    assert sorted(path.name for path in configuration.iterdir()) == ["seed-0", "seed-1"]
    assert ran(asked, layout, "films", "kd") == []  # now it is there
    assert ran(study(finished), layout, "films", "kd") == []
    assert not (configuration / "seed-0" / "model").exists()  # no longer asked for
    assert contents(configuration) == before


def test_a_model_that_is_kept_from_the_start_is_the_one_that_is_trained_again(
    finished: Path, project: Path
) -> None:
    layout, asked = Layout(project), study(finished, films="all")
    configuration = layout.configuration("films", "of-films", "base")
    assert ran(asked, layout, "films", "base") == [0, 1]
    models = [{name: data for name, (data, _) in contents(configuration, "none").items() if "model/" in name}]
    shutil.rmtree(configuration)
    assert ran(asked, layout, "films", "base") == [0, 1]
    models.append(
        {name: data for name, (data, _) in contents(configuration, "none").items() if "model/" in name}
    )
    assert len(models[0]) > 8
    assert models[0] == models[1]


def test_a_damaged_model_is_made_again(finished: Path, project: Path) -> None:
    layout, asked = Layout(project), study(finished, films=[0])
    assert ran(asked, layout, "films", "kd") == [0]
    model = layout.trial("films", "of-films", "kd", 0) / "model"
    whole = (model / "model.safetensors").read_bytes()
    for damage in (
        lambda: (model / "student.json").write_text("{"),
        lambda: flip(model / "model.safetensors"),
    ):
        damage()
        assert ran(asked, layout, "films", "kd") == [0]
        assert (model / "model.safetensors").read_bytes() == whole


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_model_whose_logits_are_others_is_not_kept(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(project)
    trial = layout.trial("films", "of-films", "kd", 0)
    before = contents(trial)
    inner = running.predict
    monkeypatch.setattr(running, "predict", lambda *args: inner(*args) + np.float32(1e-3))
    with pytest.raises(
        TrialError, match=r"another model: validation, row id 0, logit \[0\] was .*is not kept"
    ):
        ran(study(finished, films=[0]), layout, "films", "kd")
    assert contents(trial, "none") == before
    assert sorted(path.name for path in trial.parent.iterdir()) == ["seed-0", "seed-1"]


def test_a_change_of_keep_while_a_stage_ran_is_noticed(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = Planner(study(finished), Layout(project)).trials("films", "of-films", "kd")
    for keep, said in (("none", False), ([0], True)):
        monkeypatch.setattr(
            "kdcache.trials.missing.load_study", lambda keep=keep: study(finished, films=keep)
        )
        if said:
            with pytest.raises(TrialError, match="was changed while it ran"):
                check_still_asked_for(plans, Layout(project))
        else:
            check_still_asked_for(plans, Layout(project))


def test_the_store_has_trials_without_their_models(
    finished: Path, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store", 10**9)
    monkeypatch.setenv("KDCACHE_STORE", str(store.folder))
    layout, asked = Layout(project), study(finished, films=[0])
    shutil.rmtree(layout.configuration("films", "of-films", "kd"))
    assert ran(asked, layout, "films", "kd", store) == [0, 1]
    assert len(store.entries()) == 2
    assert list(store.folder.rglob("*.safetensors")) == []
    shutil.rmtree(layout.configuration("films", "of-films", "kd"))
    assert ran(asked, layout, "films", "kd", store) == [
        0
    ]  # seed 1 comes from the store; of seed 0 the model is made
    assert (layout.trial("films", "of-films", "kd", 0) / "model").is_dir()


# ---- what is kept ----


@pytest.fixture(scope="module")
def kept(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a model of each task."""
    root = tmp_path_factory.mktemp("kept")
    shutil.copytree(finished / "data", root / "data")
    for name in MODELS:
        assert ran(study(finished, **{name: [1]}), Layout(root), name, "kd") == [1]
    return root


def rows_of(root: Path, task: str) -> Any:
    return PreparedTask(Layout(root).task(task)).rows("validation")


def asked_of(task: str, table: Any) -> list[Any]:
    """The rows as a person gives them to a pipeline."""
    if task == "films":
        return table["text"].to_pylist()  # type: ignore[no-any-return]
    images = [Image.open(io.BytesIO(png)) for png in table["image"].to_pylist()]
    return [np.asarray(image.convert("L"))[..., None] for image in images] if task == "greys" else images


@pytest.mark.parametrize("task", MODELS)
def test_a_kept_student_scores_in_a_pipeline_as_in_the_table(kept: Path, task: str) -> None:
    trial, table = Layout(kept).trial(task, f"of-{task}", "kd", 1), rows_of(kept, task)
    kind, more = ("text", {"truncation": True}) if task == "films" else ("image", {})
    classify = transformers.pipeline(f"{kind}-classification", str(trial / "model"), **more)
    task_here = PreparedTask(Layout(kept).task(task))
    names = task_here.card.label_names
    said = [classify(row, top_k=len(names)) for row in asked_of(task, table)]
    right = [
        names[label] == answer[0]["label"]
        for label, answer in zip(table["label"].to_pylist(), said, strict=True)
    ]
    assert np.mean(right) == trial_scores(trial, task_here)["accuracy"]
    logits = LogitCache(trial / "logits").split("validation").logits.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    by_name = [{one["label"]: one["score"] for one in answer} for answer in said]
    found = [[scores[name] for name in names] for scores in by_name]
    assert np.asarray(found) == pytest.approx(expected, abs=1e-5)


def test_a_kept_student_says_what_it_is(kept: Path, finished: Path) -> None:
    trial = Layout(kept).trial("films", "of-films", "kd", 1)
    task = PreparedTask(Layout(kept).task("films"))
    card, result = (
        (trial / "model" / "README.md").read_text(),
        json.loads((trial / "result.json").read_text()),
    )
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    accuracy = trial_scores(trial, task)["accuracy"]
    for fact in (
        f"| accuracy | {accuracy:.6g} |",
        f"| data fingerprint | {task.card.fingerprint} |",
        f"| trial identity | {result['identity']} |",
        "| teacher | big-films |",
        "| method | kd |",
        "| seed | 1 |",
        "kdcache 0",
        '"alpha": 0.5',
        json.dumps(task.card.label_names),
        "cut after 6 tokens",
    ):
        assert fact in card
    assert "keep" not in card
    config = json.loads((trial / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == task.card.label_names
    assert '"keep"' not in json.dumps(result)


def test_the_card_s_example_runs(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((9, 11, 3), np.uint8)).save("image.png")
    for task in MODELS:
        model = Layout(kept).trial(task, f"of-{task}", "kd", 1) / "model"
        example = (model / "README.md").read_text().split("```python\n")[1].split("```")[0]
        lines = example.replace("FOLDER", str(model)).strip().splitlines()
        found: dict[str, Any] = {}
        exec("\n".join([*lines[:-1], f"answer = {lines[-1]}"]), found)
        assert {"label", "score"} == set(found["answer"][0])


# ---- killed ----


def keep_in_a_process(root: str, finished: str, pause: float) -> None:
    """Keep a model; a moment passes after each of its files, so that the killer can hit any of them."""
    from kdcache.trials import saving

    def slowly(inner: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: (time.sleep(pause), inner(*args), time.sleep(pause))[1]

    for name in ("save_checkpoint", "write_atomically", "write_json", "sync_folder"):
        setattr(saving, name, slowly(getattr(saving, name)))
    os.environ["KDCACHE_STORE"] = "off"
    asked = study(Path(finished), films=[0])
    run_all(trials_to_run(asked, Layout(Path(root)), "films", "of-films", "kd"))


def test_a_kill_while_a_model_is_written_leaves_none_or_a_whole_one(finished: Path, project: Path) -> None:
    context = forked()
    trial = Layout(project).trial("films", "of-films", "kd", 0)
    before, seen = contents(trial), set()
    for moment in moments(trial):
        process = context.Process(target=keep_in_a_process, args=(str(project), str(finished), 0.05))
        process.start()
        while process.is_alive() and not moment():
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        seen.add((trial / "model").exists())
        if (trial / "model").exists():
            assert "model.safetensors" in whole_files(trial / "model")
        assert contents(trial) == before
    assert ran(study(finished, films=[0]), Layout(project), "films", "kd") in ([0], [])
    whole_files(trial / "model")
    assert sorted(path.name for path in trial.parent.iterdir()) == ["seed-0", "seed-1"]
    assert seen == {False, True}


def moments(trial: Path) -> Iterator[Callable[[], bool]]:
    """When a process is killed: as soon as there is each of these files."""
    work = trial.with_name(".seed-0.again.tmp")
    half = work / ".model.tmp"
    for path in (half / "config.json", half / "README.md", work / "model", trial / "model"):
        yield path.exists


def whole_files(model: Path) -> list[str]:
    """The files of a model that is as it was saved, held against its record by hand."""
    from kdcache.hashing.fingerprint import of_files

    names = sorted(path.name for path in model.iterdir() if path.name != "student.json")
    assert json.loads((model / "student.json").read_text())["files"] == of_files(model, names)
    return names


# ---- handed out ----


def test_a_kept_model_is_copied(
    kept: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "learn", lambda *args: pytest.fail("nothing is to be trained"))
    got = handed(finished, kept, tmp_path / "deep" / "out", seed=1, films=[1])
    model = Layout(kept).trial("films", "of-films", "kd", 1) / "model"
    assert {name: data for name, (data, _) in contents(tmp_path / "deep" / "out").items()} == {
        name: data for name, (data, _) in contents(model, "none").items()
    }
    assert (got.seed, got.trained_again) == (1, False)
    assert got.scores == trial_scores(model.parent, PreparedTask(Layout(kept).task("films")))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("method", ["base", "kd"])
def test_a_model_that_was_not_kept_is_trained_again(
    finished: Path, project: Path, tmp_path: Path, method: str
) -> None:
    before = contents(project / "data", "none")
    out = tmp_path / "out"
    out.mkdir()  # an empty folder will do
    got = handed(finished, project, out, "shapes", method)
    assert (got.seed, got.trained_again) == (0, True)
    assert transformers.AutoModelForImageClassification.from_pretrained(out).config.id2label == {
        0: "a",
        1: "b",
    }
    assert contents(project / "data", "none") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_a_link_to_an_empty_folder_is_followed(kept: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "out").symlink_to("disk/empty")
    handed(finished, kept, tmp_path / "out", seed=1, films=[1])
    assert (tmp_path / "out").is_symlink()
    assert "model.safetensors" in whole_files(tmp_path / "disk" / "empty")
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["empty"]


def test_a_link_to_nothing_is_refused_before_anything_is_trained(
    finished: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "learn", lambda *args: pytest.fail("nothing is to be trained"))
    (tmp_path / "out").symlink_to("none")
    (tmp_path / "round").symlink_to("round")
    for name in ("out", "round"):
        with pytest.raises(KdcacheError, match=f"{name}: is a link to a folder that is not there; make that"):
            handed(finished, project, tmp_path / name)


def test_a_flipped_bit_in_the_kept_logits_refuses(finished: Path, project: Path, tmp_path: Path) -> None:
    logits = Layout(project).trial("films", "of-films", "kd", 0) / "logits"
    flip_logit(logits)  # in a cache that is sound in itself
    with pytest.raises(
        TrialError,
        match=r"validation, row id 3, logit \[1\] was [-\d.]+, it is now [-\d.]+; nothing is written",
    ) as caught:
        handed(finished, project, tmp_path / "out")
    assert "Device and libraries are the same" in str(caught.value)
    (shard,) = (logits / "validation").glob("*.parquet")
    data = bytearray(shard.read_bytes())
    data[20] ^= 1  # and in the file
    shard.write_bytes(data)
    with pytest.raises(TrialError, match=r"not a trial to take a student from: .*run its stage"):
        handed(finished, project, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def flip_logit(folder: Path) -> None:
    """The last bit of the second logit of row 3; the cache is written anew around it."""
    cache = LogitCache(folder)
    rows, manifest = cache.split("validation"), cache.manifest
    logits = rows.logits.copy()
    logits.view(np.uint32)[3, 1] ^= 1
    shutil.rmtree(folder)
    names, prints = manifest.label_names, manifest.fingerprints
    with LogitWriter(folder, classes=logits.shape[1], label_names=names, fingerprints=prints) as writer:
        writer.write("validation", rows.ids, rows.row_hashes, logits)
        writer.finish()


def test_a_missing_or_outdated_trial_names_its_stage(finished: Path, project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.rmtree(Layout(project).trial("films", "of-films", "kd", 0))
    with pytest.raises(
        TrialError, match=r"seed-0: the trial is not there; run .*repro distill@films-of-films-kd`"
    ):
        handed(finished, project, out)
    path = Layout(project).trial("films", "of-films", "base", 0) / "result.json"
    path.write_text(path.read_text().replace('"identity": "', '"identity": "x'))
    with pytest.raises(TrialError, match=r"its identity changed.*kdcache repro train@films-of-films-base"):
        handed(finished, project, out, method="base")
    assert not out.exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"task": "plays"}, "no task 'plays' in the study; there are: films, shapes, greys"),
        ({"method": "dk"}, "no method 'dk' in the study; there are: base, kd"),
        ({"seed": 2}, "no seed 2 of films / of-films / kd; there are: 0, 1"),
    ],
)
def test_what_the_study_does_not_ask_for_is_named(
    finished: Path, project: Path, tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrialError, match=said):
        handed(finished, project, tmp_path / "out", **asked)


def test_a_student_of_other_tasks_is_refused(finished: Path, project: Path, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"students\.of-films\.tasks does not list 'shapes'"):
        hand_out(
            study(finished), Layout(project), "shapes", "of-films", "kd", None, tmp_path / "out", run_all
        )


def test_nothing_is_written_over(finished: Path, project: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for out in (full, full / "mine.txt"):
        with pytest.raises(KdcacheError, match="is there already and not an empty folder"):
            handed(finished, project, out)
    assert (full / "mine.txt").read_text() == "mine"
