"""examples.csv: each row from the outputs of a configuration and of its baseline, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from kdcache.results.schema import ExampleRow, columns
from kdcache.results.validation import Outputs
from kdcache.statistics import compare_examples, rowwise
from kdcache.study import Study
from tests.statistics.helpers import make_study

LABELS = np.arange(60) % 3


class Reader:
    """Outputs of 5 seeds; better methods have more rows right. Counts how often each is read."""

    def __init__(self, **rates: float) -> None:
        self.rates, self.read = rates, []  # type: ignore[var-annotated]

    def __call__(self, task: str, student: str, regularizer: str) -> Outputs:
        self.read.append((task, student, regularizer))
        rng = np.random.default_rng(len(self.read))
        right = rng.random((5, 60)) < self.rates[regularizer]
        return Outputs((0, 1, 2, 3, 4), LABELS, np.where(right, LABELS, (LABELS + 1) % 3))


def test_rows_by_their_definitions() -> None:
    study = make_study(methods=["good", "same"])
    reader, again = Reader(base=0.6, good=0.9, same=0.6), Reader(base=0.6, good=0.9, same=0.6)
    frame = compare_examples(study, reader, resamples=200)
    assert list(frame.columns) == columns(ExampleRow)
    assert reader.read == [("news", "tiny", m) for m in ("base", "good", "same")]  # each once
    base, mine = again("news", "tiny", "base"), again("news", "tiny", "good")
    row = frame.set_index("regularizer").loc["good"]
    assert (row["rows"], row["seeds"], row["metric"], row["note"]) == (60, 5, "accuracy", "")
    a, b = mine.outputs == LABELS, base.outputs == LABELS
    assert row["difference"] == pytest.approx(100 * (a.mean() - b.mean()))
    assert row["gained"] == pytest.approx((a & ~b).sum() / 5)
    p = [
        mcnemar([[0, np.sum(x & ~y)], [np.sum(y & ~x), 0]], exact=True).pvalue
        for x, y in zip(a, b, strict=True)
    ]
    assert (row["mcnemar_p_min"], row["mcnemar_p_max"]) == pytest.approx((min(p), max(p)), abs=1e-9)
    assert row["mcnemar_below_alpha"] == sum(value <= 0.05 for value in p)
    np.testing.assert_allclose(
        frame["rows_p_corrected"], multipletests(frame["rows_p"], method="holm")[1], atol=1e-9
    )
    direct = rowwise.row_intervals("accuracy", LABELS, mine.outputs, base.outputs, resamples=200)
    assert (row["rows_low"], row["total_high"], row["sd_total"]) == (
        direct.low,
        direct.total_high,
        direct.sd_total,
    )


def test_baselines_are_read_once_for_each_student() -> None:
    study = make_study(["a", "b"], {"tiny": ("t", "pretrained"), "raw": ("t", "scratch")}, ["good", "same"])
    reader = Reader(base=0.6, good=0.9, same=0.6)
    frame = compare_examples(study, reader, resamples=20)
    assert len(frame) == 8
    assert len(reader.read) == len(set(reader.read)) == 12


def test_seeds_that_do_not_match() -> None:
    def read(task: str, student: str, regularizer: str) -> Outputs:
        seeds = (0, 1, 2) if regularizer == "base" else (2, 9)
        outputs = np.stack([np.where(np.arange(60) % (seed + 2), LABELS, 0) for seed in seeds])
        return Outputs(seeds, LABELS, outputs)

    row = compare_examples(make_study(), read, resamples=50).iloc[0]
    assert (row["seeds"], row["difference"]) == (1, 0.0)  # seed 2 against seed 2: the same outputs
    assert row["note"] == "one seed: what other seeds would change is not known"

    def none(task: str, student: str, regularizer: str) -> Outputs:
        found = read(task, student, regularizer)
        return Outputs((7, 8) if regularizer != "base" else found.seeds, found.labels, found.outputs)

    row = compare_examples(make_study(), none, resamples=50).iloc[0]
    assert (row["seeds"], row["note"]) == (0, "no matched seeds: rows cannot be compared pair by pair")
    assert row[["difference", "rows_p", "rows_p_corrected", "sd_rows"]].isna().all()


def test_a_ceiling_is_noted_and_no_certainty() -> None:
    row = compare_examples(make_study(), Reader(base=1.1, smooth=1.1), resamples=50).iloc[0]
    assert (row["difference"], row["rows_p"], row["sd_total"]) == (0.0, 1.0, 0.0)
    assert row[["rows_low", "rows_high", "total_low", "total_high"]].isna().all()
    assert row["note"].startswith("no row and no seed makes a difference")


def test_a_regression_has_what_is_defined() -> None:
    task = {"source": {"files": {"train": "a.csv", "validation": "b.csv"}}, "text": ["text"],
            "metrics": ["pearson"], "max_length": 8}  # fmt: skip
    study = Study.model_validate({
        **make_study().model_dump(exclude={"tasks", "regularizers", "comparison"}), "tasks": {"news": task},
        "regularizers": {"base": {}, "own": {"function": "m:f"}}, "comparison": {"margin": {"pearson": 1.0}},
    })  # fmt: skip
    labels = np.linspace(0, 5, 50)

    def read(task: str, student: str, regularizer: str) -> Outputs:
        noise = np.random.default_rng(len(regularizer)).normal(0, 1, (5, 50))
        return Outputs((0, 1, 2, 3, 4), labels, labels + noise)

    row = compare_examples(study, read, resamples=100).iloc[0]
    expected = [
        np.corrcoef(labels, read("", "", m).outputs[s])[0, 1] for m in ("own", "base") for s in range(5)
    ]
    assert row["difference"] == pytest.approx(100 * (np.mean(expected[:5]) - np.mean(expected[5:])))
    assert row["sd_total"] > 0
    assert row[["gained", "mcnemar_p_min", "rows_p", "rows_p_corrected"]].isna().all()
