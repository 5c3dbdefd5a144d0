"""A small study's folders, made by hand: trials, their logits, a teacher, a prepared task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdcache.logits import Cost, Fingerprints, LogitWriter
from kdcache.study import Study
from kdcache.system.files import write_json
from kdcache.trials.result import TrialResult, write_result

MODEL = {"checkpoint": "models/m", "learning_rate": 0.1, "epochs": 1, "batch_size": 4}


def study(**changes: Any) -> Study:
    source = {"builtin": "digits"}
    task = {"source": source, "image": "image", "metrics": ["accuracy"]}
    fields: dict[str, Any] = {
        "seeds": [0, 1],
        "tasks": {"one": task, "two": task},
        "teachers": {"big": {**MODEL, "tasks": ["one"]}},
        "students": {
            "small": {**MODEL, "teacher": "big", "tasks": ["one"]},
            "tiny": {**MODEL, "tasks": ["two"]},
        },
        "regularizers": {"base": {}},
        "distillers": {},
        "comparison": {"baseline": "base", "margin": {"accuracy": 1.0}},
    }
    return Study.model_validate({**fields, **changes})


def put_trial(
    root: Path, task: str, student: str, regularizer: str, seed: int, accuracy: float, **changes: Any
) -> None:
    folder = root / "trials" / task / student / regularizer / f"seed-{seed}"
    result = TrialResult(
        identity=f"{task}{seed}",
        task=task,
        student=student,
        family="vit",
        init="scratch",
        checkpoint="models/m",
        layers=None,
        teacher=None,
        regularizer=regularizer,
        seed=seed,
        params={},
        metrics={"accuracy": accuracy, "nll": 0.5},
        steps=1,
        losses=[0.5],
        seconds=1.5,
        peak_memory_mb=100.0,
        device="cpu",
        precision="float32",
        versions={"torch": "2.0"},
    )
    write_result(folder, result.model_copy(update=changes))


def put_teacher(root: Path) -> None:
    folder = root / "logits" / "one" / "big"
    prints = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
    with LogitWriter(folder, classes=2, label_names=["a", "b"], fingerprints=prints) as writer:
        writer.write("train", np.arange(2), np.arange(2, dtype=np.uint64), np.zeros((2, 2), dtype=np.float32))
        writer.finish(cost=Cost(seconds=0.5, rows_per_second=4.0, device="cpu", peak_memory_mb=50.0))
    write_json(folder / "teacher.json", {"seconds": 9.0, "peak_memory_mb": 200.0, "device": "cpu"})


LABELS = np.array([1, 0, 1, 1])
LOGITS = np.array([[0.0, 1], [2, 1], [5, 4], [-1, 0]], dtype=np.float32)  # classes 1 0 0 1
HASHES = np.array([11, 12, 13, 14], dtype=np.uint64)


def put_task(
    root: Path, labels: np.ndarray = LABELS, regression: bool = False, name: str = "one", **more: Any
) -> None:
    folder = root / "tasks" / name
    folder.mkdir(parents=True)
    rows = {"id": np.arange(len(labels)), "row_hash": HASHES[: len(labels)], "label": labels}
    for split in ("train", "validation"):  # both have the same rows
        pq.write_table(pa.table(rows), folder / f"{split}.parquet")
    names = [] if regression else ["a", "b"]
    card = {"name": name, "modality": "image", "regression": regression, "label_names": names,
            "rows": {"train": len(labels), "validation": len(labels)}, "class_counts": {}, "source": {}, "dropped": {},
            "metrics": ["accuracy"], "max_length": None, "fingerprint": "d", **more}  # fmt: skip
    write_json(folder / "card.json", card)


def put_logits(
    root: Path,
    seed: int,
    logits: np.ndarray,
    hashes: np.ndarray = HASHES,
    order: Sequence[int] = (0, 1, 2, 3),
    trial: str = "one/small/base",
    splits: Sequence[str] = ("validation",),
) -> None:
    """Write a trial's logit cache in two shards, with rows in another order than their ids."""
    folder, places = root / "trials" / trial / f"seed-{seed}" / "logits", list(order)
    prints = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
    names = ["a", "b"] if logits.shape[1] > 1 else []
    writer = LogitWriter(
        folder, classes=logits.shape[1], label_names=names, fingerprints=prints, rows_per_shard=2
    )
    with writer:
        for split in splits:
            writer.write(split, np.array(places), hashes[places], logits[places])
        writer.finish()
