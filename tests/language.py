"""A study of language modelling so small that it runs in seconds: a few documents, a model of one layer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from kdcache.study import Study, load_study
from kdcache.tasks.prepare import prepare_task
from kdcache.trials.cache import cache_logits
from kdcache.trials.layout import Layout
from kdcache.trials.missing import cache_to_write, teacher_to_train, trials_to_run
from kdcache.trials.run import run_trial
from kdcache.trials.teach import teach
from tests.tiny_models import TEXTS, save_checkpoint

RECIPE = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "precision": "float32"}


def documents(count: int, seed: int) -> list[str]:
    rng, words = random.Random(seed), sorted({word for text in TEXTS for word in text.split()})
    return [" ".join(rng.choice(words) for _ in range(rng.randint(3, 30))) for _ in range(count)]


def write_project(root: Path, **changes: Any) -> Study:
    """Write params.yaml and all that it names; `changes` replace whole groups."""
    if not (root / "gpt2").exists():
        save_checkpoint(root / "gpt2", "gpt2", kind="LMHeadModel", n_layer=1)
        for split, count, seed in (("train", 16, 1), ("validation", 8, 2)):
            pq.write_table(pa.table({"text": documents(count, seed)}), root / f"{split}.parquet")
    model = {"checkpoint": str(root / "gpt2"), **RECIPE}
    files = {split: str(root / f"{split}.parquet") for split in ("train", "validation")}
    task = {
        "kind": "language_modelling", "source": {"files": files}, "text": ["text"], "max_length": 16,
        "metrics": ["nll", "bits_per_byte"],
    }  # fmt: skip
    content = {
        "seeds": [0, 1],
        "tasks": {"docs": task},
        "teachers": {
            "big": {**model, "epochs": 3, "cache": {"estimator": "threshold", "eps": 0.05, "draws": 2}},
            "raw": {**model, "epochs": 0, "cache": {"estimator": "full"}},
        },
        "students": {
            "tiny": {**model, "teacher": "big"},
            "tiny-scratch": {**model, "init": "scratch", "teacher": "big"},
        },
        "regularizers": {"base": {}, "label_smoothing": {"soft_labels": "uniform", "alpha": 0.1}},
        "distillers": {
            "kd": {"soft_labels": "teacher", "alpha": 0.9},
            "self_kd": {"soft_labels": "self", "alpha": 0.5},
        },
        "comparison": {"baseline": "base", "margin": {"nll": 0.01}},
        **changes,
    }
    YAML().dump(content, root / "params.yaml")
    return load_study(root / "params.yaml")


def run_project(root: Path, study: Study) -> list[str]:
    """Run the stages from prepare to distill, and return what ran."""
    layout, ran = Layout(root), []
    for name, task in study.tasks.items():
        prepare_task(task, layout.task(name), name)
    for task, name in study.taught():
        if teacher := teacher_to_train(study, layout, task, name):
            teach(teacher)
            ran.append(f"teach {name}")
        if cache := cache_to_write(study, layout, task, name):
            cache_logits(cache)
            ran.append(f"cache {name}")
    for configuration in study.configurations():
        for trial in trials_to_run(study, layout, *configuration):
            run_trial(trial)
            ran.append(f"{'/'.join(configuration[1:])}/{trial.seed}")
    return ran
