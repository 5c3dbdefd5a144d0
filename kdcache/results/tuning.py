"""metrics/tuning.csv: every setting that was tried, with its scores on the held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from kdcache.engine.tuning.run import Tuned
from kdcache.results.schema import TuningRow
from kdcache.results.writing import tabulate
from kdcache.study import Study
from kdcache.study.tuning import in_words


def tuning_table(study: Study, tuned: Sequence[Tuned]) -> pd.DataFrame:
    """metrics/tuning.csv: one row per setting and seed, in the order in which the settings were tried.

    Each configuration's settings are numbered from 1; `values` has a setting's values. `score` is the score on the
    held-out rows, a fraction (nll: nats).
    """
    return tabulate(TuningRow, (row for choice in tuned for row in _rows(study, choice)))


def _rows(study: Study, tuned: Tuned) -> Iterator[TuningRow]:
    task, model, method = tuned.configuration
    assert study.tuning is not None
    for place, tried in enumerate(tuned.tried):
        for seed, score in zip(study.tuning.seeds, tried.scores, strict=True):
            yield TuningRow(
                task=task,
                role="teacher" if tuned.teacher else "student",
                model=model,
                regularizer=method,
                setting=place + 1,
                values=in_words(tried.setting),
                seed=seed,
                metric=tuned.metric,
                score=score,
                chosen=place == tuned.chosen,
            )
