"""Do the seeds of a configuration train faster as one stacked model? vmap over 5 seeds beside 5 runs, on one thread.

    python -m benchmarks.stacked
    python -m benchmarks.stacked --seeds 5 --steps 40 --tokens 12 --batch-size 32

Both run the same bare loop in float32 and bfloat16: bert-tiny without dropout, AdamW (fused), clipped gradients, each
seed with its own batches of random tokens. That makes the losses of both comparable: they have to agree. The two take
turns; what counts is CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.cache.report import table

ROOT = Path(__file__).parents[1]
CLASSES = 5
RATE, DECAY, NORM = 1e-3, 0.01, 1.0
KEPT_FROM = 1.5  # times as fast, or it is not worth its code
Batches = Sequence[tuple[Tensor, Tensor]]  # per step: tokens [S, B, L], labels [S, B]


def models(seeds: int) -> list[torch.nn.Module]:
    """bert-tiny with the head that each seed draws; no dropout."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            ROOT / "data/models/bert-tiny",
            num_labels=CLASSES,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",  # what vmap can see through
        )
        found.append(model.train())
    return found


def batches(seeds: int, steps: int, rows: int, tokens: int) -> Batches:
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(10, 8000, (seeds, rows, tokens), generator=random),
            torch.randint(CLASSES, (seeds, rows), generator=random),
        )
        for _ in range(steps)
    ]


def one_by_one(of: list[torch.nn.Module], data: Batches, precision: torch.dtype) -> Tensor:
    """Train the models one after the other; the losses [S, steps]."""
    losses = torch.empty(len(of), len(data))
    for seed, model in enumerate(of):
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY, fused=True)
        for step, (tokens, labels) in enumerate(data):
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = model(input_ids=tokens[seed]).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[seed])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, NORM)
            optimizer.step()
            optimizer.zero_grad()
            losses[seed, step] = loss.detach()
    return losses


def stacked(of: list[torch.nn.Module], data: Batches, precision: torch.dtype) -> Tensor:
    """Train the models as one, every weight with a leading dimension of seeds; the losses [S, steps]."""
    parameters, buffers = stack_module_state(of)
    base, each = of[0], tuple(parameters.values())
    optimizer = torch.optim.AdamW(each, lr=RATE, weight_decay=DECAY, fused=True)

    def loss(weights: dict[str, Tensor], state: dict[str, Tensor], tokens: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = functional_call(base, (weights, state), kwargs={"input_ids": tokens}).logits
        return torch.nn.functional.cross_entropy(logits.float(), labels)

    step = vmap(grad_and_value(loss))
    losses = []
    for tokens, labels in data:
        gradients, values = step({k: v.detach() for k, v in parameters.items()}, buffers, tokens, labels)
        _clip(gradients)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()
        losses.append(values.detach())
    return torch.stack(losses, dim=1)


def _clip(gradients: dict[str, Tensor]) -> None:
    """Each seed's gradients by their own norm, as `clip_grad_norm_` does for one model."""
    squares = [gradient.flatten(1).square().sum(dim=1) for gradient in gradients.values()]
    factors = (NORM / (torch.stack(squares).sum(dim=0).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients.values():
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def measure(seeds: int, data: Batches, precision: torch.dtype, rounds: int) -> dict[str, Any]:
    """CPU seconds of both in turn, how many times as fast stacking is, and how far the losses lie apart."""
    ways: dict[str, Callable[..., Tensor]] = {"one by one": one_by_one, "stacked": stacked}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses = {name: way(models(seeds), data[:2], precision) for name, way in ways.items()}  # warms up
    for turn in range(rounds):
        for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
            fresh = models(seeds)
            start = time.process_time()
            losses[name] = way(fresh, data, precision)
            seconds[name].append(time.process_time() - start)
    times = [alone / together for alone, together in zip(*seconds.values(), strict=True)]
    return {
        "cpu_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "times_as_fast": {"median": statistics.median(times), "low": min(times), "high": max(times)},
        "losses_apart": float((losses["one by one"] - losses["stacked"]).abs().max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines, found = [], {}
    for tokens in args.tokens:
        data = batches(args.seeds, args.steps, args.batch_size, tokens)
        for precision in (torch.float32, torch.bfloat16):
            one = measure(args.seeds, data, precision, args.rounds)
            found[f"{tokens} tokens, {str(precision).removeprefix('torch.')}"] = one
    for name, one in found.items():
        alone, together = (1000 * seconds / args.steps for seconds in one["cpu_seconds"].values())
        times = one["times_as_fast"]
        spread = f"{times['median']:.2f} ({times['low']:.2f} to {times['high']:.2f})"
        lines.append([name, f"{alone:.0f}", f"{together:.0f}", spread, f"{one['losses_apart']:.1e}"])
    header = [
        f"{args.seeds} seeds",
        "one by one, CPU ms a step of all",
        "stacked",
        "times as fast",
        "losses apart",
    ]
    print(table(header, lines, right=[1, 2]))
    if args.json:
        from benchmarks.training import facts, write

        write(args.json, "stacked seeds", facts() | {"goal": f"at least {KEPT_FROM:g}", "found": found})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stacked",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tokens", type=int, nargs="+", default=[12, 32], help="of a row (default: 12 32)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to keep what was found")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
