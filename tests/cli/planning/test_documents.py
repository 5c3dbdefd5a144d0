"""A study of language modelling planned: packed sequences, steps and bytes, against what its stages then make."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cli.planning import documents
from kdcache.cli.planning.documents import PackedSize, sequences_of, stored_bytes
from kdcache.cli.planning.estimates import describe
from kdcache.cli.planning.plan import plan_study
from kdcache.cli.planning.runs import Size
from kdcache.cli.planning.timing import calibrate
from kdcache.logits.tokens import RS, Full, Threshold, TokenCache, TopK
from kdcache.modelling.tokens.packing import pack
from kdcache.system.files import read_json
from kdcache.tasks.prepare import prepare_task
from kdcache.trials.cache import cache_logits
from kdcache.trials.layout import TEACHER, Layout
from kdcache.trials.missing import cache_to_write, teacher_to_train, trials_to_run
from kdcache.trials.result import finished_result
from kdcache.trials.run import run_trial
from kdcache.trials.teach import teach
from tests.language import write_project


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planned")
    for name, task in write_project(root).tasks.items():
        prepare_task(task, Layout(root).task(name), name)
    return root


def planned(root: Path, **changes: Any) -> dict[str, Any]:
    return describe(plan_study(write_project(root, **changes), root / "data"))


@pytest.mark.parametrize("length", [2, 3, 7, 16, 1000])
def test_as_many_sequences_as_packing_makes(length: int) -> None:
    random = np.random.default_rng(length)
    for _ in range(20):
        texts = [random.integers(1, 9, random.integers(1, 30)) for _ in range(random.integers(1, 12))]
        assert sequences_of(sum(map(len, texts)), len(texts), length) == len(pack(texts, 0, length))


def test_the_plan_is_what_then_runs(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "data", tmp_path / "data")
    study, layout = write_project(prepared), Layout(tmp_path)
    before = describe(plan_study(study, tmp_path / "data"))
    jobs = {job["model"]: job for job in before["jobs"]}
    teach(teacher_to_train(study, layout, "docs", "big"))
    cache_logits(cache_to_write(study, layout, "docs", "big"))
    (trial,) = [plan for plan in trials_to_run(study, layout, "docs", "tiny", "base") if plan.seed == 0]
    run_trial(trial)
    assert jobs["big"]["steps_each"] == [read_json(layout.teacher("docs", "big") / TEACHER)["steps"]]
    assert jobs["tiny"]["steps_each"] == [finished_result(trial.folder).steps]
    assert jobs["raw"]["steps_each"] == [0]
    cache = TokenCache(layout.cache("docs", "big"))
    rows = {name: split.rows for name, split in cache.manifest.splits.items()}
    assert jobs["big"]["rows"] == {"train": rows["train"], "evaluated": rows["validation"]}
    assert _bytes(cache) <= jobs["big"]["logit_bytes"]
    after = describe(plan_study(study, tmp_path / "data"))
    assert (after["teachers"]["done"], after["trials"]["done"]) == (1, 1)
    assert after["steps"]["total"] == before["steps"]["total"]
    assert after["steps"]["left"] < before["steps"]["left"]


def _bytes(cache: TokenCache) -> int:
    """The values of all columns, uncompressed."""
    rows = [cache.split(name) for name in cache.splits]
    columns = sum(column.values.nbytes for split in rows for column in split.columns.values())
    return columns + sum(split.ids.nbytes + split.row_hashes.nbytes for split in rows)


def test_baselines_keep_their_distributions_only_for_self_kd(prepared: Path) -> None:
    both = planned(prepared)
    without = planned(prepared, distillers={"kd": {"soft_labels": "teacher", "alpha": 0.9}})
    of = [next(job for job in found["jobs"] if job["model"] == "tiny") for found in (both, without)]
    evaluated = of[0]["rows"]["evaluated"]
    assert (
        of[1]["logit_bytes"] == 3 * 2 * evaluated * 15 * 9
    )  # 3 methods, 2 seeds, 15 tokens of a sequence of 16
    assert of[0]["logit_bytes"] > 4 * 2 * evaluated * 15 * 9


def test_what_the_tokenizer_found_is_said(prepared: Path) -> None:
    found = planned(prepared)
    size = found["jobs"][0]["rows"]
    assert found["notes"] == [
        f"task docs: by the tokenizer of {prepared / 'gpt2'}, {size['train']} packed sequences to learn from and "
        f"{size['evaluated']} to be judged by"
    ]
    assert found["rows"] == {"docs": {"train": 16, "evaluated": 8}}


def test_many_documents_are_counted_from_a_sample(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = planned(prepared)
    monkeypatch.setattr(documents, "COUNTED", 12)
    about = planned(prepared)
    assert "about" in about["notes"][0]
    assert about["jobs"][0]["rows"]["train"] == pytest.approx(exact["jobs"][0]["rows"]["train"], rel=0.2)
    assert (
        about["jobs"][0]["rows"]["evaluated"] == exact["jobs"][0]["rows"]["evaluated"]
    )  # 8: all were counted


def test_sequences_may_be_told(prepared: Path, tmp_path: Path) -> None:
    study = write_project(prepared)
    found = describe(plan_study(study, tmp_path / "data", {"docs": Size(100, 10, 500)}))
    assert [job["steps_each"] for job in found["jobs"]] == [[39], [0], [26], [26]]  # 13 batches of 8
    unknown = describe(plan_study(study, tmp_path / "data"))
    assert unknown["steps"]["total"] is None
    assert "--rows" in unknown["notes"][0]


def test_a_checkpoint_without_a_tokenizer(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "gpt2", tmp_path / "bare")
    for file in tmp_path.glob("bare/*token*"):
        file.write_text("{")
    study = write_project(prepared)
    teachers = {
        "big": {**study.teachers["big"].model_dump(exclude_unset=True), "checkpoint": str(tmp_path / "bare")}
    }
    found = planned(prepared, teachers=teachers)
    assert found["jobs"][0]["steps_each"] is None
    assert found["jobs"][1]["steps_each"] is not None
    assert any("its packed sequences are unknown" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("how", "vocabulary", "expected"),
    [
        (TopK(36), 8192, 36 * (2 + 4) + 2 * 1 + 8),
        (TopK(36), 100_000, 36 * (4 + 4) + 2 * 1 + 8),
        (RS(50, draws=3), 8192, 50 * 2 * 3 + 2 * 1 + 8),
        (Threshold(1 / 50), 8192, 51 * 6 + 2 * 1 + 8),
        (Threshold(1 / 50, draws=4), 8192, 51 * 8 + 2 * 1 + 8),
        (Full(), 300, 300 * 4 + 2 * 2 + 8),
    ],
    ids=str,
)  # fmt: skip
def test_bytes_of_a_position(how: Any, vocabulary: int, expected: int) -> None:
    assert stored_bytes(how, vocabulary) == expected


def test_tuning_counts_sequences_too(prepared: Path) -> None:
    without = planned(prepared)
    space = {"all": {"epochs": [1, 2]}}
    found = planned(prepared, tuning={"seeds": [9], "budget": 2, "hold_out": 0.25, "space": space})
    train = without["jobs"][0]["rows"]["train"]
    batches = -(-(train - round(0.25 * train)) // 8)
    # two students x 4 methods x (1 + 2) epochs, and the teacher that KD learns from
    assert found["steps"]["total"] - without["steps"]["total"] == batches * (2 * 4 * 3 + 3)


def test_a_language_model_is_timed_in_sequences(prepared: Path) -> None:
    plan = plan_study(write_project(prepared), prepared / "data")
    speeds, notes = calibrate(plan, prepared / "data")
    assert notes == []
    assert {name for _, _, name in speeds} == {"big", "raw", "tiny", "tiny-scratch"}
    found = describe(plan, speeds)
    big = next(job for job in found["jobs"] if job["model"] == "big")
    predicted = big["rows"]["train"] + 2 * big["rows"]["evaluated"]
    speed = speeds["teacher", "docs", "big"]
    assert big["seconds_left"] == pytest.approx(big["steps_left"] * speed.step + predicted * speed.row)
    assert found["seconds"]["total"] > 0


def test_an_unknown_vocabulary_has_unknown_bytes() -> None:
    assert PackedSize(10, 5, length=16).cache_bytes(10) is None
    assert PackedSize(10, 5, length=16).trial_bytes(0, 5) == 5 * 15 * 9
