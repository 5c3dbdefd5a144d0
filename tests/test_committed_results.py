"""The committed results follow from the committed trials: from trials.csv alone every number is derived again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from kdcache.params import load_study
from kdcache.report.inputs import read_metrics
from kdcache.statistics import across, compare, summary

ROOT = Path(__file__).resolve().parents[1]
STUDIES = {
    "metrics": "params.yaml",
    "metrics/families": "studies/families.yaml",
    **{
        str(path.parent.relative_to(ROOT)): str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("results/*/params.yaml"))
    },
}
KEYS = ["task", "student", "regularizer"]
ROUNDED = {"rtol": 1e-3, "atol": 2e-3}  # of points: the scores in trials.csv have six digits


@pytest.fixture(scope="module", params=STUDIES)
def results(request):
    folder = ROOT / request.param
    metrics = folder / "metrics" if (folder / "metrics").is_dir() else folder
    return read_metrics(metrics), load_study(ROOT / STUDIES[request.param])


def test_every_trial_that_the_params_ask_for_is_there_once(results):
    metrics, study = results
    asked = [
        (task, student, method, seed)
        for task in study.tasks
        for student, model in study.students.items()
        if study.applies(model, task)
        for method in {**study.regularizers, **study.distillers}
        for seed in study.seeds
    ]
    found = list(metrics.trials[[*KEYS, "seed"]].itertuples(index=False, name=None))
    assert sorted(found) == sorted(asked)


def test_differences_and_intervals_follow_from_the_trials(results):
    metrics, _ = results
    scores = metrics.trials.set_index([*KEYS, "seed"]).sort_index()
    for row in metrics.comparisons.itertuples():
        values = 100 * scores.loc[(row.task, row.student, row.regularizer), row.metric]
        base = 100 * scores.loc[(row.task, row.student, row.baseline), row.metric]
        gains = (values - base).to_numpy()
        interval = scipy.stats.t.interval(
            0.95, len(gains) - 1, gains.mean(), scipy.stats.sem(gains, nan_policy="raise")
        )
        expected = [values.mean(), values.std(ddof=1), base.mean(), gains.mean(), *interval]
        found = [row.mean, row.sd, row.baseline_mean, row.difference, row.ci_low, row.ci_high]
        np.testing.assert_allclose(found, expected, **ROUNDED, err_msg=str(row))


def test_verdicts_and_claims_follow_from_the_trials(results):
    metrics, study = results
    derived = compare(metrics.trials, study)
    committed = metrics.comparisons
    columns = [*KEYS, "metric", "verdict"]
    pd.testing.assert_frame_equal(
        derived[columns].reset_index(drop=True), committed[columns], check_dtype=False
    )
    claims = summary(metrics.trials, study, derived)
    for key in ("verdict", "sentence"):
        assert [claim[key] for claim in claims["claims"]] == [
            claim[key] for claim in metrics.summary["claims"]
        ]
    over_tasks = across(metrics.trials, study)
    for column in ("difference", "ci_low", "ci_high"):
        found, expected = (frame[column].astype(float) for frame in (metrics.across, over_tasks))
        np.testing.assert_allclose(found, expected, **ROUNDED)
