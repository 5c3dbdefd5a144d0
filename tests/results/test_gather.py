from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kdcache.logits import LogitCache
from kdcache.results.gather import ResultsError, cost_table, curves_table, read_trials, trials_table
from kdcache.results.provenance import provenance
from kdcache.study import Study
from kdcache.system.files import read_json, write_json
from kdcache.trials.result import Adopted, TrialCost, write_cost
from tests.results.samples import MODEL, put_task, put_teacher, put_trial, study


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (0, 1):
        put_trial(tmp_path, "one", "small", "base", seed, 0.9 + seed / 100)
        put_trial(tmp_path, "two", "tiny", "base", seed, 0.8)
    put_teacher(tmp_path)
    return tmp_path


def table_of(root: Path, of: Study) -> pd.DataFrame:
    return trials_table(of, read_trials(of, root / "trials"), lambda result: result.metrics or {})


def costs_of(root: Path, of: Study) -> pd.DataFrame:
    return cost_table(of, root, read_trials(of, root / "trials"))


def test_the_scores_of_a_further_split_have_columns_of_their_own(root: Path) -> None:
    for seed in (0, 1):
        metrics = {"accuracy": 0.9, "nll": 0.5, "accuracy_hard": 0.5 + seed / 10}
        put_trial(root, "one", "small", "base", seed, 0.9, metrics=metrics)
    table = table_of(root, study())
    assert table.columns[9:12].tolist() == ["accuracy", "nll", "accuracy_hard"]
    assert table["accuracy_hard"].tolist()[:2] == [0.5, 0.6]
    assert table["accuracy_hard"].isna().tolist() == [False, False, True, True]  # a task without that split


def test_a_cache_of_views_has_a_cost_of_its_own(root: Path) -> None:
    cache = root / "logits/one/big"
    shutil.copytree(cache, root / "views")
    shutil.move(root / "views", cache / "views")
    task = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    table = costs_of(root, study(tasks={"one": {**task, "augment": {"crop": 1}}, "two": task}))
    assert table["kind"].tolist() == ["teacher", "cache", "views", "trial", "trial", "trial", "trial"]
    assert table["seconds"].tolist()[:3] == [9.0, 0.5, 0.5]


def test_a_cache_of_unlabelled_rows_has_a_cost_and_an_identity_of_its_own(root: Path) -> None:
    cache = root / "logits/one/big"
    shutil.copytree(cache, root / "more")
    shutil.move(root / "more", cache / "unlabelled")
    task = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["accuracy"]}
    some = study(tasks={"one": {**task, "train_size": 9, "unlabelled": "rest"}, "two": task})
    table = costs_of(root, some)
    assert table["kind"].tolist() == ["teacher", "cache", "unlabelled", "trial", "trial", "trial", "trial"]
    put_task(root)
    put_task(root, name="two")
    made = provenance(some, root, read_trials(some, root / "trials"))
    assert made["caches"][0]["unlabelled"] == LogitCache(cache / "unlabelled").identity
    assert [list(facts) for facts in made["tasks"].values()] == [
        ["rows", "data", "majority"]
    ] * 2  # as their cards have it
    card = read_json(root / "tasks/one/card.json")
    card["unlabelled"] = {"origin": "rest", "shared_rows": 0, "fingerprint": "u"}
    write_json(root / "tasks/one/card.json", card)
    assert provenance(some, root, read_trials(some, root / "trials"))["tasks"]["one"]["unlabelled"] == "u"


def test_one_row_per_trial_in_the_order_of_the_study(root: Path) -> None:
    table = table_of(root, study())
    assert list(table.columns) == [
        *("task", "student", "family", "init", "checkpoint", "layers", "teacher", "regularizer", "seed"),
        *("accuracy", "nll", "device", "identity"),
    ]
    assert table[["task", "student", "seed", "accuracy"]].values.tolist() == [
        ["one", "small", 0, 0.9],
        ["one", "small", 1, 0.91],
        ["two", "tiny", 0, 0.8],
        ["two", "tiny", 1, 0.8],
    ]


def test_a_trial_s_teacher_is_the_one_that_it_learned_from(root: Path) -> None:
    """The student's or the method's own, by the names they have now; the members of an ensemble are joined."""
    kd = {"soft_labels": "teacher", "alpha": 0.5}
    teachers = {name: {**MODEL, "tasks": ["one"]} for name in ("big", "huge")}
    methods = {
        "kd": kd,
        "kd_both": {**kd, "teacher": ["huge", "big"]},
        "self_kd": {**kd, "soft_labels": "self"},
    }
    for method in methods:
        put_trial(root, "one", "small", method, 0, 0.9, teacher="as it was called then")
        put_trial(root, "two", "tiny", method, 0, 0.9)
    table = table_of(root, study(seeds=[0], teachers=teachers, distillers=methods))
    found = table[table["student"] == "small"].set_index("regularizer")["teacher"].fillna("none")
    assert found.to_dict() == {"base": "none", "kd": "big", "kd_both": "huge+big", "self_kd": "none"}


def test_what_the_study_does_not_ask_for_is_in_no_table(root: Path) -> None:
    put_trial(root, "one", "small", "removed", 0, 0.1)
    put_trial(root, "one", "small", "base", 9, 0.1)
    assert len(table_of(root, study())) == 4
    assert len(table_of(root, study(seeds=[1]))) == 2


def test_missing_trials_are_an_error_that_names_them(root: Path) -> None:
    with pytest.raises(ResultsError, match=r"2 trials are missing(.|\n)*one/small/base/seed-5"):
        read_trials(study(seeds=[0, 5]), root / "trials")


def test_costs_of_teacher_cache_and_trials(root: Path) -> None:
    table = costs_of(root, study())
    rows = table[["kind", "model", "seconds", "peak_memory_mb"]].values.tolist()
    assert rows == [
        ["teacher", "big", 9.0, 200.0],
        ["cache", "big", 0.5, 50.0],
        *[["trial", "small", 1.5, 100.0]] * 2,
        *[["trial", "tiny", 1.5, 100.0]] * 2,
    ]


def test_the_loss_of_each_epoch_is_a_mean_over_seeds(root: Path) -> None:
    put_trial(root, "one", "small", "base", 0, 0.9, losses=[2.0, 1.0])
    put_trial(root, "one", "small", "base", 1, 0.9, losses=[4.0, 1.0])
    put_trial(root, "two", "tiny", "base", 1, 0.9, losses=[0.5, 0.25])  # seed 0 has one epoch: 0.5
    table = curves_table(read_trials(study(), root / "trials"))
    assert table.columns.tolist() == [
        *("task", "student", "init", "regularizer", "epoch", "seeds", "loss", "sd")
    ]
    rows = table.drop(columns=["init", "regularizer"]).astype(object)
    # sd of 2 and 4 with n - 1: the square root of 2; of one value: none
    assert rows.where(rows.notna(), None).values.tolist() == [
        ["one", "small", 1, 2, 3.0, pytest.approx(2**0.5)],
        ["one", "small", 2, 2, 1.0, 0.0],
        ["two", "tiny", 1, 2, 0.5, 0.0],
        ["two", "tiny", 2, 1, 0.25, None],
    ]


def test_what_the_numbers_were_made_of(root: Path) -> None:
    put_task(root)
    put_task(root, name="two")
    put_trial(root, "two", "tiny", "base", 1, 0.8, versions={"torch": "2.1"})
    found = provenance(study(), root, read_trials(study(), root / "trials"))
    assert (found["trials"], found["versions"], found["devices"]) == (
        4,
        {"torch": ["2.0", "2.1"]},
        {"cpu, float32": 4},
    )
    facts = {"rows": {"train": 4, "validation": 4}, "data": "d", "majority": 0.75}  # three rows of four
    assert found["tasks"] == dict.fromkeys(("one", "two"), facts)
    (cache,) = found["caches"]
    prints = {"data": "d", "weights": "w", "preprocessing": "p", "code": "c"}
    assert cache == {
        "task": "one",
        "teacher": "big",
        "cache": LogitCache(root / "logits/one/big").identity,
        **prints,
    }
    assert {"kdcache", "scipy", "python"} < set(found["statistics"])


def test_trials_of_a_student_that_began_differently_are_not_compared(root: Path) -> None:
    """A branch of the hub moved between two stages."""
    put_trial(root, "one", "small", "base", 0, 0.9, start="x", commit="aaa")
    put_trial(root, "one", "small", "base", 1, 0.9, start="y", commit="bbb")
    message = (
        r"students\.small: its trials on one did not begin with the same weights and tokenizer "
        r"\(models/m at base seed 0: aaa; base seed 1: bbb\); pin `revision`"
    )
    with pytest.raises(ResultsError, match=message):
        read_trials(study(), root / "trials")


def test_another_commit_with_the_same_content_is_the_same_start(root: Path) -> None:
    for seed, commit in ((0, "aaa"), (1, "bbb")):
        put_trial(root, "one", "small", "base", seed, 0.9, start="x", commit=commit)
    assert len(table_of(root, study())) == 4


def test_cost_files_come_before_what_an_old_result_says(root: Path) -> None:
    """A trial of kdcache 0.1 has its cost inside result.json; a teacher inside teacher.json."""
    trial, teacher = root / "trials/one/small/base/seed-0", root / "teachers/one/big"
    write_cost(trial, TrialCost(seconds=3.0, peak_memory_mb=7.0, device="gpu"))
    write_cost(teacher, TrialCost(seconds=4.0, peak_memory_mb=8.0, device="gpu"))
    table = costs_of(root, study())
    assert table[["kind", "seconds", "device"]].values.tolist()[:3] == [
        ["teacher", 4.0, "gpu"],
        ["cache", 0.5, "cpu"],
        ["trial", 3.0, "gpu"],
    ]
    assert table["seconds"].tolist()[3:] == [1.5] * 3


def test_a_cost_that_is_not_known_here_is_blank(root: Path) -> None:
    """cost.json does not travel with a result."""
    put_trial(root, "one", "small", "base", 0, 0.9, seconds=None, peak_memory_mb=None)
    record = root / "logits/one/big/teacher.json"
    write_json(record, {})
    table = costs_of(root, study())
    assert table["seconds"].isna().tolist() == [True, False, True, False, False, False]
    assert table["device"].isna().tolist() == [True] + [False] * 5


def test_what_was_adopted_is_in_the_provenance_once(root: Path) -> None:
    put_task(root)
    put_task(root, name="two")
    assert "adopted" not in provenance(study(), root, read_trials(study(), root / "trials"))
    for seed in (0, 1):
        adopted: Any = Adopted.model_validate({"from": "a", "to": "b", "checked": 2, "of": 4})
        put_trial(root, "one", "small", "base", seed, 0.9, adopted=adopted)
    made = provenance(study(), root, read_trials(study(), root / "trials"))
    assert made["adopted"] == [{"from": "a", "to": "b", "checked": 2, "of": 4}]
