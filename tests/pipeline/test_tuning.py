"""Stage tune in the real pipeline: nothing where nothing is tuned, and before train where something is."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.pipeline.conftest import Checkout

TUNING = {"seeds": [100], "budget": 2, "space": {"all": {"epochs": [1, 3]}}}


def test_tune_ends_at_once_without_tuning_and_runs_before_train_with_it(
    new_checkout: Callable[[str], Checkout],
) -> None:
    checkout = new_checkout("tuned")
    checkout.study |= {"teachers": {}, "distillers": {}}
    checkout.study["students"]["small"].pop("teacher")
    checkout.save()
    assert checkout.repro("train@weather-small-smooth") == [
        "prepare@weather",
        "tune",
        "train@weather-small-smooth",
    ]
    assert checkout.repro("train@weather-small-smooth") == []
    assert list((checkout.folder / "data/tuning").iterdir()) == []
    before = checkout.result_file("smooth", 0).stat().st_mtime_ns

    checkout.study["tuning"] = TUNING
    checkout.save()
    assert checkout.repro("train@weather-small-smooth") == ["tune", "train@weather-small-smooth"]
    chosen = json.loads((checkout.folder / "tuned.json").read_text())["chosen"]["weather"]["small"]["smooth"]
    result = checkout.results("smooth")[0]
    assert result["params"]["student"]["epochs"] == chosen["epochs"] in (1, 3)
    assert checkout.result_file("smooth", 0).stat().st_mtime_ns != before  # 2 epochs were declared
    assert checkout.repro("train@weather-small-smooth") == []
