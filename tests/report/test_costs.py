"""What is said of costs that are not known here: cost.json stays on the machine that ran it."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from kdcache.report import costs
from kdcache.results.reading import Metrics, read_metrics
from tests.report import samples


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return read_metrics(samples.write(tmp_path))


def without(metrics: Metrics, unknown: pd.Series) -> costs.Cost:
    table = metrics.cost.copy()
    table.loc[unknown, ["seconds", "peak_memory_mb"]] = float("nan")
    table.loc[unknown, "device"] = ""
    return costs.costs(replace(metrics, cost=table), samples.study())


def test_everything_is_known(metrics: Metrics) -> None:
    said = costs.in_a_sentence(costs.costs(metrics, samples.study()))
    assert said.startswith("Teachers were trained and their logits cached once, in 3.5 min; 15 trials read")
    assert said.endswith("All trials together took 16.2 min, on cpu.")


def test_a_teacher_that_was_trained_elsewhere(metrics: Metrics) -> None:
    cost = without(metrics, (metrics.cost["kind"] == "teacher") & (metrics.cost["model"] == "resnet"))
    small, resnet = cost.teachers
    assert (small.trained, small.once, small.cached) == ("100 s", "104 s", "4.0 s")
    assert (resnet.trained, resnet.once, resnet.cached, resnet.online) == ("–", "–", "4.0 s", "–")
    assert cost.teacher_seconds is None
    assert costs.in_a_sentence(cost).startswith(
        "Teachers were trained and their logits cached once; what that took is not known here; 15 trials read those "
        "logits. All trials"
    )


def test_trials_that_ran_elsewhere(metrics: Metrics) -> None:
    """One of 25 is enough to leave a student's sum unknown; the mean is that of the others."""
    trials = metrics.cost["kind"] == "trial"
    one = without(metrics, trials & (metrics.cost.index == metrics.cost.index[trials][0]))
    assert (one.students[0].total, one.students[0].each, one.students[1].total) == ("–", "13 s", "5.4 min")
    everything = without(metrics, trials)
    assert (everything.trial_seconds, everything.students[0].each) == (None, "–")
    assert everything.students[0].device == "an unknown device"
    assert costs.in_a_sentence(everything).endswith("What all trials together took is not known here.")


def test_a_page_without_any_cost_has_no_nan(metrics: Metrics) -> None:
    cost = without(metrics, metrics.cost["seconds"] > 0)
    words = [str(value) for row in (*cost.teachers, *cost.students) for value in vars(row).values()]
    assert not any("nan" in word.lower() for word in words)
