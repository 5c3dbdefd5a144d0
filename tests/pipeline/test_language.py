"""A study of language modelling through real DVC: the same stages, from documents to a report in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.logits.tokens import TokenCache
from tests.language import RECIPE, documents
from tests.pipeline.conftest import Checkout
from tests.tiny_models import save_checkpoint

NewCheckout = Callable[[str], Checkout]


def language(checkout: Checkout) -> dict[str, Any]:
    save_checkpoint(checkout.folder / "data/models/gpt2", "gpt2", kind="LMHeadModel", n_layer=1)
    for split, count, seed in (("train", 16, 1), ("validation", 8, 2)):
        pq.write_table(pa.table({"text": documents(count, seed)}), checkout.folder / f"{split}.parquet")
    model = {"checkpoint": "data/models/gpt2", **RECIPE}
    files = {"train": "train.parquet", "validation": "validation.parquet"}
    return {
        "seeds": [0, 1],
        "tasks": {"docs": {
            "kind": "language_modelling", "source": {"files": files}, "text": ["text"], "max_length": 16,
            "metrics": ["nll"],
        }},
        "teachers": {"big": {**model, "cache": {"estimator": "threshold", "eps": 0.05}}},
        "students": {"tiny": {**model, "teacher": "big"}},
        "regularizers": {"base": {}},
        "distillers": {
            "kd": {"soft_labels": "teacher", "alpha": 0.9}, "self_kd": {"soft_labels": "self", "alpha": 0.5},
        },
        "comparison": {"baseline": "base", "margin": {"nll": 0.01}},
    }  # fmt: skip


def test_a_study_of_documents(new_checkout: NewCheckout) -> None:
    checkout = new_checkout("language")
    checkout.study = language(checkout)
    checkout.save()
    ran = [name.split("@")[0] for name in checkout.repro()]
    assert sorted(ran) == sorted(
        ["prepare", "teach", "cache", "tune", "train", "distill", "distill", "compare", "report"]
    )
    assert checkout.repro() == []

    trials = checkout.table("trials.csv")
    assert {(row["regularizer"], row["seed"]) for row in trials} == {
        (name, seed) for name in ("base", "kd", "self_kd") for seed in "01"
    }
    assert all(3 < float(row["nll"]) < 6 < 6 * float(row["bits_per_byte"]) for row in trials)
    (kd, _) = checkout.table("comparisons.csv")
    assert (kd["regularizer"], kd["metric"], kd["margin"]) == ("kd", "nll", "0.01")
    gain = float(kd["baseline_mean"]) - float(kd["mean"])
    assert abs(float(kd["difference"]) - gain) < 1e-4
    assert [row["rows"] for row in checkout.table("examples.csv")] == ["8", "8"]  # documents
    assert [row["kind"] for row in checkout.table("cost.csv")] == ["teacher", "cache", *["trial"] * 6]
    assert TokenCache(checkout.folder / "data/logits/docs/big").manifest.estimator["eps"] == 0.05
    page = (checkout.folder / "report/index.html").read_text()
    assert "0.01 nats" in page
    assert "nats better than the baseline" in page

    # Another estimator: the teacher stays, its cache and what learns from it are made again.
    checkout.study["teachers"]["big"]["cache"]["eps"] = 0.1
    checkout.save()
    stamps = {name: (checkout.folder / f"data/trials/docs/tiny/{name}/seed-0/result.json").stat().st_mtime_ns
              for name in ("base", "kd", "self_kd")}  # fmt: skip
    taught = (checkout.folder / "data/teachers/docs/big/teacher.json").stat().st_mtime_ns
    checkout.repro()
    now = {name: (checkout.folder / f"data/trials/docs/tiny/{name}/seed-0/result.json").stat().st_mtime_ns
           for name in stamps}  # fmt: skip
    assert {name for name in now if now[name] != stamps[name]} == {"kd"}
    assert (checkout.folder / "data/teachers/docs/big/teacher.json").stat().st_mtime_ns == taught
