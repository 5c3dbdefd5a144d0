"""The stages `teach`, `cache` and `train`: how they fail before there is anything to train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache import engine
from kdcache.logits import Fingerprints, LogitWriter
from kdcache.trials.plan import TrialPlan
from stages import cache, prepare, teach, train

STUDY = """
seeds: [0]
tasks:
  films:
    source: {files: {train: train.csv, validation: train.csv}}
    text: [text]
    metrics: [accuracy]
    max_length: 8
  plays:
    source: {files: {train: train.csv, validation: train.csv}}
    text: [text]
    metrics: [accuracy]
    max_length: 8
teachers:
  big: {checkpoint: model, init: scratch, learning_rate: 0.001, epochs: 1, batch_size: 8, tasks: [films]}
students:
  small: {checkpoint: model, init: scratch, learning_rate: 0.001, epochs: 1, batch_size: 8, tasks: [films],
          teacher: big}
regularizers: {base: {}}
distillers:
  kd: {soft_labels: teacher, alpha: 0.5}
  self_kd: {soft_labels: self, alpha: 0.5}
comparison: {baseline: base, margin: {accuracy: 1.0}}
"""


@pytest.fixture(autouse=True)
def _study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(STUDY)
    Path("train.csv").write_text("text,label\ngood,1\nbad,0\n")
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps({"model_type": "bert"}))
    Path("model/tokenizer.json").write_text("{}")


def fails(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], None], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 1
    return capsys.readouterr().err


def of(task: str, student: str, regularizer: str) -> list[str]:
    return ["--task", task, "--student", student, "--regularizer", regularizer]


def test_unknown_names_are_errors_that_list_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in (teach.main, cache.main):
        assert fails(capsys, stage, "--task", "x", "--teacher", "big") == (
            "error: params.yaml: no task 'x'; there are: films, plays\n"
        )
        assert "no teacher 'x'; there are: big" in fails(capsys, stage, "--task", "films", "--teacher", "x")
    assert "no task 'x'" in fails(capsys, train.main, *of("x", "small", "base"))
    assert "no student 'x'; there are: small" in fails(capsys, train.main, *of("films", "x", "base"))
    message = fails(capsys, train.main, *of("films", "small", "x"))
    assert "no regularizer or distiller 'x'; there are: base, kd, self_kd" in message
    assert not Path("data").exists()


def test_what_an_earlier_stage_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data/tasks/films" in fails(capsys, train.main, *of("films", "small", "base"))
    prepare.main(["--task", "films"])
    kd = fails(capsys, train.main, *of("films", "small", "kd"))
    assert "the logits to learn from are not there: data/logits/films/big" in kd
    own = fails(capsys, train.main, *of("films", "small", "self_kd"))
    assert "the logits to learn from are not there: data/trials/films/small/base/seed-0/logits" in own
    taught = fails(capsys, cache.main, "--task", "films", "--teacher", "big")
    assert "data/teachers/films/big: no teacher.json" in taught


def test_every_teacher_of_an_ensemble_is_learned_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    big = next(line for line in STUDY.splitlines() if line.startswith("  big:"))
    several = STUDY.replace(big, f"{big}\n{big.replace('big', 'huge')}")
    Path("params.yaml").write_text(several.replace("teacher: big", "teacher: [huge, big]"))
    prepare.main(["--task", "films"])
    assert "data/logits/films/huge" in fails(capsys, train.main, *of("films", "small", "kd"))
    put_logits("huge", weights="h")
    assert "data/logits/films/big" in fails(capsys, train.main, *of("films", "small", "kd"))
    put_logits("big", weights="b")
    plans = planned(monkeypatch)
    train.main(of("films", "small", "kd"))
    assert plans[0].soft_labels == (Path("data/logits/films/huge"), Path("data/logits/films/big"))
    put_logits("big", weights="another")
    train.main(of("films", "small", "kd"))
    Path("params.yaml").write_text(several.replace("teacher: big", "teacher: [big, huge]"))
    train.main(of("films", "small", "kd"))
    assert len({plan.identity for plan in plans}) == 3  # one teacher's logits changed, then the order


def test_a_distiller_learns_from_the_teacher_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    big = next(line for line in STUDY.splitlines() if line.startswith("  big:"))
    own = "  kd: {soft_labels: teacher, alpha: 0.5}"
    named = "\n".join(
        [own, *(f"{own[:-1]}, teacher: {name}}}".replace("kd", f"kd_{name}") for name in ("big", "huge"))]
    )
    Path("params.yaml").write_text(
        STUDY.replace(big, f"{big}\n{big.replace('big', 'huge')}").replace(own, named)
    )
    prepare.main(["--task", "films"])
    put_logits("big", weights="b")
    put_logits("huge", weights="h")
    plans = planned(monkeypatch)
    for method in ("kd", "kd_big", "kd_huge"):
        train.main(of("films", "small", method))
    folders = [path.as_posix() for plan in plans for path in plan.soft_labels]
    assert folders == ["data/logits/films/big", "data/logits/films/big", "data/logits/films/huge"]
    by_default, by_name, by_another = (plan.identity for plan in plans)
    assert by_default == by_name != by_another


def put_logits(teacher: str, weights: str) -> None:
    prints = Fingerprints(data="d", weights=weights, preprocessing="p", code="c")
    folder = Path("data/logits/films", teacher)
    with LogitWriter(folder, classes=2, label_names=["0", "1"], fingerprints=prints) as writer:
        writer.write(
            "train",
            np.arange(2),
            np.arange(2, dtype=np.uint64),
            np.full((2, 2), sum(weights.encode()), dtype=np.float32),
        )
        writer.finish()


def planned(monkeypatch: pytest.MonkeyPatch) -> list[TrialPlan]:
    """The trials that the stage would run, in place of running them."""
    plans: list[TrialPlan] = []
    monkeypatch.setattr(engine, "run_trials", lambda found, *_, **__: plans.extend(found))
    return plans


def test_pairs_that_do_not_apply_leave_a_note() -> None:
    teach.main(["--task", "plays", "--teacher", "big"])
    cache.main(["--task", "plays", "--teacher", "big"])
    train.main(of("plays", "small", "base"))
    for folder in ("teachers/plays/big", "logits/plays/big", "trials/plays/small/base"):
        assert [path.name for path in Path("data", folder).iterdir()] == ["not-applicable.json"]


def test_a_task_without_teachers_has_its_folder_of_caches() -> None:
    prepare.main(["--task", "films"])
    assert Path("data/logits/films").is_dir()


@pytest.mark.parametrize(
    "change",
    [
        ("epochs: 1, batch_size: 8, tasks: [films],\n", "epochs: 2, batch_size: 8, tasks: [films],\n"),
        ("regularizers: {base: {}}", "regularizers: {base: {}, more: {soft_labels: uniform, alpha: 0.1}}"),
    ],
)
def test_a_study_that_changes_while_a_stage_runs_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: tuple[str, str]
) -> None:
    prepare.main(["--task", "films"])

    def edit(plans: list[TrialPlan], *_: Any, **__: Any) -> None:
        Path("params.yaml").write_text(STUDY.replace(*change))

    monkeypatch.setattr(engine, "run_trials", edit)
    if "more" in change[1]:  # nothing that this stage depends on
        train.main(of("films", "small", "base"))
        return
    message = fails(capsys, train.main, *of("films", "small", "base"))
    assert (
        "was changed while it ran; what was trained is what was asked for when it began: run again" in message
    )
