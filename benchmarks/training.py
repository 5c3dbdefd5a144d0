"""How fast a student is fine-tuned: kdcache beside the transformers Trainer, on the same rows, model and batch size.

    python -m benchmarks.training                                    BBC headlines, bert-tiny; runs anywhere
    python -m benchmarks.training --files train.parquet validation.parquet --text sentence --rows 3000
    python -m benchmarks.training --checkpoint all-MiniLM-L6-v2 --layers 3 --learning-rate 1e-4 ...
    python -m benchmarks.training --variants "kdcache, bfloat16" "Trainer, padded by batch, bfloat16" --rounds 14 ...

The Trainer runs as run_glue sets it (every row padded to 128 tokens), with batches padded to their longest row, and
with rows grouped by length as well; everybody in float32 and in bfloat16. Every run is a process of its own on one
thread; the variants take turns, and each round begins with another one and has a seed of its own. Timed is training
alone, without tokenising or loading; the Trainer's construction is not counted, kdcache's is. Then whole trials (build
the model, train, score) on two cores: kdcache in two processes of one thread, the fastest Trainer in one of two. Last,
KD from a cache (opening and joining it included) beside plain fine-tuning.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
import numpy as np
import scipy.stats
import torch
import transformers
from accelerate import PartialState

from benchmarks.cache.report import number, table
from benchmarks.graphed import graphs
from kdcache.checkpoints.find import find_checkpoint
from kdcache.errors import KdcacheError
from kdcache.logits import Fingerprints, LogitCache, LogitWriter
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit, encode_split
from kdcache.modelling.predicting import predict
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.pretraining.card import machine
from kdcache.study import Regularizer, Student, Task
from kdcache.system.devices import has_bfloat16
from kdcache.system.files import read_json, write_json
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.tasks.prepared import PreparedTask
from kdcache.training.loop import fine_tune
from kdcache.training.regularizers import make_loss
from stages import stage_errors

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy")
LENGTH = 128  # what run_glue pads to
WARM_UP = {"cpu": 1, "cuda": 10}  # batches; a GPU's kernels are loaded at their first use, for each shape
CORES = 2
GOALS = {"run_glue": 5.0, "best": 1.1, "hourly": 2.0}  # at least
KD_GOAL = 1.02  # at most
VERDICT = {True: "met", False: "missed", None: ""}
PRELOADED = ["datasets", "kdcache.trials.teach", "scipy.stats", "transformers.trainer",
             "transformers.models.bert.modeling_bert"]  # fmt: skip


Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Work:
    """What everybody trains: the rows as tokens, the model, and the folder of a cache of the train rows' logits."""

    card: TaskCard
    train: EncodedSplit
    validation: EncodedSplit
    student: Student
    preprocessor: Preprocessor
    cache: Path
    device: Device = "cpu"


Precision = Literal["float32", "bfloat16"]
Padding = Literal["to 128", "by batch", "by batch, grouped"]


@dataclass(frozen=True)
class Variant:
    """Who trains, and how."""

    who: Literal["kdcache", "kdcache KD", "kdcache with CUDA graphs", "Trainer"]
    precision: Precision
    padding: Padding = "by batch, grouped"
    loaders: int = 0  # processes that make the Trainer's batches

    @property
    def name(self) -> str:
        how = f", padded {self.padding}" if self.who == "Trainer" else ""
        loaders = f", {self.loaders} loader processes" if self.loaders else ""
        return f"{self.who}{how}, {self.precision}{loaders}"


@dataclass(frozen=True)
class Run:
    """One training: its examples (rows x epochs), seconds on the clock and of the process's CPU, and the score."""

    examples: int
    wall: float
    cpu: float
    accuracy: float


Runs = dict[Variant, list[Run]]

OURS = [Variant("kdcache", "float32"), Variant("kdcache", "bfloat16")]
PEERS = [
    Variant("Trainer", precision, padding)
    for padding in get_args(Padding)
    for precision in get_args(Precision)
]
VARIANTS = {variant.name: variant for variant in [*OURS, *PEERS]}


# ---- one run, in a process of its own ----


def run_one(work: Work, variant: Variant, seed: int, threads: int = 1) -> Run:
    """Build the model, train it and score it on validation; timed is the training.

    Some batches are trained on before, uncounted: what is loaded or compiled at first steps is no throughput.
    """
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    PartialState(cpu=work.device == "cpu")  # kdcache takes a GPU where there is one
    _ready(_warm_up(work), variant, seed)()
    train = _ready(work, variant, seed)
    _wait(work.device)
    wall, cpu = time.perf_counter(), time.process_time()
    trained = train()
    _wait(work.device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    logits = predict(trained, work.validation, work.student.batch_size)
    accuracy = float((logits.argmax(axis=1) == work.validation.labels).mean())
    return Run(len(work.train) * work.student.epochs, wall, cpu, accuracy)


def _wait(device: Device) -> None:
    """Until a GPU has done all that it was given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def _warm_up(work: Work) -> Work:
    rows, train = slice(WARM_UP[work.device] * work.student.batch_size), work.train
    assert train.input_ids is not None
    types = None if train.token_type_ids is None else train.token_type_ids[rows]
    first = EncodedSplit(
        train.ids[rows], train.row_hashes[rows], train.labels[rows], train.input_ids[rows], types
    )
    return replace(work, train=first)


def _ready(work: Work, variant: Variant, seed: int) -> Callable[[], torch.nn.Module]:
    """The training, which nothing but calling it is left to do."""
    student = work.student.model_copy(update={"precision": variant.precision})
    model = build_model(find_checkpoint(student), work.card, seed, work.preprocessor)
    prepare = _trainer if variant.who == "Trainer" else _fine_tune
    return prepare(work, student, variant, model, seed)


def _fine_tune(
    work: Work, student: Student, variant: Variant, model: torch.nn.Module, seed: int
) -> Callable[[], torch.nn.Module]:
    return lambda: _fine_tuned(work, student, variant, model, seed)


def _fine_tuned(
    work: Work, student: Student, variant: Variant, model: torch.nn.Module, seed: int
) -> torch.nn.Module:
    method, soft = Regularizer(), None
    if variant.who == "kdcache KD":
        method = Regularizer(soft_labels="teacher", alpha=0.5, temperature=2)
        soft = LogitCache(work.cache).logits("train", work.train.ids, work.train.row_hashes)
    loss = make_loss(method, work.card.classes)
    with graphs() if variant.who == "kdcache with CUDA graphs" else nullcontext():
        return fine_tune(model, work.train, loss, student, seed, soft)[0]


def _trainer(
    work: Work, student: Student, variant: Variant, model: torch.nn.Module, seed: int
) -> Callable[[], torch.nn.Module]:
    """The Trainer's training; optimizer, schedule, clipping and batch size are kdcache's."""
    grouped = variant.padding == "by batch, grouped"
    arguments = transformers.TrainingArguments(
        output_dir=str(work.cache.with_name("trainer")),
        per_device_train_batch_size=student.batch_size,
        num_train_epochs=student.epochs,
        learning_rate=student.learning_rate,
        weight_decay=student.weight_decay,
        warmup_steps=student.warmup,
        max_grad_norm=student.max_grad_norm,
        seed=seed,
        bf16=variant.precision == "bfloat16",
        use_cpu=work.device == "cpu",
        train_sampling_strategy="group_by_length" if grouped else "random",
        dataloader_pin_memory=work.device != "cpu",
        dataloader_num_workers=variant.loaders,
        dataloader_persistent_workers=variant.loaders > 0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows_of(work, padded=variant.padding == "to 128"),
        data_collator=transformers.default_data_collator
        if variant.padding == "to 128"
        else transformers.DataCollatorWithPadding(work.preprocessor.tokenizer),
    )
    trainer.remove_callback(transformers.PrinterCallback)

    def train() -> torch.nn.Module:
        trainer.train()
        return model

    return train


def rows_of(work: Work, padded: bool) -> datasets.Dataset:
    """The train rows as run_glue has them after its `map`: lists of tokens, with labels (and lengths, to group by)."""
    assert work.train.input_ids is not None
    columns: dict[str, Any] = {"input_ids": [row.tolist() for row in work.train.input_ids]}
    columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
    if work.train.token_type_ids is not None:
        columns["token_type_ids"] = [row.tolist() for row in work.train.token_type_ids]
    if padded:
        whole = work.preprocessor.tokenizer.pad(columns, padding="max_length", max_length=LENGTH)
        columns = {name: whole[name] for name in columns}
    lengths = [len(row) for row in columns["input_ids"]]
    return datasets.Dataset.from_dict(columns | {"labels": work.train.labels.tolist(), "length": lengths})


# ---- rounds ----


def processes(workers: int) -> ProcessPoolExecutor:
    """Workers whose imports are done before they begin; one run each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1)


def measure(work: Work, variants: Sequence[Variant], rounds: int) -> Runs:
    """Every variant once a round, in turn; round r trains with seed r."""
    found: Runs = {variant: [] for variant in variants}
    with processes(1) as pool:
        for turn in range(rounds):
            start = turn % len(variants)
            for variant in [*variants[start:], *variants[:start]]:
                run = pool.submit(run_one, work, variant, turn).result()
                logging.info("round %d: %s, %.1f s", turn + 1, variant.name, run.wall)
                found[variant].append(run)
    return found


def hourly(work: Work, setups: Mapping[Variant, tuple[int, int]], rounds: int) -> dict[Variant, list[float]]:
    """Whole trials per hour, round by round; setups: how many processes, and how many threads each."""
    found: dict[Variant, list[float]] = {variant: [] for variant in setups}
    for turn in range(rounds):
        for variant, (workers, threads) in list(setups.items())[:: 1 if turn % 2 else -1]:
            with processes(workers) as pool:
                pool.submit(int).result()  # the server that processes are forked from is up
                start = time.perf_counter()
                waiting = [pool.submit(run_one, work, variant, seed, threads) for seed in range(CORES)]
                for one in waiting:
                    one.result()
            found[variant].append(CORES / (time.perf_counter() - start) * 3600)
    return found


# ---- what was found ----


def rate(run: Run, clock: str) -> float:
    return run.examples / float(getattr(run, clock))


def ratios(runs: Runs, mine: Variant, other: Variant, clock: str) -> list[float]:
    """How many times as fast, round by round."""
    pairs = zip(runs[mine], runs[other], strict=True)
    return [rate(one, clock) / rate(two, clock) for one, two in pairs]


def fastest(runs: Runs, who: str, clock: str = "cpu") -> Variant:
    """The variant with the highest median rate."""
    of = [variant for variant in runs if variant.who == who]
    return max(of, key=lambda variant: statistics.median(rate(run, clock) for run in runs[variant]))


def summary(runs: Runs, compared: list[dict[str, Any]], clock: str = "cpu") -> dict[str, Any]:
    """What `page` shows, and all runs; `clock` decides which of kdcache's is the fastest."""
    each = {variant.name: [asdict(run) for run in found] for variant, found in runs.items()}
    return {"speeds": speeds(runs, clock), "ratios": compared, "runs": each}


def speeds(runs: Runs, clock: str = "cpu") -> list[dict[str, Any]]:
    """Per variant: median examples/s by both clocks, and the scores; beside them a Welch test against kdcache's."""
    ours = [run.accuracy for run in runs[fastest(runs, "kdcache", clock)]]
    lines = []
    for variant, found in runs.items():
        scores = [run.accuracy for run in found]
        lines.append(
            {
                "variant": variant.name,
                "examples_per_cpu_second": spread([rate(run, "cpu") for run in found]),
                "examples_per_second": spread([rate(run, "wall") for run in found]),
                "accuracy": scores,
                "p_accuracy": differs(scores, ours),
            }
        )
    return lines


def differs(scores: Sequence[float], others: Sequence[float]) -> float | None:
    """The p-value of Welch's test that two lists of scores have one mean; None where it has none to give."""
    if len(scores) < 2 or np.ptp(scores) + np.ptp(others) == 0:
        return 1.0 if list(scores) == list(others) else None
    return float(scipy.stats.ttest_ind(scores, others, equal_var=False).pvalue)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def goals(runs: Runs) -> list[dict[str, Any]]:
    """The ratios that there are goals for, by both clocks; a goal is judged by CPU seconds."""
    best, ours = fastest(runs, "Trainer"), fastest(runs, "kdcache")
    wanted = [(mine, Variant("Trainer", mine.precision, "to 128"), "run_glue") for mine in OURS]
    wanted.append((ours, best, "best"))
    return [
        {
            "what": f"{mine.name} / {other.name}",
            **judged(ratios(runs, mine, other, "cpu"), ratios(runs, mine, other, "wall"), GOALS[goal]),
        }
        for mine, other, goal in wanted
        if mine in runs and other in runs
    ]


def judged(
    cpu: Sequence[float], wall: Sequence[float], least: float | None, by: str = "cpu"
) -> dict[str, Any]:
    """Ratios by both clocks, and whether those of one of them reach the goal, where there is one."""
    found = {"cpu": cpu, "wall": wall}
    return {
        **{clock: spread(values) for clock, values in found.items()},
        "goal": "" if least is None else f"at least {least:g}",
        "met": None if least is None else statistics.median(found[by]) >= least,
    }


def trials_per_hour(work: Work, runs: Runs, rounds: int) -> dict[str, Any]:
    ours, best = fastest(runs, "kdcache"), fastest(runs, "Trainer")
    found = hourly(work, {ours: (CORES, 1), best: (1, CORES)}, rounds)
    wall = [mine / other for mine, other in zip(found[ours], found[best], strict=True)]
    return {
        "what": f"trials per hour, {ours.name} in {CORES} processes / {best.name} in one of {CORES} threads",
        "trials_per_hour": {variant.name: spread(rates) for variant, rates in found.items()},
        "wall": spread(wall),
        "goal": f"at least {GOALS['hourly']:g}",
        "met": statistics.median(wall) >= GOALS["hourly"],
    }


def kd_cost(work: Work, rounds: int) -> dict[str, Any]:
    """What distilling from a cache costs beside plain fine-tuning, in the precision that `auto` gives.

    Both take turns in one process: two processes differ by some percent with the same work.
    """
    with processes(1) as pool:
        runs = pool.submit(alternate, work, rounds).result()
    base, kd = runs
    cpu, wall = (ratios(runs, base, kd, clock) for clock in ("cpu", "wall"))
    return {
        "what": f"{kd.name}: its time / without KD",
        "cpu": spread(cpu),
        "wall": spread(wall),
        "goal": f"at most {KD_GOAL:g}",
        "met": statistics.median(cpu) <= KD_GOAL,
    }


def alternate(work: Work, rounds: int) -> Runs:
    """Plain fine-tuning and KD in turn, here; round r trains with seed r, and every other round begins with KD."""
    precision: Precision = "bfloat16" if has_bfloat16("cpu") else "float32"
    runs: Runs = {Variant("kdcache", precision): [], Variant("kdcache KD", precision): []}
    for turn in range(rounds):
        for variant in list(runs)[:: -1 if turn % 2 else 1]:
            runs[variant].append(run_one(work, variant, turn))
    return runs


# ---- the command line ----


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("datasets").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(args, Path(folder))
        found = {**facts(), **described(work)}
        runs = measure(work, [VARIANTS[name] for name in args.variants], args.rounds)
        found |= summary(runs, goals(runs))
        keep(args, found)
        if args.hourly_rounds:
            found["ratios"].append(trials_per_hour(work, runs, args.hourly_rounds))
            keep(args, found)
        if args.kd_rounds:
            found["ratios"].append(kd_cost(work, args.kd_rounds))
            keep(args, found)
    print(page(found))


def keep(args: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """Written after each part: an interrupted run leaves what it had."""
    if args.json:
        write(args.json, args.name, found)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--files", type=Path, nargs=2, metavar=("TRAIN", "VALIDATION"), help="other data")
    parser.add_argument("--text", nargs="+", default=["text"], help="its text columns (default: text)")
    parser.add_argument("--rows", type=int, help="at most so many train rows (default: all)")
    parser.add_argument(
        "--checkpoint", default=str(ROOT / "data/models/bert-tiny"), help="default: bert-tiny"
    )
    parser.add_argument("--layers", type=int, help="only its first layers")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("LAYERS", "WIDTH", "HEADS"),
        help="a model of this size, from scratch, with the checkpoint's tokenizer; so small that its arithmetic takes "
        "no time, it shows what the rest of a step takes, which a GPU is not faster at",
    )
    parser.add_argument("--init", choices=("pretrained", "scratch"), default="pretrained")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=[*VARIANTS],
        metavar="NAME",
        help="only these, by their names in the table (default: all; to compare accuracies, two and many rounds)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--hourly-rounds", type=int, default=3, help="0: none (default: %(default)s)")
    parser.add_argument("--kd-rounds", type=int, default=10, help="0: none (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep what was found, under --name")
    parser.add_argument("--name", default="headlines, bert-tiny", help="default: %(default)s")
    return parser.parse_args(arguments)


def prepare(args: argparse.Namespace, folder: Path) -> Work:
    source: Any = {"builtin": "bbc_headlines"}
    if args.files:
        source = {"files": dict(zip(("train", "validation"), map(str, args.files), strict=True))}
    spec = Task(source=source, text=args.text, metrics=["accuracy"], max_length=LENGTH, train_size=args.rows)
    card = prepare_task(spec, folder / "task", "benchmark")
    student = Student(
        checkpoint=str(_checkpoint(args, folder)),
        init="scratch" if args.size else args.init,
        layers=args.layers,
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        batch_size=args.batch_size,
    )
    preprocessor = load_preprocessor(find_checkpoint(student), card)
    train, validation = (
        encode_split(PreparedTask(folder / "task"), split, preprocessor) for split in ("train", "validation")
    )
    _write_cache(folder / "cache", card, train)
    return Work(card, train, validation, student, preprocessor, folder / "cache")


def _checkpoint(args: argparse.Namespace, folder: Path) -> Path:
    given = Path(args.checkpoint)
    if not args.size:
        return given
    if not given.is_dir():
        raise KdcacheError(f"--size takes the tokenizer of a folder, found --checkpoint {given}")
    return sized(given, folder / "{}, {} x {}, {} heads".format(given.name, *args.size), *args.size)


def sized(checkpoint: Path, made: Path, layers: int, width: int, heads: int) -> Path:
    """Make a checkpoint without weights: the other one's architecture in this size, with its tokenizer."""
    config = transformers.AutoConfig.from_pretrained(
        checkpoint,
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
    )
    config.save_pretrained(made)
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, made)
    return made


def _write_cache(folder: Path, card: TaskCard, train: EncodedSplit) -> None:
    """Logits of a teacher that knows nothing: reading and using them costs what it always does."""
    logits = np.random.default_rng(0).normal(0, 3, (len(train), card.classes)).astype(np.float32)
    prints = Fingerprints(data=card.fingerprint, weights="none", preprocessing="none", code="none")
    with LogitWriter(
        folder, classes=card.classes, label_names=card.label_names, fingerprints=prints
    ) as writer:
        writer.write("train", train.ids, train.row_hashes, logits)
        writer.finish()


def facts() -> dict[str, Any]:
    """When, on what kind of machine, and with what. No names of hosts or folders."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {
        "date": date.today().isoformat(),
        "machine": machine(1),
        "load_before": round(os.getloadavg()[0], 1),
        "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def described(work: Work) -> dict[str, Any]:
    """What was trained, and on what rows."""
    assert work.train.input_ids is not None
    student = work.student
    return {
        "model": f"{Path(student.checkpoint).name}, {student.layers or 'all'} layers, {student.init}",
        "rows": len(work.train),
        "mean_tokens": float(np.mean([len(row) for row in work.train.input_ids])),
        "epochs": student.epochs,
        "batch_size": student.batch_size,
    }


def page(found: Mapping[str, Any]) -> str:
    """Two Markdown tables: examples/s and accuracy of each variant, then the ratios and their goals."""
    lines = [
        [
            one["variant"],
            number(one["examples_per_cpu_second"]["median"]),
            number(one["examples_per_second"]["median"]),
            f"{100 * statistics.mean(one['accuracy']):.1f} ({100 * min(one['accuracy']):.1f} to "
            f"{100 * max(one['accuracy']):.1f})",
            "" if one["p_accuracy"] is None else f"{one['p_accuracy']:.2f}",
        ]
        for one in found["speeds"]
    ]
    header = ["", "examples per CPU second", "per second", "accuracy", "p"]
    compared = [
        [one["what"], *(shown(one.get(clock)) for clock in ("cpu", "wall")), one["goal"], VERDICT[one["met"]]]
        for one in found["ratios"]
    ]
    head = f"{found['model']}: {found['rows']} rows of {found['mean_tokens']:.1f} tokens, {found['epochs']} epochs"
    return "\n\n".join(
        [
            head,
            table(header, lines, right=[1, 2]),
            table(["ratio", "by CPU", "by the clock", "goal", ""], compared),
        ]
    )


def shown(value: Mapping[str, float] | None) -> str:
    """A spread: the median, with the least and the greatest."""
    if value is None:
        return ""
    return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def write(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Keep what was found under its name, beside what is there already."""
    kept = dict(read_json(path)) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**kept, name: found})


if __name__ == "__main__":
    main()
