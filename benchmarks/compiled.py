"""Does torch.compile pay for fixed shapes? `fine_tune` eager beside `fine_tune` of a compiled model.

    python -m benchmarks.compiled                                      bert-tiny, one thread
    python -m benchmarks.compiled --device cuda --checkpoint all-MiniLM-L6-v2

All rows have one length, so a model is compiled once, for one shape of batch, as buckets of fixed lengths would have it
(`dynamic=False`): on a CPU as inductor does by default, on a GPU also with its CUDA graphs (mode="reduce-overhead").
The two take turns. Time is CPU seconds, the compilers' included, and on a GPU seconds by the clock. All is done without
dropout as well: a compiled model draws its masks in another way, so only without them the losses have to agree.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_cache

from benchmarks.cache.report import number, table
from benchmarks.floor import headlines, split_of
from benchmarks.training import facts, shown, spread, write
from kdcache.errors import KdcacheError
from kdcache.models import Preprocessor, build_model
from kdcache.params import Regularizer, Student
from kdcache.regularizers import make_loss
from kdcache.tasks import TaskCard
from kdcache.training import fine_tune
from stages import stage_errors

ROOT = Path(__file__).parents[1]
CLASSES = 5
FIRST = 3  # steps until everything is compiled, and a CUDA graph recorded
Way = dict[str, Any]  # arguments of torch.compile


def ways(device: str, backend: str) -> dict[str, Way]:
    if backend != "inductor":
        return {backend: {"backend": backend}}
    graphs = {"reduce-overhead": {"mode": "reduce-overhead"}} if device == "cuda" else {}
    return {"default": {}, **graphs}


@dataclass(frozen=True)
class Trial:
    """A student of the built-in headlines, on random rows of one length."""

    student: Student
    card: TaskCard
    preprocessor: Preprocessor
    tokens: int
    device: str

    def model(self, way: Way | None = None, dropout: bool = True) -> torch.nn.Module:
        """Always the same weights; compiled (at its first step) if `way` says how."""
        model = build_model(self.student, self.card, 0, self.preprocessor)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) and not dropout:
                module.p = 0.0
        if way is not None:
            model.compile(dynamic=False, **way)
        return model

    def train(self, model: torch.nn.Module, steps: int) -> tuple[float, float]:
        """The seconds of so many steps, and their mean loss."""
        data, loss = split_of(self.student.batch_size * steps, self.tokens), make_loss(Regularizer(), CLASSES)
        start = now(self.device)
        _, run = fine_tune(model, data, loss, self.student, 0)
        return now(self.device) - start, run.losses[0]


def now(device: str) -> float:
    """CPU seconds of this process and of the compilers it has waited for; on a GPU the clock, when all is done."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def timed(trial: Trial, way: Way, steps: int, rounds: int, dropout: bool) -> dict[str, Any]:
    """Seconds to compile, and milliseconds of a step of both, in turn; without dropout their losses are compared."""
    torch.compiler.reset()
    models = {"eager": trial.model(dropout=dropout), "compiled": trial.model(way, dropout)}
    first, losses = {name: trial.train(model, FIRST)[0] for name, model in models.items()}, {}
    each: dict[str, list[float]] = {name: [] for name in models}
    apart = []
    for turn in range(rounds):
        for name in list(models)[:: 1 if turn % 2 else -1]:
            seconds, losses[name] = trial.train(models[name], steps)
            each[name].append(1000 * seconds / steps)
        apart.append(abs(losses["eager"] - losses["compiled"]))
    return summary(first["compiled"], each) | {"losses_apart": None if dropout else max(apart)}


def summary(first: float, each: dict[str, list[float]]) -> dict[str, Any]:
    """From the seconds of the first steps, which compile, and the milliseconds of later ones, round by round."""
    eager, compiled = (statistics.median(each[name]) for name in ("eager", "compiled"))
    seconds = max(0.0, first - FIRST * compiled / 1000)
    return {
        "compile_seconds": seconds,
        "eager_ms": spread(each["eager"]),
        "compiled_ms": spread(each["compiled"]),
        "times_as_fast": spread([a / b for a, b in zip(each["eager"], each["compiled"], strict=True)]),
        "steps_to_pay": 1000 * seconds / (eager - compiled) if eager > compiled else None,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every shape, precision and way, with and without dropout, on one CPU thread."""
    _need_a_compiler(args.backend)
    one = {"compile_threads": 1} if args.device == "cpu" else {}  # a pool's CPU seconds would not be counted
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    PartialState(cpu=args.device == "cpu")
    every, found = ways(args.device, args.backend), {}
    for trial in trials(args):
        for (name, way), dropout in itertools.product(every.items(), (True, False)):
            of = [f"{trial.tokens} tokens", trial.student.precision, *([name] if len(every) > 1 else [])]
            key = ", ".join([*of, *([] if dropout else ["no dropout"])])
            with fresh_cache(), inductor.patch(one):
                found[key] = timed(trial, way, args.steps, args.rounds, dropout)
            logging.info("%s: %s times as fast", key, shown(found[key]["times_as_fast"]))
    options = {
        name: getattr(args, name) for name in ("layers", "batch_size", "steps", "rounds", "device", "backend")
    }
    return {"checkpoint": Path(args.checkpoint).name, **options, "found": found}


def _need_a_compiler(backend: str) -> None:
    compilers = [name for name in inductor.cpp.cxx if name]
    if backend == "inductor" and not any(map(shutil.which, compilers)):
        raise KdcacheError(
            f"torch.compile needs a C++ compiler, {' or '.join(compilers)} is not here; install one, or name it in "
            "the environment variable CXX"
        )


def trials(args: argparse.Namespace) -> list[Trial]:
    """One for each number of tokens and each precision."""
    student = Student(
        checkpoint=args.checkpoint,
        init="pretrained" if any(Path(args.checkpoint).glob("*.safetensors")) else "scratch",
        layers=args.layers,
        learning_rate=1e-4,
        epochs=1,
        batch_size=args.batch_size,
    )
    card, preprocessor = headlines(student)
    return [
        Trial(student.model_copy(update={"precision": precision}), card, preprocessor, tokens, args.device)
        for tokens in args.tokens
        for precision in ("float32", "bfloat16")
    ]


def page(found: dict[str, Any]) -> str:
    lines = [
        [
            name,
            number(one["compile_seconds"]),
            number(one["eager_ms"]["median"]),
            number(one["compiled_ms"]["median"]),
            shown(one["times_as_fast"]),
            "never" if one["steps_to_pay"] is None else number(one["steps_to_pay"]),
            "" if one["losses_apart"] is None else f"{one['losses_apart']:.1e}",
        ]
        for name, one in found["found"].items()
    ]
    header = [
        f"{found['checkpoint']}, {found['batch_size']} rows",
        "compiling, s",
        "eager, ms a step",
        "compiled",
        "times as fast",
        "has paid after steps",
        "losses apart",
    ]
    return table(header, lines, right=[1, 2, 3, 5])


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise KdcacheError("--device cuda: torch finds no GPU here; use cpu")
    before = facts()
    found = measure(args)
    print(page(found))
    if args.json:
        write(args.json, "compiled", before | found)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", default=str(ROOT / "data/models/bert-tiny"), help="a folder (default: bert-tiny)"
    )
    parser.add_argument("--layers", type=int, help="only its first layers")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[16, 32, 64], help="of a row (default: 16 32 64)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=40, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--backend", default="inductor", help="of torch.compile (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep what was found")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
