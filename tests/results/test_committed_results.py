"""The committed results follow from the committed trials, and READMEs say what they say.

From trials.csv alone: means, differences, intervals, verdicts, claims, and the differences across tasks.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from kdcache.statistics import compare, compare_across_tasks, summarize, wording
from kdcache.statistics.settling import design_of
from tools.readme_results import FIGURE, Sources, replace_results, results_markdown
from tools.reports import committed_studies

ROOT = Path(__file__).resolve().parents[2]
STUDIES = {  # by where its README is
    "results": Sources.of_project(ROOT),
    **{
        f"results/{name}": Sources.of_folder(ROOT / "results" / name)
        for name in committed_studies(ROOT / "results")
    },
}
READMES = [name for name in STUDIES if (ROOT / name / FIGURE).exists()]
KEYS = ["task", "student", "regularizer"]
ROUNDED = {"rtol": 1e-3, "atol": 2e-3}  # of points: the scores in trials.csv have six digits


def read(folder):
    return STUDIES[folder].read()


@pytest.fixture(scope="module", params=STUDIES)
def results(request):
    return read(request.param)


def test_every_trial_that_the_params_ask_for_is_there_once(results):
    metrics, study = results
    asked = [
        (task, student, method, seed)
        for task in study.tasks
        for student, model in study.students.items()
        if study.applies(model, task)
        for method in {**study.regularizers, **study.distillers}
        for seed in study.seeds_of(task, student, method)
    ]
    found = list(metrics.trials[[*KEYS, "seed"]].itertuples(index=False, name=None))
    assert sorted(found) == sorted(asked)


def _share_of_alpha(study, look):
    """By the new seeds of a look; with exact boundaries by those of boundaries.py, which has tests of its own."""
    if study.comparison.boundaries == "exact":
        return design_of(study).nominal(look + 1, study.comparison.alpha, 2)
    new = study.looks[look] - (study.looks[look - 1] if look else 0)
    return study.comparison.alpha * new / study.looks[-1]


def test_differences_and_intervals_follow_from_the_trials(results):
    """With looks on the seeds of the look that decided, by the look's share of alpha."""
    metrics, study = results
    scores = metrics.trials.set_index([*KEYS, "seed"]).sort_index()
    for row in metrics.comparisons.itertuples():
        seeds = study.seeds[: row.seeds]
        look = study.looks.index(row.seeds)
        sides = (
            scores.loc[[(row.task, row.student, name, seed) for seed in seeds], row.metric].to_numpy()
            for name in (row.regularizer, row.baseline)
        )
        size, sign = (1, -1) if row.metric == "nll" else (100, 1)  # nats, of which less is better; points
        values, base = (size * side for side in sides)
        gains = sign * (values - base)
        interval = scipy.stats.t.interval(
            1 - _share_of_alpha(study, look),
            len(gains) - 1,
            gains.mean(),
            scipy.stats.sem(gains, nan_policy="raise"),
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
    claims = summarize(metrics.trials, study, derived)
    for now, kept in zip(claims["claims"], metrics.summary["claims"], strict=True):
        for key in ("question", "answer", "verdict", "sentence", "beside"):
            assert_says_the_same(now[key], kept[key])
    over_tasks = compare_across_tasks(metrics.trials, study)
    for column in ("difference", "ci_low", "ci_high"):
        found, expected = (frame[column].astype(float) for frame in (metrics.across, over_tasks))
        np.testing.assert_allclose(found, expected, **ROUNDED)


NUMBER = re.compile(r"[+−]?\d+\.\d+")


def assert_says_the_same(now, kept):
    """The same words and numbers; of nats the fourth digit may differ, since trials.csv has six digits."""
    assert NUMBER.sub("", now) == NUMBER.sub("", kept)
    values = ([float(number.replace("−", "-")) for number in NUMBER.findall(text)] for text in (now, kept))
    np.testing.assert_allclose(*values, rtol=0, atol=2e-4)


def test_sentences_have_the_numbers_beside_them(results):
    """Also where the last digit that is shown hangs on a tie."""
    metrics, study = results
    for claim in metrics.summary["claims"]:
        for key in ("gain_scratch", "gain_pretrained", "interaction"):
            if claim.get(key) is not None:
                assert wording.gain(claim[key], study.unit) in claim["sentence"], key


@pytest.mark.parametrize("folder", READMES)
def test_a_readme_has_the_results_of_its_study(folder):
    path = STUDIES[folder].readme
    text = path.read_text(encoding="utf-8")
    assert replace_results(text, results_markdown(*read(folder)), path) == text


def test_the_control_of_unlabelled_rows_follows_from_its_trials():
    """Plain fine-tuning for as many steps: the README's gains over it, paired by seed."""
    folder = ROOT / "results/unlabelled"
    lines = (folder / "README.md").read_text().splitlines()
    frames = [pd.read_csv(folder / part / "trials.csv") for part in ("metrics", "control")]
    study, control = (frame.set_index([*KEYS, "seed"])["accuracy"].sort_index() * 100 for frame in frames)
    for rows, student in [
        (100, "bert-tiny"),
        (100, "bert-tiny-scratch"),
        (300, "bert-tiny"),
        (300, "bert-tiny-scratch"),
    ]:
        task = f"bbc-{rows}"
        longer = control[task, f"{student}-{rows}", "base"]
        base, taught = (study[task, student, name].loc[longer.index] for name in ("base", "kd_unlabelled"))
        gains = (taught - longer).to_numpy()
        low, high = scipy.stats.t.interval(0.95, len(gains) - 1, gains.mean(), scipy.stats.sem(gains))
        means = " | ".join(f"{values.mean():.1f}" for values in (base, longer, taught))
        assert f"| {rows} | {student} | {means} | +{gains.mean():.2f} [{low:.2f}, {high:.2f}] |" in lines
