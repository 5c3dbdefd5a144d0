"""A shared cache's data set card: README.md. Only the cache's manifest is read for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from kdcache.checkpoints.sharing.remote import Address
from kdcache.logits.cache import LogitCache
from kdcache.logits.tokens.cache import TokenCache

CARD = "README.md"
TAGS = ("knowledge-distillation", "logits", "kdcache")
MOST_NAMES, MOST_LETTERS = 20, 60  # how many label names are shown, and characters of a text
VERIFYING = (
    "`kdcache pull` compares every checksum and reads every value before the cache is in its place. With `--expect` it "
    "takes no other weights and no other rows. Later, `kdcache verify FOLDER` checks the same."
)
AGAINST = " With `--against TEACHER --task FOLDER` it also runs the teacher again on some rows."
SAFE = re.compile(r"[A-Za-z0-9._:-]+")  # texts that need no quotes on a command line
CALLED = {
    "weights": "the teacher's weights",
    "data": "the rows",
    "preprocessing": "tokenizer or image processor",
    "code": "the code that computed the logits",
}


def card_of(cache: LogitCache | TokenCache, address: Address, licence: str) -> str:
    """The card of a cache: what it is, whose logits it holds and how many, and how to read and verify it."""
    kind = "Token" if isinstance(cache, TokenCache) else "Logit"
    parts = [
        _front_matter(licence),
        f"# {kind} cache",
        _what_it_is(cache),
        _table(("", ""), _facts(cache)),
        "## What it was computed from",
        "Caches of the same teacher on the same rows have the same fingerprints.",
        _table(("of", "fingerprint"), _fingerprints(cache)),
        *_scores(cache),
        "## Reading",
        _reading(cache, address),
        "## Verifying",
        VERIFYING + ("" if isinstance(cache, TokenCache) else AGAINST),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(licence: str) -> str:
    return "\n".join(
        ["---", f"license: {json.dumps(licence)}", "tags:", *(f"- {tag}" for tag in TAGS), "---"]
    )


def _what_it_is(cache: LogitCache | TokenCache) -> str:
    if isinstance(cache, TokenCache):
        return (
            "A teacher's distributions over a vocabulary at every token of packed sequences, kept to train students "
            "on: sparse ones, in checked Parquet shards (kdcache's token cache, format version 2)."
        )
    return (
        "A teacher's raw logits, not softened by a temperature, kept to train students on: one row for each row of a "
        "data set, in checked Parquet shards (kdcache's logit cache, format version 1). The rows themselves are not in "
        "it: they are known by their hashes."
    )


def _facts(cache: LogitCache | TokenCache) -> Iterable[tuple[str, str]]:
    splits = cache.manifest.splits
    if cache.cost and cache.cost.run:
        yield "computed by", _plain(cache.cost.run)
    yield "rows", ", ".join(f"{name} {split.rows:,}" for name, split in splits.items())
    if isinstance(cache, TokenCache):
        manifest = cache.manifest
        yield "vocabulary", f"{manifest.vocabulary.size:,} tokens"
        if manifest.vocabulary.tokenizer:
            yield "tokenizer", f"`{_plain(manifest.vocabulary.tokenizer)}`"
        yield (
            "kept at a token",
            ", ".join(f"{key} {_plain(str(value))}" for key, value in manifest.estimator.items()),
        )
        yield "temperature", f"{manifest.temperature:g}"
    else:
        yield "classes", _classes(cache)
        yield "dtype", cache.manifest.dtype
        augmentation = cache.manifest.augmentation
        if augmentation:
            yield "views", f"{augmentation.views} of each row: {_plain(augmentation.description)}"
    shards = [shard for split in splits.values() for shard in split.shards]
    yield "size", f"{sum(shard.bytes for shard in shards):,} bytes in {len(shards):,} shards"
    yield "identity", f"`{cache.identity}`"


def _classes(cache: LogitCache) -> str:
    names = cache.manifest.label_names
    if not names:
        return f"{cache.manifest.classes:,}"
    rest = [f"and {len(names) - MOST_NAMES:,} more"] if len(names) > MOST_NAMES else []
    return f"{len(names):,}: {', '.join([*(f'`{_plain(name)}`' for name in names[:MOST_NAMES]), *rest])}"


def _fingerprints(cache: LogitCache | TokenCache) -> Iterable[tuple[str, str]]:
    prints = cache.manifest.fingerprints.model_dump()
    return ((f"{called} (`{name}`)", f"`{_plain(prints[name])}`") for name, called in CALLED.items())


def _scores(cache: LogitCache | TokenCache) -> list[str]:
    """The teacher's own scores, if the manifest has any."""
    rows = [
        (split, _plain(metric), f"{value:.4f}")
        for split, scores in cache.manifest.scores.items()
        for metric, value in scores.items()
    ]
    return ["## The teacher's own scores", _table(("split", "metric", "value"), rows)] if rows else []


def _reading(cache: LogitCache | TokenCache, address: Address) -> str:
    prints = cache.manifest.fingerprints.model_dump()
    expect = "".join(
        f" --expect {name}={prints[name]}" for name in ("weights", "data") if SAFE.fullmatch(prints[name])
    )
    kind, use = (
        (
            "TokenCache",
            "for batch in cache.join(batches):  # your own, with input_ids; adds `teacher`\n    ...",
        )
        if isinstance(cache, TokenCache)
        else ("LogitCache", 'train = cache.join(rows, columns=["text"])  # your rows; adds `teacher_logits`')
    )
    return f"""```console
$ pip install 'kdcache[hub]'
$ kdcache pull {address} FOLDER{expect}
```

```python
from kdcache import {kind}

cache = {kind}("FOLDER")
{use}
```"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text of the manifest, made safe for Markdown: cut, on one line, without special characters."""
    cut = text if len(text) <= MOST_LETTERS + 4 else f"{text[:MOST_LETTERS]}..."
    return "".join(char if char.isprintable() and char not in "|`<>[]\\" else " " for char in cut)
