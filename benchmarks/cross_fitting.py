"""Does cross-fitting help KD? A prototype, with the correction of Dao et al. 2021 (arXiv 2104.09732).

A teacher knows its train rows by heart, so its logits of them are nearly the labels. Cross-fitting gives each row the
logits of a teacher that has not seen it: K teachers, each trained without one fold. The correction adds the first-order
term of the loss in the teacher's probabilities, as in the authors' code (microsoft/semiparametric-distillation).

`python -m benchmarks.cross_fitting RESULTS` trains what is missing in RESULTS (JSON lines), on the BBC headlines,
teacher and students of studies/two-layers.yaml, and writes docs/measured/cross-fitting.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from benchmarks.markdown import table
from kdcache.checkpoints.find import find_checkpoint
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.inputs import Inputs
from kdcache.modelling.predicting import predict
from kdcache.study import Model, Regularizer, Study, load_study
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.training.loop import TrainingLoss, fine_tune
from kdcache.training.regularizers import make_loss

TASK, TEACHER, STUDENTS = "bbc-headlines", "bert-small", ("bert-tiny", "bert-tiny-scratch")
FOLDS, TAU, LIMIT = 5, 2.0, 0.01
TEACHER_EPOCHS = 4  # what that study's tuning chose
ALPHAS = (0.5, 0.9)
SEEDS = range(3000, 3004)
PAGE = Path("docs/measured/cross-fitting.md")
Logits = npt.NDArray[np.float32]


def correction(student: Tensor, labels: Tensor, teacher: Tensor, tau: float, limit: float = LIMIT) -> Tensor:
    """The mean over a batch of (y - p) . d/dp of the cross-entropy -sum_k w_k log q_k, without tau's square.

    w is p^(1 / tau), normalised, with p the teacher's probabilities; q the student's at temperature tau.

    Args:
        student, teacher: logits [B, K].
        labels: classes [B]; y is their one-hot form.
        limit: p is not taken to be smaller than this where it is divided by.
    """
    p, w = teacher.softmax(1), (teacher / tau).softmax(1)
    log_q = (student / tau).log_softmax(1)
    weights = (F.one_hot(labels, p.shape[1]) / p.clamp_min(limit) - 1) * w
    return (weights.sum(1) * (w * log_q).sum(1) - (weights * log_q).sum(1)).mean() / tau


def kd(alpha: float, corrected: bool) -> TrainingLoss:
    """(1 - alpha) CE + alpha tau^2 (KL [+ correction])."""

    def loss(student: Tensor, labels: Tensor, teacher: Tensor | None, _: float) -> Tensor:
        assert teacher is not None
        log_q, w = (student / TAU).log_softmax(1), (teacher / TAU).softmax(1)
        value = F.kl_div(log_q, w, reduction="batchmean")
        if corrected:
            value = value + correction(student, labels, teacher, TAU)
        return (1 - alpha) * F.cross_entropy(student, labels) + alpha * TAU**2 * value

    return loss


@dataclass(frozen=True)
class Prototype:
    """The task and the models."""

    study: Study
    task: PreparedTask

    def inputs(self, model: Model) -> Inputs:
        return Inputs(self.task, find_checkpoint(model))

    def trained(
        self,
        model: Model,
        inputs: Inputs,
        rows: EncodedSplit,
        seed: int,
        how: tuple[Logits | None, TrainingLoss],
    ) -> Any:
        soft, loss = how
        network = build_model(inputs.checkpoint, self.task.card, seed, inputs.preprocessor)
        return fine_tune(network, rows, loss, model, seed, soft)[0]

    def soft_labels(self) -> dict[str, Logits]:
        """Train's logits [N, K]: `plain` of a teacher that has seen all rows, `cross` of teachers that have not."""
        model = self.study.teachers[TEACHER].model_copy(update={"epochs": TEACHER_EPOCHS})
        inputs, plain = self.inputs(model), (None, make_loss(Regularizer(), self.task.card.classes))
        train = inputs.rows("train")
        fold = np.random.default_rng(0).permutation(np.arange(len(train)) % FOLDS)
        whole = predict(self.trained(model, inputs, train, 0, plain), train, model.batch_size)
        cross = np.empty_like(whole)
        for number in range(FOLDS):
            seen = part(train, np.flatnonzero(fold != number))
            unseen = np.flatnonzero(fold == number)
            network = self.trained(model, inputs, seen, 0, plain)
            cross[unseen] = predict(network, part(train, unseen), model.batch_size)
        return {"plain": whole, "cross": cross}

    def trials(self, done: set[tuple[str, str, int]]) -> Iterator[dict[str, Any]]:
        """Every trial that is not done, trained and scored on validation."""
        soft = self.soft_labels()
        labels = self.inputs(self.study.teachers[TEACHER]).rows("train").labels
        for name, logits in soft.items():
            yield {"student": name, "method": "teacher", "seed": 0, **scores(logits, labels)}
        methods = methods_of(soft, self.task.card.classes)
        for name in STUDENTS:
            model = self.study.students[name]
            inputs = self.inputs(model)
            for seed in SEEDS:
                for method, how in methods.items():
                    if (name, method, seed) not in done:
                        network = self.trained(model, inputs, inputs.rows("train"), seed, how)
                        rows = inputs.rows("validation")
                        found = scores(predict(network, rows, model.batch_size), rows.labels)
                        yield {"student": name, "method": method, "seed": seed, **found}


def methods_of(soft: Mapping[str, Logits], classes: int) -> dict[str, tuple[Logits | None, TrainingLoss]]:
    """What is compared: for each method its soft labels and its loss."""
    methods: dict[str, tuple[Logits | None, TrainingLoss]] = {
        "base": (None, make_loss(Regularizer(), classes))
    }
    for alpha in ALPHAS:
        methods[f"kd {alpha}"] = (soft["plain"], kd(alpha, corrected=False))
        methods[f"cross-fitted {alpha}"] = (soft["cross"], kd(alpha, corrected=False))
        methods[f"cross-fitted, corrected {alpha}"] = (soft["cross"], kd(alpha, corrected=True))
    return methods


def part(rows: EncodedSplit, at: npt.NDArray[np.int64]) -> EncodedSplit:
    """Some rows of a split of texts."""
    types = rows.token_type_ids
    return replace(
        rows,
        ids=rows.ids[at],
        row_hashes=rows.row_hashes[at],
        labels=rows.labels[at],
        input_ids=[(rows.input_ids or [])[row] for row in at],
        token_type_ids=None if types is None else [types[row] for row in at],
    )


def scores(logits: Logits, labels: npt.NDArray[Any]) -> dict[str, float]:
    """Accuracy in percent, nll in nats, and the mean entropy of the probabilities in nats."""
    logs = torch.from_numpy(logits).double().log_softmax(1)
    right = (logs.argmax(1).numpy() == labels).mean()
    nll = F.nll_loss(logs, torch.from_numpy(labels))
    return {
        "accuracy": round(100 * float(right), 4),
        "nll": round(float(nll), 6),
        "entropy": round(float(-(logs.exp() * logs).sum(1).mean()), 6),
    }


def page(trials: pd.DataFrame) -> str:
    """The page, from the trials' scores."""
    teachers, rows = trials[trials["method"] == "teacher"].set_index("student"), []
    students = trials[trials["method"] != "teacher"]
    for student in STUDENTS:
        of_student = students[students["student"] == student]
        wide = of_student.pivot(index="seed", columns="method", values=["accuracy", "nll"])
        for method in dict.fromkeys(of_student["method"]):
            row = [student, method]
            for metric, digits in (("accuracy", 2), ("nll", 3)):
                values, base = wide[metric][method], wide[metric]["base"]
                row += [f"{values.mean():.{digits}f}"]
                row += ["" if method == "base" else interval(values - base, digits)]
            rows.append(row)
    facts = "; ".join(
        f"{kind}: {one.accuracy:.1f}% right, {one.entropy:.2f} nats of entropy"
        for kind, one in ((name, teachers.loc[name]) for name in ("plain", "cross"))
    )
    header = ["student", "method, alpha", "accuracy", "against base", "nll", "against base"]
    words = (
        "# Cross-fitting, a prototype\n\n"
        "`python -m benchmarks.cross_fitting benchmarks/results/cross-fitting.jsonl` writes this page: the BBC "
        f"headlines, teacher ({TEACHER}, {TEACHER_EPOCHS} epochs) and students of studies/two-layers.yaml, "
        f"temperature {TAU:g}, {len(SEEDS)} seeds, on an AMD EPYC in float32. "
        f"Each of {FOLDS} teachers lacks one fold. The correction "
        "is that of Dao et al. 2021 (arXiv 2104.09732) as in their code, with probabilities of at least "
        f"{LIMIT:g}. Exploratory: intervals (95%, t) are uncorrected, and scores are on validation.\n\n"
        f"The teachers' logits of train, {facts}.\n\n"
    )
    return words + table(header, rows) + "\n"


def interval(differences: pd.Series[Any], digits: int) -> str:
    """The mean of paired differences, with its 95% t interval."""
    mean, error = differences.mean(), stats.sem(differences)
    low, high = stats.t.interval(0.95, len(differences) - 1, mean, error)
    return f"{mean:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    path = parser.parse_args(arguments).results
    study = load_study("studies/two-layers.yaml")
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(one["student"], one["method"], one["seed"]) for one in known}
    wanted = len(STUDENTS) * len(SEEDS) * (1 + 3 * len(ALPHAS)) + 2
    if len(done) < wanted:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder, path.open("a") as file:
            prepare_task(study.tasks[TASK], Path(folder), TASK)
            for one in Prototype(study, PreparedTask(Path(folder))).trials(done):
                if (one["student"], one["method"], one["seed"]) not in done:
                    print(json.dumps(one), file=file, flush=True)
        known = [json.loads(line) for line in path.read_text().splitlines()]
    PAGE.write_text(page(pd.DataFrame(known)), encoding="utf-8")


if __name__ == "__main__":
    main()
