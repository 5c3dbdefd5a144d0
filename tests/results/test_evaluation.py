"""Scores, outputs and sureness from logits made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.errors import CacheError
from kdcache.logits import LogitCache
from kdcache.results.evaluation import Evaluation, bin_sureness
from kdcache.results.gather import ResultsError, read_trials
from kdcache.study import Study
from kdcache.system.files import read_json, write_json
from kdcache.trials.layout import Layout
from kdcache.trials.result import TrialResult
from tests.results.samples import HASHES, LABELS, LOGITS, put_logits, put_task, put_trial, study

ONE = ("one", "small", "base")


def only_one(seeds: tuple[int, ...] = (0, 1), **changes: object) -> Study:
    """The task `one` with its student alone."""
    whole = study(seeds=list(seeds), **changes)
    tasks, students = {"one": whole.tasks["one"]}, {"small": whole.students["small"]}
    return whole.model_copy(update={"tasks": tasks, "students": students})


def evaluate(root: Path, of: Study, results: list[TrialResult] | None = None) -> Evaluation:
    return Evaluation(of, root, results or [])


def test_outputs_are_in_the_order_of_the_task(tmp_path: Path) -> None:
    put_task(tmp_path)
    put_logits(tmp_path, 0, LOGITS)
    put_logits(tmp_path, 1, -LOGITS, order=[2, 0, 3, 1])
    outputs = evaluate(tmp_path, only_one()).outputs(*ONE)
    assert outputs.seeds == (0, 1)
    assert outputs.labels.tolist() == [1, 0, 1, 1]
    assert outputs.outputs.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]


def test_outputs_of_a_regression_are_its_numbers(tmp_path: Path) -> None:
    put_task(tmp_path, np.array([0.5, 2.5]), regression=True)
    put_logits(tmp_path, 0, np.array([[0.25], [3.0]], dtype=np.float32), order=[1, 0])
    assert evaluate(tmp_path, only_one((0,))).outputs(*ONE).outputs.tolist() == [[0.25, 3.0]]


def test_judged_by_nll_a_row_has_its_loss(tmp_path: Path) -> None:
    put_task(tmp_path)
    put_logits(tmp_path, 0, LOGITS)
    task = {"source": {"builtin": "digits"}, "image": "image", "metrics": ["nll", "accuracy"]}
    outputs = evaluate(tmp_path, only_one((0,), tasks={"one": task, "two": task})).outputs(*ONE)
    # two classes whose logits are 1 apart: log(1 + exp(-1)) where the label has the larger one, else 1 more
    right, wrong = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    np.testing.assert_allclose(outputs.outputs, [[right, right, wrong, right]], rtol=1e-6)
    assert outputs.labels.tolist() == [1, 1, 1, 1]  # what each is divided by


def test_where_f1_is_of_the_first_class_classes_are_exchanged(tmp_path: Path) -> None:
    put_task(tmp_path)
    card = tmp_path / "tasks/one/card.json"
    write_json(card, {**read_json(card), "positive": "a"})
    put_logits(tmp_path, 0, LOGITS)
    outputs = evaluate(tmp_path, only_one((0,))).outputs(*ONE)
    assert (outputs.labels.tolist(), outputs.outputs.tolist()) == ([0, 1, 0, 0], [[0, 1, 1, 0]])


@pytest.mark.parametrize(
    ("hashes", "order", "said"),
    [
        (HASHES + np.uint64(1), [0, 1, 2, 3], "logits of other rows than the prepared task"),
        (HASHES, [0, 1, 3], "lacks 1 of the task's 4 rows, the first is row 2"),
    ],
)
def test_logits_of_other_rows_are_refused(
    tmp_path: Path, hashes: np.ndarray, order: list[int], said: str
) -> None:
    put_task(tmp_path)
    put_logits(tmp_path, 0, LOGITS, hashes, order)
    with pytest.raises(CacheError, match=said):
        evaluate(tmp_path, only_one((0,))).outputs(*ONE)


def with_trials(root: Path, accuracy: float = 0.75, further: bool = False) -> list[TrialResult]:
    """Two seeds: 3 of 4 rows right, and 1 of 4; result.json of kdcache 0.1 says so."""
    put_task(root)
    splits = ["validation"]
    if further:
        splits.append("hard")
        rows = {"id": np.arange(4), "row_hash": HASHES, "label": 1 - LABELS}
        pq.write_table(pa.table(rows), root / "tasks/one/hard.parquet")
        card = root / "tasks/one/card.json"
        write_json(card, {**read_json(card), "rows": {"validation": 4, "hard": 4}})
    for seed, logits, score in ((0, LOGITS, accuracy), (1, -LOGITS, 0.25)):
        put_logits(root, seed, logits, splits=splits)
        put_trial(root, *ONE, seed, score, metrics={"accuracy": score})
    return read_trials(only_one(), root / "trials")


def test_scores_follow_from_logits(tmp_path: Path) -> None:
    """Classes 1 0 0 1 of labels 1 0 1 1; class 1: F1 2 x 2 / (2 + 3) = 0.8."""
    first, second = with_trials(tmp_path)
    evaluation = evaluate(tmp_path, only_one(), [first, second])
    scores = evaluation.scores(first)
    assert list(scores) == ["accuracy", "macro_f1", "matthews", "f1", "nll", "brier", "ece"]
    assert (scores["accuracy"], scores["f1"]) == (0.75, pytest.approx(0.8))
    # every margin is 1: -log sigmoid(1) three times, and that plus 1
    assert scores["nll"] == pytest.approx(np.log1p(np.exp(-1)) + 0.25)
    assert evaluation.scores(second)["accuracy"] == 0.25


def test_a_further_split_has_scores_of_its_own(tmp_path: Path) -> None:
    results = with_trials(tmp_path, further=True)
    scores = evaluate(tmp_path, only_one(), results).scores(results[0])
    assert (scores["accuracy"], scores["accuracy_hard"]) == (0.75, 0.25)
    assert list(scores)[7:] == [f"{name}_hard" for name in list(scores)[:7]]


def test_an_edited_score_is_noticed(tmp_path: Path) -> None:
    results = with_trials(tmp_path, accuracy=0.99)
    said = r"seed-0: result\.json says accuracy 0\.99, the logits beside it give 0\.75"
    with pytest.raises(ResultsError, match=said):
        evaluate(tmp_path, only_one(), results).outputs(*ONE)


def test_every_trial_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = with_trials(tmp_path)
    opened = []

    def opening(path: Path) -> LogitCache:
        opened.append(path)
        return LogitCache(path)

    monkeypatch.setattr("kdcache.results.evaluation.LogitCache", opening)
    evaluation = evaluate(tmp_path, only_one(), results)
    evaluation.outputs(*ONE)
    evaluation.sureness(*ONE)
    assert [evaluation.scores(result)["accuracy"] for result in results] == [0.75, 0.25]
    folders = [Layout(Path()).trial(*ONE, seed).relative_to("data") for seed in (0, 1)]
    assert opened == [tmp_path / folder / "logits" for folder in folders]


def test_scores_can_be_asked_for_alone(tmp_path: Path) -> None:
    results = with_trials(tmp_path)
    assert evaluate(tmp_path, only_one(), results).scores(results[1])["accuracy"] == 0.25


def test_sureness_of_all_seeds_together(tmp_path: Path) -> None:
    """Every row is sigmoid(1) = 0.731 sure, in the 11th of 15 bins; 3 and 1 of 4 are right."""
    evaluation = evaluate(tmp_path, only_one(), with_trials(tmp_path))
    rows, sure, right = evaluation.sureness(*ONE)
    assert (rows.tolist(), right.tolist()) == ([0] * 10 + [8] + [0] * 4, [0] * 10 + [4] + [0] * 4)
    assert sure[10] == pytest.approx(8 / (1 + np.exp(-1)))
    assert bin_sureness(LOGITS, LABELS, bins=2).tolist()[0] == [0, 4]
