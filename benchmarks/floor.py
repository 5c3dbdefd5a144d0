"""How much longer a training step takes than its matrix products alone, on one core.

    python -m benchmarks.floor                               bert-tiny, 32 rows of 16 tokens
    python -m benchmarks.floor --checkpoint all-MiniLM-L6-v2 --layers 6 --tokens 16

The floor has two parts. The first is every matrix product of a step (forward, and both of the backward pass), timed
alone in its shape with `torch.mm`/`bmm`. The second is the bytes that AdamW moves, at the rate of a large `add_`.
Beside it stand the step of `kdcache.training.loop.fine_tune` and, from torch.profiler, where its time goes. All times
are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.keeping import ROOT, facts, write
from benchmarks.markdown import table
from kdcache.checkpoints.checkpoint import Checkpoint
from kdcache.checkpoints.find import find_checkpoint
from kdcache.modelling.building import build_model
from kdcache.modelling.encoding import EncodedSplit
from kdcache.modelling.preprocessors import Preprocessor, load_preprocessor
from kdcache.study import Regularizer, Student, Task
from kdcache.tasks.card import TaskCard
from kdcache.tasks.prepare import prepare_task
from kdcache.training.loop import fine_tune
from kdcache.training.regularizers import make_loss

LIBRARIES = ("torch", "transformers", "numpy")
ADAMW = 28  # bytes a parameter: reads weight, gradient and two moments, writes weight and moments
Shape = tuple[int, int, int, int]  # batch, rows, inner, columns: of `bmm`


def products(config: Any, rows: int, tokens: int) -> list[tuple[Shape, int]]:
    """The forward matrix products of an encoder like BERT, and how often each occurs in a pass."""
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    each, every = width // heads, rows * tokens
    layer: list[tuple[Shape, int]] = [
        ((1, every, width, width), 4),  # queries, keys, values, output
        ((1, every, width, inner), 1),
        ((1, every, inner, width), 1),
        ((rows * heads, tokens, each, tokens), 1),
        ((rows * heads, tokens, tokens, each), 1),
    ]
    return [(shape, count * config.num_hidden_layers) for shape, count in layer]


def with_backward(forward: Sequence[tuple[Shape, int]]) -> list[tuple[Shape, int]]:
    """The products with both of their backward passes: for [M, K] x [K, N] also [M, N] x [N, K] and [K, M] x [M, N]."""
    return [
        (shape, count)
        for (batch, m, k, n), count in forward
        for shape in ((batch, m, k, n), (batch, m, n, k), (batch, k, m, n))
    ]


def flops(shapes: Sequence[tuple[Shape, int]]) -> int:
    return sum(2 * batch * m * k * n * count for (batch, m, k, n), count in shapes)


def seconds_of(work: Callable[[], Any], least: float = 0.1) -> float:
    """CPU seconds of a call: the best of three runs of at least `least` seconds each."""
    work()
    seconds = []
    for _ in range(3):
        calls, start = 0, time.process_time()
        while time.process_time() - start < least:
            work()
            calls += 1
        seconds.append((time.process_time() - start) / calls)
    return min(seconds)


def product_seconds(shape: Shape, dtype: torch.dtype) -> float:
    batch, m, k, n = shape
    left, right = torch.randn(batch, m, k).to(dtype), torch.randn(batch, k, n).to(dtype)
    if batch == 1:
        left, right = left[0], right[0]
        return seconds_of(lambda: torch.mm(left, right))
    return seconds_of(lambda: torch.bmm(left, right))


def optimizer_seconds(parameters: int) -> float:
    """CPU seconds to move the bytes that AdamW moves, at the rate of an `add_` of vectors as large as the model."""
    a, b = torch.zeros(parameters), torch.zeros(parameters)
    return seconds_of(lambda: a.add_(b)) * ADAMW / 12  # add_ reads two and writes one: 12 bytes


def floor(config: Any, rows: int, tokens: int, parameters: int) -> dict[str, Any]:
    """For each precision: FLOPs, their rate in the shapes that occur, and milliseconds of products and optimizer."""
    shapes = with_backward(products(config, rows, tokens))
    counts: Counter[Shape] = Counter()
    for shape, count in shapes:
        counts[shape] += count
    of_optimizer, floors = optimizer_seconds(parameters), {}
    for dtype in (torch.float32, torch.bfloat16):
        seconds = sum(count * product_seconds(shape, dtype) for shape, count in counts.items())
        floors[str(dtype).removeprefix("torch.")] = {
            "gigaflops": flops(shapes) / 1e9,
            "gigaflops_per_second": flops(shapes) / seconds / 1e9,
            "products_ms": 1000 * seconds,
            "optimizer_ms": 1000 * of_optimizer,
        }
    return floors


# ---- the step itself ----


def split_of(rows: int, tokens: int) -> EncodedSplit:
    """A split of random tokens; all rows have one length."""
    random = np.random.default_rng(0)
    ids = [random.integers(10, 8000, tokens).astype(np.int32) for _ in range(rows)]
    labels = random.integers(0, 5, rows)
    return EncodedSplit(np.arange(rows), np.arange(rows, dtype=np.uint64), labels, ids)


def step(model: torch.nn.Module, student: Student, data: EncodedSplit) -> dict[str, Any]:
    """CPU milliseconds of one step of `fine_tune`, and the operations that take most of it, in percent."""
    loss = make_loss(Regularizer(), 5)
    fine_tune(model, data, loss, student.model_copy(update={"epochs": 1}), 0)
    start = time.process_time()
    _, run = fine_tune(model, data, loss, student, 0)
    seconds = (time.process_time() - start) / run.steps
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fine_tune(model, data, loss, student.model_copy(update={"epochs": 1}), 0)
    events = sorted(profile.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    top = {event.key: round(100 * event.self_cpu_time_total / total, 1) for event in events[:14]}
    return {"step_ms": 1000 * seconds, "profile": top}


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    student = Student(
        checkpoint=args.checkpoint,
        layers=args.layers,
        learning_rate=1e-4,
        epochs=2,
        batch_size=args.batch_size,
    )
    card, checkpoint, preprocessor = headlines(student)
    model = build_model(checkpoint, card, 0, preprocessor)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    floors = floor(model.config, args.batch_size, args.tokens, parameters)
    data = split_of(args.batch_size * args.steps, args.tokens)
    for precision, facts_of in floors.items():
        fresh = build_model(checkpoint, card, 0, preprocessor)
        facts_of |= step(fresh, student.model_copy(update={"precision": precision}), data)
    print(page(floors, args, parameters))
    if args.json:
        size = {"rows": args.batch_size, "tokens": args.tokens, "parameters": parameters}
        write(args.json, f"floor: {_name(args)}", facts(LIBRARIES) | size | {"found": floors})


def headlines(student: Student) -> tuple[TaskCard, Checkpoint, Preprocessor]:
    """The built-in headlines, a task of five classes, for the model's head."""
    columns = {"text": ["text"], "metrics": ["accuracy"], "max_length": 128}
    spec = Task.model_validate({"source": {"builtin": "bbc_headlines"}, **columns})
    with tempfile.TemporaryDirectory() as folder:
        card = prepare_task(spec, Path(folder) / "task", "headlines")
    checkpoint = find_checkpoint(student)
    return card, checkpoint, load_preprocessor(checkpoint, card)


def _name(args: argparse.Namespace) -> str:
    layers = f", {args.layers} layers" if args.layers else ""
    return f"{Path(args.checkpoint).name}{layers}, {args.batch_size} x {args.tokens} tokens"


def page(floors: dict[str, Any], args: argparse.Namespace, parameters: int) -> str:
    lines = [
        [
            precision,
            f"{facts_of['gigaflops']:.2f}",
            f"{facts_of['gigaflops_per_second']:.0f}",
            f"{facts_of['products_ms']:.1f}",
            f"{facts_of['optimizer_ms']:.1f}",
            f"{facts_of['step_ms']:.1f}",
            f"{facts_of['step_ms'] / (facts_of['products_ms'] + facts_of['optimizer_ms']):.1f}",
        ]
        for precision, facts_of in floors.items()
    ]
    header = ["", "GFLOP a step", "GFLOP/s", "products, ms", "optimizer, ms", "step, ms", "step / floor"]
    profiles = [
        f"{precision}: "
        + ", ".join(
            f"{name.removeprefix('aten::')} {share:g}%" for name, share in facts_of["profile"].items()
        )
        for precision, facts_of in floors.items()
    ]
    head = f"{_name(args)}, {parameters / 1e6:.1f} million parameters"
    return "\n\n".join([head, table(header, lines, right=range(1, 7)), *profiles])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", default=str(ROOT / "data/models/bert-tiny"), help="default: bert-tiny"
    )
    parser.add_argument("--layers", type=int, help="only its first layers")
    parser.add_argument("--tokens", type=int, default=16, help="of a row (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=30, help="of an epoch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep what was found")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
