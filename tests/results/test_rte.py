"""What results/minilm-glue says of RTE follows from its trials."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "results" / "minilm-glue"
MAJORITY = 146 / 277  # RTE's validation rows: 146 of 277 are entailments


@pytest.mark.parametrize("method", ["base", "label_smoothing", "tf_reg", "kd", "self_kd"])
def test_a_row_of_the_table(method: str) -> None:
    trials = pd.read_csv(FOLDER / "rte-trials.csv")
    scores = trials[trials["regularizer"] == method].set_index("seed")["accuracy"]
    assert list(scores.index) == [600, 601, 602, 603, 604]
    above = int((scores > MAJORITY + 1e-6).sum())
    row = f"| {method} | {100 * scores.mean():.1f} ± {100 * scores.std():.1f} | {above} |"
    assert row in (FOLDER / "README.md").read_text(encoding="utf-8")
