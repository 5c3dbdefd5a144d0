from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import TrialError
from kdcache.logits import Fingerprints, LogitWriter
from kdcache.study import Regularizer, Student, Teacher
from kdcache.system.files import write_json
from kdcache.system.locks import exclusive
from kdcache.tasks.card import TaskCard, Unlabelled
from kdcache.trials import code
from kdcache.trials.applicable import left_out, mark_inapplicable
from kdcache.trials.identity import (
    learned_from,
    logit_fingerprints,
    teacher_caches,
)
from kdcache.trials.keeping import (
    teacher_files,
    why_teach,
)
from kdcache.trials.layout import trial_folder
from kdcache.trials.plan import trained_teacher
from kdcache.trials.result import TrialResult, read_result, write_result
from tests.doing import missing_seeds, training_identity, why_no_cache

RECIPE = {"learning_rate": 0.001, "epochs": 1, "batch_size": 8}


def result(identity: str, seed: int = 0) -> TrialResult:
    return TrialResult(
        identity=identity,
        task="rte",
        student="tiny",
        family="bert",
        init="scratch",
        checkpoint="models/tiny",
        layers=None,
        teacher=None,
        regularizer="base",
        seed=seed,
        params={},
        metrics={"accuracy": 0.5},
        steps=1,
        losses=[0.7],
        seconds=0.1,
        peak_memory_mb=10.0,
        device="cpu",
        precision="float32",
        versions={},
    )


PRINTS = Fingerprints(data="d", weights="w", preprocessing="p", code="c")


def put_logits(folder: Path, *splits: str, identity: str = "w") -> None:
    prints = PRINTS.model_copy(update={"weights": identity})
    with LogitWriter(folder, classes=2, label_names=["no", "yes"], fingerprints=prints) as writer:
        for split in splits:
            writer.write(split, np.arange(3), np.arange(3, dtype=np.uint64), np.ones((3, 2), np.float32))
        writer.finish()


def finish(root: Path, seed: int, identity: str, *splits: str) -> Path:
    folder = trial_folder(root, seed)
    put_logits(folder / "logits", *(splits or ["validation"]), identity=identity)
    write_result(folder, result(identity, seed))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def card(**changes: Any) -> TaskCard:
    fields: dict[str, Any] = {
        "name": "rte",
        "modality": "text",
        "regression": False,
        "label_names": ["no", "yes"],
        "rows": {"train": 2, "validation": 2},
        "class_counts": {"train": [1, 1], "validation": [1, 1]},
        "source": {},
        "dropped": {},
        "metrics": ["accuracy"],
        "max_length": 16,
        "fingerprint": "d" * 64,
    }
    return TaskCard(**{**fields, **changes})


def student(checkpoint: Path, **changes: Any) -> Student:
    return Student(**{"checkpoint": str(checkpoint), "init": "scratch", **RECIPE, **changes})


# --- identity -----------------------------------------------------------------------------


def test_identity_depends_on_all_that_decides_the_numbers(checkpoint: Path) -> None:
    kd = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2)
    identities = [
        training_identity(card(), student(checkpoint), kd, 0, "a"),
        training_identity(card(), student(checkpoint), kd, 1, "a"),
        training_identity(card(), student(checkpoint), kd, 0, "b"),
        training_identity(
            card(), student(checkpoint), kd, 0, "a", "b"
        ),  # an ensemble: all of it, in its order
        training_identity(card(), student(checkpoint), kd, 0, "b", "a"),
        training_identity(card(), student(checkpoint), kd.model_copy(update={"alpha": 0.6}), 0, "a"),
        training_identity(card(), student(checkpoint, epochs=2), kd, 0, "a"),
        training_identity(card(), student(checkpoint, precision="bfloat16"), kd, 0, "a"),
        training_identity(card(fingerprint="e" * 64), student(checkpoint), kd, 0, "a"),
        training_identity(card(max_length=17), student(checkpoint), kd, 0, "a"),
    ]
    assert len(set(identities)) == len(identities)


def test_identity_ignores_names_and_what_is_only_scored(checkpoint: Path) -> None:
    base = Regularizer()
    plain = training_identity(card(), student(checkpoint), base, 0)
    renamed = card(name="other", metrics=["macro_f1"])
    assert training_identity(renamed, student(checkpoint, teacher="big", tasks=["rte"]), base, 0) == plain


def test_a_distiller_that_names_the_students_teacher_has_the_same_identity(checkpoint: Path) -> None:
    """What counts is the logits, which the caches' identities stand for."""
    kd = Regularizer(soft_labels="teacher", alpha=0.5)
    taught = training_identity(card(), student(checkpoint, teacher="big"), kd, 0, "logits of big")
    named = kd.model_copy(update={"teacher": "big"})
    assert training_identity(card(), student(checkpoint), named, 0, "logits of big") == taught
    assert training_identity(card(), student(checkpoint), named, 0, "logits of huge") != taught


def test_identity_follows_the_checkpoint_and_not_its_path(checkpoint: Path, tmp_path: Path) -> None:
    base = Regularizer()
    before = training_identity(card(), student(checkpoint), base, 0)
    moved = checkpoint.rename(tmp_path / "moved")
    assert training_identity(card(), student(moved), base, 0) == before
    (moved / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 16}))
    assert training_identity(card(), student(moved), base, 0) != before


def test_identity_includes_the_code_of_a_users_loss(
    checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "my_losses_for_identity.py"
    method = Regularizer(function="my_losses_for_identity:loss")
    module.write_text("def loss(z, y, s):\n    return z.sum()\n")
    before = training_identity(card(), student(checkpoint), method, 0)
    module.write_text('def loss(z, y, s):\n    """Only words."""\n    return z.sum()  # a comment\n')
    assert training_identity(card(), student(checkpoint), method, 0) == before
    module.write_text("def loss(z, y, s):\n    return z.mean()\n")
    assert training_identity(card(), student(checkpoint), method, 0) != before


# --- results on disk ----------------------------------------------------------------------


def test_a_result_comes_back_as_written(tmp_path: Path) -> None:
    folder = finish(tmp_path, 3, "abc")
    assert folder.name == "seed-3"
    assert read_result(folder) == result("abc", 3)
    assert read_result(tmp_path / "seed-4") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": "x"}'])
def test_a_damaged_result_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(TrialError, match=r"result\.json: .*delete"):
        read_result(tmp_path)


# --- what is missing ----------------------------------------------------------------------


def test_finished_trials_stay_and_missing_seeds_are_named_in_order(tmp_path: Path) -> None:
    kept = finish(tmp_path, 1, "one")
    before = (kept / "result.json").stat().st_mtime_ns
    assert missing_seeds(tmp_path, {2: "two", 1: "one", 0: "zero"}) == [2, 0]
    assert (kept / "result.json").stat().st_mtime_ns == before


def test_everything_else_is_deleted(tmp_path: Path) -> None:
    finish(tmp_path, 0, "stale")
    finish(tmp_path, 7, "a seed no longer asked for")
    interrupted = tmp_path / "seed-1" / "logits"
    interrupted.mkdir(parents=True)
    damaged = tmp_path / "seed-2"
    damaged.mkdir()
    (damaged / "result.json").write_text("{")
    (tmp_path / "stray.txt").write_text("")
    (tmp_path / "not-applicable.json").write_text("{}")
    assert missing_seeds(tmp_path, {0: "new", 1: "one", 2: "two"}) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_trial_with_damaged_logits_is_done_again(tmp_path: Path) -> None:
    for seed in range(4):
        finish(tmp_path, seed, "same")
    shards = [tmp_path / f"seed-{seed}" / "logits" / "validation" / "part-00000.parquet" for seed in range(4)]
    shards[0].unlink()
    flipped = bytearray(shards[1].read_bytes())
    flipped[10] ^= 1
    shards[1].write_bytes(flipped)
    (tmp_path / "seed-2" / "logits" / "manifest.json").unlink()
    assert missing_seeds(tmp_path, dict.fromkeys(range(4), "same")) == [0, 1, 2]


def test_a_trial_with_the_logits_of_another_is_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are whole, and of the very rows."""
    root = tmp_path / "kd"
    for seed in (0, 1):
        finish(root, seed, f"identity-{seed}")
    logits = trial_folder(root, 1) / "logits"
    shutil.rmtree(logits)
    shutil.copytree(trial_folder(root, 0) / "logits", logits)
    with caplog.at_level("INFO"):
        assert missing_seeds(root, {0: "identity-0", 1: "identity-1"}) == [1]
    assert "has the logits of another trial, identity-0, expected identity-1" in caplog.text


def test_a_new_baseline_needs_train_logits_and_is_done_again_without(tmp_path: Path) -> None:
    finish(tmp_path, 0, "same")
    finish(tmp_path, 1, "same", "train", "validation")
    assert missing_seeds(tmp_path, {0: "same", 1: "same"}, ("train", "validation")) == [0]


def test_of_several_processes_the_main_one_notes_that_a_pair_is_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "out"
    params.write_text("tasks: {rte: {}, cola: {}}\nstudents: {tiny: {tasks: [cola]}}\n")
    for rank in ("1", "0"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        assert left_out(out, "students", "tiny", "rte", params)
        assert out.exists() == (rank == "0")


def test_a_configuration_that_does_not_apply_leaves_only_a_note(tmp_path: Path) -> None:
    root = tmp_path / "base"
    finish(root, 0, "old")
    mark_inapplicable(root, "students.tiny.tasks does not list 'rte'")
    assert [path.name for path in root.iterdir()] == ["not-applicable.json"]


# --- teachers and their logits ------------------------------------------------------------


def put_teacher(folder: Path, identity: str = "same") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    write_json(folder / "teacher.json", {"identity": identity, "files": teacher_files(folder)})
    return folder


def test_a_teacher_is_kept_only_whole_and_with_the_wanted_identity(tmp_path: Path) -> None:
    assert why_teach(tmp_path / "none", "same") == "there is none yet"
    folder = put_teacher(tmp_path / "teacher")
    assert why_teach(folder, "same") is None
    assert "identity changed" in str(why_teach(folder, "other"))
    (folder / "model.safetensors").write_bytes(b"weighty")
    assert "not as they were saved" in str(why_teach(folder, "same"))
    for text in ("{", "[]", "{}"):
        (folder / "teacher.json").write_text(text)
        assert "damaged" in str(why_teach(folder, "same"))


@pytest.mark.parametrize("added", ["extra.bin", "onnx/model.bin", "a/b/c.json", "[x].json"])
def test_a_teacher_with_a_file_more_is_not_the_one_that_was_saved(tmp_path: Path, added: str) -> None:
    folder = put_teacher(tmp_path / "teacher")
    assert why_teach(folder, "same") is None
    (folder / added).parent.mkdir(parents=True, exist_ok=True)
    (folder / added).write_text("{}")
    assert why_teach(folder, "same") == "its files are not as they were saved"


def test_logits_are_kept_only_whole_and_from_the_same_teacher(tmp_path: Path) -> None:
    teacher, folder = put_teacher(tmp_path / "teacher"), tmp_path / "cache"
    assert why_no_cache(folder, {".": PRINTS}, teacher) == "there are none yet"
    put_logits(folder, "train", "validation")
    (folder / "teacher.json").write_bytes((teacher / "teacher.json").read_bytes())
    assert why_no_cache(folder, {".": PRINTS}, teacher) is None
    other = PRINTS.model_copy(update={"weights": "others"})
    assert "another weights" in str(why_no_cache(folder, {".": other}, teacher))
    shard = folder / "train" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "truncated" in str(why_no_cache(folder, {".": PRINTS}, teacher))


def test_every_cache_of_a_teacher_is_asked_for_and_no_other(tmp_path: Path) -> None:
    teacher, folder = put_teacher(tmp_path / "teacher"), tmp_path / "cache"
    put_logits(folder, "train", "validation")
    (folder / "teacher.json").write_bytes((teacher / "teacher.json").read_bytes())
    wanted = {".": PRINTS, "unlabelled": PRINTS}
    assert "unlabelled" in str(why_no_cache(folder, wanted, teacher))
    put_logits(folder / "unlabelled", "unlabelled")
    assert why_no_cache(folder, wanted, teacher) is None
    other = PRINTS.model_copy(update={"data": "more"})
    assert "another data" in str(why_no_cache(folder, {**wanted, "unlabelled": other}, teacher))
    assert why_no_cache(folder, {".": PRINTS}, teacher) == "unlabelled is no longer asked for"


def test_unlabelled_rows_count_for_what_learns_from_them_alone(checkpoint: Path) -> None:
    facts = Unlabelled(origin="rest", shared_rows=0, fingerprint="u" * 64)
    plain, more = card(), card(unlabelled=facts)
    kd = Regularizer(soft_labels="teacher", alpha=0.5)
    use = kd.model_copy(update={"unlabelled": "use"})
    for method in (Regularizer(), kd):
        assert training_identity(more, student(checkpoint), method, 0, "a") == training_identity(
            plain, student(checkpoint), method, 0, "a"
        )
    caches = teacher_caches(more, find_checkpoint(student(checkpoint)), "w")
    assert caches["."] == logit_fingerprints(plain, find_checkpoint(student(checkpoint)), "w")
    assert (caches["unlabelled"].data, list(caches)) == ("u" * 64, [".", "unlabelled"])
    folders = [Path("big"), Path("huge")]
    assert learned_from(folders, kd) == folders
    assert learned_from(folders, use) == [*folders, Path("big/unlabelled"), Path("huge/unlabelled")]


def test_a_teacher_that_was_interrupted_is_no_teacher(tmp_path: Path) -> None:
    teacher = Teacher(checkpoint="hub/name", revision="main", layers=2, **RECIPE)
    with pytest.raises(TrialError, match=r"no teacher\.json.*run stage teach"):
        trained_teacher(teacher, tmp_path)
    trained = trained_teacher(teacher, put_teacher(tmp_path / "teacher"))
    assert (trained.checkpoint, trained.revision, trained.init, trained.layers) == (
        str(tmp_path / "teacher"),
        None,
        "pretrained",
        None,
    )


# --- the lock -----------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "kd"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                import time
                from pathlib import Path
                from kdcache.system.locks import exclusive
                with exclusive(Path({str(folder)!r})):
                    print("held", flush=True)
                    time.sleep(600)
            """),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TrialError, match="another process is writing here"), exclusive(folder):
        pass
    holder.kill()
    holder.wait()
    with exclusive(folder):
        pass
    assert not folder.exists()


def test_an_error_inside_the_lock_is_not_taken_for_a_busy_lock(tmp_path: Path) -> None:
    import filelock

    with pytest.raises(filelock.Timeout), exclusive(tmp_path / "kd"):
        raise filelock.Timeout("a lock of somebody else")


def test_dvc_reruns_a_stage_when_code_of_the_identity_changes() -> None:
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    for stage, packages in [
        *((stage, code.TRAINING) for stage in ("teach", "train", "distill")),
        ("cache", code.INFERENCE),
    ]:
        assert {package.replace(".", "/") for package in packages} <= set(stages[stage]["deps"]), stage


def test_asking_what_is_missing_imports_no_torch() -> None:
    stages = "stages.train, stages.teach, stages.cache"
    script = (
        f"import sys, {stages}; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
